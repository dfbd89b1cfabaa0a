-- queue: jobs that go to the tail of a lane -------------------------------------------

-- queue_tail: a place at the tail of a queue's lane, in the shard of an earlier
-- place; where the queue has fewer shards, they share.
-- Writes: the sequence; queue and queue_lane where there is none yet.
-- Locks nothing more.
CREATE FUNCTION jobstate.queue_tail(queue text, priority smallint, earlier bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    shard smallint := coalesce((SELECT l.shard FROM jobstate.queue_lane l WHERE l.lane = earlier >> 48), 0)
                      % coalesce((SELECT q.shards FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1), 1);
BEGIN
    RETURN jobstate.queue_position(jobstate.queue_lane_of($1, $2, shard));
END
$$;
COMMENT ON FUNCTION jobstate.queue_tail(text, smallint, bigint)
    IS 'internal: the next position of the lane that an earlier one leads to';

-- queue_keys_take: jobs that come back, or go to another queue, take their unique
-- keys.  Of several jobs with one key the first one gets it.
-- Writes: unique_job.  Locks: the keys' rows, by queue and key.  The caller holds
-- the jobs.
CREATE FUNCTION jobstate.queue_keys_take(ids bigint[], queues text[], keys text[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wish record;
    refused bigint[] := '{}';
BEGIN
    FOR wish IN
        SELECT w.queue, array_agg(w.key ORDER BY w.id) AS keys, array_agg(w.id ORDER BY w.id) AS ids
          FROM unnest(ids, queues, keys) AS w (id, queue, key)
         GROUP BY w.queue ORDER BY w.queue COLLATE "C"
    LOOP
        refused := refused || ARRAY(
            SELECT t.id FROM jobstate.queue_take_keys(wish.queue, wish.keys, wish.ids, NULL) t
             WHERE t.holder <> t.id);
    END LOOP;
    RETURN refused;
END
$$;
COMMENT ON FUNCTION jobstate.queue_keys_take(bigint[], text[], text[])
    IS 'internal: gives unique keys to jobs, and returns the ids of those that other jobs keep out';

-- queue_restart: ended jobs become available at the tail of their lanes.  What can
-- become available comes from job_waiting, so they go there and leave it at once.
-- Writes: job; the sequence.  Locks nothing more: the caller holds the jobs, which
-- have failed or been cancelled, and their unique keys.
CREATE FUNCTION jobstate.queue_restart(positions bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    woken CONSTANT text[] := ARRAY(SELECT j.queue FROM jobstate.job j WHERE j.position = ANY (positions));
BEGIN
    UPDATE jobstate.job j
       SET state_id = 3, slot = -1, attempt = 0, run_at = clock_timestamp(), cancel_requested = false,
           token = NULL, claimed_at = NULL, lease_until = NULL, finished_at = NULL, worker = NULL,
           result = NULL
     WHERE j.position = ANY (positions);
    WITH placed AS MATERIALIZED (
        SELECT w.position, jobstate.queue_tail(w.queue, w.priority, w.position) AS fresh
          FROM (SELECT j.queue, j.priority, j.position FROM jobstate.job j
                 WHERE j.position = ANY (positions) AND j.slot = -1
                 ORDER BY j.position) w)
    UPDATE jobstate.job j
       SET state_id = 1, position = p.fresh, slot = jobstate.queue_slot(p.fresh)
      FROM placed p
     WHERE j.position = p.position AND j.slot = -1;
    PERFORM jobstate.queue_wake(w.queue) FROM (SELECT DISTINCT unnest(woken) AS queue) w;
END
$$;
COMMENT ON FUNCTION jobstate.queue_restart(bigint[])
    IS 'internal: makes ended jobs that the caller holds available again';

-- retry: what has failed or was cancelled starts again, with all its attempts and
-- with the errors that it has had.  Jobs in other states, and those whose unique
-- key another job has by now, are left out; the form for one job refuses them.
-- Writes: job, unique_job; the sequence; queue and queue_lane where there is none.
-- Locks: the jobs, by id, then their unique keys.
CREATE FUNCTION jobstate.retry(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    ended record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(j.queue), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.unique_key IS NOT NULL;
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO ended
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_restart(ended.positions);
    RETURN QUERY SELECT unnest(ended.ids);
END
$$;
COMMENT ON FUNCTION jobstate.retry(bigint[])
    IS 'makes failed and cancelled jobs available again and returns their ids';

CREATE FUNCTION jobstate.retry(id bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    other bigint;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    IF EXISTS (SELECT FROM jobstate.retry(ARRAY[$1])) THEN
        RETURN $1;
    END IF;
    SELECT u.id INTO other
      FROM jobstate.queue_find(ARRAY[$1]) f
      JOIN jobstate.job j ON j.slot = f.slot AND j."position" = f."position"
      JOIN jobstate.unique_job u ON u.queue = j.queue AND u.unique_key = j.unique_key
     WHERE f.state_id IN (5, 6);
    IF FOUND THEN
        PERFORM jobstate.queue_refuse('key taken', $1, NULL, other);
    END IF;
    PERFORM jobstate.queue_refuse($1);
END
$$;
COMMENT ON FUNCTION jobstate.retry(bigint)
    IS 'makes a failed or cancelled job available again; raises JS002 or JS003';

-- retry_all: every failed job of a queue, of a kind, or of both.
-- Writes and locks what retry() says.
CREATE FUNCTION jobstate.retry_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.retry(jobstate.queue_failed(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.retry_all(text, text, boolean)
    IS 'makes all failed jobs of a queue or kind available again, and tells how many';

-- queue_relocate: jobs that wait go to the tail of other lanes.  They are deleted
-- and inserted rather than updated: who meets one on its way to another partition
-- passes over it, where the update of a row would fail it.
-- Writes: job; the sequence; queue and queue_lane where there is none yet.
-- Locks nothing more: the caller holds the jobs, which are available or deferred.
CREATE FUNCTION jobstate.queue_relocate(positions bigint[], queue text, priority smallint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    WITH gone AS (
        DELETE FROM jobstate.job j WHERE j.position = ANY (positions) RETURNING j.*),
    placed AS MATERIALIZED (
        SELECT g.*, t.queue AS new_queue, t.priority AS new_priority,
               jobstate.queue_tail(t.queue, t.priority, g.position) AS fresh
          FROM (SELECT * FROM gone ORDER BY position) g,
               LATERAL (SELECT coalesce($2, g.queue) AS queue, coalesce($3, g.priority) AS priority) t)
    INSERT INTO jobstate.job (id, position, slot, queue, priority, state_id, enqueued_at, run_at,
        max_attempts, attempt, cancel_requested, token, claimed_at, lease_until, finished_at, worker,
        kind, timeout, unique_key, limit_key, payload, errors, result)
    SELECT p.id, p.fresh, CASE p.state_id WHEN 1 THEN jobstate.queue_slot(p.fresh) ELSE p.slot END,
           p.new_queue, p.new_priority, p.state_id, p.enqueued_at, p.run_at,
           p.max_attempts, p.attempt, p.cancel_requested, p.token, p.claimed_at, p.lease_until,
           p.finished_at, p.worker, p.kind, p.timeout, p.unique_key, p.limit_key, p.payload, p.errors, p.result
      FROM placed p;
END
$$;
COMMENT ON FUNCTION jobstate.queue_relocate(bigint[], text, smallint)
    IS 'internal: moves jobs that the caller holds to the tail of other lanes';

-- set_priority: jobs that wait go to the tail of another priority's lane.  Those
-- that have it already stay where they are.
-- Writes: job; the sequence; queue_lane where there is none yet.
-- Locks: the jobs, by id.
CREATE FUNCTION jobstate.set_priority(ids bigint[], priority integer)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('priority', $2);
    IF $2 NOT BETWEEN 1 AND 4 THEN
        RAISE EXCEPTION 'priority % does not exist', $2
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'There are the priorities 1 to 4.',
                  HINT = '1 is the most urgent, 2 the usual one.';
    END IF;
    held := jobstate.queue_hold(ids);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.priority <> $2;
    PERFORM jobstate.queue_relocate(mover.positions, NULL, $2::smallint);
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;
COMMENT ON FUNCTION jobstate.set_priority(bigint[], integer)
    IS 'gives another priority to jobs that are available or deferred, and returns the ids of those that moved';

-- queue_keys_move: unique keys go with their jobs to another queue, unless another
-- job has the key there; returns the ids of the jobs for which that is so.
-- Writes: unique_job.  Locks: the keys' rows in the new queue, then in the old
-- ones, each by queue and key.  The caller holds the jobs.
CREATE FUNCTION jobstate.queue_keys_move(positions bigint[], target text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    refused bigint[];
BEGIN
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(target), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j WHERE j.position = ANY (positions) AND j.unique_key IS NOT NULL;
    PERFORM FROM jobstate.unique_job u
       JOIN jobstate.job j ON j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
      WHERE j.position = ANY (positions) AND j.id <> ALL (refused)
      ORDER BY u.queue COLLATE "C", u.unique_key COLLATE "C" FOR UPDATE OF u;
    DELETE FROM jobstate.unique_job u
     USING jobstate.job j
     WHERE j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
       AND j.position = ANY (positions) AND j.id <> ALL (refused);
    RETURN coalesce(refused, '{}');
END
$$;
COMMENT ON FUNCTION jobstate.queue_keys_move(bigint[], text)
    IS 'internal: moves unique keys to another queue, and returns the ids of jobs that others keep out of it';

-- move_queue: jobs that wait go to the tail of a lane of another queue.  A job whose
-- unique key somebody has there stays where it is.
-- Writes: job, unique_job; the sequence; queue and queue_lane where there is none.
-- Locks: the jobs, by id, then their keys.
CREATE FUNCTION jobstate.move_queue(ids bigint[], queue text)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('queue', $2);
    held := jobstate.queue_hold(ids);
    held := ARRAY(SELECT j.position FROM jobstate.job j
                   WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.queue COLLATE "default" <> $2);
    refused := jobstate.queue_keys_move(held, $2);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j WHERE j.position = ANY (held) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_relocate(mover.positions, $2, NULL);
    PERFORM jobstate.queue_wake($2) WHERE mover.ids IS NOT NULL;
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;
COMMENT ON FUNCTION jobstate.move_queue(bigint[], text)
    IS 'moves jobs that are available or deferred to another queue, and returns the ids of those that moved';
