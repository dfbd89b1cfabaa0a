-- store: machine and tables -----------------------------------------------------
--
-- A record is a row: its status is state_id, and nowhere else; everything else that
-- was put into it is in fields.  No index holds what an update changes, so updates are
-- HOT: check_at follows expires_at lazily, and moves at most once per time to live.
--
-- Checks stand on domains, not on the table: a table's are made ready anew by every
-- statement, whichever column it sets, and cost more than the update itself.

CREATE FUNCTION jobstate.store_sound(fields jsonb)
    RETURNS boolean LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'jobstate_store_sound';
COMMENT ON FUNCTION jobstate.store_sound(jsonb) IS
    'internal: true, or an error that names the field of a record that has not the shape it must have';

CREATE DOMAIN jobstate.store_fields AS jsonb CHECK (jobstate.store_sound(VALUE));
COMMENT ON DOMAIN jobstate.store_fields IS
    'the fields of a record of the store, without its status';

CREATE DOMAIN jobstate.store_ttl AS interval CHECK (VALUE > '0');
COMMENT ON DOMAIN jobstate.store_ttl IS 'a time to live, which is above zero';

-- store_install_machine: what is not over may go anywhere, back included, because a
-- worker that is restarted begins again; what is over stays as it is.  A new attempt at
-- it, and a record that replaces it, are new rows.  A record may expire in any state, so
-- all of them are terminal.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.store_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    open CONSTANT text[] := '{pending,queued,preprocessing,transcribing,postprocessing}';
    over CONSTANT text[] := '{completed,failed}';
BEGIN
    PERFORM jobstate.define_machine('store',
        '{"pending": 1, "queued": 2, "preprocessing": 3, "transcribing": 4,
          "postprocessing": 5, "completed": 6, "failed": 7}',
        ARRAY(SELECT f || ' -> ' || t FROM unnest(open) f, unnest(open || over) t WHERE f <> t),
        terminal => open || over);
END
$$;
COMMENT ON FUNCTION jobstate.store_install_machine()
    IS 'internal: defines the machine "store"';

-- store_install_records: the records themselves.  percent is the most that this attempt
-- has told, which the present progress need not tell.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.store_install_records()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.store (
        id         text PRIMARY KEY,
        state_id   smallint NOT NULL DEFAULT 1,
        attempt    integer NOT NULL DEFAULT 0,
        token      uuid,
        percent    numeric NOT NULL DEFAULT 0,
        ttl        jobstate.store_ttl NOT NULL DEFAULT '86400 s',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at timestamptz NOT NULL DEFAULT clock_timestamp() + '86400 s',
        check_at   timestamptz DEFAULT '-infinity',
        expired_at timestamptz,
        fields     jobstate.store_fields NOT NULL DEFAULT '{}'
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS store_check_at ON jobstate.store (check_at) WHERE check_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS store_expired ON jobstate.store (id) WHERE expired_at IS NOT NULL;
    COMMENT ON TABLE jobstate.store IS 'one row per record, those that expired and are not removed yet among them';
    COMMENT ON COLUMN jobstate.store.state_id IS 'the status, by its id in the machine "store"';
    COMMENT ON COLUMN jobstate.store.attempt IS 'how often store_begin() was called';
    COMMENT ON COLUMN jobstate.store.token IS 'of the attempt that began last';
    COMMENT ON COLUMN jobstate.store.percent IS 'the greatest percent_complete of this attempt';
    COMMENT ON COLUMN jobstate.store.ttl IS 'how long after its last write the record is there';
    COMMENT ON COLUMN jobstate.store.expires_at IS 'from then on the record does not exist';
    COMMENT ON COLUMN jobstate.store.check_at IS 'when maintenance looks whether the record expired; never after expires_at';
    COMMENT ON COLUMN jobstate.store.expired_at IS 'set once maintenance found it expired: the next prune takes it';
    COMMENT ON COLUMN jobstate.store.fields IS 'everything but the status';
    COMMENT ON INDEX jobstate.store_check_at IS 'the records that maintenance has to look at';
    COMMENT ON INDEX jobstate.store_expired IS 'the records that are to be removed';
END
$$;
COMMENT ON FUNCTION jobstate.store_install_records()
    IS 'internal: creates store';

-- store_install_policy: the default time to live and the names of artifacts, as data.
-- Rows that exist stay as they are: they may have been tuned.
-- Writes: store_setting, store_artifact_name.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.store_install_policy()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.store_setting (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        ttl       jobstate.store_ttl NOT NULL DEFAULT '86400 s'
    );
    COMMENT ON TABLE jobstate.store_setting IS 'one row: how long records live for which nothing else is said';
    INSERT INTO jobstate.store_setting DEFAULT VALUES ON CONFLICT DO NOTHING;

    CREATE TABLE IF NOT EXISTS jobstate.store_artifact_name (
        name text PRIMARY KEY
    );
    COMMENT ON TABLE jobstate.store_artifact_name IS 'the artifacts that store_artifact() may be asked for';
    INSERT INTO jobstate.store_artifact_name (name)
    VALUES ('docling_dom.json'), ('transcript.txt'), ('transcript_simple.txt'),
           ('transcript.srt'), ('transcript.vtt')
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.store_install_policy()
    IS 'internal: creates and fills store_setting and store_artifact_name';

-- store_install_view: the records as their users know them.  It shows what the owner of
-- the view may see: who may read it is said by a grant on it.
-- Writes nothing.  Locks: the view.
CREATE FUNCTION jobstate.store_install_view()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('jobstate.store_records') IS NULL THEN
        CREATE VIEW jobstate.store_records AS
            SELECT s.id, jobstate.store_status_name(s.state_id) AS status,
                   jobstate.store_record(s.fields, s.state_id) AS record,
                   s.attempt, s.percent, s.created_at, s.expires_at - s.ttl AS updated_at, s.expires_at
              FROM jobstate.store s
             WHERE s.expires_at > clock_timestamp();
        COMMENT ON VIEW jobstate.store_records IS 'the records that are not expired';
        COMMENT ON COLUMN jobstate.store_records.updated_at IS 'when the record was written last';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_install_view()
    IS 'internal: creates store_records';

-- install_store: the family's machine and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment and the policy tables.
-- Locks: store against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_store()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.store_install_machine();
    PERFORM jobstate.store_install_records();
    PERFORM jobstate.store_install_policy();
    PERFORM jobstate.store_install_view();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a
                    WHERE a.target = 'jobstate.store'::regclass) THEN
        PERFORM jobstate.attach('jobstate.store', 'store', 'state_id');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_store()
    IS 'internal: what install(''store'') runs';
