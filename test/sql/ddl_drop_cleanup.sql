-- ddl_drop_cleanup: what is dropped leaves nothing behind, and what an attachment
-- needs is not dropped.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE VIEW regress_left AS
    SELECT (SELECT count(*) FROM jobstate.attachment WHERE machine = 'regress_m') AS attachments,
           (SELECT count(*) FROM jobstate.rollup r WHERE r.target NOT IN (SELECT target FROM jobstate.attachment)) AS orphans;
CREATE FUNCTION regress_make(name text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %s (id int PRIMARY KEY, state smallint DEFAULT 1, g int, note text, at date DEFAULT ''2020-01-01'')', name);
    PERFORM jobstate.attach(name::regclass, 'regress_m', 'state', '{g}');
    EXECUTE format('INSERT INTO %s VALUES (1, 1, 1), (2, 2, 1)', name);
    RETURN jobstate.prune(name::regclass, '1 day', 'at');
END $$;

-- tables: alone, in a schema, taken back, with rows that are not committed
SELECT regress_make('regress_t');
SELECT * FROM regress_left;
BEGIN;
DROP TABLE regress_t;
SELECT * FROM regress_left;
ROLLBACK;
SELECT * FROM regress_left;
SELECT state, live, rolled_up FROM jobstate.totals('regress_t') ORDER BY state;
BEGIN;
INSERT INTO regress_t VALUES (3, 1, 1);
DROP TABLE regress_t;
SELECT regress_make('regress_t');
SELECT state, live, rolled_up FROM jobstate.totals('regress_t') ORDER BY state;
COMMIT;
SELECT * FROM regress_left;
SELECT state, live, rolled_up FROM jobstate.totals('regress_t') ORDER BY state;
CREATE SCHEMA regress_schema;
SELECT regress_make('regress_schema.t');
DROP SCHEMA regress_schema CASCADE;
SELECT * FROM regress_left;
-- by an owner who has no right on jobstate's tables, and with triggers off
CREATE ROLE regress_owner;
SELECT regress_make('regress_u');
ALTER TABLE regress_u OWNER TO regress_owner;
SET ROLE regress_owner;
DROP TABLE regress_u;
RESET ROLE;
SELECT regress_make('regress_v');
SET session_replication_role = replica;
DROP TABLE regress_v;
RESET session_replication_role;
SELECT * FROM regress_left;
SELECT * FROM jobstate.verify();

-- columns: those that it is attached by stay
ALTER TABLE regress_t DROP COLUMN note;
ALTER TABLE regress_t DROP COLUMN state;                                         -- fails
ALTER TABLE regress_t DROP COLUMN g;                                             -- fails
ALTER TABLE regress_t DROP COLUMN g CASCADE;                                     -- fails
\echo :SQLSTATE
CREATE TYPE regress_type AS ENUM ('x');
ALTER TABLE regress_t ADD kind regress_type;
SELECT jobstate.detach('regress_t');
DELETE FROM jobstate.rollup WHERE target = 'regress_t'::regclass;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{kind}');
DROP TYPE regress_type CASCADE;                                                  -- fails
ALTER TABLE regress_t SET UNLOGGED;                                              -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT jobstate.detach('regress_t');
DROP TYPE regress_type CASCADE;
DROP TABLE regress_t;
SELECT * FROM regress_left;
-- tables that nobody attached, temporary ones and views are nobody's business
CREATE TEMP TABLE regress_temp (state smallint, g int);
ALTER TABLE regress_temp DROP COLUMN g;
CREATE TABLE regress_plain (state smallint, g int);
ALTER TABLE regress_plain DROP COLUMN state;
DROP TABLE regress_plain, regress_temp;
DROP VIEW regress_left;

-- the extension itself: not from under attached tables; then all of it goes
SELECT current_database() AS home \gset
CREATE DATABASE regress_drop;
\c regress_drop
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION jobstate;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
DROP EXTENSION jobstate;                                                         -- fails
BEGIN;
INSERT INTO regress_t VALUES (1);
DROP EXTENSION jobstate CASCADE;
INSERT INTO regress_t VALUES (2, 77);
COMMIT;
INSERT INTO regress_t VALUES (3, 77);
SELECT count(*) FROM regress_t;
DROP TABLE regress_t;
SELECT count(*) FROM pg_namespace WHERE nspname = 'jobstate';
-- and it may come back, in the same session
CREATE EXTENSION jobstate;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
INSERT INTO regress_t VALUES (1);
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
\c :home
SET client_min_messages = warning;
DROP DATABASE regress_drop;
DROP FUNCTION regress_make;
DROP ROLE regress_owner;
SELECT jobstate.drop_machine('regress_m');
