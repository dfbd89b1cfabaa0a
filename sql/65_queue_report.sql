-- queue: what can be asked -------------------------------------------------------

-- queue_counts: from the kernel's counters, so it takes as long for ten million
-- jobs as for ten.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_counts(INOUT queue text DEFAULT NULL, OUT priority smallint,
    OUT state text, OUT n bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT c.group_key ->> 'queue', (c.group_key ->> 'priority')::smallint, c.state, sum(c.n)::bigint
          FROM jobstate.counts('jobstate.job',
                   CASE WHEN $1 IS NOT NULL THEN jsonb_build_object('queue', $1) END) c
         GROUP BY 1, 2, 3
        HAVING sum(c.n) <> 0
         ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION jobstate.queue_counts(text)
    IS 'how many jobs of a queue, or of every one, are in each state, by priority';

-- queue_totals: what is there, and what has been there and was pruned.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_totals(INOUT queue text DEFAULT NULL, OUT priority smallint,
    OUT state text, OUT live bigint, OUT rolled_up bigint, OUT total bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT t.group_key ->> 'queue', (t.group_key ->> 'priority')::smallint, t.state,
               sum(t.live)::bigint, sum(t.rolled_up)::bigint, sum(t.total)::bigint
          FROM jobstate.totals('jobstate.job',
                   CASE WHEN $1 IS NOT NULL THEN jsonb_build_object('queue', $1) END) t
         GROUP BY 1, 2, 3
        HAVING sum(t.total) <> 0
         ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION jobstate.queue_totals(text)
    IS 'jobs of a queue, or of every one, by priority and state: there now, pruned, and both together';

-- queue_oldest: when the first available job of a queue became due.  Looks at the
-- heads of its lanes, from their lower bounds on.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_oldest(queue text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT min(head.run_at)
          FROM (SELECT l.lane::bigint << 48 AS lane_start,
                       coalesce((SELECT max(w.floor) FROM jobstate.queue_window w WHERE w.lane = l.lane), 0) AS floor
                  FROM jobstate.queue_lane l WHERE l.queue COLLATE "default" = $1) b,
               LATERAL (SELECT j.run_at FROM jobstate.job j
                         WHERE j.position >= greatest(b.lane_start, b.floor)
                           AND j.position < b.lane_start + (1::bigint << 48)
                           AND j.state_id = 1
                         ORDER BY j.position LIMIT 1) head);
END
$$;
COMMENT ON FUNCTION jobstate.queue_oldest(text)
    IS 'when the job of the queue that has waited longest became due; null where none is available';

-- queue_install_views: views over the tables of the family, owned like them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_install_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('jobstate.queues') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE VIEW jobstate.jobs AS
        SELECT j.id, j.queue, j.kind, jobstate.queue_state_name(j.state_id) AS state, j.priority,
               j.attempt, j.max_attempts, j.run_at, j.enqueued_at, j.claimed_at, j.lease_until,
               j.finished_at, j.worker, j.cancel_requested, j.timeout, j.unique_key, j.limit_key,
               j.payload, j.errors, j.result
          FROM jobstate.job j;
    COMMENT ON VIEW jobstate.jobs IS 'the jobs, with their states by name; dead letters are not among them';

    CREATE VIEW jobstate.queues AS
        SELECT q.queue, q.paused_at IS NOT NULL AS paused, q.paused_at, q.shards,
               q.max_running, q.max_running_per_key,
               coalesce(c.available, 0) AS available, coalesce(c.running, 0) AS running,
               coalesce(c.deferred, 0) AS deferred, coalesce(c.completed, 0) AS completed,
               coalesce(c.failed, 0) AS failed, coalesce(c.cancelled, 0) AS cancelled,
               (SELECT count(*) FROM jobstate.dead_letter d WHERE d.queue = q.queue) AS dead_letters,
               CASE WHEN c.available > 0 THEN clock_timestamp() - jobstate.queue_oldest(q.queue) END
                   AS oldest_available
          FROM jobstate.queue q
          LEFT JOIN (SELECT n.queue,
                            sum(n.n) FILTER (WHERE n.state = 'available')::bigint AS available,
                            sum(n.n) FILTER (WHERE n.state = 'running')::bigint AS running,
                            sum(n.n) FILTER (WHERE n.state = 'deferred')::bigint AS deferred,
                            sum(n.n) FILTER (WHERE n.state = 'completed')::bigint AS completed,
                            sum(n.n) FILTER (WHERE n.state = 'failed')::bigint AS failed,
                            sum(n.n) FILTER (WHERE n.state = 'cancelled')::bigint AS cancelled
                       FROM jobstate.queue_counts() n GROUP BY n.queue) c USING (queue);
    COMMENT ON VIEW jobstate.queues IS 'the queues: paused or not, limits, jobs per state, and for how long the oldest available job has been due';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_views()
    IS 'internal: creates the views of the family';

-- job_status: all that is known of a job: a row of jobs, or a dead letter in the
-- state "dead".  The state is null where nothing is known: it ended and was pruned,
-- was deleted, or never was.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.job_status(id bigint,
    OUT state text, OUT queue text, OUT kind text, OUT priority smallint,
    OUT attempt smallint, OUT max_attempts smallint, OUT run_at timestamptz, OUT enqueued_at timestamptz,
    OUT claimed_at timestamptz, OUT lease_until timestamptz, OUT finished_at timestamptz, OUT worker text,
    OUT cancel_requested boolean, OUT payload jsonb, OUT errors jsonb, OUT result jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    job record;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    SELECT j.* INTO job FROM jobstate.job j
     WHERE j.position = $1 AND j.id = $1 OR j.id = $1 AND j.id <> j.position;
    IF FOUND THEN
        state := jobstate.queue_state_name(job.state_id);
        run_at := job.run_at;
        claimed_at := job.claimed_at;
        lease_until := job.lease_until;
        finished_at := job.finished_at;
        worker := job.worker;
        cancel_requested := job.cancel_requested;
        result := job.result;
    ELSE
        SELECT d.* INTO job FROM jobstate.dead_letter d WHERE d.id = $1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        state := 'dead';
        finished_at := job.died_at;
    END IF;
    queue := job.queue;
    kind := job.kind;
    priority := job.priority;
    attempt := job.attempt;
    max_attempts := job.max_attempts;
    enqueued_at := job.enqueued_at;
    payload := job.payload;
    errors := job.errors;
END
$$;
COMMENT ON FUNCTION jobstate.job_status(bigint)
    IS 'what is known of a job; its state is "dead" for a dead letter and null where nothing is known';
