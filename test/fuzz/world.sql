-- What the fuzzers run on: relations of every kind, attached or not, and data of all families.
-- Role fuzz_owner owns the database, fuzz_worker has what the families' grants give, fuzz_plain nothing.
CREATE EXTENSION jobstate;
SET ROLE fuzz_owner;
SELECT jobstate.install(f) FROM jobstate.family_names() f;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO PUBLIC;

SELECT jobstate.define_machine('m', '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}',
    '{new -> ready, new -> failed: rejected, ready -> busy: taken, busy -> done, busy -> failed, failed -> ready: retried}',
    '{new,ready}', '{done,failed}');
SELECT jobstate.define_machine('free', '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}',
    ARRAY(SELECT a || ' -> ' || b FROM unnest('{new,ready,busy,done,failed}'::text[]) a, unnest('{new,ready,busy,done,failed}'::text[]) b WHERE a <> b));
SELECT jobstate.define_rules('r', '{"empty -> new", "any failed -> failed", "all done -> done", "any busy, done -> busy", "always -> ready"}');

CREATE TYPE app.mood AS ENUM ('sad', 'glad');
CREATE TYPE app.shape AS (x integer, y text);
CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0);

CREATE TABLE app.plain (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, at timestamptz DEFAULT now(), note text);
CREATE TABLE app.whole (id bigint, state smallint NOT NULL DEFAULT 1, g integer NOT NULL, at timestamptz DEFAULT '2024-01-01', PRIMARY KEY (id, g))
    PARTITION BY RANGE (g);
CREATE TABLE app.low PARTITION OF app.whole FOR VALUES FROM (0) TO (10);
CREATE TABLE app.high PARTITION OF app.whole DEFAULT PARTITION BY HASH (id);
CREATE TABLE app.high_even PARTITION OF app.high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.high_odd PARTITION OF app.high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.mother (id bigint PRIMARY KEY, state text, g text);
CREATE TABLE app.daughter (extra integer) INHERITS (app.mother);
CREATE TABLE app.parent (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', done_at timestamptz, error text, reason text);
CREATE TABLE app.child (id bigint PRIMARY KEY, parent bigint REFERENCES app.parent ON DELETE CASCADE, state text NOT NULL DEFAULT 'new',
    ord integer, variant text, error text);
CREATE INDEX ON app.child (parent);
CREATE TABLE app.secret (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, at timestamptz DEFAULT '2024-01-01');
CREATE TABLE app.bare (id bigint PRIMARY KEY, state integer DEFAULT 1, g numeric, h text[]);
CREATE TABLE app.typed (id bigint PRIMARY KEY, state app.mood, g app.shape, h app.positive, at date, j json, p point, "odd ""name" text);
CREATE TABLE app.protected (id bigint PRIMARY KEY, state text DEFAULT 'new', g text);
ALTER TABLE app.protected ENABLE ROW LEVEL SECURITY;
CREATE VIEW app.look AS SELECT * FROM app.plain;
CREATE MATERIALIZED VIEW app.kept AS SELECT 1::bigint AS id, 'new'::text AS state, 'x'::text AS g;
CREATE SEQUENCE app.counter;
CREATE UNLOGGED TABLE app.toasted (id bigint, state text, g text);
CREATE RULE r AS ON INSERT TO app.toasted DO ALSO NOTIFY fuzz;
CREATE VIEW app.alias AS SELECT 1 AS id, 'new'::text AS state;
RESET ROLE;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE app.far (id bigint, state text, g text) SERVER nowhere;
ALTER FOREIGN TABLE app.far OWNER TO fuzz_owner;
SET ROLE fuzz_owner;

SELECT jobstate.attach('app.plain', 'm', 'state', '{g,h}');
SELECT jobstate.attach('app.whole', 'm', 'state', '{g}');
SELECT jobstate.attach('app.mother', 'm', 'state', '{g}');
SELECT jobstate.attach('app.parent', 'free', 'state');
SELECT jobstate.attach('app.child', 'm', 'state', '{parent}');
SELECT jobstate.attach('app.secret', 'm', 'state', '{g}');
SELECT jobstate.attach('app.protected', 'm', 'state', '{g}');
SELECT jobstate.derive('app.parent', 'app.child', 'parent', 'r', completed_at => 'done_at', error => 'error', reason => 'reason',
    child_error => 'error', child_order => '{ord,id}');

INSERT INTO app.plain (id, g, h) SELECT n, 'g' || n % 3, nullif(n % 4, 0) FROM generate_series(1, 30) n;
UPDATE app.plain SET state = 'ready' WHERE id % 3 = 0;
UPDATE app.plain SET state = 'failed', at = '2024-01-01' WHERE id % 5 = 1 AND state = 'new';
INSERT INTO app.whole (id, g) SELECT n, n % 30 FROM generate_series(1, 30) n;
INSERT INTO app.mother SELECT n, 'new', 'g' FROM generate_series(1, 9) n;
INSERT INTO app.daughter SELECT n, 'new', 'g' FROM generate_series(11, 19) n;
INSERT INTO app.parent SELECT n FROM generate_series(1, 9) n;
INSERT INTO app.child (id, parent, ord, error) SELECT n, 1 + n % 8, n % 2, 'no ' || n FROM generate_series(1, 20) n;
UPDATE app.child SET state = 'failed' WHERE id % 6 = 0;
INSERT INTO app.secret SELECT n, 'new', 'TOPSECRET' || n % 3 FROM generate_series(1, 9) n;
UPDATE app.secret SET state = 'failed' WHERE id < 4;
INSERT INTO app.protected SELECT n, 'new', 'TOPSECRET' FROM generate_series(1, 9) n;
INSERT INTO app.bare SELECT n, 1, n FROM generate_series(1, 9) n;

-- the queue: jobs of every state
SELECT jobstate.queue_define('mail', '{"max_attempts": 3, "backoff": "1 ms", "lease": "1 day"}');
SELECT jobstate.queue_define('api', '{"max_running_per_key": 2, "lease": "1 day"}');
SELECT count(jobstate.enqueue('mail', 'k' || n % 2, jsonb_build_object('secret', 'TOPSECRET'), unique_key => 'u' || n)) FROM generate_series(1, 20) n;
SELECT count(jobstate.enqueue('api', 'k', limit_key => 'l' || n % 3, run_at => CASE WHEN n > 8 THEN now() + '1 h' END)) FROM generate_series(1, 12) n;
CREATE TABLE app.claimed AS SELECT * FROM jobstate.claim('mail', 'w', 12) UNION ALL SELECT * FROM jobstate.claim('api', 'w', 4);
SELECT jobstate.complete(array_agg(id), array_agg(token)) FROM (SELECT * FROM app.claimed ORDER BY id LIMIT 3) c;
SELECT jobstate.fail(id, token, 'TOPSECRET', retryable => false) FROM (SELECT * FROM app.claimed ORDER BY id OFFSET 3 LIMIT 3) c;
SELECT jobstate.fail(id, token, 'again', '1 h') FROM (SELECT * FROM app.claimed ORDER BY id OFFSET 6 LIMIT 2) c;

-- uploads, the store, the ledger, the schedule, applies
SELECT count(jobstate.upload_create(1 + n % 3, 'c' || n % 2, storage_path => 'TOPSECRET')) FROM generate_series(1, 15) n;
SELECT * FROM jobstate.upload_take(1, 'c0', 2, '1 day') t;
SELECT * FROM jobstate.upload_take(2, 'c1', 2, '1 day') t;
SELECT count(jobstate.store_create('s' || n, '{"status": "queued", "input": {"secret": "TOPSECRET"}}')) FROM generate_series(1, 9) n;
SELECT count(jobstate.store_begin('s' || n)) FROM generate_series(1, 4) n;
SELECT jobstate.ledger_define('facts', '{"max_failures": 2, "cap": 9}'), jobstate.ledger_define('other');
SELECT jobstate.ledger_mark('facts', 'i' || n, items => n, fingerprint => 'f' || n) FROM generate_series(1, 5) n;
SELECT jobstate.ledger_fail('facts', 'i' || n, 'TOPSECRET') FROM generate_series(6, 8) n;
SELECT * FROM jobstate.ledger_take('other', '{i1,i2,i3}', lease => '1 day') t;
SELECT * FROM jobstate.ledger_begin_run('facts', 'o', '1 day') t;
SELECT jobstate.schedule_define('tick', 'every 1s'), jobstate.schedule_define('mail', '30 5 * * mon-fri', 'mail', 'digest'),
       jobstate.schedule_define('old', 'every 1h', last_run => '2024-01-01', catch_up => '3 h');
SELECT * FROM jobstate.schedule_due('w', 1, lease => '1 day') t;
SELECT * FROM jobstate.apply_create('orders', 'mysql', 'production', '[{"deployment": "eu"}, {"deployment": "asia"}]', 'key1') t;
SELECT * FROM jobstate.apply_create('users', 'mysql', 'staging', '[{"deployment": "eu"}]', 'key2', 'barrier', 'continue') t;
SELECT * FROM jobstate.apply_create('files', 'mysql', 'staging', '[{"deployment": "eu"}]') t;
SELECT * FROM jobstate.operation_claim('driver', '1 day') t;
SELECT jobstate.apply_stop(3);

SELECT jobstate.queue_grant('fuzz_worker'), jobstate.upload_grant('fuzz_worker'), jobstate.store_grant('fuzz_worker'),
       jobstate.ledger_grant('fuzz_worker'), jobstate.schedule_grant('fuzz_worker'), jobstate.apply_grant('fuzz_worker');
GRANT ALL ON app.plain, app.whole, app.mother, app.daughter, app.parent, app.child, app.protected TO fuzz_worker;
RESET ROLE;
SELECT jobstate.fold();
