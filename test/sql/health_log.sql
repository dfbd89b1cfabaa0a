-- health_log: segments that are full and that nobody folds, who holds them, and who
-- should have folded; old snapshots of prepared transactions.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET jobstate.auto_maintain = off;
-- a worker that an earlier test had started would fold what is to stay full here
DO $$ BEGIN FOR i IN 1 .. 60 LOOP EXIT WHEN NOT jobstate.worker_is_there(); PERFORM pg_sleep(0.05); END LOOP; END $$;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b, b -> a}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint);
INSERT INTO regress_t SELECT n, 1 FROM generate_series(1, 12000) n;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{id}') > 0 AS attached;
CREATE VIEW regress_found AS
    SELECT check_name, regexp_replace(object, ' of \S+$', ' of ME') AS object, status,
           regexp_replace(regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:+-]+', 'TIME', 'g'), '\m(segment_)?\d+(?= segments| rows| transactions|,)', '\1N', 'g') AS detail,
           replace(fix, quote_ident(current_database()), 'HERE') AS fix
      FROM jobstate.health(patience => '0') WHERE check_name IN ('unfolded', 'maintenance', 'health') OR check_name = 'snapshots' AND object ~ '^prepared';
SELECT count(*) > 0 AS folded FROM (SELECT jobstate.fold() UNION ALL SELECT jobstate.fold()) f;
SELECT * FROM regress_found;
SELECT jobstate.last_fold() BETWEEN now() - interval '1 minute' AND clock_timestamp() AS just_now;

-- a prepared transaction fills segments and holds one
BEGIN;
UPDATE regress_t SET state = 2;
PREPARE TRANSACTION 'it''s regress';
SELECT * FROM regress_found;
SELECT name, value FROM jobstate.metrics WHERE name IN ('jobstate_prepared_transactions', 'jobstate_log_segments_full', 'jobstate_auto_maintain') ORDER BY 1;
SELECT name, value > CASE name WHEN 'jobstate_log_rows' THEN 12000 ELSE 64 * 8192 END AS large
  FROM jobstate.metrics WHERE name IN ('jobstate_log_rows', 'jobstate_log_bytes') ORDER BY 1;
-- what is young enough is no warning
SELECT check_name, object, status FROM jobstate.health(patience => '1 hour')
 WHERE check_name IN ('unfolded', 'maintenance') OR check_name = 'snapshots' AND object ~ '^prepared';
SELECT fix FROM regress_found WHERE object ~ '^prepared' GROUP BY 1 \gexec
SELECT * FROM regress_found;
-- the row count is an estimate only where there is more than one full segment's worth
SELECT sum(log_rows) >= 12000 AS all_rows, sum(log_rows) <= 13000 AS and_no_more FROM jobstate.log_tables() WHERE relation::text ~ 'segment';
SELECT fix FROM regress_found WHERE object = 'counter log' \gexec
SELECT * FROM regress_found;
SELECT sum(n) FROM jobstate.counts('regress_t') WHERE state = 'a';
-- switched on again, here for the session; the fix is for those that begin later
RESET jobstate.auto_maintain;
SELECT * FROM regress_found;

DROP VIEW regress_found;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
