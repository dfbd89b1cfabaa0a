-- ledger: machines and tables ---------------------------------------------------
--
-- Which processor has seen which item, and when.  (processor, item) is the key of
-- everything; a row is a processor's last word about an item.  A run is one pass of
-- a processor over its items; its row is there from the moment it begins, so that
-- a run that dies is in the records too.
--
-- The ledger is written once per piece of real work and read by whoever asks how
-- far a processor is.  So its rows have indexes on the time of the last success and
-- on leases, which the queue's jobs must not have.

-- ledger_install_machines: whatever became of an item, it may be marked by hand.
-- "dead" is only left by a reset or a mark.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.ledger_install_machines()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('ledger',
        '{"pending": 1, "claimed": 2, "processed": 3, "failing": 4, "dead": 5}',
        ARRAY['pending -> claimed: claim',
              'pending -> processed: mark',
              'pending -> failing: fail',
              'pending -> dead: fail',
              'claimed -> processed: mark',
              'claimed -> failing: fail',
              'claimed -> dead: fail',
              'claimed -> pending: release',
              'processed -> claimed: claim',
              'processed -> pending: reset',
              'processed -> failing: fail',
              'processed -> dead: fail',
              'failing -> claimed: claim',
              'failing -> processed: mark',
              'failing -> dead: fail',
              'failing -> pending: reset',
              'dead -> processed: mark',
              'dead -> pending: reset'],
        terminal => ARRAY['processed', 'dead']);
    PERFORM jobstate.define_machine('ledger_run',
        '{"running": 1, "succeeded": 2, "failed": 3, "lost": 4}',
        ARRAY['running -> succeeded: end',
              'running -> failed: end',
              'running -> lost: abandoned'],
        terminal => ARRAY['succeeded', 'failed', 'lost']);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_machines()
    IS 'internal: defines the machines "ledger" and "ledger_run"';

-- ledger_install_items: what each processor knows of each item.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.ledger_install_items()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.ledger (
        processor    text COLLATE "C" NOT NULL CHECK (processor <> ''),
        item         text COLLATE "C" NOT NULL,
        state        text NOT NULL DEFAULT 'pending',
        username     text NOT NULL DEFAULT '',
        processed_at timestamptz,
        items        integer NOT NULL DEFAULT 0 CHECK (items >= 0),
        fingerprint  text,
        failures     integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
        error        text,
        retry_at     timestamptz,
        attempt      integer NOT NULL DEFAULT 0,
        claimed_by   text,
        token        uuid,
        lease_until  timestamptz,
        run_id       bigint,
        PRIMARY KEY (processor, item),
        CONSTRAINT ledger_held_check CHECK ((state = 'claimed') = (lease_until IS NOT NULL)
                                             AND (state <> 'claimed' OR token IS NOT NULL)),
        CONSTRAINT ledger_processed_check CHECK (state <> 'processed' OR processed_at IS NOT NULL)
    );
    CREATE INDEX IF NOT EXISTS ledger_processed_at ON jobstate.ledger (processor, processed_at);
    CREATE INDEX IF NOT EXISTS ledger_lease ON jobstate.ledger (lease_until) WHERE lease_until IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_items()
    IS 'internal: creates ledger';

-- ledger_install_runs: settings of processors, which also hold the run lock, and
-- the runs.  No foreign key refers to a processor: the lock is told from the row's
-- own lock, which a key share of others would blur.
-- Writes: ledger_policy.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.ledger_install_runs()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.ledger_processor (
        processor     text COLLATE "C" PRIMARY KEY CHECK (processor <> ''),
        "interval"    interval NOT NULL DEFAULT '900 s' CHECK ("interval" > '0'),
        lease         interval NOT NULL DEFAULT '900 s' CHECK (lease > '0'),
        max_failures  integer NOT NULL DEFAULT 5 CHECK (max_failures > 0),
        cap           integer DEFAULT 50 CHECK (cap > 0),
        budget        interval DEFAULT '150 s' CHECK (budget > '0'),
        run_id        bigint,
        run_token     uuid,
        run_owner     text,
        run_since     timestamptz,
        run_until     timestamptz,
        run_hold      text CHECK (run_hold IN ('lease', 'session', 'transaction')),
        run_pid       integer,
        run_backend   timestamptz
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.ledger_run (
        processor       text COLLATE "C" NOT NULL,
        id              bigint GENERATED BY DEFAULT AS IDENTITY,
        state           text NOT NULL DEFAULT 'running',
        owner           text NOT NULL DEFAULT '',
        token           uuid NOT NULL DEFAULT gen_random_uuid(),
        started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at        timestamptz CHECK ((ended_at IS NULL) = (state = 'running')),
        stop_at         timestamptz,
        cap             integer,
        scanned         bigint NOT NULL DEFAULT 0,
        processed       bigint NOT NULL DEFAULT 0,
        skipped         bigint NOT NULL DEFAULT 0,
        capped          bigint NOT NULL DEFAULT 0,
        errors          bigint NOT NULL DEFAULT 0,
        items_extracted bigint NOT NULL DEFAULT 0,
        errors_detail   jsonb NOT NULL DEFAULT '[]',
        error           text,
        PRIMARY KEY (processor, id)
    );

    CREATE TABLE IF NOT EXISTS jobstate.ledger_outcome (
        processor text COLLATE "C" NOT NULL,
        run_id    bigint NOT NULL,
        id        bigint GENERATED BY DEFAULT AS IDENTITY,
        kind      text NOT NULL
                  CHECK (kind IN ('scanned', 'taken', 'capped', 'processed', 'skipped', 'released', 'error')),
        item      text,
        n         bigint NOT NULL DEFAULT 0,
        error     text,
        at        timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (processor, run_id, id),
        FOREIGN KEY (processor, run_id) REFERENCES jobstate.ledger_run (processor, id)
            ON UPDATE CASCADE ON DELETE CASCADE
    );

    CREATE TABLE IF NOT EXISTS jobstate.ledger_policy (
        kind  text PRIMARY KEY CHECK (kind IN ('run_retention')),
        delay interval NOT NULL CHECK (delay >= interval '0')
    );
    INSERT INTO jobstate.ledger_policy (kind, delay) VALUES ('run_retention', '30 days')
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_runs()
    IS 'internal: creates ledger_processor, ledger_run, ledger_outcome and ledger_policy';

-- ledger_install_comments: says in the database what each table is for.
-- Writes nothing.  Locks: the tables, SHARE UPDATE EXCLUSIVE.
CREATE FUNCTION jobstate.ledger_install_comments()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMENT ON TABLE jobstate.ledger IS 'one row per processor and item: what became of the item there';
    COMMENT ON COLUMN jobstate.ledger.username IS 'whose item it is';
    COMMENT ON COLUMN jobstate.ledger.processed_at IS 'when the item was read for the last success; NULL if there is none';
    COMMENT ON COLUMN jobstate.ledger.items IS 'what the last success extracted';
    COMMENT ON COLUMN jobstate.ledger.fingerprint IS 'of the content that was processed: a hash, or size and time';
    COMMENT ON COLUMN jobstate.ledger.failures IS 'failures since the last success or reset';
    COMMENT ON COLUMN jobstate.ledger.error IS 'the last failure''s message';
    COMMENT ON COLUMN jobstate.ledger.retry_at IS 'a failing item is not offered before; NULL means at once';
    COMMENT ON COLUMN jobstate.ledger.attempt IS 'how often the item was claimed';
    COMMENT ON COLUMN jobstate.ledger.token IS 'of the last claim';
    COMMENT ON COLUMN jobstate.ledger.lease_until IS 'until when the claimer may be silent';
    COMMENT ON COLUMN jobstate.ledger.run_id IS 'the run that claimed the item last';
    COMMENT ON INDEX jobstate.ledger_processed_at IS 'how far a processor is, and what it did lately';
    COMMENT ON INDEX jobstate.ledger_lease IS 'claims by the end of their leases';

    COMMENT ON TABLE jobstate.ledger_processor IS 'settings of a processor, and who runs it now';
    COMMENT ON COLUMN jobstate.ledger_processor."interval" IS 'how often it is to run; health goes by it';
    COMMENT ON COLUMN jobstate.ledger_processor.lease IS 'until when a claim or a run may be silent, where the call does not say';
    COMMENT ON COLUMN jobstate.ledger_processor.max_failures IS 'after so many failures an item is dead';
    COMMENT ON COLUMN jobstate.ledger_processor.cap IS 'how many items a run takes at most; NULL means all';
    COMMENT ON COLUMN jobstate.ledger_processor.budget IS 'how long a run takes items at most; NULL means no limit';
    COMMENT ON COLUMN jobstate.ledger_processor.run_id IS 'the run that holds the processor; NULL if none does';
    COMMENT ON COLUMN jobstate.ledger_processor.run_hold IS 'what ends the hold besides ledger_end_run()';
    COMMENT ON COLUMN jobstate.ledger_processor.run_pid IS 'the backend that began the run';
    COMMENT ON COLUMN jobstate.ledger_processor.run_backend IS 'when that backend started';

    COMMENT ON TABLE jobstate.ledger_run IS 'every run of a processor, also those that died';
    COMMENT ON COLUMN jobstate.ledger_run.stop_at IS 'no item is taken after it; NULL means no limit';
    COMMENT ON COLUMN jobstate.ledger_run.capped IS 'items that were left for the next run';
    COMMENT ON COLUMN jobstate.ledger_run.errors_detail IS 'the first hundred errors: [{"item": ..., "error": ...}]';
    COMMENT ON COLUMN jobstate.ledger_run.error IS 'why the run as a whole failed';

    COMMENT ON TABLE jobstate.ledger_outcome IS 'what happened in a run, appended to; the run''s statistics are its sums';
    COMMENT ON COLUMN jobstate.ledger_outcome.n IS 'items extracted, or how many were scanned, taken or capped';
    COMMENT ON TABLE jobstate.ledger_policy IS 'how long ended runs are kept';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_comments()
    IS 'internal: comments on the ledger''s tables';

-- install_ledger: the family's machines and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment, ledger_policy.
-- Locks: ledger and ledger_run against writers while they are attached for the first time.
CREATE FUNCTION jobstate.install_ledger()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.ledger_install_machines();
    PERFORM jobstate.ledger_install_items();
    PERFORM jobstate.ledger_install_runs();
    PERFORM jobstate.ledger_install_comments();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.ledger'::regclass) THEN
        PERFORM jobstate.attach('jobstate.ledger', 'ledger', 'state', '{processor}');
    END IF;
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.ledger_run'::regclass) THEN
        PERFORM jobstate.attach('jobstate.ledger_run', 'ledger_run', 'state', '{processor}');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_ledger()
    IS 'internal: what install(''ledger'') runs';
