-- upload_lease: whoever takes uploads holds them by a token until a deadline; a
-- token that is no longer the upload's writes nothing.
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT jobstate.install('uploads');
CREATE TEMP TABLE u AS SELECT n, jobstate.upload_create(47, 'lease', storage_path => 'raw/' || n) AS id
  FROM generate_series(1, 3) n;
-- every upload's state, and what its errors are, under the test's numbers
CREATE TEMP VIEW uploads AS
SELECT u.n, up.state, up.attempt, up.retries, up.token IS NOT NULL AS taken,
       up.lease_until > clock_timestamp() AS live, up.merge_until > clock_timestamp() AS batch_live
  FROM u JOIN jobstate.upload up USING (id);

-- processing: each to one worker, in order
SELECT u.n, attempt, storage_path, lease_until > clock_timestamp() AS live
  FROM jobstate.upload_take(47, 'lease', 2) t JOIN u ON u.id = t.upload_id ORDER BY 1;
SELECT u.n FROM jobstate.upload_take(47, 'lease', 2) t JOIN u ON u.id = t.upload_id;
SELECT count(*) FROM jobstate.upload_take(47, 'lease');
TABLE uploads ORDER BY n;

-- by id: what somebody has is passed over
SELECT count(*) FROM jobstate.upload_start(ARRAY(SELECT id FROM u));

-- the first worker dies; its lease runs out; another takes the upload
SELECT id AS id1, token AS dead FROM jobstate.upload JOIN u USING (id) WHERE n = 1 \gset
UPDATE jobstate.upload SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id1;
SELECT token AS alive FROM jobstate.upload_take(47, 'lease') \gset
SELECT :'dead' <> :'alive' AS fresh, n, attempt FROM uploads WHERE n = 1;
-- it was not dead, only slow: whatever it says now is refused
SELECT jobstate.upload_finish(:id1, true, :'dead');                      -- fails
SELECT jobstate.upload_mark_processed(:id1, :'dead');                    -- fails
SELECT jobstate.upload_retry(:id1, token => :'dead');                    -- fails
SELECT jobstate.upload_clear_in_progress(ARRAY[:id1], :'dead');          -- fails
SELECT jobstate.upload_heartbeat(ARRAY[:id1], :'dead');                  -- fails
SELECT * FROM uploads WHERE n = 1;
SELECT jobstate.upload_heartbeat(ARRAY[:id1], :'alive', '1 hour') > clock_timestamp() + interval '59 min' AS extended;
SELECT jobstate.upload_finish(:id1, true, :'alive');
-- said again, by the one and by the other
SELECT jobstate.upload_finish(:id1, true, :'alive');
SELECT jobstate.upload_finish(:id1, true, :'dead');                      -- fails
-- a lease that ran out is still the holder's as long as nobody else took the upload
SELECT id AS id2, token AS late FROM jobstate.upload JOIN u USING (id) WHERE n = 2 \gset
UPDATE jobstate.upload SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id2;
SELECT jobstate.upload_finish(:id2, true, :'late');
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 3;

-- merging: the batch is one merger's; without a lease left it is the next one's
SELECT DISTINCT token AS dead FROM jobstate.upload_take_for_merging(47, 'lease') \gset
SELECT count(*) FROM jobstate.upload_take_for_merging(47, 'lease');
UPDATE jobstate.upload SET merge_until = clock_timestamp() - interval '1 s' WHERE repo_id = 47;
SELECT token AS alive FROM jobstate.upload_take_for_merging(47, 'lease', 2) LIMIT 1 \gset
-- n = 3 is still the dead one's, 1 and 2 are not: all or nothing
SELECT jobstate.upload_mark_merged(ARRAY(SELECT id FROM u), :'dead');    -- fails
SELECT jobstate.upload_apply_results((SELECT jsonb_agg(jsonb_build_object('upload_id', id)) FROM u), :'dead');  -- fails
SELECT jobstate.upload_heartbeat(ARRAY(SELECT id FROM u), :'dead');      -- fails
TABLE uploads ORDER BY n;
SELECT jobstate.upload_heartbeat(ARRAY(SELECT id FROM u WHERE n < 3), :'alive') > clock_timestamp() AS extended;
SELECT jobstate.upload_mark_merged(ARRAY(SELECT id FROM u WHERE n < 3), :'alive');
-- A.5/10 said again by the one, and by the other
SELECT jobstate.upload_mark_merged(ARRAY(SELECT id FROM u WHERE n < 3), :'alive');
SELECT jobstate.upload_mark_merged(ARRAY(SELECT id FROM u WHERE n < 3), :'dead');   -- fails
SELECT jobstate.upload_mark_merged(ARRAY(SELECT id FROM u WHERE n = 3), :'dead');
TABLE uploads ORDER BY n;
-- an upload that was never of the batch is not of the batch
SELECT jobstate.upload_mark_merged(ARRAY[:id1, -1], :'alive');           -- fails

DELETE FROM jobstate.upload WHERE repo_id = 47;
DELETE FROM jobstate.upload_scope WHERE repo_id = 47;
SELECT * FROM jobstate.verify('jobstate.upload');
