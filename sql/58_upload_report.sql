-- uploads: reports ---------------------------------------------------------------

-- upload_completion: how far a commit is.  What is processed but not merged is
-- still processing: a failed parse among it will be an error.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_completion(repo_id bigint, commit_sha text,
    OUT uploads_total bigint, OUT success bigint, OUT processing bigint, OUT error bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT coalesce(sum(c.n), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state IN ('merged', 'fully_overwritten', 'partially_overwritten')), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state IN ('uploaded', 'processed')), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'error'), 0)
      INTO uploads_total, success, processing, error
      FROM jobstate.upload_coverage(repo_id, commit_sha) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_completion(bigint, text)
    IS 'a commit''s coverage uploads: all, in the report, not settled, in error; zeros for an unknown commit';

-- upload_already_completed: a finisher that was called with these uploads has
-- nothing to do: all are there and settled, and so are their commits.  Ids count
-- once, however often they are given.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_already_completed(upload_ids bigint[])
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    IF cardinality(upload_ids) = 0 OR EXISTS (
           SELECT FROM unnest(upload_ids) i
            WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                               WHERE u.id = i AND u.state_id NOT IN (1, 2))) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM (SELECT DISTINCT u.repo_id, u.commit_sha
                       FROM jobstate.upload u WHERE u.id = ANY (upload_ids)) s,
               jobstate.upload_numbers(s.repo_id, s.commit_sha) n
         WHERE NOT jobstate.upload_should_postprocess(n.processing, n.processed));
END
$$;
COMMENT ON FUNCTION jobstate.upload_already_completed(bigint[])
    IS 'whether all these uploads exist and are settled, and nothing of their commits is left to do';

-- upload_notify_decision: whether to tell people about a commit.  Asked by the
-- one caller who was told to postprocess, so it needs no lock.  Sessions are those
-- of the merged report; unless told, they are the uploads that are in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_notify_decision(repo_id bigint, commit_sha text,
    manual_trigger boolean DEFAULT false, after_n_builds integer DEFAULT 0,
    notify_error boolean DEFAULT false, sessions bigint DEFAULT NULL, ci_skip boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    report record;
    any_success boolean;
BEGIN
    PERFORM jobstate.require_argument('manual_trigger', manual_trigger);
    PERFORM jobstate.require_argument('after_n_builds', after_n_builds);
    PERFORM jobstate.require_argument('notify_error', notify_error);
    PERFORM jobstate.require_argument('ci_skip', ci_skip);
    SELECT c.* INTO report FROM jobstate.upload_completion(repo, sha) c;
    any_success := EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = repo AND u.commit_sha = sha
                              AND u.state_id IN (4, 5, 6) AND u.upload_type <> 'carriedforward'
                              AND coalesce(u.report_type, 'coverage') = 'coverage');
    RETURN CASE
        WHEN ci_skip THEN 'do_not_notify'
        WHEN report.processing > 0 THEN 'do_not_notify'
        WHEN manual_trigger THEN 'do_not_notify'
        WHEN after_n_builds > coalesce($6, report.success) THEN 'do_not_notify'
        WHEN notify_error AND (report.error > 0 OR NOT any_success) THEN 'notify_error'
        WHEN NOT any_success THEN 'do_not_notify'
        ELSE 'notify' END;
END
$$;
COMMENT ON FUNCTION jobstate.upload_notify_decision(bigint, text, boolean, integer, boolean, bigint, boolean)
    IS 'notify, do_not_notify or notify_error for a commit';
