-- health_families: the store, the ledger and the schedule: what nobody removes, takes
-- back, ends, enqueues or counts as failed, and that each fix mends it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.install(f) FROM unnest('{store,ledger,schedule,queue}'::text[]) f;
CREATE VIEW regress_found AS
    SELECT check_name, object, status, regexp_replace(regexp_replace(detail, '^run \d+', 'run N'), '\d{4}-\d\d-\d\d [0-9:+-]+', 'TIME', 'g') AS detail, fix
      FROM jobstate.health(deep => true) WHERE check_name ~ '^(store|ledger|schedule|health)';
CREATE VIEW regress_metrics AS
    SELECT name, labels, CASE WHEN name ~ 'seconds$' THEN round(value / 60) ELSE value END AS value
      FROM jobstate.metrics WHERE name ~ '^jobstate_(store|ledger|schedule)' AND name !~ 'timestamp' ORDER BY name, labels::text;
SELECT * FROM regress_found;
SELECT * FROM regress_metrics;

-- the store: records that expired
SELECT jobstate.store_create('old', '{"status": "pending"}', '1 h') IS NOT NULL AS created;
SELECT jobstate.store_create('new', '{"status": "pending"}', '1 h') IS NOT NULL AS created;
SELECT status FROM regress_found WHERE check_name = 'store expired';
UPDATE jobstate.store SET expires_at = now() - interval '11 minutes', check_at = now() - interval '11 minutes' WHERE id = 'old';
SELECT * FROM regress_found WHERE check_name = 'store expired';
SELECT * FROM regress_metrics WHERE name ~ 'store';
-- marked by a sweep, and left there
SELECT jobstate.store_sweep();
SELECT * FROM regress_found WHERE check_name = 'store expired';
SELECT fix FROM regress_found WHERE check_name = 'store expired' \gexec
SELECT * FROM regress_found WHERE check_name = 'store expired';
SELECT state, live, rolled_up FROM jobstate.state_totals('jobstate.store') WHERE state = 'pending';

-- the ledger: a claim, a run and an item that is dead
SELECT jobstate.ledger_define('mails', '{"max_failures": 1}');
SELECT count(*) FROM jobstate.ledger_claim('mails', 'a', worker => 'w');
SELECT jobstate.ledger_fail('mails', 'b', 'no such mailbox');
SELECT jobstate.ledger_mark('mails', 'c') IS NULL AS marked;
SELECT run_id > 0 AS runs FROM jobstate.ledger_begin_run('mails', 'nightly');
SELECT * FROM regress_found WHERE check_name ~ 'ledger';
SELECT * FROM regress_metrics WHERE name ~ 'ledger';
UPDATE jobstate.ledger SET lease_until = now() - interval '11 minutes' WHERE item = 'a';
UPDATE jobstate.ledger_processor SET run_id = run_id, run_since = now() - interval '30 minutes', run_until = now() - interval '11 minutes';
SELECT * FROM regress_found WHERE check_name ~ 'ledger';
SELECT fix FROM regress_found WHERE check_name IN ('ledger expired', 'ledger runs') AND status = 'warning' \gexec
SELECT check_name, object, status, detail FROM regress_found WHERE check_name ~ 'ledger';
SELECT fix FROM regress_found WHERE check_name = 'ledger dead' \gexec
SELECT check_name, object, status FROM regress_found WHERE check_name ~ 'ledger';

-- schedules: due, with a queue and without; taken and not finished; failing
SELECT count(jobstate.schedule_define(n, 'every 1 hour', q, k, last_run => now() - interval '10 minutes'))
  FROM (VALUES ('jobs', 'regress_q', 'k'), ('hands', NULL, NULL), ('taken', NULL, NULL)) v (n, q, k);
SELECT jobstate.schedule_define('never', 'every 1 hour') IS NOT NULL AS defined;
SELECT * FROM regress_found WHERE check_name ~ 'schedule';
UPDATE jobstate.schedule SET last_run = now() - interval '75 minutes' WHERE name <> 'never';
SELECT name FROM jobstate.schedule_due('worker', names => '{taken}');
UPDATE jobstate.schedule SET lease_until = now() - interval '11 minutes' WHERE name = 'taken';
SELECT * FROM regress_found WHERE check_name ~ 'schedule';
SELECT * FROM regress_metrics WHERE name ~ 'schedule';
DO $$
DECLARE
    mends text;
BEGIN
    FOR mends IN SELECT DISTINCT fix FROM regress_found WHERE check_name ~ 'schedule' AND fix IS NOT NULL LOOP
        EXECUTE mends;
    END LOOP;
END $$;
-- no SQL is the worker; that one comes is what mends it
SELECT check_name, object, status, detail FROM regress_found WHERE check_name ~ 'schedule';
SELECT jobstate.schedule_finish(name, token) IS NOT NULL AS finished FROM jobstate.schedule_due('worker', names => '{hands,never}');
SELECT check_name, object, status, detail FROM regress_found WHERE check_name ~ 'schedule';
SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;

DROP VIEW regress_found, regress_metrics;
DROP TABLE jobstate.store, jobstate.store_setting, jobstate.store_artifact_name, jobstate.ledger, jobstate.ledger_outcome, jobstate.ledger_run,
    jobstate.ledger_processor, jobstate.ledger_policy, jobstate.schedule, jobstate.job, jobstate.queue_lane, jobstate.queue,
    jobstate.queue_window, jobstate.queue_ring, jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine(m) FROM unnest('{store,ledger,ledger_run,schedule,job}'::text[]) m;
