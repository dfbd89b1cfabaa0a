-- ddl_partitions: partitions come and go, with their rows.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}', '{a}');
CREATE TABLE regress_p (id int, part int, state smallint DEFAULT 1) PARTITION BY LIST (part);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{part}');
INSERT INTO regress_p SELECT n, 1 FROM generate_series(1, 5) n;
CREATE VIEW regress_seen AS
    SELECT (SELECT string_agg(format('%s%s %s', group_key -> 'part', state, n), ', ' ORDER BY group_key, state)
              FROM jobstate.counts('regress_p') WHERE n > 0) AS counted,
           (SELECT string_agg(format('%s%s %s', part, CASE state WHEN 1 THEN 'a' ELSE 'b' END, n), ', ' ORDER BY part, state)
              FROM (SELECT part, state, count(*) AS n FROM regress_p GROUP BY 1, 2) a) AS actual,
           (SELECT counted FROM jobstate.attachments WHERE target = 'regress_p'::regclass) AS by_counters,
           (SELECT watched FROM jobstate.attachments WHERE target = 'regress_p'::regclass) AS watched;
CREATE VIEW regress_triggers AS
    SELECT tgrelid::regclass AS name, string_agg(format('%s %s', tgname, tgenabled), ', ' ORDER BY tgname) FROM pg_trigger
     WHERE tgname ~ '^jobstate' AND tgrelid::regclass::text ~ '^regress_p' GROUP BY 1;
SELECT * FROM regress_seen;

-- a new partition is empty: the counters hold; its TRUNCATE is seen
CREATE TABLE regress_p2 PARTITION OF regress_p FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE regress_p2_low PARTITION OF regress_p2 FOR VALUES FROM (0) TO (10);
CREATE TABLE regress_p2_high PARTITION OF regress_p2 FOR VALUES FROM (10) TO (20);
INSERT INTO regress_p SELECT n, 2 FROM generate_series(5, 14) n;
SELECT * FROM regress_seen;
SELECT * FROM regress_triggers ORDER BY name::text COLLATE "C";
TRUNCATE regress_p2_low;
SELECT * FROM regress_seen;
CREATE TABLE regress_p9 PARTITION OF regress_p DEFAULT;
INSERT INTO regress_p VALUES (90, 9);
TRUNCATE regress_p9;
INSERT INTO regress_p VALUES (91, 9);
SELECT * FROM regress_seen;

-- one with rows comes: they were in any state, the guard begins now
CREATE TABLE regress_p3 (state smallint, part int, id int);
INSERT INTO regress_p3 VALUES (1, 3, 1), (2, 3, 2), (2, 3, 3);
ALTER TABLE regress_p ATTACH PARTITION regress_p3 FOR VALUES IN (3);
SELECT * FROM regress_seen;
INSERT INTO regress_p3 VALUES (2, 3, 4);                                         -- fails
INSERT INTO regress_p3 VALUES (1, 3, 4);
CALL jobstate.maintain();
SELECT * FROM regress_seen;
TRUNCATE regress_p3;
SELECT * FROM regress_seen;
SELECT * FROM jobstate.verify('regress_p');

-- one goes, with its rows: it is a table like any other, and may come back
INSERT INTO regress_p3 VALUES (1, 3, 4), (1, 3, 5);
ALTER TABLE regress_p DETACH PARTITION regress_p3;
SELECT * FROM regress_seen;
SELECT * FROM regress_triggers ORDER BY name::text COLLATE "C";
INSERT INTO regress_p3 VALUES (2, 3, 6);
TRUNCATE regress_p3;
ALTER TABLE regress_p DETACH PARTITION regress_p2 CONCURRENTLY;                  -- fails
DROP TABLE regress_p9;
SELECT * FROM regress_seen;
ALTER TABLE regress_p DETACH PARTITION regress_p2 CONCURRENTLY;
SELECT * FROM regress_seen;
SELECT * FROM regress_triggers ORDER BY name::text COLLATE "C";
TRUNCATE regress_p2_high;
-- taken back, nothing has changed
CALL jobstate.maintain();
BEGIN;
ALTER TABLE regress_p ATTACH PARTITION regress_p2 FOR VALUES IN (2);
INSERT INTO regress_p VALUES (11, 2);
SELECT * FROM regress_seen;
ROLLBACK;
SELECT * FROM regress_seen;
BEGIN;
INSERT INTO regress_p VALUES (6, 1);
DROP TABLE regress_p1;
SELECT * FROM regress_seen;
ROLLBACK;
SELECT * FROM regress_seen;

-- a partition that cannot be part of a watched table
CREATE UNLOGGED TABLE regress_p4 (id int, part int, state smallint);
ALTER TABLE regress_p ATTACH PARTITION regress_p4 FOR VALUES IN (4);             -- fails
CREATE UNLOGGED TABLE regress_p7 PARTITION OF regress_p FOR VALUES IN (7);       -- fails
ALTER TABLE regress_p1 SET UNLOGGED;                                             -- fails
CREATE FOREIGN DATA WRAPPER regress_wrapper;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_wrapper;
CREATE FOREIGN TABLE regress_p8 PARTITION OF regress_p FOR VALUES IN (8) SERVER regress_server; -- fails
CREATE FOREIGN TABLE regress_p8 (id int, part int, state smallint) SERVER regress_server;
ALTER TABLE regress_p ATTACH PARTITION regress_p8 FOR VALUES IN (8);             -- fails
DROP FOREIGN DATA WRAPPER regress_wrapper CASCADE;
CREATE TABLE regress_p5 (id int, part int, state smallint);
SELECT jobstate.attach('regress_p5', 'regress_m', 'state');
ALTER TABLE regress_p ATTACH PARTITION regress_p5 FOR VALUES IN (5);             -- fails
DROP TABLE regress_p5;
CREATE TABLE regress_p6 (id int, part int, state smallint);
INSERT INTO regress_p6 VALUES (1, 6, 66);
ALTER TABLE regress_p ATTACH PARTITION regress_p6 FOR VALUES IN (6);             -- fails
SELECT * FROM regress_seen;
UPDATE regress_p6 SET state = 2;
ALTER TABLE regress_p ATTACH PARTITION regress_p6 FOR VALUES IN (6);
SELECT * FROM regress_seen;
CALL jobstate.maintain();
SELECT * FROM regress_seen;
SELECT * FROM jobstate.verify('regress_p');
DROP VIEW regress_seen, regress_triggers;
DROP TABLE regress_p, regress_p2, regress_p3, regress_p4;
SELECT jobstate.drop_machine('regress_m');
