-- upload_lifecycle: the moves of contract A, each guarded and repeatable.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');

-- A.5/6 Lifecycle
CREATE TEMP TABLE u AS SELECT n, jobstate.upload_create(44, 'life') AS id FROM generate_series(1, 3) n;
SELECT jobstate.upload_numbers(44, 'life');
SELECT jobstate.upload_mark_processed(id), jobstate.upload_numbers(44, 'life') FROM u ORDER BY n;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_numbers(44, 'life');
SELECT n, state_id, state FROM jobstate.upload JOIN u USING (id) ORDER BY n;

-- A.5/10 Idempotent: nothing moves twice, nor does updated_at
CREATE TEMP TABLE before AS SELECT * FROM jobstate.upload WHERE repo_id = 44;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_mark_processed(id) FROM u ORDER BY n;
TABLE before EXCEPT SELECT * FROM jobstate.upload WHERE repo_id = 44;
SELECT jobstate.upload_create(44, 'twice') AS id \gset
SELECT jobstate.upload_mark_processed(:id);
SELECT updated_at AS at FROM jobstate.upload WHERE id = :id \gset
SELECT jobstate.upload_mark_processed(:id);
SELECT state, updated_at = :'at' AS untouched FROM jobstate.upload WHERE id = :id;
-- an upload that is not there is nothing to mark
SELECT jobstate.upload_mark_processed(-1);

-- A.5/5 Batch
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(44, 'batch') FROM generate_series(1, 15) n;
SELECT count(jobstate.upload_mark_processed(id)) FROM u;
CREATE TEMP TABLE batch AS SELECT * FROM jobstate.upload_take_for_merging(44, 'batch');
SELECT count(DISTINCT upload_id), count(DISTINCT token), bool_and(success) FROM batch;
SELECT jobstate.upload_mark_merged(array_agg(upload_id), min(token::text)::uuid) FROM batch;
CREATE TEMP TABLE rest AS SELECT * FROM jobstate.upload_take_for_merging(44, 'batch');
SELECT count(*), count(*) FILTER (WHERE upload_id IN (SELECT upload_id FROM batch)) AS again FROM rest;
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM rest;
SELECT count(*) FROM jobstate.upload_take_for_merging(44, 'batch');
SELECT count(*) FROM jobstate.upload_take_for_merging(44, 'batch', 3);

-- A.5/7 Merge guard: of {processed, error, uploaded, merged, missing} one moves
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(44, 'guard') FROM generate_series(1, 4) n;
SELECT jobstate.upload_mark_processed(id) FROM u WHERE n IN (1, 4);
SELECT jobstate.upload_mark_merged(ARRAY[id]) FROM u WHERE n = 4;
SELECT jobstate.upload_clear_in_progress(ARRAY[id]) FROM u WHERE n = 2;
SELECT jobstate.upload_mark_merged(array_agg(id) || -999::bigint) FROM u;
SELECT n, state FROM jobstate.upload JOIN u USING (id) ORDER BY n;

-- A.5/8 Clear guard: of {uploaded, processed, error} one moves
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(44, 'clear') FROM generate_series(1, 3) n;
SELECT jobstate.upload_mark_processed(id) FROM u WHERE n = 2;
SELECT jobstate.upload_clear_in_progress(ARRAY[id]) FROM u WHERE n = 3;
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u;
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u;
SELECT n, state FROM jobstate.upload JOIN u USING (id) ORDER BY n;
SELECT jobstate.upload_clear_in_progress('{}'), jobstate.upload_mark_merged('{}');

-- A.3 open 11: ids of several commits, each under its own commit's scope
SELECT jobstate.upload_create(44, 'one') AS one, jobstate.upload_create(45, 'two') AS two \gset
SELECT jobstate.upload_mark_processed(:one), jobstate.upload_mark_processed(:two);
SELECT jobstate.upload_mark_merged(ARRAY[:two, :one]);
SELECT repo_id, commit_sha, version FROM jobstate.upload_scope
 WHERE commit_sha IN ('one', 'two') ORDER BY 1;

-- A.5/22 Parse error path
SELECT jobstate.upload_create(44, 'parse') AS id \gset
SELECT jobstate.upload_finish(:id, false);
SELECT jobstate.upload_numbers(44, 'parse');
SELECT upload_id = :id AS taken, success FROM jobstate.upload_take_for_merging(44, 'parse');
SELECT jobstate.upload_mark_merged(ARRAY[:id]);
SELECT u.state, e.error_code FROM jobstate.upload u
  LEFT JOIN jobstate.upload_error e ON e.upload_id = u.id WHERE u.id = :id;
SELECT jobstate.upload_decide(44, 'parse'),
       jobstate.upload_notify_decision(44, 'parse', notify_error => true) AS with_notify_error,
       jobstate.upload_notify_decision(44, 'parse') AS without;
-- with a code of the parser's own
SELECT jobstate.upload_create(44, 'parse') AS id \gset
SELECT jobstate.upload_finish(:id, false, error_code => 'report_empty', error_params => '{"line": 1}');
SELECT jobstate.upload_mark_merged(ARRAY[:id]);
SELECT error_code, error_params FROM jobstate.upload_error WHERE upload_id = :id;

DELETE FROM jobstate.upload WHERE repo_id IN (44, 45);
DELETE FROM jobstate.upload_scope WHERE repo_id IN (44, 45);
SELECT count(*) FROM jobstate.upload_error WHERE repo_id = 44;
SELECT * FROM jobstate.verify('jobstate.upload');
