-- queue: cancel -------------------------------------------------------------------
--
-- What waits is cancelled at once.  What runs is its worker's: it learns of the
-- wish at its next heartbeat, and ends the job under its token.

-- queue_cancel: cancels what waits, asks for it where a job runs, and tells so of
-- what was cancelled or asked before too.  A deferred job goes to the ring, as it
-- ends there.
-- Writes: job; the sequence.  Locks nothing more: the caller holds the jobs.
CREATE FUNCTION jobstate.queue_cancel(positions bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END FROM jobstate.job j
         WHERE j.position = ANY (positions)
           AND (j.state_id = 6 OR j.state_id = 2 AND j.cancel_requested);
    RETURN QUERY
        UPDATE jobstate.job j
           SET state_id = CASE j.state_id WHEN 1 THEN 6 ELSE 2 END,
               finished_at = CASE j.state_id WHEN 1 THEN clock_timestamp() END,
               cancel_requested = j.state_id = 2
         WHERE j.position = ANY (positions)
           AND (j.state_id = 1 OR j.state_id = 2 AND NOT j.cancel_requested)
        RETURNING j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END;
    RETURN QUERY
        WITH placed AS MATERIALIZED (
            SELECT j.position, jobstate.queue_tail(j.queue, j.priority, j.position) AS fresh
              FROM jobstate.job j
             WHERE j.position = ANY (positions) AND j.state_id = 3)
        UPDATE jobstate.job j
           SET state_id = 6, finished_at = clock_timestamp(),
               position = p.fresh, slot = jobstate.queue_slot(p.fresh)
          FROM placed p
         WHERE j.position = p.position AND j.slot = -1
        RETURNING j.id, 'cancelled';
END
$$;
COMMENT ON FUNCTION jobstate.queue_cancel(bigint[])
    IS 'internal: cancels jobs that the caller holds, or asks their workers to';

-- cancel: by the application or an operator.  Jobs that have ended otherwise, or
-- are not there, are left out of the answer; the form for one job refuses them.
-- Writes: job; the sequence.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel(ids bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    RETURN QUERY SELECT c.* FROM jobstate.queue_cancel(held) c ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint[])
    IS 'cancels jobs that wait ("cancelled") and asks the workers of those that run ("requested")';

CREATE FUNCTION jobstate.cancel(id bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    answer text;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    SELECT c.outcome INTO answer FROM jobstate.cancel(ARRAY[$1]) c;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1);
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint)
    IS 'cancels a job, or asks its worker to; raises JS002 or JS003 where neither can be';

-- cancel, by the worker: it has a running job, and ends it as cancelled, asked for
-- or not.  Saying it twice is saying it once.
-- Writes: job.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel(ids bigint[], tokens bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    held := jobstate.queue_hold(ids);
    UPDATE jobstate.job j
       SET state_id = 6, finished_at = clock_timestamp()
      FROM unnest(ids, tokens) AS g (id, token)
     WHERE j.position = ANY (held)
       AND j.id = g.id AND j.token = g.token AND j.state_id = 2;
    RETURN QUERY
        SELECT DISTINCT j.id FROM jobstate.job j
          JOIN unnest(ids, tokens) AS g (id, token) ON g.id = j.id AND g.token = j.token
         WHERE j.position = ANY (held)
           AND j.state_id = 6
         ORDER BY j.id;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint[], bigint[])
    IS 'ends running jobs as cancelled, by those who have them; returns the ids for which that held';

CREATE FUNCTION jobstate.cancel(id bigint, token bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.cancel(ARRAY[$1], ARRAY[$2]);
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN 'cancelled';
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint, bigint)
    IS 'ends a running job as cancelled, by the worker who has it; raises JS001, JS002 or JS003';

-- cancel_unique: the job that a unique key stands for.
-- Writes: job.  Locks: the job.
CREATE FUNCTION jobstate.cancel_unique(queue text, unique_key text, OUT id bigint, OUT outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('queue', $1);
    PERFORM jobstate.require_argument('unique_key', $2);
    SELECT u.id INTO cancel_unique.id FROM jobstate.unique_job u
     WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = $2;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no job of queue "%" has the unique key "%"', $1, $2
            USING ERRCODE = 'JS002',
                  DETAIL = 'It was never enqueued, or has ended and was forgotten.',
                  HINT = 'See the view jobstate.jobs.';
    END IF;
    cancel_unique.outcome := jobstate.cancel(cancel_unique.id);
END
$$;
COMMENT ON FUNCTION jobstate.cancel_unique(text, text)
    IS 'cancels the job that has a unique key, or asks its worker to; raises JS002 or JS003';

-- cancel_all: every job of a queue, of a kind, or of both that has not ended.
-- Jobs that come while it works are not meant.
-- Writes: job.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false, OUT cancelled bigint, OUT requested bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    meant bigint[];
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL, $3);
    meant := ARRAY(SELECT j.id FROM jobstate.job j
                    WHERE j.state_id IN (1, 2, 3)
                      AND ($1 IS NULL OR j.queue COLLATE "default" = $1) AND ($2 IS NULL OR j.kind = $2));
    SELECT count(*) FILTER (WHERE c.outcome = 'cancelled'), count(*) FILTER (WHERE c.outcome = 'requested')
      INTO cancel_all.cancelled, cancel_all.requested
      FROM jobstate.cancel(meant) c;
END
$$;
COMMENT ON FUNCTION jobstate.cancel_all(text, text, boolean)
    IS 'cancels all jobs of a queue or kind that wait, asks the workers of those that run, and tells how many of each';
