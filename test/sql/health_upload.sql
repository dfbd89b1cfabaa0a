-- health_upload: commits that nobody sweeps, and commits that no sweep would find.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.install('uploads');
TRUNCATE jobstate.upload, jobstate.upload_scope CASCADE;
CREATE VIEW regress_found AS
    SELECT check_name, object, status, regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:+-]+', 'TIME') AS detail, fix
      FROM jobstate.health(deep => true) WHERE check_name ~ '^upload';
CREATE VIEW regress_metrics AS SELECT name, value FROM jobstate.metrics WHERE name ~ '^jobstate_upload';
SELECT * FROM regress_found;
SELECT * FROM regress_metrics;

-- a worker takes one upload and dies; another one is waiting to be merged
SELECT jobstate.upload_create(1, 'dead') AS id \gset
SELECT count(*) FROM jobstate.upload_take(1, 'dead', lease => '1 ms');
SELECT jobstate.upload_create(1, 'waits') AS id2 \gset
SELECT jobstate.upload_gate_acquire(1, 'waits');
SELECT * FROM regress_found;
UPDATE jobstate.upload_scope SET check_at = now() - interval '11 minutes';
SELECT * FROM regress_found;
SELECT name, round(value / 60) * 60 AS value FROM regress_metrics WHERE name = 'jobstate_upload_overdue_seconds';
SELECT * FROM regress_metrics WHERE name <> 'jobstate_upload_overdue_seconds';
SELECT check_name, object FROM jobstate.health(patience => '1 hour') WHERE check_name = 'upload overdue';
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;

-- uploads that were written by hand
INSERT INTO jobstate.upload (repo_id, commit_sha, state_id, updated_at) VALUES
    (2, 'by hand', 1, now() - interval '1 hour'), (2, 'done', 6, now() - interval '1 hour'), (2, 'young', 1, now());
INSERT INTO jobstate.upload (repo_id, commit_sha, report_type, updated_at) VALUES (2, 'bundle', 'bundle_analysis', now() - interval '1 hour');
UPDATE jobstate.upload SET state_id = 2 WHERE commit_sha IN ('by hand', 'bundle');
SELECT check_name, object FROM jobstate.health() WHERE check_name = 'upload forgotten';
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;

DROP VIEW regress_found, regress_metrics;
DROP TABLE jobstate.upload, jobstate.upload_error, jobstate.upload_totals, jobstate.upload_scope, jobstate.upload_follow_up,
    jobstate.upload_error_code;
SELECT jobstate.drop_machine('upload');
