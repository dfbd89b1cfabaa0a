-- metrics_basic: the view metrics tells what counts() and totals() tell, by table and
-- state, in a form that exporters take.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TABLE "regress T" (id int PRIMARY KEY, g numeric, state smallint, at timestamptz NOT NULL);
INSERT INTO "regress T" SELECT n, n % 7, 1 + n % 3, '2024-05-05' FROM generate_series(1, 100) n;
SELECT jobstate.attach('"regress T"', 'regress_m', 'state', '{g}');
CREATE VIEW regress_metrics AS
    SELECT name, labels - 'table' AS labels, value FROM jobstate.metrics
     WHERE labels @> '{"table": "public.\"regress T\""}' ORDER BY name, labels::text;
SELECT * FROM regress_metrics;
-- two spellings of one group, rows that were pruned, the reader's own work
SELECT jobstate.prune('"regress T"', '1 year', 'at', 20);
BEGIN;
INSERT INTO "regress T" SELECT n, 1.00, 1, now() FROM generate_series(201, 205) n;
SAVEPOINT s;
DELETE FROM "regress T";
ROLLBACK TO s;
SELECT * FROM regress_metrics;
COMMIT;
SELECT jobstate.fold() > 0 AS folded;
CREATE VIEW regress_differences AS
    SELECT state, t.live, s.live AS live_by_state, t.rolled_up, s.rolled_up AS rolled_up_by_state
      FROM (SELECT state, sum(live) AS live, sum(rolled_up) AS rolled_up FROM jobstate.totals('"regress T"') GROUP BY 1) t
      FULL JOIN jobstate.state_totals('"regress T"') s USING (state)
     WHERE (t.live, t.rolled_up) IS DISTINCT FROM (s.live, s.rolled_up);
SELECT * FROM regress_differences;
TRUNCATE "regress T";
SELECT * FROM regress_metrics WHERE name ~ '^jobstate_rows';
SELECT * FROM regress_differences;
SELECT * FROM jobstate.state_totals('"regress T"');
SELECT * FROM jobstate.state_totals(NULL);
SELECT * FROM jobstate.state_totals('pg_class');                                 -- fails

-- groups are no labels: there are as many rows as before
INSERT INTO "regress T" SELECT n, n, 1, now() FROM generate_series(1, 2000) n;
SELECT count(*), sum(value) FILTER (WHERE name = 'jobstate_rows') AS live FROM regress_metrics;

-- what the names promise: a family may add to these, but not other forms.  No row
SELECT jobstate.install('uploads');
SELECT jobstate.install('queue');
SELECT FROM jobstate.enqueue('regress_q', 'k', '{}');
SELECT name, labels, kind, unit FROM jobstate.metrics
 WHERE name !~ '^jobstate_[a-z_]+$' OR value IS NULL OR jsonb_typeof(labels) <> 'object' OR help !~ '^[a-z0-9].*[^.]$'
    OR kind NOT IN ('gauge', 'counter') OR (kind = 'counter') <> (name ~ '_total$')
    OR unit NOT IN ('', 'seconds', 'bytes') OR unit <> '' AND name !~ (unit || '$') OR unit = '' AND name ~ '_(seconds|bytes)$'
    OR EXISTS (SELECT FROM jsonb_each(labels) l WHERE l.key !~ '^[a-z_]+$' OR jsonb_typeof(l.value) <> 'string');
-- one row per name and labels, and one kind, unit and help per name.  No row
SELECT name, labels, count(*) FROM jobstate.metrics GROUP BY 1, 2 HAVING count(*) > 1;
SELECT name FROM jobstate.metrics GROUP BY 1 HAVING count(DISTINCT (kind, unit, help)) > 1;
SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;

DROP VIEW regress_metrics, regress_differences;
DROP TABLE "regress T", jobstate.upload, jobstate.upload_error, jobstate.upload_totals, jobstate.upload_scope, jobstate.upload_follow_up,
    jobstate.upload_error_code, jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine(m) FROM unnest('{regress_m,job,upload}'::text[]) m;
