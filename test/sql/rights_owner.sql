-- rights_owner: the owner of a database, who is no superuser, installs the extension
-- and uses all of it; roles that it names can do what it hands out.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_rights;
DROP ROLE IF EXISTS regress_owner, regress_worker;
SELECT current_database() AS home, current_user AS superuser \gset
CREATE ROLE regress_owner LOGIN;
CREATE ROLE regress_worker LOGIN;
CREATE DATABASE regress_rights OWNER regress_owner;

\c regress_rights regress_worker
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;                                                       -- fails
\c - regress_owner
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;
SELECT jobstate.define_machine('regress_m', '{"new": 1, "busy": 2, "done": 3}', '{new -> busy, busy -> done}', '{new}');
CREATE TABLE job (id int PRIMARY KEY, state smallint DEFAULT 1, g int, at timestamptz DEFAULT '2020-01-01');
SELECT jobstate.attach('job', 'regress_m', 'state', '{g}');
INSERT INTO job SELECT n, 1, n % 2 FROM generate_series(1, 6) n;
SELECT * FROM jobstate.take('job', 'new', 'busy', n => 3);
SELECT * FROM jobstate.transition('job', '{1,2,3}', 'done');
SELECT jobstate.prune('job', '1 day', 'at', 2);
SELECT jobstate.fold() > 0 AS folded;
CALL jobstate.maintain();
SELECT jobstate.rebuild('job');
SELECT * FROM jobstate.totals('job') ORDER BY group_key, state;
SELECT * FROM jobstate.check('job', 'regress_m', 'state');
SELECT * FROM jobstate.verify();
ALTER TABLE job RENAME g TO grp;
TRUNCATE job;
INSERT INTO job VALUES (1, 1, 1), (2, 1, 2);
-- but not behind its back: it may add to the catalogue, as a restore does, no more
DELETE FROM jobstate.attachment;                                                 -- fails
UPDATE jobstate.state SET is_initial = true;                                     -- fails
DELETE FROM jobstate.rollup;                                                     -- fails
INSERT INTO jobstate.segment_0 VALUES (1, 1, '', '');                        -- fails
TRUNCATE jobstate.segment_0;                                                     -- fails
SELECT count(*) FROM jobstate.segment_0;                                         -- fails
SELECT jobstate.uncount('job');                                                  -- fails
-- a superuser's table is not its own
\c - :superuser
CREATE TABLE other (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('other', 'regress_m', 'state');
CREATE SCHEMA regress_worker AUTHORIZATION regress_worker;
\c - regress_owner
\set SHOW_CONTEXT never
SELECT jobstate.detach('other');                                                 -- fails
SELECT * FROM jobstate.counts('other');                                          -- fails
CALL jobstate.maintain();
-- what it hands out
GRANT EXECUTE ON FUNCTION jobstate.take, jobstate.transition TO regress_worker;
GRANT EXECUTE ON FUNCTION jobstate.attach, jobstate.detach, jobstate.define_machine TO regress_worker;
GRANT SELECT, UPDATE ON job TO regress_worker;
\c - regress_worker
\set SHOW_CONTEXT never
SELECT * FROM jobstate.take('job', 'new', 'busy', '{"grp": 1}');
SELECT * FROM jobstate.counts('job', '{"grp": 1}') ORDER BY state;
SELECT jobstate.define_machine('regress_own', '{"on": 1, "off": 0}', '{on -> off, off -> on}');
CREATE TABLE regress_worker.switch (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_worker.switch', 'regress_own', 'state');
INSERT INTO regress_worker.switch VALUES (1);
SELECT * FROM jobstate.counts('regress_worker.switch') ORDER BY state;
SELECT jobstate.detach('job');                                                   -- fails
SELECT jobstate.drop_machine('regress_own');                                     -- fails
DROP TABLE regress_worker.switch;
-- objects of its own in its search_path do not mislead what runs with others' rights
CREATE FUNCTION regress_worker.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT -1::bigint';
CREATE FUNCTION regress_worker.eq(smallint, smallint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR regress_worker.= (FUNCTION = regress_worker.eq, LEFTARG = smallint, RIGHTARG = smallint);
CREATE TABLE regress_worker.state (machine text, state_id smallint, name text);
SET search_path = regress_worker, jobstate, pg_catalog;
SELECT * FROM jobstate.take('public.job', 'new', 'busy', n => 10);
SELECT * FROM jobstate.counts('public.job') c WHERE c.n > 0 ORDER BY c.group_key;
SELECT jobstate.define_machine('regress_own', '{"on": 1}', '{}');
SELECT jobstate.mermaid('regress_own');

\c - regress_owner
SET client_min_messages = warning;
DROP EXTENSION jobstate CASCADE;
\c :home :superuser
DROP DATABASE regress_rights;
DROP ROLE regress_owner, regress_worker;
