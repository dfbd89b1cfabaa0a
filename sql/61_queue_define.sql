-- queue: settings, lanes, and where a job is ----------------------------------------

-- queue_require_name: refuses a queue without a name.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_name(queue text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('queue', queue);
    IF queue = '' THEN
        RAISE EXCEPTION 'argument "queue" must not be empty'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A queue is known by its name.',
                  HINT = 'Give the queue a name; it comes to be with its first job.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_name(text)
    IS 'internal: raises 22004 or 22023 for a queue without a name';

-- queue_define: makes a queue, or changes some of its settings.
-- Writes: queue.  Locks: the queue's row.
CREATE FUNCTION jobstate.queue_define(queue text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    known CONSTANT text[] := '{shards,lease,max_attempts,backoff,aging,max_running,max_running_per_key,dead_letters,notify}';
    unknown text;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for queue "%s".', name),
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET (shards, lease, max_attempts, backoff, aging,
            max_running, max_running_per_key, dead_letters, notify) =
           (SELECT n.shards, n.lease, n.max_attempts, n.backoff, n.aging,
                   n.max_running, n.max_running_per_key, n.dead_letters, n.notify
              FROM jsonb_populate_record(q, settings) n)
     WHERE q.queue COLLATE "default" = name;
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for queue "%" are not valid', name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'Sizes, times and limits are above zero, shards at most 64; only the limits may be null, which is none.';
END
$$;
COMMENT ON FUNCTION jobstate.queue_define(text, jsonb)
    IS 'makes a queue or changes settings of it: {"max_attempts": 5, "lease": "5 min", ...}';

-- queue_pause: writes pause() and resume(); a queue may be paused before its first job.
-- Writes: queue.  Locks: the queue's row.
CREATE FUNCTION jobstate.queue_pause(queue text, pauses boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET paused_at = CASE WHEN pauses THEN clock_timestamp() END
     WHERE q.queue COLLATE "default" = name AND q.paused_at IS NOT NULL <> pauses;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.queue_pause(text, boolean)
    IS 'internal: pauses or resumes a queue';

CREATE FUNCTION jobstate.pause(queue text)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT jobstate.queue_pause($1, true)';
COMMENT ON FUNCTION jobstate.pause(text)
    IS 'no job of the queue is claimed from now on; true if it was not paused before';

CREATE FUNCTION jobstate.resume(queue text)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT jobstate.queue_pause($1, false)';
COMMENT ON FUNCTION jobstate.resume(text)
    IS 'jobs of the queue are claimed again; true if it was paused';

-- queue_add_lanes: makes sure that the queue exists, and with it the lanes of these
-- priorities.  Only reads where they do.
-- Writes: queue, queue_lane.  Locks: whoever makes the same waits until commit.
CREATE FUNCTION jobstate.queue_add_lanes(queue text, priorities integer[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM FROM jobstate.queue q WHERE q.queue COLLATE "default" = name;
    IF NOT FOUND THEN
        INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO jobstate.queue_lane (queue, priority, shard)
    SELECT q.queue, p, s
      FROM jobstate.queue q, generate_series(0, q.shards - 1) s, unnest(priorities) p
     WHERE q.queue COLLATE "default" = name
       AND NOT EXISTS (SELECT FROM jobstate.queue_lane l
                        WHERE l.queue = q.queue AND l.priority = p AND l.shard = s)
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.queue_add_lanes(text, integer[])
    IS 'internal: creates a queue''s lanes where they are missing';

-- queue_lane_of: the number of a lane, which is made if need be.  Without a shard,
-- any one of the queue's.
-- Writes: queue, queue_lane, as queue_add_lanes() does.  Locks nothing more.
CREATE FUNCTION jobstate.queue_lane_of(queue text, priority integer, shard integer DEFAULT NULL)
RETURNS smallint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    number smallint;
BEGIN
    LOOP
        SELECT l.lane INTO number
          FROM (SELECT q.queue, coalesce($3, floor(random() * q.shards)::integer) % q.shards AS shard
                  FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1) q
          JOIN jobstate.queue_lane l ON l.queue = q.queue AND l.priority = $2 AND l.shard = q.shard;
        EXIT WHEN FOUND;
        PERFORM jobstate.queue_add_lanes($1, ARRAY[$2]);
    END LOOP;
    RETURN number;
END
$$;
COMMENT ON FUNCTION jobstate.queue_lane_of(text, integer, integer)
    IS 'internal: the lane of a queue, a priority and a shard';

-- queue_wake: tells those who listen that a queue has something to claim.  The
-- server sends equal notifications of a transaction once.
-- Writes nothing.  Locks: at commit, what NOTIFY locks, where the queue wants it.
CREATE FUNCTION jobstate.queue_wake(queue text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_notify('jobstate_queue', q.queue) FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1 AND q.notify;
END
$$;
COMMENT ON FUNCTION jobstate.queue_wake(text)
    IS 'internal: notifies jobstate_queue, where the queue''s setting notify is on';

-- next_due: how long a worker that got nothing may sleep.  A limit may let go at any
-- time, whenever somebody's job ends, and nobody tells: then ask again in a second.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.next_due(queue text)
RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    look_again CONSTANT interval := '1 s';
    settings record;
    seen record;
    due interval;
BEGIN
    PERFORM jobstate.require_argument('queue', name);
    SELECT q.paused_at, q.max_running, q.max_running_per_key INTO settings FROM jobstate.queue q WHERE q.queue COLLATE "default" = name;
    IF settings.paused_at IS NOT NULL THEN
        RETURN NULL;
    END IF;
    SELECT sum(k.running) >= settings.max_running AS is_full, bool_or(k.available > 0) AS is_some,
           bool_or(k.available > 0
                   AND (k.key IS NOT NULL AND k.running >= settings.max_running_per_key) IS NOT TRUE) AS is_free
      INTO seen
      FROM (SELECT c.group_key ->> 'limit_key' AS key, sum(c.n) FILTER (WHERE c.state = 'running') AS running,
                   sum(c.n) FILTER (WHERE c.state = 'available') AS available
              FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', name)) c
             GROUP BY 1) k;
    IF seen.is_free AND seen.is_full IS NOT TRUE THEN
        RETURN interval '0';
    END IF;
    due := (SELECT min(w.run_at) - clock_timestamp() FROM jobstate.job_waiting w WHERE w.queue COLLATE "default" = name);
    RETURN CASE WHEN seen.is_full AND due < look_again THEN look_again
                WHEN seen.is_some THEN least(due, look_again)
                ELSE due END;
END
$$;
COMMENT ON FUNCTION jobstate.next_due(text)
    IS 'time until the queue has something to claim: zero or less means now, one second that its limits let nothing be claimed, null that nothing is known of or that the queue is paused';

-- queue_whole: a job that is not there may be one whose slot was emptied after the
-- caller's snapshot was taken, where that is kept: then 40001 is the answer.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_whole()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_queue_whole';
COMMENT ON FUNCTION jobstate.queue_whole()
    IS 'internal: raises 40001 where a slot of the ring was emptied since the transaction''s snapshot';

-- queue_find: where jobs are.  A job that was never moved lies under its id: in
-- that position's slot, or beside the ring, or, where the ring's size was changed
-- since, in any slot.  One that was moved has an index of its own.
-- It is volatile so that each look has its own snapshot, taken after the partitions
-- are locked: whoever empties a slot may carry the job over while we wait.
-- Writes nothing, locks nothing.  What is found may have moved on when it is locked.
CREATE FUNCTION jobstate.queue_find(ids bigint[])
RETURNS TABLE (id bigint, "position" bigint, slot smallint, state_id smallint)
LANGUAGE plpgsql VOLATILE ROWS 10
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    wanted record;
    found_home bigint;
    found_moved bigint;
BEGIN
    SELECT array_agg(i.id ORDER BY i.id) AS ids, array_agg(i.home ORDER BY i.id) AS homes INTO wanted
      FROM (SELECT DISTINCT u AS id, (((u & 281474976710655) / r.slot_jobs) % r.slots)::smallint AS home
              FROM unnest(ids) u, jobstate.queue_ring r WHERE r.singleton) i;
    RETURN QUERY
        SELECT g.id, f."position", f.slot, f.state_id
          FROM unnest(wanted.ids, wanted.homes) g (id, home)
         CROSS JOIN LATERAL (
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j.slot = ANY (ARRAY[g.home, -1::smallint, -2::smallint])
                   AND j."position" = g.id AND j.id = g.id LIMIT 1) f;
    GET DIAGNOSTICS found_home = ROW_COUNT;
    IF found_home = cardinality(wanted.ids) THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT g.id, f."position", f.slot, f.state_id
          FROM unnest(wanted.ids, wanted.homes) g (id, home)
         CROSS JOIN LATERAL (
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j.id = g.id AND j.id <> j."position"
                UNION ALL
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j."position" = g.id AND j.id = g.id
                   AND j.slot <> ALL (ARRAY[g.home, -1::smallint, -2::smallint]) LIMIT 1) f;
    GET DIAGNOSTICS found_moved = ROW_COUNT;
    IF found_home + found_moved < cardinality(wanted.ids) THEN
        PERFORM jobstate.queue_whole();
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_find(bigint[])
    IS 'internal: position, partition and state of the jobs that exist';
