-- schedule: settings -------------------------------------------------------------------

-- schedule_check: refuses a schedule that makes no sense.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_check(name text, spec text, queue text, kind text, catch_up interval)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('name', name);
    PERFORM jobstate.schedule_parse(spec);
    PERFORM jobstate.require_argument('catch_up', catch_up);
    IF name = '' OR catch_up < interval '0' THEN
        RAISE EXCEPTION 'argument "%" is not valid', CASE name WHEN '' THEN 'name' ELSE 'catch_up' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A schedule has a name, and catches up with no less than nothing.';
    ELSIF (queue IS NULL) <> (kind IS NULL) OR queue = '' THEN
        RAISE EXCEPTION 'schedule "%" needs both a queue and a kind of job, or neither', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'With a queue, maintain() enqueues a job when it is due; without, schedule_due() hands it out.';
    ELSIF queue IS NOT NULL AND to_regclass('jobstate.job') IS NULL THEN
        RAISE EXCEPTION 'schedule "%" is for a queue, and there are none', name
            USING ERRCODE = 'undefined_table',
                  HINT = 'Run SELECT jobstate.install(''queue'') first.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_check(text, text, text, text, interval)
    IS 'internal: raises 22004, 22023 or 42P01 for a schedule that makes no sense';

-- schedule_define: makes a schedule or changes it; when it last ran stays, unless it
-- is given.  What never ran is due at once; last_run => now() has it wait for its time.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_define(name text, spec text, queue text DEFAULT NULL, kind text DEFAULT NULL,
    payload jsonb DEFAULT '{}', priority integer DEFAULT 2, catch_up interval DEFAULT '0',
    lease interval DEFAULT '900 s', last_run timestamptz DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
BEGIN
    PERFORM jobstate.schedule_check($1, $2, $3, $4, $7);
    PERFORM jobstate.require_argument('payload', $5);
    PERFORM jobstate.require_argument('priority', $6);
    PERFORM jobstate.require_positive('lease', $8 > interval '0');
    INSERT INTO jobstate.schedule AS s (name, spec, queue, kind, payload, priority, catch_up, lease, last_run)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (name) DO UPDATE
       SET spec = excluded.spec, queue = excluded.queue, kind = excluded.kind, payload = excluded.payload,
           priority = excluded.priority, catch_up = excluded.catch_up, lease = excluded.lease,
           last_run = coalesce(excluded.last_run, s.last_run)
    RETURNING s.next_at INTO due;
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_define(text, text, text, text, jsonb, integer, interval, interval, timestamptz)
    IS 'makes or changes a schedule: "every 15m", "daily 03:00, 15:30" or five fields of cron, in UTC; returns when it is due next';

-- schedule_drop: there is no such schedule any more.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_drop(name text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    DELETE FROM jobstate.schedule s WHERE s.name COLLATE "C" = $1;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_drop(text)
    IS 'drops a schedule; false if there is none';

-- schedule_pause: a schedule is not due, or is again.  Who has taken it goes on.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_pause(name text, paused boolean DEFAULT true)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('paused', $2);
    UPDATE jobstate.schedule s SET paused_at = CASE WHEN $2 THEN clock_timestamp() END
     WHERE s.name COLLATE "C" = $1 AND (s.paused_at IS NOT NULL) <> $2;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_pause(text, boolean)
    IS 'a schedule is not due from now on, or is again; true if that changed';
