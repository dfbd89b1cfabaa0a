-- discard: one of each statement that goes through C, with every cache discarded whenever a message could have come
-- that it is outdated: what is still used of it is found, because its memory has been overwritten.  Between them
-- stands plain work without that, which would take hours.  At the end everything has to add up.  The queue's and the
-- store's statements are in discard_families.sql.
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
CREATE TABLE parted (id integer, zone integer NOT NULL, state word NOT NULL DEFAULT 'a', parent integer, at timestamptz DEFAULT now(), PRIMARY KEY (id, zone))
    PARTITION BY LIST (zone);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_1 (extra integer, zone integer NOT NULL, state word NOT NULL DEFAULT 'a', id integer NOT NULL, parent integer, at timestamptz);
ALTER TABLE parted_1 DROP COLUMN extra;
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE INDEX ON parted (parent);
CREATE TABLE gone (id integer PRIMARY KEY, state text);
CREATE TABLE parent (id integer PRIMARY KEY, state smallint NOT NULL DEFAULT 1, done_at timestamptz, why text);
SELECT jobstate.define_machine('p', '{"open": 1, "over": 2}', '{open -> over, over -> open}', terminal => '{over}');
SELECT jobstate.define_rules('r', '{all d -> over, always -> open}');
SELECT jobstate.attach('plain', 'm', 'state', '{grp,day,price}'), jobstate.attach('parted', 'm', 'state', '{zone}'),
    jobstate.attach('parent', 'p', 'state'), jobstate.attach('gone', 'm', 'state', '{id}');
INSERT INTO parent SELECT generate_series(1, 5);
SELECT jobstate.derive('parent', 'parted', 'parent', 'r', completed_at => 'done_at', reason => 'why');
INSERT INTO plain SELECT n, 'a', 'g' || n % 3, DATE '2026-01-01' + n % 2, n % 2 FROM generate_series(1, 30) n;
INSERT INTO parted SELECT n, n % 2, 'a', n % 5 + 1 FROM generate_series(1, 20) n;
INSERT INTO parted SELECT n, 2, 'd' FROM generate_series(200, 205) n;
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
SELECT count(*) FROM jobstate.counts_now('plain', '{"grp": "g1"}');
SELECT count(*) FROM jobstate.state_totals('parted');
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
BEGIN;
INSERT INTO parted VALUES (100, 1, 'a', 1), (101, 0, 'a', 1);
SELECT jobstate.derive_now();
ALTER TABLE parted DETACH PARTITION parted_1;
INSERT INTO parted VALUES (102, 0, 'a', 2);
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);
INSERT INTO parted VALUES (103, 1, 'a', 2);
COMMIT;
BEGIN;
INSERT INTO gone VALUES (1, 'a'), (2, 'b');
ALTER TABLE gone ALTER COLUMN state TYPE varchar(9);
INSERT INTO gone VALUES (3, 'a');
SAVEPOINT a;
DROP TABLE gone;
INSERT INTO plain VALUES (60, 'a', 'dropped');
ROLLBACK TO a;
INSERT INTO gone VALUES (4, 'a');
DROP TABLE gone;
COMMIT;
TRUNCATE parted_0;
SELECT jobstate.prune_partition('parted_2', 'at');
SELECT jobstate.rebuild('plain');
SELECT jobstate.recount('plain');
CALL jobstate.maintain();
RESET debug_discard_caches;

\pset tuples_only on
SELECT 'drift', * FROM jobstate.verify();
SELECT id, state, grp FROM plain WHERE id IN (3, 4, 10, 40, 50) ORDER BY id;
