-- upload_retry: an upload that waits for its retry is unfinished, whatever the
-- clean-up of the failed attempt does (A.3 open 1).
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT jobstate.install('uploads');
CREATE TEMP TABLE u AS SELECT n, jobstate.upload_create(48, 'retry') AS id FROM generate_series(1, 2) n;
SELECT id AS id1 FROM u WHERE n = 1 \gset
SELECT id AS id2 FROM u WHERE n = 2 \gset

-- the attempt fails, asks for a retry, and its clean-up runs all the same
SELECT token AS first FROM jobstate.upload_start(ARRAY[:id1]) \gset
SELECT due BETWEEN clock_timestamp() + interval '15 s' AND clock_timestamp() + interval '25 s' AS in_20_s
  FROM jobstate.upload_retry(:id1, token => :'first') due;
SELECT jobstate.upload_clear_in_progress(ARRAY[:id1]), jobstate.upload_clear_in_progress(ARRAY[:id1], :'first');
SELECT jobstate.upload_numbers(48, 'retry');
-- so the other one's end is not the end
SELECT jobstate.upload_finish(:id2, true);
SELECT jobstate.upload_notify_decision(48, 'retry');
SELECT kind, delay, remaining FROM jobstate.upload_next_check(48, 'retry');
-- nobody gets it before it is due; a queue that starts it by id may be early
SELECT count(*) FROM jobstate.upload_take(48, 'retry');
UPDATE jobstate.upload SET retry_at = clock_timestamp() - interval '1 s' WHERE id = :id1;
SELECT attempt FROM jobstate.upload_take(48, 'retry');
-- the retry succeeds, and is merged with the other
SELECT jobstate.upload_finish(:id1, true);
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(48, 'retry');
SELECT jobstate.upload_decide(48, 'retry');

-- a retry that is running is in progress again
SELECT jobstate.upload_create(48, 'running') AS id \gset
SELECT jobstate.upload_retry(:id, delay => '0 s') <= clock_timestamp() AS due;
SELECT jobstate.upload_clear_in_progress(ARRAY[:id]);
SELECT attempt FROM jobstate.upload_start(ARRAY[:id]);
SELECT jobstate.upload_clear_in_progress(ARRAY[:id]);

-- an error may be retried: it is unfinished again, and its error gone
SELECT jobstate.upload_create(48, 'error') AS id \gset
SELECT jobstate.upload_finish(:id, false, error_code => 'unknown_storage');
SELECT jobstate.upload_mark_merged(ARRAY[:id]), jobstate.upload_decide(48, 'error');
SELECT jobstate.upload_retry(:id, 'unknown_storage', '1 min') > clock_timestamp() AS later;
SELECT u.state, u.retries, count(e) AS errors, jobstate.upload_numbers(48, 'error')
  FROM jobstate.upload u LEFT JOIN jobstate.upload_error e ON e.upload_id = u.id WHERE u.id = :id
 GROUP BY u.state, u.retries;
-- and its commit is postprocessed again
SELECT jobstate.upload_finish(:id, true);
SELECT jobstate.upload_mark_merged(ARRAY[:id]), jobstate.upload_decide(48, 'error');
-- what is finished is not
SELECT jobstate.upload_retry(:id);                                       -- fails
SELECT jobstate.upload_retry(-1);                                        -- fails

-- how often depends on the error: a missing file once, then it is in error
SELECT jobstate.upload_create(48, 'spent') AS id \gset
SELECT jobstate.upload_retry(:id, 'file_not_in_storage') IS NOT NULL AS again;
SELECT jobstate.upload_retry(:id, 'file_not_in_storage') IS NOT NULL AS again;
SELECT u.state, e.error_code FROM jobstate.upload u JOIN jobstate.upload_error e ON e.upload_id = u.id WHERE u.id = :id;
SELECT jobstate.upload_retry(:id, 'file_not_in_storage') IS NOT NULL AS again;
SELECT jobstate.upload_decide(48, 'spent');
-- an error that is not listed is retried like unknown_error_code
SELECT error_code, jobstate.upload_max_retries(error_code)
  FROM unnest(ARRAY['file_not_in_storage', 'report_empty', 'unknown_processing', 'of my own']) error_code;

-- the delay doubles, up to five hours
SELECT jobstate.upload_create(48, 'delay') AS id \gset
SELECT n, date_trunc('second', jobstate.upload_retry(:id) - clock_timestamp() + interval '0.9 s') AS delay
  FROM generate_series(1, 10) n;
SELECT jobstate.upload_retry(:id);

DELETE FROM jobstate.upload WHERE repo_id = 48;
DELETE FROM jobstate.upload_scope WHERE repo_id = 48;
SELECT * FROM jobstate.verify('jobstate.upload');
