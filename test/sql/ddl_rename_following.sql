-- ddl_rename_following: an attachment follows the renaming of whatever it names.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int, h text, note text, at date DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');
INSERT INTO regress_t VALUES (1, 2, 1, 'x'), (2, 1, 1, 'x'), (3, 1, 2, 'y');
SELECT jobstate.prune('regress_t', '1 day', 'at');

ALTER TABLE regress_t RENAME TO regress_renamed;
ALTER TABLE regress_renamed RENAME state TO "My State";
ALTER TABLE regress_renamed RENAME COLUMN g TO "Gr""oup";
ALTER TABLE regress_renamed RENAME note TO memo;
CREATE SCHEMA regress_schema;
ALTER TABLE regress_renamed SET SCHEMA regress_schema;
ALTER SCHEMA regress_schema RENAME TO "Regress's schema";
SELECT target, state_column, group_by, counted, watched FROM jobstate.attachments WHERE machine = 'regress_m';
SET search_path = "Regress's schema", public;
INSERT INTO regress_renamed VALUES (4, 1, 2, 'y');
UPDATE regress_renamed SET "My State" = 2 WHERE "Gr""oup" = 2;
UPDATE regress_renamed SET "My State" = 1 WHERE id = 3;                          -- fails
SELECT * FROM jobstate.counts('regress_renamed') ORDER BY group_key, state;
SELECT * FROM jobstate.totals('regress_renamed', '{"Gr\"oup": 1}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_renamed', '{"g": 1}');                    -- fails
SELECT * FROM jobstate.verify('regress_renamed');
SELECT group_key, n FROM jobstate.rollup WHERE target = 'regress_renamed'::regclass;
-- names that change places, within a transaction and back again
BEGIN;
ALTER TABLE regress_renamed RENAME "Gr""oup" TO swap;
ALTER TABLE regress_renamed RENAME h TO "Gr""oup";
ALTER TABLE regress_renamed RENAME swap TO h;
INSERT INTO regress_renamed VALUES (5, 1, 3, 'z');
SELECT * FROM jobstate.counts('regress_renamed', '{"h": 3}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_renamed', '{"h": 1}') ORDER BY state;
ROLLBACK;
SELECT state_column, group_by FROM jobstate.attachments WHERE machine = 'regress_m';
SELECT * FROM jobstate.counts('regress_renamed') ORDER BY group_key, state;
BEGIN;
INSERT INTO regress_renamed VALUES (6, 1, 1, 'x');
ALTER TABLE regress_renamed RENAME "Gr""oup" TO g;
INSERT INTO regress_renamed VALUES (7, 1, 1, 'x');
SELECT * FROM jobstate.counts('regress_renamed', '{"g": 1}') ORDER BY state;
COMMIT;
SELECT * FROM jobstate.counts('regress_renamed', '{"g": 1}') ORDER BY state;
RESET search_path;

-- partitioned and inherited tables, renamed from above
CREATE TABLE regress_p (id int, state text DEFAULT 'a', part int) PARTITION BY LIST (part);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{part}');
INSERT INTO regress_p VALUES (1, 'a', 1);
ALTER TABLE regress_p RENAME state TO status;
ALTER TABLE regress_p RENAME part TO section;
ALTER TABLE regress_p1 RENAME TO regress_first;
UPDATE regress_p SET status = 'b';
UPDATE regress_first SET status = 'a';                                           -- fails
SELECT * FROM jobstate.counts('regress_p') ORDER BY state;
CREATE TABLE regress_parent (id int, state smallint DEFAULT 1);
CREATE TABLE regress_child () INHERITS (regress_parent);
SELECT jobstate.attach('regress_child', 'regress_m', 'state');
ALTER TABLE regress_parent RENAME state TO status;
INSERT INTO regress_child VALUES (1);
SELECT * FROM jobstate.counts('regress_child') ORDER BY state;
-- a table of a type
CREATE TYPE regress_type AS (id int, state int);
CREATE TABLE regress_typed OF regress_type;
SELECT jobstate.attach('regress_typed', 'regress_m', 'state');
ALTER TYPE regress_type RENAME ATTRIBUTE state TO status CASCADE;
INSERT INTO regress_typed VALUES (1, 1);
SELECT * FROM jobstate.counts('regress_typed') ORDER BY state;
-- a role that may rename its table needs nothing of jobstate's
CREATE ROLE regress_owner;
GRANT USAGE, CREATE ON SCHEMA public TO regress_owner;
ALTER TABLE regress_p OWNER TO regress_owner;
ALTER TABLE regress_first OWNER TO regress_owner;
SET ROLE regress_owner;
ALTER TABLE regress_p RENAME status TO state;
RESET ROLE;
SELECT * FROM jobstate.counts('regress_p') ORDER BY state;
-- a column that is used becomes another type: counted anew, by a scan till then
ALTER TABLE regress_p ALTER state DROP DEFAULT, ALTER state TYPE smallint USING 2;
SELECT * FROM jobstate.counts('regress_p') ORDER BY state;
CALL jobstate.maintain();
SELECT target, counted FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text COLLATE "C";
ALTER TABLE regress_p ALTER state TYPE boolean USING true;                       -- fails
\set VERBOSITY sqlstate
ALTER TABLE regress_p ALTER section TYPE point USING '(1,1)';                    -- fails
\set VERBOSITY default
SELECT * FROM jobstate.counts('regress_p') ORDER BY state;
SELECT v.* FROM jobstate.attachments a, jobstate.verify(a.target) v WHERE machine = 'regress_m';
SET client_min_messages = warning;
DROP SCHEMA "Regress's schema" CASCADE;
DROP TABLE regress_p, regress_parent, regress_typed CASCADE;
DROP TYPE regress_type;
DROP OWNED BY regress_owner;
DROP ROLE regress_owner;
SELECT jobstate.drop_machine('regress_m');
