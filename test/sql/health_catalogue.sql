-- health_catalogue: event triggers that are off, and what goes unnoticed meanwhile:
-- tables and columns that are gone, a partition that is half detached.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_gone (id int PRIMARY KEY, state smallint);
CREATE TABLE regress_column (id int PRIMARY KEY, "G" int, state smallint);
CREATE TABLE regress_p (id int, g int, state smallint) PARTITION BY LIST (g);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
SELECT jobstate.attach('regress_gone', 'regress_m', 'state'), jobstate.attach('regress_column', 'regress_m', 'state', '{G}'),
       jobstate.attach('regress_p', 'regress_m', 'state', '{g}');
CREATE VIEW regress_found AS
    SELECT check_name, regexp_replace(object, '^\d+$', 'OID') AS object, status, regexp_replace(detail, '^\d+ tables', 'N tables') AS detail, regexp_replace(fix, '\d{5,}', 'OID') AS fix
      FROM jobstate.health() WHERE check_name IN ('event triggers', 'attachments', 'health');
SELECT * FROM regress_found;

ALTER EVENT TRIGGER jobstate_sql_drop DISABLE;
ALTER EVENT TRIGGER jobstate_ddl_command_end ENABLE;
SELECT * FROM regress_found;
DROP TABLE regress_gone;
ALTER TABLE regress_column DROP COLUMN "G";
SELECT fix FROM jobstate.health() WHERE check_name = 'event triggers' \gexec
SELECT * FROM regress_found;
-- the other tables are counted and reported on all the same
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_p'::regclass;
SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_rows' AND labels @> '{"table": "public.regress_p"}';
SELECT * FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;
SELECT fix FROM jobstate.health() WHERE object ~ '^\d+$' \gset
:fix;
SELECT fix FROM jobstate.health() WHERE check_name = 'attachments' AND object !~ '^\d+$' \gexec
SELECT * FROM regress_found;

-- as DETACH PARTITION ... CONCURRENTLY leaves it that was cancelled halfway
SET allow_system_table_mods = on;
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'regress_p1'::regclass;
RESET allow_system_table_mods;
SELECT * FROM regress_found;
SELECT fix FROM jobstate.health() WHERE check_name = 'attachments' \gexec
SELECT * FROM regress_found;
SELECT target, counted, watched FROM jobstate.attachments WHERE target::text ~ '^regress';
SELECT fix FROM jobstate.health() WHERE check_name = 'counters' \gexec
SELECT target, counted, watched FROM jobstate.attachments WHERE target::text ~ '^regress';
INSERT INTO regress_p1 VALUES (1, 1, 2);
TRUNCATE regress_p1;
DROP VIEW regress_found;
DROP TABLE regress_column, regress_p, regress_p1;
SELECT jobstate.drop_machine('regress_m');
