-- queue: health and metrics --------------------------------------------------------

-- health_queue_due: jobs that are due, and that nobody made available.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_due(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'queue due', q.queue, 'warning',
           format('%s jobs are due, the first since %s, and nobody promotes them',
                  CASE WHEN d.n > 1000 THEN 'over 1000' ELSE d.n::text END, date_trunc('second', d.first)),
           format('SELECT jobstate.promote(%L, 100000)', q.queue)
      FROM jobstate.queue q
     CROSS JOIN LATERAL (
            SELECT count(*) AS n, min(w.run_at) AS first
              FROM (SELECT j.run_at FROM jobstate.job j
                     WHERE j.slot = -1 AND j.queue = q.queue AND j.run_at < clock_timestamp() - patience
                     ORDER BY j.run_at LIMIT 1001) w) d
     WHERE d.n > 0
    UNION ALL
    SELECT 'queue due', NULL, 'ok', 'jobs become available when they are due', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_due(boolean, interval)
    IS 'internal: what health() says of jobs that are due';

-- health_queue_leases: running jobs whose worker is gone and that nobody rescues.
-- Looks where rescue() does, and unless asked to look deep at the first jobs of each
-- lane only.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_leases(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue_lane', 'jobstate.queue_window') THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH lane AS (
        SELECT l.lane, coalesce(w.ceiling, (l.lane::bigint + 1) << 48) AS ceiling,
               coalesce(w.settled, l.lane::bigint << 48) AS settled
          FROM (SELECT DISTINCT c.group_key ->> 'queue' AS queue, (c.group_key ->> 'priority')::smallint AS priority
                  FROM jobstate.counts('jobstate.job') c WHERE c.state = 'running' AND c.n > 0) c
          JOIN jobstate.queue_lane l ON l.queue = c.queue AND l.priority = c.priority
         CROSS JOIN LATERAL (SELECT max(w.ceiling) AS ceiling, max(w.settled) AS settled
                               FROM jobstate.queue_window w WHERE w.lane = l.lane) w),
    running AS (
        SELECT j.* FROM lane
         CROSS JOIN LATERAL (SELECT j.queue, j.state_id, j.lease_until, j.claimed_at, j.timeout FROM jobstate.job j
                              WHERE j.position >= lane.settled AND j.position < lane.ceiling AND j.slot >= 0
                              ORDER BY j.position LIMIT CASE WHEN NOT deep THEN 20000 END) j
        UNION ALL
        SELECT j.queue, j.state_id, j.lease_until, j.claimed_at, j.timeout FROM jobstate.job j
         WHERE j.slot = -2 AND j.state_id = 2)
    SELECT 'queue expired', r.queue, 'warning',
           format('%s running jobs have outlived their lease or timeout, the first at %s, and nobody rescues them',
                  count(*), date_trunc('second', min(least(r.lease_until, r.claimed_at + r.timeout)))),
           'SELECT * FROM jobstate.rescue(100000)'
      FROM running r
     WHERE r.state_id = 2 AND jobstate.queue_overdue(r.lease_until, r.claimed_at, r.timeout, at)
     GROUP BY r.queue
    UNION ALL
    SELECT 'queue expired', NULL, 'ok', 'jobs of workers that are gone are rescued', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_leases(boolean, interval)
    IS 'internal: what health() says of leases that ran out';

-- queue_load: per queue, what is there to be claimed and what stands in the way.
-- Keys that are at their limit count where they have jobs that could run.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_load()
RETURNS TABLE (queue text, available bigint, running bigint, keys_at_limit bigint, oldest timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT q.queue, coalesce(c.available, 0)::bigint, coalesce(c.running, 0)::bigint, coalesce(c.keys_at_limit, 0),
           CASE WHEN c.available > 0 THEN jobstate.queue_oldest(q.queue) END
      FROM jobstate.queue q
      LEFT JOIN (SELECT k.queue, sum(k.available) AS available, sum(k.running) AS running,
                        count(*) FILTER (WHERE k.limit_key IS NOT NULL AND k.available > 0 AND k.running >= l.max_running_per_key)
                            AS keys_at_limit
                   FROM (SELECT n.group_key ->> 'queue' AS queue, n.group_key ->> 'limit_key' AS limit_key,
                                sum(n.n) FILTER (WHERE n.state = 'available') AS available,
                                sum(n.n) FILTER (WHERE n.state = 'running') AS running
                           FROM jobstate.counts('jobstate.job') n
                          WHERE n.n > 0 AND n.state IN ('available', 'running') GROUP BY 1, 2) k
                   JOIN jobstate.queue l ON l.queue = k.queue
                  GROUP BY k.queue) c ON c.queue = q.queue;
END
$$;
COMMENT ON FUNCTION jobstate.queue_load()
    IS 'internal: per queue, jobs available and running, keys at their limit, and when the oldest available job became due';

-- health_queue_backlog: queues that have jobs and do not get on: paused, at a limit,
-- or without workers.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_backlog(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue', 'jobstate.queue_lane', 'jobstate.queue_window') THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH load AS MATERIALIZED (
        SELECT q.*, l.available, l.running, l.keys_at_limit,
               l.running >= q.max_running IS TRUE AS is_full,
               date_trunc('second', l.oldest) AS since, l.oldest < long_ago AS late
          FROM jobstate.queue q JOIN jobstate.queue_load() l ON l.queue = q.queue
         WHERE l.available > 0)
    SELECT 'queue paused', l.queue, CASE WHEN l.paused_at < long_ago THEN 'warning' ELSE 'info' END,
           format('paused since %s with %s jobs available', date_trunc('second', l.paused_at), l.available),
           format('SELECT jobstate.resume(%L)', l.queue)
      FROM load l WHERE l.paused_at IS NOT NULL
    UNION ALL
    SELECT 'queue limit', l.queue, CASE WHEN l.late THEN 'warning' ELSE 'info' END,
           CASE WHEN l.is_full THEN format('%s jobs run, which is the limit, and %s wait, the first since %s',
                                           l.running, l.available, l.since)
                ELSE format('%s keys are at their limit of %s; %s jobs wait, the first since %s',
                            l.keys_at_limit, l.max_running_per_key, l.available, l.since) END,
           format('SELECT jobstate.queue_define(%L, %L)', l.queue,
                  CASE WHEN l.is_full THEN jsonb_build_object('max_running', 2 * l.max_running)
                       ELSE jsonb_build_object('max_running_per_key', 2 * l.max_running_per_key) END)
      FROM load l WHERE l.paused_at IS NULL AND (l.is_full OR l.keys_at_limit > 0)
    UNION ALL
    SELECT 'queue lagging', l.queue, 'warning',
           format('%s jobs wait, the first since %s, while %s run: %s', l.available, l.since, l.running,
                  CASE WHEN l.running = 0 THEN 'start workers' ELSE 'start more workers' END), NULL
      FROM load l WHERE l.late AND l.paused_at IS NULL AND NOT l.is_full AND l.keys_at_limit = 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('queue paused', 'no queue with jobs is paused'), ('queue limit', 'no queue is at its limit'),
                   ('queue lagging', 'jobs are claimed in time')) o (c, d);
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_backlog(boolean, interval)
    IS 'internal: what health() says of queues that do not get on';

-- health_queue_dead: dead letters want somebody's decision; where new ones come,
-- soon.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_dead(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.dead_letter') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'queue dead letters', d.queue, CASE WHEN d.fresh > 0 THEN 'warning' ELSE 'info' END,
           format('%s dead letters wait for a decision, %s came in the last hour; dlq_purge_all() would delete them', d.n, d.fresh),
           format('SELECT jobstate.dlq_retry_all(%L)', d.queue)
      FROM (SELECT d.queue, count(*) AS n,
                   count(*) FILTER (WHERE d.died_at > clock_timestamp() - interval '1 hour') AS fresh
              FROM jobstate.dead_letter d GROUP BY d.queue) d
    UNION ALL
    SELECT 'queue dead letters', NULL, 'ok', 'there are no dead letters', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_dead(boolean, interval)
    IS 'internal: what health() says of dead letters';

-- queue_room: how many slots ahead of the current one are empty, and which one
-- is the first that is not.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_room(OUT slots integer, OUT used integer, OUT free integer, OUT next_used integer)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.slots, count(*) FILTER (WHERE s.size > 0), coalesce(min(s.ahead) FILTER (WHERE s.size > 0), r.slots) - 1,
           (array_agg(s.slot ORDER BY s.ahead) FILTER (WHERE s.size > 0 AND s.ahead > 0))[1]
      FROM (SELECT r.slots::integer AS slots, coalesce(pg_sequence_last_value('jobstate.job_number'), 0) / r.slot_jobs AS current
              FROM jobstate.queue_ring r) r
     CROSS JOIN LATERAL (
            SELECT a.ahead, ((r.current + a.ahead) % r.slots)::integer AS slot,
                   pg_relation_size(to_regclass(format('jobstate.job_%s', (r.current + a.ahead) % r.slots))) AS size
              FROM generate_series(1, r.slots) a (ahead)) s
     GROUP BY r.slots
$$;
COMMENT ON FUNCTION jobstate.queue_room()
    IS 'internal: how many slots of the ring hold jobs, how many ahead are empty, and which one comes after these';

-- health_queue_ring: has the ring room, and if not, why?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_ring(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ring record;
    unfinished bigint;
BEGIN
    IF NOT (jobstate.can_read('jobstate.job', 'jobstate.queue_ring')
            AND has_sequence_privilege('jobstate.job_number', 'USAGE, SELECT')) THEN
        RETURN;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_room();
    IF ring.free = 0 THEN
        SELECT count(*) INTO unfinished
          FROM (SELECT FROM jobstate.job j WHERE j.slot = ring.next_used AND j.state_id IN (1, 2) LIMIT 1001) j;
        RETURN QUERY
        SELECT 'queue ring', h.who, 'warning', format('has held slot %s for long, which is the next to be emptied', ring.next_used), h.ending
          FROM (SELECT DISTINCT h.who, h.ending FROM jobstate.health_holders(patience) h
                 WHERE h.relation = to_regclass(format('jobstate.job_%s', ring.next_used))) h
        UNION ALL
        SELECT 'queue ring', format('slot %s', ring.next_used), 'warning',
               CASE WHEN unfinished > 1000
                    THEN format('the ring is full: slot %s of %s is next and holds over 1000 jobs that have not ended; start workers, jobs go there a second time meanwhile',
                                ring.next_used, ring.slots)
                    ELSE format('the ring is full: slot %s of %s is next and was not emptied', ring.next_used, ring.slots) END,
               CASE WHEN unfinished <= 1000 THEN 'SELECT * FROM jobstate.prune_slots(2)' END;
    END IF;
    RETURN QUERY
    SELECT 'queue ring', NULL, 'ok', format('%s of %s slots hold jobs, the next %s are empty', ring.used, ring.slots, ring.free), NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_ring(boolean, interval)
    IS 'internal: what health() says of the ring';

-- metrics_queue: per queue, and of the ring.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_queue()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue', 'jobstate.queue_lane', 'jobstate.queue_window',
                             'jobstate.queue_ring', 'jobstate.dead_letter') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, jsonb_build_object('queue', q.queue), m.value::double precision, 'gauge', m.unit, m.help
      FROM jobstate.queue q
      JOIN jobstate.queue_load() l ON l.queue = q.queue
     CROSS JOIN LATERAL (VALUES
            ('jobstate_queue_available', l.available, '', 'jobs that can be claimed'),
            ('jobstate_queue_running', l.running, '', 'jobs that are claimed'),
            ('jobstate_queue_oldest_available_seconds', coalesce(extract(epoch FROM clock_timestamp() - l.oldest), 0), 'seconds',
             'for how long the oldest available job has been due'),
            ('jobstate_queue_overdue_seconds',
             coalesce(greatest(extract(epoch FROM clock_timestamp() - (SELECT min(j.run_at) FROM jobstate.job j WHERE j.slot = -1 AND j.queue = q.queue)), 0), 0),
             'seconds', 'for how long the first deferred job has been due and not promoted'),
            ('jobstate_queue_dead_letters', (SELECT count(*) FROM jobstate.dead_letter d WHERE d.queue = q.queue), '', 'dead letters'),
            ('jobstate_queue_paused', (q.paused_at IS NOT NULL)::integer, '', '1 while the queue is paused'),
            ('jobstate_queue_limit', q.max_running, '', 'how many jobs may run at a time, where there is a limit'),
            ('jobstate_queue_keys_at_limit', l.keys_at_limit, '', 'limit keys that have as many running jobs as they may, and more available'),
            ('jobstate_queue_lanes', (SELECT count(*) FROM jobstate.queue_lane n WHERE n.queue = q.queue), '', 'lanes: priorities times shards'))
           AS m (name, value, unit, help)
     WHERE m.value IS NOT NULL;
    IF has_sequence_privilege('jobstate.job_number', 'USAGE, SELECT') THEN
        RETURN QUERY
        SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', '', m.help
          FROM jobstate.queue_room() r
         CROSS JOIN LATERAL (VALUES
                ('jobstate_queue_ring_slots', r.slots, 'slots of the ring'),
                ('jobstate_queue_ring_used', r.used, 'slots of the ring that hold jobs'),
                ('jobstate_queue_ring_free', r.free, 'empty slots between the current one and the next that holds jobs'))
               AS m (name, value, help);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.metrics_queue()
    IS 'internal: the queue''s part of the view metrics';
