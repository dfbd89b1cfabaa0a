-- upload_numbers: what counts, and in whose count.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');

-- A.5/1 Empty: a commit that nobody knows
SELECT * FROM jobstate.upload_numbers(42, 'abc');
SELECT jobstate.upload_should_merge(processing, processed),
       jobstate.upload_should_postprocess(processing, processed)
  FROM jobstate.upload_numbers(42, 'abc');
SELECT count(*) FROM jobstate.upload_take_for_merging(42, 'abc');
SELECT * FROM jobstate.upload_completion(42, 'abc');

-- A.5/2 Counts: two uploaded, and one in each other state
CREATE TEMP TABLE u AS
SELECT n, jobstate.upload_create(42, 'counts') AS id FROM generate_series(1, 7) n;
UPDATE jobstate.upload SET state_id = 2 WHERE id IN (SELECT id FROM u WHERE n IN (3, 5, 6, 7));
UPDATE jobstate.upload SET state_id = 3 WHERE id = (SELECT id FROM u WHERE n = 4);
UPDATE jobstate.upload SET state_id = 6 WHERE id = (SELECT id FROM u WHERE n = 5);
UPDATE jobstate.upload SET state_id = 4 WHERE id = (SELECT id FROM u WHERE n = 6);
UPDATE jobstate.upload SET state_id = 5 WHERE id = (SELECT id FROM u WHERE n = 7);
SELECT * FROM jobstate.upload_numbers(42, 'counts');
SELECT * FROM jobstate.upload_coverage(42, 'counts') ORDER BY state;

-- the caller's own open work counts, and goes with it
BEGIN;
SELECT count(jobstate.upload_create(42, 'counts')) FROM generate_series(1, 3);
SELECT * FROM jobstate.upload_numbers(42, 'counts');
SAVEPOINT s;
UPDATE jobstate.upload SET state_id = 2 WHERE repo_id = 42 AND commit_sha = 'counts' AND state_id = 1;
SELECT * FROM jobstate.upload_numbers(42, 'counts');
ROLLBACK TO s;
SELECT * FROM jobstate.upload_numbers(42, 'counts');
ROLLBACK;
SELECT * FROM jobstate.upload_numbers(42, 'counts');

-- A.5/3 Scope: coverage and NULL count, other reports and other repositories do not
SELECT count(jobstate.upload_create(42, 'scope', 'test_results')) FROM generate_series(1, 3);
SELECT count(jobstate.upload_create(42, 'scope', NULL));
SELECT count(jobstate.upload_create(42, 'scope', 'coverage'));
SELECT count(jobstate.upload_create(43, 'scope', 'coverage')) FROM generate_series(1, 5);
SELECT * FROM jobstate.upload_numbers(42, 'scope');
SELECT * FROM jobstate.upload_numbers(43, 'scope');
-- one rule for NULL everywhere: the batch has both coverage uploads, and only these
UPDATE jobstate.upload SET state_id = 2 WHERE repo_id = 42 AND commit_sha = 'scope';
SELECT u.report_type FROM jobstate.upload_take_for_merging(42, 'scope') b
  JOIN jobstate.upload u ON u.id = b.upload_id ORDER BY 1;
SELECT * FROM jobstate.upload_completion(42, 'scope');

-- A.5/4 Thresholds
SELECT p, d, jobstate.upload_should_merge(p, d) AS merge,
       jobstate.upload_should_postprocess(p, d) AS postprocess
  FROM (VALUES (0, 0), (1, 9), (1, 10), (0, 3), (1, 0)) v(p, d);

-- carried-forward uploads are part of the report already
SELECT count(jobstate.upload_create(42, 'carried', upload_type => 'carriedforward', order_number => n))
  FROM generate_series(0, 2) n;
SELECT * FROM jobstate.upload_numbers(42, 'carried');
SELECT DISTINCT state_id, state FROM jobstate.upload WHERE repo_id = 42 AND commit_sha = 'carried';

DELETE FROM jobstate.upload WHERE repo_id IN (42, 43);
DELETE FROM jobstate.upload_scope WHERE repo_id IN (42, 43);
SELECT * FROM jobstate.verify('jobstate.upload');
