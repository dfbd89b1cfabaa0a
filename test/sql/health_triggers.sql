-- health_triggers: triggers of attached tables that are off, renamed, missing or left
-- behind; each fix, executed as it stands, mends it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, g int, state smallint);
CREATE TABLE regress_p (id int, g int, state smallint) PARTITION BY LIST (g);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
CREATE TABLE regress_p2 PARTITION OF regress_p FOR VALUES IN (2);
INSERT INTO regress_t SELECT n, n % 2, 1 FROM generate_series(1, 10) n;
INSERT INTO regress_p SELECT n, 1 + n % 2, 1 FROM generate_series(1, 10) n;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}'), jobstate.attach('regress_p', 'regress_m', 'state', '{g}');
CREATE VIEW regress_found AS
    SELECT * FROM jobstate.health(deep => true, patience => '0') WHERE check_name IN ('triggers', 'counters');
SELECT * FROM regress_found;

-- switched off: rows change unseen
ALTER TABLE regress_t DISABLE TRIGGER jobstate_watch;
UPDATE regress_t SET state = 2 WHERE id <= 3;
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;
-- of one partition, and only for truncation; and for replicas only
ALTER TABLE regress_p1 DISABLE TRIGGER ALL;
ALTER TABLE regress_p2 ENABLE REPLICA TRIGGER jobstate_truncate;
SELECT check_name, object, status, detail FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;
-- with nobody listening to ALTER TABLE the counts are thought to be right, and are not
ALTER EVENT TRIGGER jobstate_ddl_command_end DISABLE;
ALTER TABLE regress_p DISABLE TRIGGER jobstate_watch;
ALTER EVENT TRIGGER jobstate_ddl_command_end ENABLE ALWAYS;
DELETE FROM regress_p WHERE id = 1;
SELECT check_name, object, status, detail FROM regress_found;
SELECT fix FROM regress_found WHERE check_name = 'triggers' AND status = 'warning' \gexec
SELECT * FROM regress_found;

-- as pg_restore leaves them that was told to disable triggers
ALTER TABLE regress_t ENABLE TRIGGER ALL;
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'info' \gexec
SELECT * FROM regress_found;

-- under another name the trigger refuses all it sees
ALTER TRIGGER jobstate_watch ON regress_p RENAME TO zz_watch;
ALTER TRIGGER jobstate_truncate ON regress_t RENAME TO "Before";
UPDATE regress_p SET state = 2;                                                  -- fails
TRUNCATE regress_t;                                                              -- fails
SELECT check_name, object, status, detail FROM regress_found;
SELECT fix FROM regress_found WHERE check_name = 'triggers' AND status = 'warning' \gexec
SELECT * FROM regress_found;
UPDATE regress_p SET state = 2 WHERE id = 2;

-- dropped
DROP TRIGGER jobstate_watch ON regress_t;
DROP TRIGGER jobstate_truncate ON regress_p2;
INSERT INTO regress_t VALUES (11, 1, 2);
SELECT check_name, object, status, detail FROM regress_found;
SELECT fix FROM regress_found WHERE check_name = 'triggers' AND status = 'warning' \gexec
SELECT * FROM regress_found;
UPDATE regress_t SET state = 1 WHERE id = 11;                                    -- fails

-- on a table that is not attached
CREATE TABLE regress_x (id int PRIMARY KEY, state smallint);
CREATE TRIGGER jobstate_watch AFTER INSERT OR UPDATE OR DELETE ON regress_x FOR EACH ROW EXECUTE FUNCTION jobstate.watch();
INSERT INTO regress_x VALUES (1, 1);                                             -- fails
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;
INSERT INTO regress_x VALUES (1, 1);
SELECT * FROM jobstate.verify();
DROP VIEW regress_found;
DROP TABLE regress_t, regress_p, regress_x CASCADE;
SELECT jobstate.drop_machine('regress_m');
