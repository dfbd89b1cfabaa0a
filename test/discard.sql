-- discard: one of each statement that goes through C, with every cache discarded whenever a message could have come
-- that it is outdated: what is still used of it is found, because its memory has been overwritten.  Between them
-- stands plain work without that, which would take hours.  At the end everything has to add up.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\timing on
SET client_min_messages = warning;
CREATE EXTENSION jobstate;
SELECT jobstate.define_machine('m', '{"a": 1, "b": 2, "c": 3, "d": 4}', '{a -> b, b -> c, c -> a, b -> d, a -> c}', terminal => '{d}');
CREATE TYPE word AS ENUM ('a', 'b', 'c', 'd');
CREATE DOMAIN label AS text CHECK (length(VALUE) < 9);
CREATE TABLE plain (id integer PRIMARY KEY, state text NOT NULL DEFAULT 'a', grp label, day date, price numeric, at timestamptz DEFAULT now());
CREATE TABLE parted (id integer, zone integer NOT NULL, state word NOT NULL DEFAULT 'a', parent integer, PRIMARY KEY (id, zone))
    PARTITION BY LIST (zone);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_1 (extra integer, zone integer NOT NULL, state word NOT NULL DEFAULT 'a', id integer NOT NULL, parent integer);
ALTER TABLE parted_1 DROP COLUMN extra;
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);
CREATE INDEX ON parted (parent);
CREATE TABLE parent (id integer PRIMARY KEY, state smallint NOT NULL DEFAULT 1, done_at timestamptz, why text);
SELECT jobstate.define_machine('p', '{"open": 1, "over": 2}', '{open -> over, over -> open}', terminal => '{over}');
SELECT jobstate.define_rules('r', '{all d -> over, always -> open}');
SELECT jobstate.attach('plain', 'm', 'state', '{grp,day,price}'), jobstate.attach('parted', 'm', 'state', '{zone}'),
    jobstate.attach('parent', 'p', 'state');
INSERT INTO parent SELECT generate_series(1, 5);
SELECT jobstate.derive('parent', 'parted', 'parent', 'r', completed_at => 'done_at', reason => 'why');
INSERT INTO plain SELECT n, 'a', 'g' || n % 3, DATE '2026-01-01' + n % 2, n % 2 FROM generate_series(1, 30) n;
INSERT INTO parted SELECT n, n % 2, 'a', n % 5 + 1 FROM generate_series(1, 20) n;
SELECT jobstate.install(f) FROM unnest('{queue,store}'::text[]) f;
SELECT jobstate.queue_define('q', '{"shards": 2, "max_running_per_key": 2}');
SELECT jobstate.store_create('s', '{"status": "queued"}');
SELECT jobstate.fold();
\pset tuples_only off

SET debug_discard_caches = 1;
-- rows, one by one and many, with what goes round the usual way
INSERT INTO plain VALUES (31, 'a', 'g1', '2026-01-01', 1), (32, 'a', NULL, NULL, NULL);
UPDATE plain SET state = 'b' WHERE id < 5;
UPDATE plain SET grp = 'g7', price = 1.50 WHERE id IN (3, 31);
DELETE FROM plain WHERE id = 2;
INSERT INTO plain VALUES (3, 'a', 'g1') ON CONFLICT (id) DO UPDATE SET state = 'c';
MERGE INTO plain p USING (VALUES (4), (40)) v (id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET state = 'd'
    WHEN NOT MATCHED THEN INSERT (id, grp) VALUES (v.id, 'm');
COPY plain (id, state, grp) FROM STDIN;
50	a	x
51	b	\N
\.
BEGIN;
UPDATE plain SET state = 'b' WHERE id = 10;
SAVEPOINT a;
UPDATE plain SET state = 'c', grp = 'sp' WHERE id = 10;
SELECT * FROM jobstate.counts('plain', '{"grp": "sp"}') WHERE n <> 0;
ROLLBACK TO a;
SAVEPOINT b;
UPDATE parted SET zone = 1 - zone WHERE id = 1;
RELEASE b;
COMMIT;
BEGIN;
UPDATE parted SET state = 'b' WHERE id = 2;
PREPARE TRANSACTION 'discard';
COMMIT PREPARED 'discard';
-- refusals, whose texts are made of what is cached
DO $$ BEGIN UPDATE plain SET state = 'd' WHERE id = 20; EXCEPTION WHEN check_violation THEN RAISE WARNING '%', SQLERRM; END $$;
DO $$ BEGIN UPDATE parent SET state = 2; EXCEPTION WHEN check_violation THEN RAISE WARNING '%', SQLERRM; END $$;
-- parents
UPDATE parted SET state = 'b' WHERE id IN (4, 9, 14, 19) AND state = 'a';
UPDATE parted SET state = 'd' WHERE id IN (4, 9, 14, 19);
SELECT id, state, done_at IS NOT NULL AS done, why FROM parent ORDER BY id;
SELECT jobstate.rederive('parent');
-- reading
SELECT group_key ->> 'zone' AS zone, state, n FROM jobstate.counts('parted') ORDER BY 1, 2;
SELECT count(*) FROM jobstate.totals('plain');
SELECT * FROM jobstate.verify('plain');
SELECT * FROM jobstate.verify('parted');
-- verbs
SELECT jobstate.take('plain', 'a', 'b', '{"grp": "g2"}', 2);
SELECT jobstate.transition('plain', '{31,32}', 'c', 'a');
SELECT jobstate.prune('plain', '-1 s', 'at');
SELECT jobstate.fold();
-- definitions, beside work of this transaction
BEGIN;
UPDATE plain SET state = 'b' WHERE id = 50;
ALTER TABLE plain RENAME COLUMN grp TO team;
UPDATE plain SET state = 'c' WHERE id = 50;
ALTER TABLE plain RENAME COLUMN team TO grp;
SELECT jobstate.define_machine('m', '{"a": 1, "b": 2, "c": 3, "d": 4}', '{a -> b, b -> c, c -> a, b -> d, a -> c, c -> d}', terminal => '{d}');
UPDATE plain SET state = 'd' WHERE id = 50;
COMMIT;
TRUNCATE parted_0;
SELECT jobstate.rebuild('plain');
-- the queue
SELECT id AS job FROM jobstate.enqueue('q', 'k', '{"n": 1}', unique_key => 'u', limit_key => 'l') \gset
SELECT count(*) FROM jobstate.enqueue_many('q', '{k,k,k,k}', '{"{}","{}","{}","{}"}');
SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens FROM jobstate.claim('q', 'w', 3) \gset
SELECT count(*) FROM jobstate.heartbeat(ids => :'ids', tokens => :'tokens');
SELECT jobstate.complete(ids => (:'ids'::bigint[])[:2], tokens => (:'tokens'::bigint[])[:2]);
SELECT jobstate.fail((:'ids'::bigint[])[3], (:'tokens'::bigint[])[3], 'no');
SELECT count(*) FROM jobstate.claim('q', 'w', 10);
-- the store
SELECT jobstate.store_update('s', '{"status": "preprocessing", "progress": {"percent_complete": 5}}') ->> 'status';
SELECT jobstate.store_update('new', '{"n": 1}', upsert => true) ->> 'n';
RESET debug_discard_caches;

\pset tuples_only on
SELECT 'drift', * FROM jobstate.verify();
SELECT count(*) || ' jobs' FROM jobstate.job;
SELECT id, state, grp FROM plain WHERE id IN (3, 4, 10, 40, 50) ORDER BY id;
