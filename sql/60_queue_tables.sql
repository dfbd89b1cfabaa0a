-- queue: machine and tables -----------------------------------------------------
--
-- A lane is (queue, priority, shard), and jobs of a lane are claimed in the order
-- of their positions.  A position is the lane's number and, in the low 48 bits,
-- one number of a sequence that all lanes share.  A job's id is the first
-- position that it had; it gets another one when it goes to the tail of a lane
-- again, and keeps its id.
--
-- The ring: the sequence's number also says in which partition (slot) of the job
-- table a row lives, so nobody has to ask which slot is the current one.  A row
-- stays where it was inserted and changes in place.  Two partitions stand beside
-- the ring: job_waiting for what is due later, job_kept for what a slot still held
-- when it was emptied.
--
-- No index holds a column that changes while a row stays in place, and a page has
-- room for the versions of a row's life, so claiming and completing are HOT
-- updates, also while an old snapshot keeps the dead versions alive.

-- queue_install_machine: only what waits can become available again, and it lies
-- in a partition of its own until then.  So a row cannot become available in
-- place, behind the backs of those who claim from a lane's lower bound upwards.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.queue_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('job',
        '{"available": 1, "running": 2, "deferred": 3,
          "completed": 4, "failed": 5, "cancelled": 6}',
        ARRAY['available -> running: claim',
              'available -> cancelled: cancel',
              'running -> completed: complete',
              'running -> failed: fail',
              'running -> cancelled: cancel',
              'running -> deferred: retry later',
              'deferred -> available: promote',
              'deferred -> cancelled: cancel',
              'failed -> deferred: retry',
              'cancelled -> deferred: retry'],
        initial => ARRAY['available', 'deferred'],
        terminal => ARRAY['completed', 'failed', 'cancelled']);
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_machine()
    IS 'internal: defines the machine "job"';

-- queue_keep: a queue stays, under its name, as long as it has jobs: without their
-- lanes nobody could claim or rescue them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_keep()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.queue = OLD.queue THEN
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', OLD.queue)) c
                WHERE c.n > 0) THEN
        RAISE EXCEPTION 'queue "%" still has jobs', OLD.queue
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'jobstate', TABLE = 'job',
                  HINT = 'Delete them from jobstate.job, or move them with jobstate.move_queue().';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION jobstate.queue_keep()
    IS 'internal: refuses to delete or rename a queue that has jobs';

-- queue_changed: the backends keep the settings in mind; this makes them look again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_changed()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'jobstate_queue_changed';
COMMENT ON FUNCTION jobstate.queue_changed()
    IS 'internal: makes every session forget what it knows of queues, lanes and ring';

-- queue_install_changed: has a table of settings tell of its changes.
-- Writes nothing.  Locks: the table, where it does not do so yet.
CREATE FUNCTION jobstate.queue_install_changed(settings text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('settings', settings);
    IF NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.tgrelid = settings::regclass AND t.tgname = 'changed' AND t.tgenabled = 'A') THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION jobstate.queue_changed()', settings::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER changed', settings::regclass);
    END IF;
    -- a subscription's rows fire no triggers of statements
    IF NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.tgrelid = settings::regclass AND t.tgname = 'changed_row' AND t.tgenabled = 'R') THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER changed_row AFTER INSERT OR UPDATE OR DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION jobstate.queue_changed()', settings::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER changed_row', settings::regclass);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_changed(text)
    IS 'internal: creates the triggers that tell of a change of settings';

-- queue_install_settings: queues, their lanes, the ring.
-- Writes: queue_ring.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_settings()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.queue (
        queue               text PRIMARY KEY CHECK (queue <> ''),
        paused_at           timestamptz,
        shards              smallint NOT NULL DEFAULT 1 CHECK (shards BETWEEN 1 AND 64),
        lease               interval NOT NULL DEFAULT '90 seconds' CHECK (lease > '0'),
        max_attempts        smallint NOT NULL DEFAULT 25 CHECK (max_attempts > 0),
        backoff             interval NOT NULL DEFAULT '1 second' CHECK (backoff > '0'),
        aging               interval NOT NULL DEFAULT '1 minute' CHECK (aging > '0'),
        max_running         integer CHECK (max_running > 0),
        max_running_per_key integer CHECK (max_running_per_key > 0),
        dead_letters        boolean NOT NULL DEFAULT true,
        notify              boolean NOT NULL DEFAULT false,
        created_at          timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMENT ON TABLE jobstate.queue IS 'the queues and their settings; a queue comes to be with its first job';

    CREATE OR REPLACE TRIGGER queue_keep BEFORE DELETE OR UPDATE OF queue ON jobstate.queue
        FOR EACH ROW EXECUTE FUNCTION jobstate.queue_keep();

    CREATE TABLE IF NOT EXISTS jobstate.queue_lane (
        queue    text NOT NULL REFERENCES jobstate.queue ON UPDATE CASCADE ON DELETE CASCADE,
        priority smallint NOT NULL CHECK (priority BETWEEN 1 AND 4),
        shard    smallint NOT NULL CHECK (shard >= 0),
        lane     smallint GENERATED BY DEFAULT AS IDENTITY UNIQUE CHECK (lane > 0),
        PRIMARY KEY (queue, priority, shard)
    );
    COMMENT ON TABLE jobstate.queue_lane IS 'lanes by number: the high bits of every position';

    CREATE TABLE IF NOT EXISTS jobstate.queue_window (
        lane    smallint NOT NULL,
        floor   bigint NOT NULL,
        ceiling bigint NOT NULL,
        settled bigint NOT NULL
    );
    CREATE INDEX IF NOT EXISTS queue_window_lane ON jobstate.queue_window (lane, ceiling);
    COMMENT ON TABLE jobstate.queue_window IS 'where to look in a lane, appended to now and then, the greatest counts: no job below floor is or becomes available, none below settled is running, none at or above ceiling was ever claimed';

    CREATE TABLE IF NOT EXISTS jobstate.queue_ring (
        singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        slots       smallint NOT NULL DEFAULT 16 CHECK (slots BETWEEN 3 AND 1024),
        slot_jobs   bigint NOT NULL DEFAULT 50000 CHECK (slot_jobs > 0),
        slot_length interval NOT NULL DEFAULT '1 hour' CHECK (slot_length > '0'),
        retention   interval NOT NULL DEFAULT '1 hour' CHECK (retention >= '0'),
        failed_retention interval NOT NULL DEFAULT '72 hours' CHECK (failed_retention >= '0'),
        dead_letter_retention interval NOT NULL DEFAULT '30 days' CHECK (dead_letter_retention >= '0')
    );
    INSERT INTO jobstate.queue_ring DEFAULT VALUES ON CONFLICT DO NOTHING;
    COMMENT ON TABLE jobstate.queue_ring IS 'one row: the ring''s size and how long ended jobs are kept';

    PERFORM jobstate.queue_install_changed('jobstate.' || t) FROM unnest('{queue,queue_lane,queue_ring}'::text[]) t;

    CREATE SEQUENCE IF NOT EXISTS jobstate.job_number AS bigint MAXVALUE 281474976710655;
    COMMENT ON SEQUENCE jobstate.job_number IS 'the low 48 bits of every position';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_settings()
    IS 'internal: creates the tables of queues, lanes and the ring';

-- queue_install_jobs: the jobs.  What never changes in place stands before and
-- after what does, so that an update's WAL record is short.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_jobs()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.job (
        id           bigint NOT NULL,
        position     bigint NOT NULL,
        enqueued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        run_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        slot         smallint NOT NULL,
        priority     smallint NOT NULL,
        max_attempts smallint NOT NULL,
        attempt      smallint NOT NULL DEFAULT 0,
        state_id     smallint NOT NULL DEFAULT 1,
        cancel_requested boolean NOT NULL DEFAULT false,
        finished_at  timestamptz,
        token        bigint,
        claimed_at   timestamptz,
        lease_until  timestamptz,
        worker       text,
        queue        text NOT NULL,
        kind         text NOT NULL,
        timeout      interval,
        unique_key   text,
        limit_key    text,
        payload      jsonb NOT NULL DEFAULT '{}',
        errors       jsonb,
        result       jsonb
    ) PARTITION BY LIST (slot);
    CREATE INDEX IF NOT EXISTS job_moved ON jobstate.job (id) WHERE id <> position;
    COMMENT ON TABLE jobstate.job IS 'the jobs, on a ring of partitions; state ids are those of the machine "job"';
    COMMENT ON COLUMN jobstate.job.position IS 'place in the lane: the lane''s number and a number of job_number';
    COMMENT ON COLUMN jobstate.job.slot IS 'partition: of the ring, or -1 waiting, -2 kept';
    COMMENT ON COLUMN jobstate.job.token IS 'of the newest claim; whoever has another one has lost the lease';
    COMMENT ON COLUMN jobstate.job.timeout IS 'how long an attempt may take, however often it sends heartbeats';
    COMMENT ON COLUMN jobstate.job.limit_key IS 'queue.max_running_per_key limits how many jobs of one key run at a time';
    COMMENT ON COLUMN jobstate.job.errors IS 'the latest errors, newest last: [{"attempt", "at", "error"}, ...]';

    CREATE TABLE IF NOT EXISTS jobstate.job_waiting PARTITION OF jobstate.job
        (PRIMARY KEY (position), CHECK (state_id = 3)) FOR VALUES IN (-1);
    CREATE INDEX IF NOT EXISTS job_waiting_due ON jobstate.job_waiting (queue, run_at);
    COMMENT ON TABLE jobstate.job_waiting IS 'the jobs that are due later';
    CREATE TABLE IF NOT EXISTS jobstate.job_kept PARTITION OF jobstate.job
        (PRIMARY KEY (position), CHECK (state_id <> 3)) FOR VALUES IN (-2);
    COMMENT ON TABLE jobstate.job_kept IS 'the jobs that stayed when their slot of the ring was emptied';
    PERFORM jobstate.queue_add_slots();
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_jobs()
    IS 'internal: creates the job table and its partitions';

-- queue_add_slots: makes the partitions that the ring's size asks for.
-- Writes nothing.  Locks: job, where a partition is missing.
CREATE FUNCTION jobstate.queue_add_slots()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nslots integer := (SELECT r.slots FROM jobstate.queue_ring r);
BEGIN
    FOR i IN 0 .. nslots - 1 LOOP
        CONTINUE WHEN to_regclass(format('jobstate.job_%s', i)) IS NOT NULL;
        EXECUTE format('CREATE TABLE jobstate.job_%s PARTITION OF jobstate.job
                        (PRIMARY KEY (position), CHECK (state_id <> 3)) FOR VALUES IN (%s)
                        WITH (fillfactor = 33, autovacuum_enabled = off)', i, i);
        EXECUTE format('COMMENT ON TABLE jobstate.job_%s IS %L', i,
                       'a slot of the ring; emptied by TRUNCATE, so it needs no vacuum');
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_add_slots()
    IS 'internal: creates the partitions of the ring that are missing';

-- queue_install_rest: dead letters and unique keys.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_rest()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.dead_letter (
        queue        text NOT NULL,
        id           bigint NOT NULL,
        kind         text NOT NULL,
        priority     smallint NOT NULL,
        payload      jsonb NOT NULL,
        attempt      smallint NOT NULL,
        max_attempts smallint NOT NULL,
        timeout      interval,
        unique_key   text,
        limit_key    text,
        errors       jsonb,
        enqueued_at  timestamptz NOT NULL,
        died_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (queue, id),
        UNIQUE (id)
    );
    CREATE INDEX IF NOT EXISTS dead_letter_died ON jobstate.dead_letter (died_at);
    COMMENT ON TABLE jobstate.dead_letter IS 'jobs that failed for good, until somebody decides about them';

    CREATE TABLE IF NOT EXISTS jobstate.unique_job (
        queue      text NOT NULL,
        unique_key text NOT NULL,
        id         bigint NOT NULL,
        states     text[] NOT NULL,
        PRIMARY KEY (queue, unique_key)
    );
    COMMENT ON TABLE jobstate.unique_job IS 'the last job of each unique key, and in which states it keeps others out';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_rest()
    IS 'internal: creates the tables of dead letters and unique keys';

-- install_queue: the family's machine and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment and queue_ring.
-- Locks: job against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_queue()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_install_machine();
    PERFORM jobstate.queue_install_settings();
    PERFORM jobstate.queue_install_jobs();
    PERFORM jobstate.queue_install_rest();
    PERFORM jobstate.queue_install_views();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a
                    WHERE a.target = 'jobstate.job'::regclass AND a.watched) THEN
        PERFORM jobstate.attach('jobstate.job', 'job', 'state_id', '{queue,priority,limit_key}');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_queue()
    IS 'internal: what install(''queue'') does';

-- queue_position: a place at the tail of a lane.  The number is drawn under a
-- transaction id: those who compute a lane's lower bound wait for transactions
-- that could still bring a lower position, and know them by their ids.
-- Writes: the sequence.  Locks nothing.
CREATE FUNCTION jobstate.queue_position(lane smallint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN lane::bigint << 48 | nextval('jobstate.job_number');
END
$$;
COMMENT ON FUNCTION jobstate.queue_position(smallint)
    IS 'internal: the next position of a lane';

-- queue_slot: the slot of the ring that a position belongs to.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_slot("position" bigint)
RETURNS smallint
LANGUAGE sql STABLE
AS $$
    SELECT (((queue_slot."position" & 281474976710655) / r.slot_jobs) % r.slots)::smallint
      FROM jobstate.queue_ring r
$$;
COMMENT ON FUNCTION jobstate.queue_slot(bigint)
    IS 'internal: the slot of the ring that a position belongs to';
