-- health_counters: tables that are uncounted; and, deep, counts that drifted.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, g text, state smallint);
INSERT INTO regress_t SELECT n, 'g' || n % 3, 1 FROM generate_series(1, 30) n;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
CREATE VIEW regress_shallow AS SELECT * FROM jobstate.health() WHERE check_name IN ('counters', 'health');
CREATE VIEW regress_deep AS SELECT * FROM jobstate.health(deep => true) WHERE check_name IN ('counters', 'health');
SELECT * FROM regress_shallow;
SELECT * FROM regress_deep;

SELECT jobstate.uncount('regress_t');
SELECT * FROM regress_shallow;
SELECT fix FROM regress_shallow \gexec
SELECT * FROM regress_shallow;

-- rows that changed unseen: only a scan can tell
SET session_replication_role = replica;
ALTER EVENT TRIGGER jobstate_ddl_command_end DISABLE;
ALTER TABLE regress_t DISABLE TRIGGER jobstate_watch;
UPDATE regress_t SET state = 2 WHERE id <= 4;
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_watch;
ALTER EVENT TRIGGER jobstate_ddl_command_end ENABLE ALWAYS;
RESET session_replication_role;
SELECT * FROM regress_shallow;
SELECT * FROM regress_deep;
SELECT fix FROM regress_deep \gexec
SELECT * FROM regress_deep;
SELECT * FROM jobstate.verify();

-- counts that are negative, or a log that cannot be read, do not keep the rest from being told
BEGIN;
ALTER TABLE jobstate.segment_0 DISABLE TRIGGER turn_away;
INSERT INTO jobstate.segment_0 SELECT epoch, 0, 'g0', '1:-100' FROM jobstate.attachment WHERE target = 'regress_t'::regclass;
SELECT jobstate.counts('regress_t');                                             -- fails
ROLLBACK;
BEGIN;
ALTER TABLE jobstate.segment_0 DISABLE TRIGGER turn_away;
INSERT INTO jobstate.segment_0 SELECT epoch, 0, 'g0', '1:-100' FROM jobstate.attachment WHERE target = 'regress_t'::regclass;
SELECT * FROM regress_deep;
SELECT name, labels, value FROM jobstate.metrics WHERE labels @> '{"table": "public.regress_t"}' ORDER BY 1;
SELECT * FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;
ROLLBACK;

-- an uncounted table is not scanned for metrics
SELECT jobstate.uncount('regress_t');
SELECT name, labels, value FROM jobstate.metrics WHERE labels @> '{"table": "public.regress_t"}' ORDER BY 1;
SELECT * FROM jobstate.state_totals('regress_t');
CALL jobstate.maintain();
SELECT * FROM jobstate.state_totals('regress_t');
SELECT * FROM jobstate.health(NULL);                                             -- fails
SELECT * FROM jobstate.health(patience => NULL);                                 -- fails
DROP VIEW regress_shallow, regress_deep;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
