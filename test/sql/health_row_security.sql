-- health_row_security: policies that hide rows from those who have to see all.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_owner;
CREATE ROLE regress_reader;
GRANT CREATE ON SCHEMA public TO regress_owner;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
ALTER TABLE regress_t OWNER TO regress_owner;
GRANT SELECT ON regress_t TO regress_reader;
SELECT jobstate.install('uploads');
CREATE VIEW regress_found AS SELECT * FROM jobstate.health() WHERE check_name IN ('row security', 'health');
SELECT * FROM regress_found;

-- with reason: nothing to mend, but to know
ALTER TABLE regress_t ENABLE ROW LEVEL SECURITY;
SELECT * FROM regress_found;
-- the owner, as whom maintenance runs, is bound too
ALTER TABLE regress_t FORCE ROW LEVEL SECURITY;
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT check_name, object, status FROM regress_found;
-- who sees only some rows is told of the table, and gets no counts of it
SET ROLE regress_reader;
SELECT check_name, object, status FROM jobstate.health() WHERE check_name = 'row security';
SELECT count(*) FROM jobstate.metrics WHERE labels @> '{"table": "public.regress_t"}';
RESET ROLE;
ALTER TABLE regress_t DISABLE ROW LEVEL SECURITY;
SELECT * FROM regress_found;
-- a family's tables: workers refuse to work
ALTER TABLE jobstate.upload_scope ENABLE ROW LEVEL SECURITY;
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;

DROP TABLE jobstate.upload, jobstate.upload_error, jobstate.upload_totals, jobstate.upload_scope, jobstate.upload_follow_up,
    jobstate.upload_error_code, regress_t;
SELECT jobstate.drop_machine('upload'), jobstate.drop_machine('regress_m');
REVOKE ALL ON SCHEMA public FROM regress_owner;
DROP VIEW regress_found;
DROP ROLE regress_owner, regress_reader;
