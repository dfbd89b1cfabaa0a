-- schedule: taking what is due ------------------------------------------------------

-- schedule_in_flight: whether somebody who may still be at it has the schedule.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_in_flight(state text, lease_until timestamptz, hold text, pid integer,
    backend timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT state = 'running' AND lease_until > clock_timestamp()
       AND NOT (hold = 'session' AND jobstate.ledger_backend_gone(pid, backend))
$$;
COMMENT ON FUNCTION jobstate.schedule_in_flight(text, timestamptz, text, integer, timestamptz)
    IS 'internal: whether a schedule is held';

-- schedule_ran: up to when a schedule has run once it is taken now.  Missed runs
-- become one, which has run up to now.  With catch_up each is taken by itself, and has run
-- up to its own time; those that were missed for longer become the last of them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_ran(spec text, last_run timestamptz, next_at timestamptz, catch_up interval,
    now timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since timestamptz;
BEGIN
    IF last_run IS NULL OR NOT isfinite(last_run) OR catch_up = '0' THEN
        RETURN now;
    END IF;
    since := ((now AT TIME ZONE 'UTC') - catch_up) AT TIME ZONE 'UTC';
    RETURN CASE WHEN next_at < since THEN jobstate.schedule_last(spec, next_at, since) ELSE next_at END;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_ran(text, timestamptz, timestamptz, interval, timestamptz)
    IS 'internal: what last_run becomes when a schedule is taken';

-- schedule_last: the last of a schedule's times up to some moment, from one of its times
-- on.  Times of day and cron's are whole minutes, and are searched for by halving.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_last(spec text, first timestamptz, upto timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    every CONSTANT numeric := (SELECT p.every FROM jobstate.schedule_parse(spec) p);
    at timestamptz := first;
    none_after timestamptz := upto;
    middle timestamptz;
    found_at timestamptz;
BEGIN
    IF every IS NOT NULL THEN
        RETURN first + make_interval(secs => (floor(extract(epoch FROM upto - first) / every) * every)::float8);
    END IF;
    WHILE none_after - at >= interval '1 min' LOOP
        middle := at + make_interval(secs => (extract(epoch FROM none_after - at) / 2)::float8);
        found_at := jobstate.schedule_next(spec, middle);
        IF found_at <= upto THEN
            at := found_at;
        ELSE
            none_after := middle;
        END IF;
    END LOOP;
    RETURN at;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_last(text, timestamptz, timestamptz)
    IS 'internal: the last time of a schedule up to some moment';

-- schedule_became_due: when what is taken now became due: with catch_up the time that it
-- stands for, else the first that was missed.  What never ran is due when it is taken.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_became_due(next_at timestamptz, catch_up interval, ran timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN isfinite(next_at) AND catch_up = '0' THEN next_at ELSE ran END
$$;
COMMENT ON FUNCTION jobstate.schedule_became_due(timestamptz, interval, timestamptz)
    IS 'internal: when a schedule that is taken became due';

-- schedule_due: takes what is due and nobody has, and writes down that it has run,
-- whatever will become of it.  Commit it before the work begins.
-- due_at is when it became due; the run stands for the time after previous_run up to
-- last_run.
-- Writes: schedule.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_due(worker text DEFAULT '', n integer DEFAULT 100, names text[] DEFAULT NULL,
    lease interval DEFAULT NULL, hold text DEFAULT 'lease')
RETURNS TABLE (name text, token uuid, due_at timestamptz, previous_run timestamptz, last_run timestamptz,
               lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    me CONSTANT timestamptz := (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid());
BEGIN
    PERFORM jobstate.schedule_check_take($1, $2, $4, $5);
    RETURN QUERY
        UPDATE jobstate.schedule s
           SET state = 'running', token = gen_random_uuid(), taken_by = $1, lease_until = now + coalesce($4, s.lease),
               hold = $5, pid = pg_backend_pid(), backend = me, runs = s.runs + 1,
               last_run = jobstate.schedule_ran(s.spec, s.last_run, s.next_at, s.catch_up, now),
               failures = s.failures + (s.state = 'running')::integer,
               last_error = CASE WHEN s.state = 'running' THEN 'it was not finished' ELSE s.last_error END
          FROM (SELECT d.name, d.next_at, d.last_run FROM jobstate.schedule d
                 WHERE d.next_at <= now AND d.queue IS NULL AND d.paused_at IS NULL
                   AND ($3 IS NULL OR d.name COLLATE "C" = ANY ($3))
                   AND NOT jobstate.schedule_in_flight(d.state, d.lease_until, d.hold, d.pid, d.backend)
                 ORDER BY d.next_at, d.name LIMIT $2
                   FOR NO KEY UPDATE SKIP LOCKED) o
         WHERE s.name = o.name
        RETURNING s.name, s.token, jobstate.schedule_became_due(o.next_at, s.catch_up, s.last_run),
                  o.last_run, s.last_run, s.lease_until;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_due(text, integer, text[], interval, text)
    IS 'takes the schedules that are due and in nobody''s hands: the token that schedule_finish() has to carry';

-- schedule_check_take: refuses a take that makes no sense.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_check_take(worker text, n integer, lease interval, hold text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('worker', worker);
    PERFORM jobstate.require_positive('n', n > 0);
    PERFORM jobstate.require_positive('lease', lease IS NULL OR lease > interval '0');
    PERFORM jobstate.require_argument('hold', hold);
    IF hold NOT IN ('lease', 'session') THEN
        RAISE EXCEPTION 'a schedule cannot be held by "%"', hold
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is held by its lease or its session.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_check_take(text, integer, interval, text)
    IS 'internal: raises 22004 or 22023 for arguments of schedule_due()';

-- schedule_refuse: words the refusal of a token.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_refuse(name text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    SELECT s.state, s.taken_by, s.lease_until INTO known FROM jobstate.schedule s WHERE s.name COLLATE "C" = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'schedule "%" does not exist', $1
            USING ERRCODE = 'JS002', HINT = 'See jobstate.schedule for those that do.';
    END IF;
    RAISE EXCEPTION 'lease on schedule "%" is lost', $1
        USING ERRCODE = 'JS001',
              DETAIL = CASE known.state WHEN 'running'
                       THEN format('It was taken by "%s", until %s.', known.taken_by, known.lease_until)
                       ELSE format('Its state is "%s".', known.state) END,
              HINT = 'Roll back and stop: the lease ended, and others may take it.';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_refuse(text)
    IS 'internal: raises JS001 or JS002 for a schedule and a token';

-- schedule_finish: who took a schedule is through with it, and it may be taken again
-- once it is due.  A repeated call changes nothing.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_finish(name text, token uuid, success boolean DEFAULT true, error text DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_argument('success', $3);
    UPDATE jobstate.schedule s
       SET state = CASE WHEN $3 THEN 'scheduled' ELSE 'failed' END, lease_until = NULL,
           failures = CASE WHEN $3 THEN 0 ELSE s.failures + 1 END,
           last_error = CASE WHEN NOT $3 THEN coalesce($4, 'it failed') END,
           last_ended_at = clock_timestamp(),
           last_success_at = CASE WHEN $3 THEN clock_timestamp() ELSE s.last_success_at END
     WHERE s.name COLLATE "C" = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.next_at INTO due;
    IF NOT FOUND THEN
        SELECT s.next_at INTO due FROM jobstate.schedule s
         WHERE s.name COLLATE "C" = $1 AND s.token = $2;
    END IF;
    IF due IS NULL THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_finish(text, uuid, boolean, text)
    IS 'a run of a schedule is through, with success or an error; returns when it is due next; raises JS001 or JS002';

-- schedule_heartbeat: who took the schedule is still at it.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_heartbeat(name text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 IS NULL OR $3 > interval '0');
    UPDATE jobstate.schedule s SET lease_until = clock_timestamp() + coalesce($3, s.lease)
     WHERE s.name COLLATE "C" = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.lease_until INTO until;
    IF NOT FOUND THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_heartbeat(text, uuid, interval)
    IS 'extends the lease on a schedule, and tells until when; raises JS001 or JS002';
