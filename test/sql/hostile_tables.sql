-- The families' tables are the application's own: their owner may alter them, drop keys, and put
-- other relations in their place.  C reads nothing that is not what it was, so he can neither crash
-- the server nor see its memory.
\set VERBOSITY terse
SET client_min_messages = error;
BEGIN;
SELECT jobstate.install(f) FROM unnest('{queue,store}'::text[]) f;
SELECT jobstate.queue_define('q');
SELECT count(*) FROM (SELECT jobstate.enqueue('q', 'k', '{"a": 1}') FROM generate_series(1, 3)) e;
SELECT jobstate.store_create('r', '{}') ->> 'status' AS status;

-- what the calls say after the table was altered; all of it is undone
CREATE FUNCTION pg_temp.after(change text, VARIADIC calls text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    call text;
    n text;
BEGIN
    BEGIN
        EXECUTE change;
        FOREACH call IN ARRAY calls LOOP
            BEGIN
                EXECUTE format('SELECT %s FROM %s t', CASE call WHEN 'pg_temp.derived()' THEN 'max(t)' ELSE 'count(t::text)' END, call) INTO n;
                RETURN NEXT n;
            EXCEPTION WHEN OTHERS THEN
                RETURN NEXT SQLSTATE || ' ' || regexp_replace(SQLERRM, 'job_\d+', 'job_N', 'g');
            END;
        END LOOP;
        RAISE SQLSTATE 'UNDO0';
    EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
        NULL;
    END;
END
$$;
CREATE FUNCTION pg_temp.queue_after(change text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT pg_temp.after(change, $q$jobstate.enqueue('q', 'k', '{"b": 2}')$q$, $q$jobstate.claim('q', 'w', 1)$q$)
$$;
CREATE FUNCTION pg_temp.store_after(change text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT pg_temp.after(change, $q$jobstate.store_update('r', '{"status": "preprocessing", "progress": {"percent_complete": 5}}')$q$)
$$;
SELECT pg_temp.queue_after('SELECT');
SELECT pg_temp.store_after('SELECT');

-- nulls, and another type under the same name, in settings
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue ALTER lease DROP NOT NULL; UPDATE jobstate.queue SET lease = NULL');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue ALTER aging DROP NOT NULL; UPDATE jobstate.queue SET aging = NULL');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue RENAME lease TO x; ALTER TABLE jobstate.queue ADD lease bigint NOT NULL DEFAULT 77');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue RENAME aging TO x; ALTER TABLE jobstate.queue ADD aging bigint NOT NULL DEFAULT 77');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue_lane DROP CONSTRAINT queue_lane_shard_check; UPDATE jobstate.queue_lane SET shard = -30000');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue DROP CONSTRAINT queue_shards_check; UPDATE jobstate.queue SET shards = 0');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue_ring DROP CONSTRAINT queue_ring_slots_check; UPDATE jobstate.queue_ring SET slots = 0');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue DROP CONSTRAINT queue_pkey CASCADE; ALTER TABLE jobstate.queue ADD PRIMARY KEY (created_at)');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue DROP CONSTRAINT queue_pkey CASCADE');
SELECT pg_temp.queue_after('DROP INDEX jobstate.queue_window_lane; CREATE INDEX queue_window_lane ON jobstate.queue ((queue || queue))');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.queue RENAME TO q2; CREATE VIEW jobstate.queue AS SELECT * FROM jobstate.q2');

-- the same of jobs
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME worker TO x; ALTER TABLE jobstate.job ADD worker bigint DEFAULT 77');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME payload TO x; ALTER TABLE jobstate.job ALTER x DROP NOT NULL, ADD payload bigint DEFAULT 77');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME timeout TO x; ALTER TABLE jobstate.job ADD timeout bigint DEFAULT 77');
SELECT pg_temp.queue_after($q$DO $d$ BEGIN FOR i IN 0 .. (SELECT slots - 1 FROM jobstate.queue_ring) LOOP
    EXECUTE format('ALTER TABLE jobstate.job_%s DROP CONSTRAINT job_%1$s_pkey, ADD PRIMARY KEY (kind, position)', i); END LOOP; END $d$$q$);
SELECT pg_temp.queue_after($q$DO $d$ BEGIN FOR i IN 0 .. (SELECT slots - 1 FROM jobstate.queue_ring) LOOP
    EXECUTE format('ALTER TABLE jobstate.job_%s DROP CONSTRAINT job_%1$s_pkey', i); END LOOP; END $d$$q$);
SELECT pg_temp.queue_after($q$DO $d$ BEGIN FOR i IN 0 .. (SELECT slots - 1 FROM jobstate.queue_ring) LOOP
    EXECUTE format('ALTER TABLE jobstate.job DETACH PARTITION jobstate.job_%s; ALTER TABLE jobstate.job_%1$s RENAME TO regress_%1$s;
                    CREATE TABLE jobstate.job_%1$s PARTITION OF jobstate.job FOR VALUES IN (%1$s) PARTITION BY LIST (slot)', i); END LOOP; END $d$$q$);
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME TO j2; CREATE TABLE jobstate.job (slot text) PARTITION BY LIST (slot);
    CREATE TABLE jobstate.x PARTITION OF jobstate.job FOR VALUES IN (''a'')');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME TO j2; CREATE VIEW jobstate.job AS SELECT * FROM jobstate.j2');
SELECT pg_temp.queue_after('ALTER TABLE jobstate.job RENAME TO j2; CREATE TABLE jobstate.job (LIKE jobstate.j2) PARTITION BY HASH (slot);
    CREATE TABLE jobstate.x PARTITION OF jobstate.job FOR VALUES WITH (MODULUS 5, REMAINDER 3)');
SELECT pg_temp.queue_after('ALTER SEQUENCE jobstate.job_number MAXVALUE 9223372036854775807 RESTART 9223372036854775800');

-- and of records
SELECT pg_temp.store_after('ALTER DOMAIN jobstate.store_ttl DROP NOT NULL; ALTER TABLE jobstate.store ALTER ttl DROP NOT NULL; UPDATE jobstate.store SET ttl = NULL');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store ALTER fields DROP NOT NULL; UPDATE jobstate.store SET fields = NULL');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store RENAME fields TO x; ALTER TABLE jobstate.store ADD fields bigint DEFAULT 77');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store RENAME percent TO x; ALTER TABLE jobstate.store ADD percent bigint DEFAULT 77');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store DROP CONSTRAINT store_pkey; ALTER TABLE jobstate.store ADD PRIMARY KEY (attempt, id)');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store DROP CONSTRAINT store_pkey');
SELECT pg_temp.store_after('ALTER TABLE jobstate.store RENAME TO s2; CREATE VIEW jobstate.store AS SELECT * FROM jobstate.s2');

-- A derived parent's columns with another type: what follows is what an UPDATE would do.
CREATE SCHEMA regress_d;
SELECT jobstate.define_machine('regress_d', '{"new": 1, "busy": 2, "done": 3}', '{new -> busy, busy -> done, new -> done}', NULL, '{done}');
SELECT jobstate.define_rules('regress_d', '{empty -> new, all done -> done, always -> busy}');
CREATE TABLE regress_d.parent (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new', ended timestamptz, error text, reason text);
CREATE TABLE regress_d.child (id int PRIMARY KEY, parent int, state text NOT NULL DEFAULT 'new', error text);
CREATE INDEX ON regress_d.child (parent);
SELECT jobstate.attach(t, 'regress_d', 'state') FROM unnest('{regress_d.parent,regress_d.child}'::regclass[]) t;
SELECT jobstate.derive('regress_d.parent', 'regress_d.child', 'parent', 'regress_d',
                       completed_at => 'ended', error => 'error', reason => 'reason', child_error => 'error');
INSERT INTO regress_d.parent VALUES (1);
INSERT INTO regress_d.child VALUES (1, 1, 'busy', 'e');
CREATE FUNCTION pg_temp.derived() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE regress_d.child SET state = 'done';
    PERFORM jobstate.derive_now();
    RETURN (SELECT concat_ws(', ', state, CASE WHEN ended::text <> '' THEN 'ended' END, error, reason) FROM regress_d.parent);
END
$$;
CREATE FUNCTION pg_temp.derived_after(change text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT pg_temp.after(change, 'pg_temp.derived()')
$$;
SELECT pg_temp.derived_after('SELECT');
SELECT pg_temp.derived_after('ALTER TABLE regress_d.parent ALTER error TYPE bigint USING NULL');
SELECT pg_temp.derived_after('ALTER TABLE regress_d.parent ALTER ended TYPE text');
SELECT pg_temp.derived_after('ALTER TABLE regress_d.parent ALTER ended TYPE date');
SELECT pg_temp.derived_after('ALTER TABLE regress_d.parent ALTER reason TYPE bytea USING NULL');
SELECT pg_temp.derived_after('ALTER TABLE regress_d.parent ALTER reason TYPE varchar');

-- An index of another equality than its column's does not find children of another parent.
CREATE COLLATION regress_d.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE regress_d.named (id text PRIMARY KEY, state text NOT NULL DEFAULT 'new');
CREATE TABLE regress_d.of_named (id int PRIMARY KEY, parent text, state text NOT NULL DEFAULT 'new');
CREATE INDEX ON regress_d.of_named (parent COLLATE regress_d.nocase);
SELECT jobstate.attach(t, 'regress_d', 'state') FROM unnest('{regress_d.named,regress_d.of_named}'::regclass[]) t;
SELECT jobstate.derive('regress_d.named', 'regress_d.of_named', 'parent', 'regress_d');
INSERT INTO regress_d.named VALUES ('a'), ('A');
INSERT INTO regress_d.of_named VALUES (1, 'a', 'done'), (2, 'A', 'busy');
SELECT jobstate.derive_now();
SELECT id, state FROM regress_d.named ORDER BY id COLLATE "C";
ROLLBACK;
