-- queue: dead letters ---------------------------------------------------------------

-- queue_bury: jobs leave the table of jobs and become dead letters.  Whoever has
-- something to add to a job's errors gives them all, in the order of the ids.
-- Writes: job, dead_letter.  Locks nothing more: the caller holds the jobs.
CREATE FUNCTION jobstate.queue_bury(ids bigint[], errors jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR errors;
    held CONSTANT bigint[] := jobstate.queue_positions(ids);
BEGIN
    RETURN QUERY
        WITH gone AS (
            DELETE FROM jobstate.job j WHERE j.position = ANY (held) RETURNING j.*)
        INSERT INTO jobstate.dead_letter AS d (queue, id, kind, priority, payload, attempt, max_attempts,
                                               timeout, unique_key, limit_key, errors, enqueued_at)
        SELECT g.queue, g.id, g.kind, g.priority, g.payload, g.attempt, g.max_attempts,
               g.timeout, g.unique_key, g.limit_key, coalesce(n.errors, g.errors), g.enqueued_at
          FROM gone g
          LEFT JOIN unnest(ids, given) AS n (id, errors) ON n.id = g.id
         ORDER BY g.id
        RETURNING d.id;
END
$$;
COMMENT ON FUNCTION jobstate.queue_bury(bigint[], jsonb[])
    IS 'internal: makes dead letters of jobs that the caller holds, and returns their ids';

-- queue_failed: the failed jobs that a filter means.  Whoever goes on with them
-- locks them and looks at their state again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_failed(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT j.id FROM jobstate.job j
                  WHERE j.state_id = 5
                    AND ($1 IS NULL OR j.queue COLLATE "default" = $1) AND ($2 IS NULL OR j.kind = $2)
                    AND ($3 IS NULL OR j.finished_at <= clock_timestamp() - $3));
END
$$;
COMMENT ON FUNCTION jobstate.queue_failed(text, text, interval, boolean)
    IS 'internal: the ids of failed jobs by queue, kind and age';

-- queue_dead: the same for dead letters.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_dead(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT d.id FROM jobstate.dead_letter d
                  WHERE ($1 IS NULL OR d.queue COLLATE "default" = $1) AND ($2 IS NULL OR d.kind = $2)
                    AND ($3 IS NULL OR d.died_at <= clock_timestamp() - $3));
END
$$;
COMMENT ON FUNCTION jobstate.queue_dead(text, text, interval, boolean)
    IS 'internal: the ids of dead letters by queue, kind and age';

-- dlq_move: failed jobs become dead letters.
-- Writes: job, dead_letter.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.dlq_move(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    RETURN QUERY SELECT * FROM jobstate.queue_bury(ARRAY(
        SELECT j.id FROM jobstate.job j
         WHERE j.position = ANY (held) AND j.state_id = 5));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_move(bigint[])
    IS 'makes dead letters of failed jobs and returns their ids';

CREATE FUNCTION jobstate.dlq_move_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_move(jobstate.queue_failed(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_move_all(text, text, boolean)
    IS 'makes dead letters of all failed jobs of a queue or kind, and tells how many';

-- queue_dead_lock: locks dead letters; those that somebody took meanwhile are gone.
-- Writes nothing.  Locks: the dead letters, by id.
CREATE FUNCTION jobstate.queue_dead_lock(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT d.id FROM jobstate.dead_letter d
                  WHERE d.id = ANY (ids) ORDER BY d.id FOR UPDATE);
END
$$;
COMMENT ON FUNCTION jobstate.queue_dead_lock(bigint[])
    IS 'internal: locks dead letters and returns the ids of those that exist';

-- queue_revive: dead letters become available jobs, with the ids that they had.
-- Writes: job, dead_letter; the sequence; queue and queue_lane where there is none.
-- Locks nothing more: the caller holds the dead letters and their unique keys.
CREATE FUNCTION jobstate.queue_revive(ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_wake(w.queue)
       FROM (SELECT DISTINCT d.queue FROM jobstate.dead_letter d WHERE d.id = ANY (ids)) w;
    WITH gone AS (
        DELETE FROM jobstate.dead_letter d WHERE d.id = ANY (ids) RETURNING d.*),
    placed AS MATERIALIZED (
        SELECT g.*, jobstate.queue_tail(g.queue, g.priority, g.id) AS fresh
          FROM (SELECT * FROM gone ORDER BY id) g)
    INSERT INTO jobstate.job (id, position, slot, queue, priority, state_id, enqueued_at, max_attempts,
                              kind, timeout, unique_key, limit_key, payload, errors)
    SELECT p.id, p.fresh, jobstate.queue_slot(p.fresh), p.queue, p.priority, 1, p.enqueued_at, p.max_attempts,
           p.kind, p.timeout, p.unique_key, p.limit_key, p.payload, p.errors
      FROM placed p;
END
$$;
COMMENT ON FUNCTION jobstate.queue_revive(bigint[])
    IS 'internal: makes jobs of dead letters that the caller holds';

-- dlq_retry: dead letters start again, with all their attempts.  Those whose unique
-- key another job has by now are left out; the form for one refuses them.
-- Writes: job, dead_letter, unique_job; the sequence; queue and queue_lane where
-- there is none.  Locks: the dead letters, by id, then their unique keys.
CREATE FUNCTION jobstate.dlq_retry(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint[];
    refused bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_dead_lock(ids);
    SELECT jobstate.queue_keys_take(array_agg(d.id), array_agg(d.queue), array_agg(d.unique_key))
      INTO refused
      FROM jobstate.dead_letter d WHERE d.id = ANY (held) AND d.unique_key IS NOT NULL;
    held := ARRAY(SELECT unnest(held) EXCEPT SELECT unnest(refused) ORDER BY 1);
    PERFORM jobstate.queue_revive(held);
    RETURN QUERY SELECT unnest(held);
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry(bigint[])
    IS 'makes jobs of dead letters again and returns their ids';

CREATE FUNCTION jobstate.dlq_retry(id bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    other bigint;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    IF EXISTS (SELECT FROM jobstate.dlq_retry(ARRAY[$1])) THEN
        RETURN $1;
    END IF;
    SELECT u.id INTO other
      FROM jobstate.dead_letter d JOIN jobstate.unique_job u USING (queue, unique_key)
     WHERE d.id = $1;
    IF FOUND THEN
        PERFORM jobstate.queue_refuse('key taken', $1, NULL, other);
    END IF;
    RAISE EXCEPTION 'dead letter % does not exist', $1
        USING ERRCODE = 'JS002',
              DETAIL = 'It was retried or purged, or never was one.',
              HINT = 'See jobstate.job_status().';
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry(bigint)
    IS 'makes a job of a dead letter again; raises JS002 or JS003';

CREATE FUNCTION jobstate.dlq_retry_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_retry(jobstate.queue_dead(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry_all(text, text, boolean)
    IS 'makes jobs of all dead letters of a queue or kind again, and tells how many';

-- dlq_purge: dead letters go for good.
-- Writes: dead_letter.  Locks: the dead letters, by id.
CREATE FUNCTION jobstate.dlq_purge(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_dead_lock(ids);
    RETURN QUERY DELETE FROM jobstate.dead_letter d WHERE d.id = ANY (held) RETURNING d.id;
END
$$;
COMMENT ON FUNCTION jobstate.dlq_purge(bigint[])
    IS 'deletes dead letters and returns their ids';

CREATE FUNCTION jobstate.dlq_purge_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    older_than interval DEFAULT NULL, everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_purge(jobstate.queue_dead(queue, kind, older_than, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_purge_all(text, text, interval, boolean)
    IS 'deletes all dead letters of a queue or kind, or those that died long enough ago, and tells how many';

-- discard: nobody wants to know of them any more: failed jobs and dead letters.
-- Writes: job, dead_letter.  Locks: the jobs, by id, then the dead letters.
CREATE FUNCTION jobstate.discard(queue text DEFAULT NULL, kind text DEFAULT NULL,
    older_than interval DEFAULT NULL, everything boolean DEFAULT false,
    OUT failed bigint, OUT dead_letters bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    held bigint[] := jobstate.queue_hold(jobstate.queue_failed(queue, kind, older_than, everything));
BEGIN
    DELETE FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id = 5;
    GET DIAGNOSTICS failed = ROW_COUNT;
    dead_letters := jobstate.dlq_purge_all(queue, kind, older_than, everything);
END
$$;
COMMENT ON FUNCTION jobstate.discard(text, text, interval, boolean)
    IS 'deletes the failed jobs and dead letters of a queue or kind, or those that ended long enough ago';
