-- check_dry_run: check() tells what attach() would refuse, and changes nothing.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint, g int, p point);
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t VALUES (1, 1), (2, 2), (3, 9), (4, 9), (5, NULL), (6, -1);
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{g}') ORDER BY problem, detail;
\set VERBOSITY terse
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');                     -- fails
\set VERBOSITY default
-- problems with the arguments
SELECT * FROM jobstate.check('regress_t', 'regress_none', 'state');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'nostate');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'p');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{p}');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{g,g}');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{g,NULL}');
SELECT * FROM jobstate.check('pg_tables', 'regress_m', 'state');
SELECT * FROM jobstate.check(NULL, 'regress_m', 'state');
SELECT * FROM jobstate.check('regress_t', NULL, 'state');
SELECT * FROM jobstate.check('regress_t', 'regress_m', NULL);
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', NULL);
-- nothing was done
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'regress_t'::regclass;
SELECT count(*) FROM jobstate.attachment WHERE target = 'regress_t'::regclass;
-- no writer has to wait for it
SELECT mode FROM pg_locks WHERE relation = 'regress_t'::regclass AND mode <> 'AccessShareLock';

-- states by name; names with quotes and blanks; partitions; domains
CREATE SCHEMA "Regress check";
CREATE TYPE "Regress check"."Label" AS ENUM ('a', 'b', 'b c''s');
CREATE TABLE "Regress check"."T" (id int, "The State" "Regress check"."Label", part int) PARTITION BY LIST (part);
CREATE TABLE "Regress check".t1 PARTITION OF "Regress check"."T" FOR VALUES IN (1);
CREATE TABLE "Regress check".t2 PARTITION OF "Regress check"."T" FOR VALUES IN (2);
INSERT INTO "Regress check"."T" VALUES (1, 'a', 1), (2, 'b c''s', 2), (3, 'b c''s', 1), (4, NULL, 2);
SELECT * FROM jobstate.check('"Regress check"."T"', 'regress_m', 'The State', '{part}') ORDER BY problem, detail;
DELETE FROM "Regress check"."T" WHERE id > 1;
SELECT * FROM jobstate.check('"Regress check"."T"', 'regress_m', 'The State', '{part}');
CREATE DOMAIN regress_small AS smallint;
CREATE TABLE regress_d (state regress_small, name varchar(7));
INSERT INTO regress_d VALUES (1, 'a'), (2, 'B');
SELECT * FROM jobstate.check('regress_d', 'regress_m', 'state');
SELECT * FROM jobstate.check('regress_d', 'regress_m', 'name');

-- what is attached already
UPDATE regress_t SET state = 1;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state', '{g}');
SELECT jobstate.attach('"Regress check"."T"', 'regress_m', 'The State');
SELECT * FROM jobstate.check('"Regress check".t1', 'regress_m', 'The State');

-- a role that may not read the rows learns nothing of them
CREATE ROLE regress_nobody;
UPDATE regress_t SET state = 2;
SELECT jobstate.detach('regress_t');
UPDATE regress_t SET state = 77;
SET ROLE regress_nobody;
SELECT * FROM jobstate.check('regress_t', 'regress_m', 'state');                      -- fails
\echo :SQLSTATE
RESET ROLE;
DROP TABLE regress_t, regress_d, "Regress check"."T";
DROP TYPE "Regress check"."Label";
DROP SCHEMA "Regress check";
DROP DOMAIN regress_small;
DROP ROLE regress_nobody;
SELECT jobstate.drop_machine('regress_m');
