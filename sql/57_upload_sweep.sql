-- uploads: sweeping -----------------------------------------------------------------
--
-- Nothing stays unfinished because a process died.  Whatever is told to a process
-- that may die is told under a deadline; the sweep finds what is overdue and tells
-- its caller, who puts it into the application's own queue.

-- upload_reclaim: takes overdue uploads of a commit from their workers, or out of
-- the hands of a queue that lost them, and returns them; those that were given
-- back too often are in error.  The caller holds the scope.
-- Writes: upload, upload_error.  Locks: the uploads, with SKIP LOCKED.
CREATE FUNCTION jobstate.upload_reclaim(repo_id bigint, commit_sha text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    watchdog CONSTANT interval := jobstate.upload_delay('watchdog');
    max_retries CONSTANT integer := jobstate.upload_max_retries('processing_timeout');
    spent bigint[];
    again bigint[];
BEGIN
    SELECT array_agg(u.id) FILTER (WHERE u.retries >= max_retries),
           array_agg(u.id) FILTER (WHERE u.retries < max_retries)
      INTO spent, again
      FROM (SELECT u.id, u.retries FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 1
               AND CASE WHEN u.token IS NOT NULL THEN u.lease_until
                        ELSE coalesce(u.retry_at, u.updated_at) + watchdog
                   END <= clock_timestamp()
             ORDER BY u.id FOR NO KEY UPDATE SKIP LOCKED) u;
    PERFORM jobstate.upload_fail(spent, 'processing_timeout');
    PERFORM jobstate.upload_requeue(again, clock_timestamp());
    RETURN again;
END
$$;
COMMENT ON FUNCTION jobstate.upload_reclaim(bigint, text)
    IS 'internal: takes overdue uploads from their workers';

-- upload_retell: who was told to postprocess has neither confirmed it within the
-- watchdog's delay nor holds the gate.  The caller holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_retell(repo_id bigint, commit_sha text)
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
       SET postprocess_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocessed_at IS NULL
       AND s.postprocess_at <= clock_timestamp() - jobstate.upload_delay('watchdog');
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_retell(bigint, text)
    IS 'internal: true if postprocessing was told to somebody who is overdue';

-- upload_sweep_answer: the decision, put by somebody who is nobody's finisher.  It
-- leaves a commit alone that has no coverage, or whose gate is held.  The caller
-- holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_sweep_answer(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    answer text;
BEGIN
    IF EXISTS (SELECT FROM jobstate.upload_scope s
                WHERE s.repo_id = repo AND s.commit_sha = sha AND s.gate_until > clock_timestamp())
       OR NOT EXISTS (SELECT FROM jobstate.upload_coverage(repo, sha) c WHERE c.n > 0) THEN
        RETURN 'wait';
    END IF;
    answer := jobstate.upload_answer(repo, sha);
    IF answer = 'wait' AND jobstate.upload_retell(repo, sha) THEN
        RETURN 'postprocess';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION jobstate.upload_sweep_answer(bigint, text)
    IS 'internal: wait, merge or postprocess, for the sweep';

-- upload_sweep_delay: until the sweep looks at a commit again; NULL once there is
-- nothing left to look for.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_sweep_delay(repo_id bigint, commit_sha text)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sweep CONSTANT interval := jobstate.upload_delay('sweep');
BEGIN
    IF EXISTS (SELECT FROM jobstate.upload_counts(repo_id, commit_sha,
                       ARRAY['coverage', 'test_results', 'bundle_analysis', NULL]) c
                WHERE c.state = 'uploaded' AND c.n > 0) THEN
        RETURN sweep;
    ELSIF EXISTS (SELECT FROM jobstate.upload_coverage(repo_id, commit_sha) c WHERE c.n > 0) THEN
        RETURN (SELECT greatest(k.delay, sweep) FROM jobstate.upload_next_check(repo_id, commit_sha) k);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.upload_sweep_delay(bigint, text)
    IS 'internal: how long the sweep may leave a commit alone';

-- upload_rescue: looks at the commits that are due and tells what is to be done,
-- a row each: "process" these uploads again, "merge", "postprocess".  Concurrent
-- sweeps pass over each other's commits.  Behind an old snapshot one whose check_at
-- was set back by hand may be found half a minute later, see low_end().
-- Writes: upload, upload_error, upload_scope.
-- Locks: scope rows and uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_rescue(max_commits integer DEFAULT 100)
RETURNS TABLE (repo_id bigint, commit_sha text, action text, upload_ids bigint[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due CONSTANT timestamptz := clock_timestamp();
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    since := jobstate.low_end('jobstate.upload_scope', 'check_at', 'check_at IS NOT NULL', 30);
    FOR repo_id, commit_sha IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE s.check_at BETWEEN since AND due
         ORDER BY s.check_at LIMIT max_commits
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM jobstate.upload_scope_lock(upload_rescue.repo_id, upload_rescue.commit_sha);
        upload_ids := jobstate.upload_reclaim(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF upload_ids IS NOT NULL THEN
            action := 'process';
            RETURN NEXT;
        END IF;
        upload_ids := NULL;
        action := jobstate.upload_sweep_answer(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF action <> 'wait' THEN
            RETURN NEXT;
        END IF;
        UPDATE jobstate.upload_scope s
           SET check_at = clock_timestamp()
                          + jobstate.upload_sweep_delay(upload_rescue.repo_id, upload_rescue.commit_sha)
         WHERE s.repo_id = upload_rescue.repo_id AND s.commit_sha = upload_rescue.commit_sha;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.upload_rescue(integer)
    IS 'finds what died: a row per commit and action (process, merge, postprocess) that somebody has to take up';

-- upload_postprocessed: whoever was told to postprocess has done so, and the
-- sweep need not tell anybody else.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_postprocessed(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    UPDATE jobstate.upload_scope s
       SET postprocessed_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND s.postprocess_at IS NOT NULL AND s.postprocessed_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_postprocessed(bigint, text)
    IS 'confirms that a commit was postprocessed; false if it is not to be, or was confirmed before';

-- upload_adopt: makes the sweep look at commits whose uploads were written
-- without the functions: loaded, inserted, moved or deleted by hand.
-- Writes: upload_scope.  Locks: the scope rows that it writes, by key.
CREATE FUNCTION jobstate.upload_adopt()
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    adopted bigint;
BEGIN
    INSERT INTO jobstate.upload_scope AS s (repo_id, commit_sha, check_at)
    SELECT o.repo_id, o.commit_sha, clock_timestamp()
      FROM (SELECT DISTINCT (c.group_key ->> 'repo_id')::bigint AS repo_id,
                   (c.group_key ->> 'commit_sha') COLLATE "C" AS commit_sha
              FROM jobstate.counts('jobstate.upload') c
             WHERE c.state IN ('uploaded', 'processed') AND c.n > 0
             ORDER BY 1, 2) o
        ON CONFLICT (repo_id, commit_sha)
        DO UPDATE SET version = s.version + 1, check_at = excluded.check_at
        WHERE s.check_at IS NULL;
    GET DIAGNOSTICS adopted = ROW_COUNT;
    RETURN adopted;
END
$$;
COMMENT ON FUNCTION jobstate.upload_adopt()
    IS 'makes upload_rescue() look at commits that were written without the functions, and tells how many';

-- upload_forget: a commit whose uploads are all gone (pruned, deleted) needs no
-- scope row.  An upload may come between the search and the lock, so the row is
-- deleted by a statement that looks again.  Of a large table it looks at a part,
-- anywhere, so that its cost does not grow with dead rows behind an old snapshot.
-- Writes: upload_scope.  Locks: the scope rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.upload_forget(max_commits integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    few CONSTANT bigint := greatest(max_commits / 16, 32);
    pages CONSTANT bigint := pg_relation_size('jobstate.upload_scope') / current_setting('block_size')::bigint;
    first CONSTANT bigint := floor(random() * greatest(pages - few + 1, 1));
    scope record;
    forgotten bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    FOR scope IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE s.ctid >= format('(%s,0)', first)::tid AND s.ctid < format('(%s,0)', first + few)::tid
           AND (s.gate_until IS NULL OR s.gate_until <= clock_timestamp())
           -- OFFSET: each is looked up, rather than all uploads read
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha OFFSET 0)
         LIMIT max_commits
           FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM jobstate.upload_scope s
         WHERE s.repo_id = scope.repo_id AND s.commit_sha = scope.commit_sha
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha);
        forgotten := forgotten + CASE WHEN FOUND THEN 1 ELSE 0 END;
    END LOOP;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION jobstate.upload_forget(integer)
    IS 'drops what is remembered of commits that have no uploads left, and tells of how many; of a large table it looks at a part, another one each time: max_commits / 16 pages, or 32';
