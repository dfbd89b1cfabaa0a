-- uploads: numbers and decisions ---------------------------------------------
--
-- Only coverage counts: report_type 'coverage' or NULL.

-- upload_counts: a commit's uploads of some report types per state, from the
-- kernel's counts.  The types are listed because a whole group key is looked up,
-- where a part of one is searched for.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_counts(repo_id bigint, commit_sha text, report_types text[])
RETURNS TABLE (state text, n bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo_id);
    PERFORM jobstate.require_argument('commit_sha', commit_sha);
    RETURN QUERY
        SELECT c.state, sum(c.n)::bigint
          FROM unnest(report_types) AS t(report_type),
               jobstate.counts('jobstate.upload', jsonb_build_object(
                   'repo_id', repo_id, 'commit_sha', commit_sha, 'report_type', t.report_type)) c
         GROUP BY c.state;
END
$$;
COMMENT ON FUNCTION jobstate.upload_counts(bigint, text, text[])
    IS 'how many uploads of a commit, of these report types, are in each state';

-- upload_coverage: what every number and every decision of the family is made of.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_coverage(repo_id bigint, commit_sha text)
RETURNS TABLE (state text, n bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT c.* FROM jobstate.upload_counts(repo_id, commit_sha, ARRAY['coverage', NULL]) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_coverage(bigint, text)
    IS 'how many coverage uploads of a commit are in each state';

-- upload_numbers: what is unfinished.  An upload that waits for its retry is
-- uploaded, so it counts as processing.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_numbers(repo_id bigint, commit_sha text,
    OUT processing bigint, OUT processed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT coalesce(sum(c.n) FILTER (WHERE c.state = 'uploaded'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'processed'), 0)
      INTO processing, processed
      FROM jobstate.upload_coverage(repo_id, commit_sha) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_numbers(bigint, text)
    IS 'a commit''s coverage uploads: still being processed, and processed but not yet merged';

-- upload_should_merge, upload_should_postprocess: the rules of a decision.
-- With nothing there at all both hold: a merge of nothing is harmless.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.upload_should_merge(processing bigint, processed bigint,
    batch_size integer DEFAULT 10)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN processing = 0 OR processed >= batch_size;
COMMENT ON FUNCTION jobstate.upload_should_merge(bigint, bigint, integer)
    IS 'nothing is being processed any more, or a batch is full';

CREATE FUNCTION jobstate.upload_should_postprocess(processing bigint, processed bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN processing = 0 AND processed = 0;
COMMENT ON FUNCTION jobstate.upload_should_postprocess(bigint, bigint)
    IS 'everything is merged or in error';

-- upload_merging: somebody was told to merge, or holds a batch.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_merging(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.upload_scope s
                    WHERE s.repo_id = repo AND s.commit_sha = sha
                      AND s.merge_until > clock_timestamp())
        OR EXISTS (SELECT FROM jobstate.upload u
                    WHERE u.repo_id = repo AND u.commit_sha = sha
                      AND u.state_id = 2 AND u.merge_until > clock_timestamp());
END
$$;
COMMENT ON FUNCTION jobstate.upload_merging(bigint, text)
    IS 'whether somebody was told to merge a commit, or holds a batch of it, and is not overdue';

-- upload_grant_merge, upload_withdraw_merge, upload_grant_postprocess: what the
-- scope row remembers of an answer, so that nobody else gets the same.  The
-- caller holds the scope.
-- Write: upload_scope.  Lock nothing more.
CREATE FUNCTION jobstate.upload_grant_merge(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    IF jobstate.upload_merging(repo, sha) THEN
        RETURN false;
    END IF;
    UPDATE jobstate.upload_scope s
       SET merge_until = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.upload_grant_merge(bigint, text)
    IS 'internal: true if the caller is the one to merge';

CREATE FUNCTION jobstate.upload_withdraw_merge(repo_id bigint, commit_sha text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET merge_until = NULL
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.merge_until IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.upload_withdraw_merge(bigint, text)
    IS 'internal: nobody is the one to merge any more';

CREATE FUNCTION jobstate.upload_grant_postprocess(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = clock_timestamp(), postprocessed_at = NULL, merge_until = NULL,
           check_at = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocess_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_grant_postprocess(bigint, text)
    IS 'internal: true if the caller is the one to postprocess';

-- upload_answer: counts, in a statement after the one that locked the scope.
-- Work that is open ends an earlier grant to postprocess, as uploads may have been
-- written without the functions; and a grant to merge what is gone by now ends.
-- Writes: upload_scope.  Locks nothing more: the caller holds the scope.
CREATE FUNCTION jobstate.upload_answer(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_there record;
    granted boolean := false;
BEGIN
    SELECT n.processing, n.processed INTO now_there
      FROM jobstate.upload_numbers(repo_id, commit_sha) n;
    IF jobstate.upload_should_postprocess(now_there.processing, now_there.processed) THEN
        granted := jobstate.upload_grant_postprocess(repo_id, commit_sha);
        RETURN CASE WHEN granted THEN 'postprocess' ELSE 'wait' END;
    END IF;
    PERFORM jobstate.upload_reopen(repo_id, commit_sha, true);
    IF now_there.processed = 0 THEN
        PERFORM jobstate.upload_withdraw_merge(repo_id, commit_sha);
    ELSIF jobstate.upload_should_merge(now_there.processing, now_there.processed) THEN
        granted := jobstate.upload_grant_merge(repo_id, commit_sha);
    END IF;
    RETURN CASE WHEN granted THEN 'merge' ELSE 'wait' END;
END
$$;
COMMENT ON FUNCTION jobstate.upload_answer(bigint, text)
    IS 'internal: wait, merge or postprocess, for a caller that holds the scope';

-- upload_decide: what is to be done about a commit now, and by the caller alone.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_decide(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo_id);
    PERFORM jobstate.require_argument('commit_sha', commit_sha);
    PERFORM jobstate.upload_scope_lock(repo_id, commit_sha);
    RETURN jobstate.upload_answer(repo_id, commit_sha);
END
$$;
COMMENT ON FUNCTION jobstate.upload_decide(bigint, text)
    IS 'wait, merge or postprocess: the last two go to one caller each';

-- upload_next_check: the follow-up that an application with a scheduler of its
-- own plans after a decision; no row once all is settled.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_next_check(repo_id bigint, commit_sha text)
RETURNS TABLE (kind text, delay interval, remaining bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    now_there record;
    scope record;
BEGIN
    SELECT n.processing, n.processed INTO now_there FROM jobstate.upload_numbers(repo, sha) n;
    remaining := now_there.processing + now_there.processed;
    SELECT s.postprocess_at, s.postprocessed_at INTO scope
      FROM jobstate.upload_scope s WHERE s.repo_id = repo AND s.commit_sha = sha;
    IF remaining = 0 AND scope.postprocessed_at IS NOT NULL THEN
        RETURN;
    END IF;
    kind := CASE
        WHEN remaining = 0 AND scope.postprocess_at IS NOT NULL THEN 'watchdog'
        WHEN jobstate.upload_merging(repo, sha) THEN 'watchdog'
        WHEN jobstate.upload_should_merge(now_there.processing, now_there.processed) THEN 'continuation'
        ELSE 'sweep' END;
    delay := jobstate.upload_delay(kind);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION jobstate.upload_next_check(bigint, text)
    IS 'what follow-up a commit needs, after what delay, and how many uploads are not settled';
