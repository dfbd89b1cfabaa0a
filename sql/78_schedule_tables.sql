-- schedule: machine and table --------------------------------------------------------
--
-- A schedule's row says when it last ran and who is at it.  Taking what is due
-- writes last_run in the same statement, so a run that fails, raises or dies comes
-- again when its schedule says so, and not at the next look.

-- schedule_install_machine: a schedule never ends.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.schedule_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('schedule',
        '{"scheduled": 1, "running": 2, "failed": 3}',
        ARRAY['scheduled -> running: take',
              'failed -> running: take',
              'running -> scheduled: finish',
              'running -> failed: finish',
              'scheduled -> failed: enqueue',
              'failed -> scheduled: enqueue'],
        initial => ARRAY['scheduled']);
END
$$;
COMMENT ON FUNCTION jobstate.schedule_install_machine()
    IS 'internal: defines the machine "schedule"';

-- schedule_install_table: next_at follows from spec and last_run, whoever writes
-- them, so there is no other truth about what is due.  No index holds what changes.
-- Writes nothing.  Locks: the table that it creates.
CREATE FUNCTION jobstate.schedule_install_table()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.schedule (
        name            text COLLATE "C" PRIMARY KEY CHECK (name <> ''),
        spec            text NOT NULL,
        state           text NOT NULL DEFAULT 'scheduled',
        last_run        timestamptz,
        next_at         timestamptz GENERATED ALWAYS AS (jobstate.schedule_next(spec, last_run)) STORED,
        catch_up        interval NOT NULL DEFAULT '0' CHECK (catch_up >= '0'),
        lease           interval NOT NULL DEFAULT '900 s' CHECK (lease > '0'),
        paused_at       timestamptz,
        runs            bigint NOT NULL DEFAULT 0,
        failures        integer NOT NULL DEFAULT 0,
        last_error      text,
        last_success_at timestamptz,
        last_ended_at   timestamptz,
        taken_by        text,
        token           uuid,
        lease_until     timestamptz,
        hold            text CHECK (hold IN ('lease', 'session')),
        pid             integer,
        backend         timestamptz,
        queue           text CHECK (queue <> ''),
        kind            text CHECK ((kind IS NULL) = (queue IS NULL)),
        payload         jsonb NOT NULL DEFAULT '{}',
        priority        integer NOT NULL DEFAULT 2,
        CONSTRAINT schedule_held_check CHECK ((state = 'running') = (lease_until IS NOT NULL)
                                               AND (state <> 'running' OR token IS NOT NULL))
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE jobstate.schedule IS 'what runs when, when it last did, and who is at it';
    COMMENT ON COLUMN jobstate.schedule.last_run IS 'up to when it has run: the moment at which it was last taken, whatever became of that';
    COMMENT ON COLUMN jobstate.schedule.next_at IS 'when it is due next; -infinity if it never ran';
    COMMENT ON COLUMN jobstate.schedule.catch_up IS 'runs missed for no longer than this are made up for one by one; others become one';
    COMMENT ON COLUMN jobstate.schedule.failures IS 'failures since the last success';
    COMMENT ON COLUMN jobstate.schedule.token IS 'of whoever took it last';
    COMMENT ON COLUMN jobstate.schedule.lease_until IS 'until when whoever has it may be silent';
    COMMENT ON COLUMN jobstate.schedule.hold IS 'what ends the hold besides schedule_finish()';
    COMMENT ON COLUMN jobstate.schedule.pid IS 'the backend that took it';
    COMMENT ON COLUMN jobstate.schedule.backend IS 'when that backend started';
    COMMENT ON COLUMN jobstate.schedule.queue IS 'where to enqueue a job of this kind when it is due; without a queue, schedule_due() hands it out';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_install_table()
    IS 'internal: creates schedule';

-- install_schedule: the family's machine and table, and the kernel on it.
-- Writes: machine, state, transition, attachment.
-- Locks: schedule against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_schedule()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.schedule_install_machine();
    PERFORM jobstate.schedule_install_table();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.schedule'::regclass) THEN
        PERFORM jobstate.attach('jobstate.schedule', 'schedule', 'state');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_schedule()
    IS 'internal: what install(''schedule'') runs';
