-- totals_basic: what is there and what was rolled up, by group, also where a value
-- has several spellings or a group only one of the two.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"new": 1, "done": 2}', '{new -> done}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int, d date, at timestamptz DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,d}');
SELECT * FROM jobstate.totals('regress_t');
SELECT * FROM jobstate.totals('regress_t', '{"g": 1, "d": "2024-05-06"}') ORDER BY state;
INSERT INTO regress_t VALUES (1, 2, 1, '2024-05-06'), (2, 2, 1, '2024-05-06'), (3, 1, 1, '2024-05-06'), (4, 2, 2, '2024-05-07'), (5, 2, NULL, NULL);
SELECT jobstate.prune('regress_t', '1 day', 'at', 1), jobstate.prune('regress_t', '1 day', 'at', 1), jobstate.prune('regress_t', '1 day', 'at');
INSERT INTO regress_t VALUES (6, 1, 3, '2024-05-08'), (7, 2, 1, '2024-05-06');

SELECT * FROM jobstate.totals('regress_t') ORDER BY group_key, state;
-- keys in full, in part, of groups with nothing left, and never seen
SELECT * FROM jobstate.totals('regress_t', '{"g": 1, "d": "2024-05-06"}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 1}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"d": null}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 2, "d": "2024-05-07"}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 9}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 9, "d": null}') ORDER BY state;
-- spelled as the caller likes it
SET datestyle = 'SQL, DMY';
SELECT * FROM jobstate.totals('regress_t', '{"g": "1", "d": "06/05/2024"}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": "2"}') ORDER BY state;
RESET datestyle;
-- own uncommitted work, and a scan where there are no counters
BEGIN;
DELETE FROM regress_t WHERE id = 7;
SELECT jobstate.uncount('regress_t');
SELECT * FROM jobstate.totals('regress_t', '{"g": 1}') ORDER BY state;
ROLLBACK;
-- refusals are those of counts()
SELECT * FROM jobstate.totals(NULL);                                             -- fails
SELECT * FROM jobstate.totals('regress_t', '{"id": 1}');                         -- fails
SELECT * FROM jobstate.totals('regress_t', '[]');                                -- fails
SELECT * FROM jobstate.totals('pg_class');                                       -- fails
\echo :SQLSTATE

-- equal values that are spelled differently are one group
CREATE COLLATION regress_nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE regress_c (id int PRIMARY KEY, state smallint, n numeric, t text COLLATE regress_nocase, i interval, at date DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_c', 'regress_m', 'state', '{n,t,i}');
INSERT INTO regress_c VALUES (1, 2, 1.0, 'ABC', '1 day'), (2, 2, 1.00, 'abc', '24:00:00'), (3, 2, 1, 'Abc', '1 day'), (4, 1, 1.000, 'aBC', '24:00:00');
SELECT jobstate.prune('regress_c', '1 day', 'at', 1), jobstate.prune('regress_c', '1 day', 'at', 1), jobstate.prune('regress_c', '1 day', 'at');
SELECT (group_key ->> 'n')::numeric = 1, lower(group_key ->> 't'), (group_key ->> 'i')::interval = '1 day', state, live, rolled_up, total
  FROM jobstate.totals('regress_c') ORDER BY state;
SELECT state, live, rolled_up, total FROM jobstate.totals('regress_c', '{"t": "abC", "n": 1}') ORDER BY state;
SELECT state, live, rolled_up, total FROM jobstate.totals('regress_c', '{"i": "1 day 00:00"}') ORDER BY state;

-- a partitioned table, with a key of several columns and a state by name
CREATE TYPE regress_state AS ENUM ('new', 'done');
CREATE TABLE regress_p (id int, "Part" int, "State" regress_state, "At it" timestamp, PRIMARY KEY ("Part", id)) PARTITION BY LIST ("Part");
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
CREATE TABLE regress_p2 PARTITION OF regress_p FOR VALUES IN (2);
SELECT jobstate.attach('regress_p', 'regress_m', 'State', '{Part}');
INSERT INTO regress_p SELECT n, 1 + n % 2, CASE WHEN n > 3 THEN 'done' ELSE 'new' END::regress_state, '2020-01-01' FROM generate_series(1, 10) n;
SELECT jobstate.prune('regress_p', '1 day', 'At it', 4);
SELECT * FROM jobstate.totals('regress_p') ORDER BY group_key, state;
SELECT v.* FROM unnest('{regress_t,regress_c,regress_p}'::regclass[]) t, jobstate.verify(t) v;
DROP TABLE regress_t, regress_c, regress_p;
DROP TYPE regress_state;
DROP COLLATION regress_nocase;
SELECT jobstate.drop_machine('regress_m');
