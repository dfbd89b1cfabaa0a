-- transition_basic: moves what may be moved, returns the ids that it moved, and
-- leaves the rest as it is.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"new": 1, "ready": 2, "busy": 3, "done": 4}',
                               '{new -> ready, ready -> busy, busy -> done, new -> done, busy -> busy: heartbeat}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
INSERT INTO regress_t VALUES (1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (-6, 1);

SELECT * FROM jobstate.transition('regress_t', '{5,1,4,3,99,2}', 'done');
SELECT id, state FROM regress_t ORDER BY id;
-- again: nothing is left to move
SELECT * FROM jobstate.transition('regress_t', '{5,1,4,3,99,2}', 'done');
-- only from one state
SELECT * FROM jobstate.transition('regress_t', '{3,-6}', 'ready', 'new');
SELECT * FROM jobstate.transition('regress_t', '{3,-6}', 'busy', 'ready');
SELECT * FROM jobstate.transition('regress_t', '{3,-6}', 'done', 'new');
-- a loop is an edge of its own that is only taken when it is asked for
SELECT * FROM jobstate.transition('regress_t', '{3,-6}', 'busy');
SELECT * FROM jobstate.transition('regress_t', '{3,-6}', 'busy', 'busy');
-- arrays: empty, with duplicates and nulls, of two dimensions, huge
SELECT * FROM jobstate.transition('regress_t', '{}', 'done');
SELECT * FROM jobstate.transition('regress_t', '{3,3,NULL,3}', 'done');
SELECT * FROM jobstate.transition('regress_t', '{{-6,-6},{7,9223372036854775807}}', 'done');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
INSERT INTO regress_t SELECT generate_series(1000, 2999);
SELECT count(*), min(m), max(m) FROM jobstate.transition('regress_t', (SELECT array_agg(n) FROM generate_series(1, 5000) n), 'ready') m;
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
-- nobody may come to a state that no edge leads to
SELECT * FROM jobstate.transition('regress_t', '{1000}', 'new');
SELECT * FROM jobstate.transition('regress_t', '{1000}', 'new', 'ready');        -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.transition('regress_t', '{1000}', 'gone');                -- fails
SELECT * FROM jobstate.transition('regress_t', '{1000}', 'busy', 'gone');        -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.transition(NULL, '{1}', 'done');                          -- fails
SELECT * FROM jobstate.transition('regress_t', NULL, 'done');                    -- fails
SELECT * FROM jobstate.transition('regress_t', '{1}', NULL);                     -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.transition('pg_class', '{1}', 'done');                    -- fails
\echo :SQLSTATE

-- a definition that changes is obeyed at once, prepared or not
PREPARE move AS SELECT * FROM jobstate.transition('regress_t', $1, 'done');
EXECUTE move('{1000,1001}');
SELECT jobstate.define_machine('regress_m', '{"new": 1, "ready": 2, "busy": 3, "done": 4}',
                               '{new -> ready, ready -> busy, busy -> done, ready -> done}');
EXECUTE move('{1000,1001}');
ALTER TABLE regress_t RENAME id TO number;
ALTER TABLE regress_t RENAME state TO status;
EXECUTE move('{1002}');
ALTER TABLE regress_t ALTER number TYPE bigint;
EXECUTE move('{1003,5000000000}');
-- a name as it likes, a partitioned table, other types of id
CREATE SCHEMA "Regress's";
CREATE TABLE "Regress's"."My ""t""" ("Id" smallint PRIMARY KEY, "St" text DEFAULT 'new') PARTITION BY RANGE ("Id");
CREATE TABLE "Regress's".p1 PARTITION OF "Regress's"."My ""t""" FOR VALUES FROM (1) TO (100);
SELECT jobstate.attach('"Regress''s"."My ""t"""', 'regress_m', 'St');
INSERT INTO "Regress's"."My ""t""" VALUES (1), (2);
SELECT * FROM jobstate.transition('"Regress''s"."My ""t"""', '{1,70000}', 'ready');
SELECT * FROM jobstate.take('"Regress''s"."My ""t"""', 'new', 'ready', n => 5);
-- tables without an id
CREATE TABLE regress_none (id int, state smallint);
CREATE TABLE regress_two (a int, b int, state smallint, PRIMARY KEY (a, b));
CREATE TABLE regress_text (id text PRIMARY KEY, state smallint);
CREATE TABLE regress_unique (name text PRIMARY KEY, id int NOT NULL UNIQUE, state smallint);
SELECT jobstate.attach(t, 'regress_m', 'state') FROM unnest('{regress_none,regress_two,regress_text,regress_unique}'::regclass[]) t;
SELECT * FROM jobstate.transition('regress_none', '{1}', 'ready');               -- fails
SELECT * FROM jobstate.transition('regress_two', '{1}', 'ready');                -- fails
SELECT * FROM jobstate.take('regress_text', 'new', 'ready');                     -- fails
\echo :SQLSTATE
INSERT INTO regress_unique VALUES ('x', 1, 1), ('y', 2, 1);
SELECT * FROM jobstate.transition('regress_unique', '{1,2}', 'ready');
SELECT * FROM jobstate.verify('regress_t');
DROP TABLE regress_t, regress_none, regress_two, regress_text, regress_unique, "Regress's"."My ""t""";
DROP SCHEMA "Regress's";
SELECT jobstate.drop_machine('regress_m');
