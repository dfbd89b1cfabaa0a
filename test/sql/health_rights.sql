-- health_rights: what a role may not see does not appear, neither in health() nor in
-- metrics; both read only, and need no family.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_nobody;
CREATE ROLE regress_reader;
CREATE ROLE regress_monitor;
GRANT pg_monitor TO regress_monitor;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, secret text, state smallint);
CREATE TABLE regress_open (id int PRIMARY KEY, state smallint);
INSERT INTO regress_t SELECT n, 'secret ' || n, 1 FROM generate_series(1, 3) n;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{secret}'), jobstate.attach('regress_open', 'regress_m', 'state');
GRANT SELECT ON regress_t TO regress_reader;
GRANT SELECT ON regress_open TO PUBLIC;
SELECT jobstate.uncount('regress_t');
ALTER EVENT TRIGGER jobstate_ddl_command_end DISABLE;
ALTER TABLE regress_t DISABLE TRIGGER jobstate_truncate;
ALTER TABLE regress_open DISABLE TRIGGER jobstate_watch;
INSERT INTO regress_open VALUES (1, 1);
ALTER TABLE regress_open ENABLE ALWAYS TRIGGER jobstate_watch;
ALTER EVENT TRIGGER jobstate_ddl_command_end ENABLE ALWAYS;

SET ROLE regress_nobody;
SELECT check_name, object, detail FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
SELECT labels ->> 'table' AS "table", count(*) FROM jobstate.metrics WHERE labels ->> 'table' ~ '^public' GROUP BY 1 ORDER BY 1;
SELECT * FROM jobstate.state_totals('regress_t');                                -- fails
SELECT fix FROM jobstate.health(deep => true) WHERE object = 'public.regress_open' \gexec
SET ROLE regress_reader;
SELECT check_name, object, detail FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
SELECT labels ->> 'table' AS "table", count(*) FROM jobstate.metrics WHERE labels ->> 'table' ~ '^public' GROUP BY 1 ORDER BY 1;
-- who monitors is told how tables are, not what is in them
SET ROLE regress_monitor;
SELECT check_name, object, detail FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
SELECT labels ->> 'table' AS "table", count(*) FROM jobstate.metrics WHERE labels ->> 'table' ~ '^public' GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;
RESET ROLE;
-- what a role may not read is no fault of health()'s
SELECT DISTINCT status FROM jobstate.health() WHERE check_name = 'health';

-- nothing is written
BEGIN READ ONLY;
SELECT check_name, object FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
SELECT count(*) > 10 AS some FROM jobstate.metrics;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
SELECT count(*) > 10 AS some FROM jobstate.metrics;
COMMIT;
SELECT fix FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public' \gexec
SELECT check_name, object FROM jobstate.health(deep => true) WHERE status = 'warning' AND object ~ '^public';
-- nobody can plant a part
CREATE FUNCTION jobstate.health_planted(deep boolean, patience interval) RETURNS TABLE (a text, b text, c text, d text, e text)
    LANGUAGE sql AS $$ SELECT 'planted', NULL, 'warning', 'planted', NULL $$;
SELECT count(*) FROM jobstate.health() WHERE check_name = 'planted';
DROP FUNCTION jobstate.health_planted;
-- each part says something, and nothing but what it may
SELECT check_name, status FROM jobstate.health() WHERE status NOT IN ('ok', 'info', 'warning') OR status = 'ok' AND (object IS NOT NULL OR fix IS NOT NULL)
    OR status = 'warning' AND (object IS NULL OR detail IS NULL);
DROP TABLE regress_t, regress_open;
SELECT jobstate.drop_machine('regress_m');
DROP ROLE regress_nobody, regress_reader, regress_monitor;
