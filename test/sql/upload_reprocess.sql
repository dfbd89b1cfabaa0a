-- upload_reprocess: back to the start, and what replaces what.
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT jobstate.install('uploads');

-- A.5/20 Reprocess: three merged, and one with nothing stored
CREATE TEMP TABLE u AS
SELECT n, jobstate.upload_create(53, 'again', storage_path => CASE WHEN n < 4 THEN 'raw/' || n END) AS id
  FROM generate_series(1, 4) n;
CREATE TEMP VIEW uploads AS
SELECT n, state, order_number, succeeded, attempt, retries, t.files, e.error_code
  FROM u JOIN jobstate.upload up USING (id)
  LEFT JOIN jobstate.upload_totals t ON t.upload_id = id
  LEFT JOIN jobstate.upload_error e ON e.upload_id = id;
SELECT count(*) FROM jobstate.upload_take(53, 'again', 4);
SELECT n, jobstate.upload_finish(id, true) FROM u ORDER BY n;
SELECT jobstate.upload_apply_results(jsonb_agg(jsonb_build_object('upload_id', id, 'order_number', n,
           'totals', jsonb_build_object('files', 10 * n, 'coverage', 12.5)))) FROM u;
SELECT jobstate.upload_decide(53, 'again'), jobstate.upload_postprocessed(53, 'again');
TABLE uploads ORDER BY n;
SELECT jobstate.upload_reprocess(53, 'again');
TABLE uploads ORDER BY n;
SELECT jobstate.upload_numbers(53, 'again');
-- what is on its way is left alone
SELECT token AS held FROM jobstate.upload_take(53, 'again') \gset
SELECT jobstate.upload_reprocess(53, 'again');
SELECT jobstate.upload_finish(id, true, :'held') FROM u WHERE n = 1;
-- a batch of the earlier round is not merged into the new one
SELECT n, jobstate.upload_finish(id, true) FROM u WHERE n IN (2, 3) ORDER BY n;
SELECT DISTINCT token AS held FROM jobstate.upload_take_for_merging(53, 'again') \gset
SELECT jobstate.upload_reprocess(53, 'again');
SELECT jobstate.upload_mark_merged(array_agg(id), :'held') FROM u WHERE n < 4;  -- fails
-- the round ends as the first did
SELECT n, jobstate.upload_finish(id, n <> 3) FROM u WHERE n < 4 ORDER BY n;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_decide(53, 'again');
TABLE uploads ORDER BY n;
SELECT jobstate.upload_reprocess(53, 'nobody');

-- results of a merge: each upload its own; what is in error keeps its reason
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(53, 'results') FROM generate_series(1, 5) n;
SELECT jobstate.upload_finish(id, n <> 3, error_code => CASE n WHEN 3 THEN 'report_empty' END) FROM u WHERE n < 5 ORDER BY n;
INSERT INTO jobstate.upload_totals (repo_id, commit_sha, upload_id, files)
SELECT 53, 'results', id, 99 FROM u WHERE n = 1;
SELECT jobstate.upload_apply_results(jsonb_build_array(
    jsonb_build_object('upload_id', (SELECT id FROM u WHERE n = 1), 'order_number', 7, 'totals', '{"files": 1}'::jsonb),
    jsonb_build_object('upload_id', (SELECT id FROM u WHERE n = 2), 'error_code', 'missing_intermediate_report',
                       'error_params', '{"path": "x"}'::jsonb, 'totals', '{"files": 2}'::jsonb),
    jsonb_build_object('upload_id', (SELECT id FROM u WHERE n = 3), 'order_number', 8),
    jsonb_build_object('upload_id', (SELECT id FROM u WHERE n = 4)),
    jsonb_build_object('upload_id', (SELECT id FROM u WHERE n = 5), 'order_number', 9),
    jsonb_build_object('upload_id', -1)));
TABLE uploads ORDER BY n;

-- carried-forward uploads leave with what hangs on them; the others stay
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(53, 'carried', order_number => n, upload_type => 'carriedforward')
  FROM generate_series(1, 3) n;
INSERT INTO u SELECT 4, jobstate.upload_create(53, 'carried', order_number => 1);
INSERT INTO jobstate.upload_totals (repo_id, commit_sha, upload_id, files) SELECT 53, 'carried', id, n FROM u;
SELECT jobstate.upload_replace_carriedforward(53, 'carried', '{1, 3, 5}');
TABLE uploads ORDER BY n;
SELECT count(*) FROM jobstate.upload_totals WHERE repo_id = 53 AND commit_sha = 'carried';
-- A.3 fixed 10: the merge that replaced them may still list them
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 4;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_replace_carriedforward(53, 'carried', '{1, 3, 5}'), jobstate.upload_replace_carriedforward(53, 'carried', '{}');

-- overwritten: from processed and merged, and from nothing else
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(53, 'over', storage_path => 'raw/' || n) FROM generate_series(1, 4) n;
SELECT count(jobstate.upload_mark_processed(id)) FROM u WHERE n <= 2;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u WHERE n = 2;
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u WHERE n = 4;
SELECT jobstate.upload_mark_overwritten(array_agg(id)) FROM u WHERE n <> 2;
SELECT jobstate.upload_mark_overwritten(array_agg(id), false) FROM u WHERE n = 2;
TABLE uploads ORDER BY n;
SELECT jobstate.upload_reprocess(53, 'over');
SELECT DISTINCT state FROM uploads;

DELETE FROM jobstate.upload WHERE repo_id = 53;
DELETE FROM jobstate.upload_scope WHERE repo_id = 53;
SELECT * FROM jobstate.verify('jobstate.upload');
