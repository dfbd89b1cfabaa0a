-- queue: what is due, and what is overdue -----------------------------------------
--
-- Anybody may call these at any time, as often as they like: they pass over what
-- others have locked, and find nothing to do where others were faster.
--
-- A plan without sequential scans looks so expensive where a small table has to be
-- read that the server would compile it, which takes longer than all the rest.

-- queue_look_again: is an error that a job was moved to another partition while we
-- waited for it, and is looking again worth it?  Under READ COMMITTED each look has
-- a new snapshot; above, 40001 is the answer.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_look_again()
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN current_setting('transaction_isolation') = 'read committed';
COMMENT ON FUNCTION jobstate.queue_look_again()
    IS 'internal: whether a job that was moved while we looked for it is worth another look';

-- queue_hold_due: locks deferred jobs that are due.  Behind an old snapshot one that
-- was committed more than a second after it became due may be found a second later,
-- see low_end().
-- Writes nothing.  Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_hold_due(queue text, n integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    LOOP
        BEGIN
            RETURN ARRAY(SELECT w.position
                           FROM (SELECT u.queue, jobstate.low_end('jobstate.job_waiting', 'run_at',
                                                     format('queue = %L', u.queue), 1) AS since
                                   FROM jobstate.queue u
                                  WHERE $1 IS NULL OR u.queue COLLATE "default" = $1 OFFSET 0) q
                          CROSS JOIN LATERAL (
                                SELECT d.position FROM jobstate.job_waiting d
                                 WHERE d.queue = q.queue AND d.run_at BETWEEN q.since AND clock_timestamp()
                                 ORDER BY d.run_at LIMIT $2 FOR UPDATE SKIP LOCKED) w
                          LIMIT $2);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold_due(text, integer)
    IS 'internal: locks deferred jobs that are due, and returns their positions';

-- promote: jobs whose time has come go to the tails of their lanes, in the order
-- in which they became due.  Rows are locked before numbers are drawn, so a
-- transaction id is there by then, see queue_position().
-- Writes: job, the sequence; queue_lane where a lane is missing.
-- Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.promote(queue text DEFAULT NULL, n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    due bigint[];
    awake text[];
BEGIN
    PERFORM jobstate.require_positive('n', $2 > 0);
    due := jobstate.queue_hold_due($1, $2);
    IF due = '{}' THEN
        RETURN 0;
    END IF;
    WITH ready AS MATERIALIZED (
        SELECT w.position, nextval('jobstate.job_number') AS number,
               CASE WHEN l.queue = w.queue AND l.priority = w.priority AND l.shard < q.shards THEN l.lane
                    ELSE jobstate.queue_lane_of(w.queue, w.priority, coalesce(l.shard, 0))
               END AS lane
          FROM (SELECT d.position, d.queue, d.priority FROM jobstate.job_waiting d
                 WHERE d.position = ANY (due) ORDER BY d.run_at, d.position OFFSET 0) w
          JOIN jobstate.queue q ON q.queue = w.queue
          LEFT JOIN jobstate.queue_lane l ON l.lane = w.position >> 48),
    gone AS (
        UPDATE jobstate.job j
           SET state_id = 1, position = r.lane::bigint << 48 | r.number,
               slot = (r.number / g.slot_jobs) % g.slots
          FROM ready r CROSS JOIN jobstate.queue_ring g
         WHERE j.slot = -1 AND j.position = r.position
        RETURNING j.queue)
    SELECT array_agg(DISTINCT g.queue) INTO awake FROM gone g;
    PERFORM jobstate.queue_wake(a) FROM unnest(awake) a;
    RETURN cardinality(due);
END
$$;
COMMENT ON FUNCTION jobstate.promote(text, integer)
    IS 'makes deferred jobs that are due available, at the tails of their lanes; returns how many';

-- rescue --------------------------------------------------------------------------
--
-- Leases have no index: heartbeats change them.  But what runs lies between a
-- lane's lower bound (settled) and the newest place that was ever claimed
-- (ceiling), or was carried over to job_kept, which is small.

-- queue_lanes_running: the lanes in which jobs run, and where to look for them.  By
-- the counters a job runs in a lane of its queue and priority.  Where somebody changed
-- these by hand it lies in another one, in which something was claimed once.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_lanes_running(all_claimed boolean)
RETURNS TABLE (lane smallint, floor bigint, ceiling bigint, settled bigint, hinted boolean)
LANGUAGE sql VOLATILE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
    WITH running AS MATERIALIZED (
        SELECT DISTINCT c.group_key ->> 'queue' AS queue, (c.group_key ->> 'priority')::smallint AS priority
          FROM jobstate.counts_now('jobstate.job') c
         WHERE c.state = 'running' AND c.n > 0)
    SELECT l.lane, w.floor, coalesce(w.ceiling, (l.lane::bigint + 1) << 48),
           coalesce(w.settled, l.lane::bigint << 48), w.ceiling IS NOT NULL
      FROM (SELECT l.lane FROM running r JOIN jobstate.queue_lane l ON l.queue = r.queue AND l.priority = r.priority
             UNION
            SELECT l.lane FROM jobstate.queue_lane l
             WHERE $1 AND EXISTS (SELECT FROM running)
               AND EXISTS (SELECT FROM jobstate.queue_window w WHERE w.lane = l.lane)) l
     CROSS JOIN LATERAL (
            SELECT max(w.floor) AS floor, max(w.ceiling) AS ceiling, max(w.settled) AS settled
              FROM jobstate.queue_window w WHERE w.lane = l.lane) w
$$;
COMMENT ON FUNCTION jobstate.queue_lanes_running(boolean)
    IS 'internal: the lanes that have running jobs, or may have them, and between which positions these are';

-- queue_overdue: has an attempt had its time?  A running job without a lease was
-- made so by hand, and nobody would ever end it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_overdue(lease_until timestamptz, claimed_at timestamptz,
    timeout interval, at timestamptz)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(lease_until, '-infinity') <= at OR coalesce(claimed_at + timeout <= at, false);
COMMENT ON FUNCTION jobstate.queue_overdue(timestamptz, timestamptz, interval, timestamptz)
    IS 'internal: whether a running job''s lease or timeout is over';

-- queue_settle: remembers that nothing runs in a lane below a position, if that
-- saves somebody much looking.
-- Writes: queue_window.  Locks nothing.
CREATE FUNCTION jobstate.queue_settle(lane smallint, floor bigint, ceiling bigint, before bigint, now_settled bigint)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO jobstate.queue_window (lane, floor, ceiling, settled)
    SELECT $1, $2, $3, least($2, $5)
     WHERE least($2, $5) >= $4 + 1000
$$;
COMMENT ON FUNCTION jobstate.queue_settle(smallint, bigint, bigint, bigint, bigint)
    IS 'internal: raises a lane''s lower bound for running jobs';

-- queue_hold_running: locks those of these jobs that still run, or whose attempt
-- still has to be ended.
-- Writes nothing.  Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_hold_running(positions bigint[], overdue boolean, n integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    LOOP
        BEGIN
            RETURN ARRAY(SELECT j.position FROM jobstate.job j
                          WHERE j.position = ANY (positions) AND j.state_id = 2
                            AND jobstate.queue_overdue(j.lease_until, j.claimed_at, j.timeout, clock_timestamp()) = overdue
                          LIMIT n FOR UPDATE SKIP LOCKED);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold_running(bigint[], boolean, integer)
    IS 'internal: locks running jobs that are overdue, or that are not, and returns their positions';

-- queue_rescue_lane: looks through a lane's running jobs once.  Returns the
-- positions of those that are overdue.  What runs far behind the newest claim is
-- carried over to job_kept, where it keeps its place: one job that takes an hour
-- must not make everybody look at an hour's jobs.
-- Problem: whoever raises the lower bound must have seen every job below it.  A
-- slot may be emptied while we wait for it, and what it still held was carried
-- over behind our snapshot's back.  Solution: all partitions are locked before the
-- snapshot is taken, and a transaction that keeps an older one leaves the bound.
-- Non-problem: jobs that are not committed yet lie above floor.
-- Writes: queue_window, job.  Locks: job against TRUNCATE; long runners, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_rescue_lane(lane smallint, floor bigint, ceiling bigint,
    settled bigint, hinted boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    far CONSTANT bigint := 100000;
    seen record;
    held bigint[];
BEGIN
    LOCK TABLE jobstate.job IN ACCESS SHARE MODE;
    SELECT min(j.position) AS first,
           array_agg(j.position) FILTER (WHERE j.overdue) AS overdue,
           (array_agg(j.position) FILTER (WHERE j.state_id = 2 AND NOT j.overdue AND j.position < j.newest - far))[:1000]
               AS long
      INTO seen
      FROM (SELECT j.position, j.state_id,
                   j.state_id = 2 AND jobstate.queue_overdue(j.lease_until, j.claimed_at, j.timeout, at) AS overdue,
                   CASE WHEN $5 THEN $3 ELSE max(j.position) FILTER (WHERE j.state_id = 2) OVER () END AS newest
              FROM jobstate.job j
             WHERE j.position >= $4 AND j.position < $3 AND j.slot >= 0 AND j.state_id IN (1, 2)) j;
    IF $5 AND jobstate.queue_look_again() THEN
        PERFORM jobstate.queue_settle($1, $2, $3, $4, coalesce(seen.first, $3));
    END IF;
    IF seen.long IS NOT NULL THEN
        held := jobstate.queue_hold_running(seen.long, false, 1000);
        UPDATE jobstate.job j SET slot = -2 WHERE j.slot >= 0 AND j.position = ANY (held);
    END IF;
    RETURN seen.overdue;
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue_lane(smallint, bigint, bigint, bigint, boolean)
    IS 'internal: the overdue jobs of a lane, by position; raises its lower bound';

-- queue_rescue: ends the attempts of jobs that the caller holds, as fail() would,
-- and says why.
-- Writes: job, dead_letter.  Locks nothing more.
CREATE FUNCTION jobstate.queue_rescue(positions bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    lost record;
BEGIN
    -- without a token it was made to run by hand
    UPDATE jobstate.job j SET token = 0
     WHERE j.position = ANY (positions) AND j.token IS NULL;
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.token ORDER BY j.id) AS tokens,
           array_agg(CASE WHEN j.claimed_at + j.timeout <= clock_timestamp() THEN 'timed out' ELSE 'lease expired' END
                     || coalesce(format(', worker "%s"', j.worker), '') ORDER BY j.id) AS errors
      INTO lost
      FROM jobstate.job j WHERE j.position = ANY (positions);
    RETURN QUERY SELECT * FROM jobstate.queue_end_attempts(lost.ids, lost.tokens, lost.errors, NULL, NULL);
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue(bigint[])
    IS 'internal: ends the attempts of running jobs that the caller holds';

-- queue_rescue_lanes: looks for overdue jobs and ends their attempts.  An idle worker,
-- who does it each second, spares himself the lanes in which nothing runs by the
-- counters; who maintains the queue looks at all.
-- Writes: job, dead_letter, queue_window.
-- Locks: job against TRUNCATE; the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_rescue_lanes(n integer, all_claimed boolean)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    overdue bigint[];
BEGIN
    PERFORM jobstate.require_positive('n', $1 > 0);
    SELECT array_agg(o.position) INTO overdue
      FROM (SELECT unnest(jobstate.queue_rescue_lane(l.lane, l.floor, l.ceiling, l.settled, l.hinted)) AS position
              FROM jobstate.queue_lanes_running($2) l
             UNION ALL
            SELECT k.position FROM jobstate.job_kept k
             WHERE k.state_id = 2 AND jobstate.queue_overdue(k.lease_until, k.claimed_at, k.timeout, at)) o;
    IF overdue IS NOT NULL THEN
        overdue := jobstate.queue_hold_running(overdue, true, $1);
    END IF;
    IF overdue <> '{}' THEN
        RETURN QUERY SELECT * FROM jobstate.queue_rescue(overdue);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue_lanes(integer, boolean)
    IS 'internal: ends overdue attempts, as rescue() does, in the lanes where jobs run or in all';

-- rescue: takes jobs from workers that are gone, or that took longer than the job
-- allows.  Their tokens are worth nothing from then on.
-- Writes: job, dead_letter, queue_window.
-- Locks: job against TRUNCATE; the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.rescue(n integer DEFAULT 1000)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT * FROM jobstate.queue_rescue_lanes($1, true)';
COMMENT ON FUNCTION jobstate.rescue(integer)
    IS 'ends the attempts of jobs whose lease or timeout is over: "deferred" for the next one, "failed", "dead" or "cancelled"';
