-- upload_decide: who is told wait, merge and postprocess, and that the last two
-- are told once.
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT jobstate.install('uploads');
CREATE TEMP TABLE u (n integer, id bigint);

-- nothing there: postprocessing nothing is harmless, and still told once
SELECT jobstate.upload_decide(46, 'none'), jobstate.upload_decide(46, 'none');

-- A.5/4 a full batch is merged although others are still being processed
INSERT INTO u SELECT n, jobstate.upload_create(46, 'full') FROM generate_series(1, 12) n;
SELECT n, jobstate.upload_finish(id, true) FROM u WHERE n <= 11 ORDER BY n;
-- who was told to merge has not done so yet
SELECT jobstate.upload_decide(46, 'full');
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(46, 'full');
-- what is left is less than a batch, and one is being processed
SELECT jobstate.upload_decide(46, 'full');
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 12;
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(46, 'full');
SELECT jobstate.upload_decide(46, 'full'), jobstate.upload_decide(46, 'full');

-- A.3 open 11b: 15 processed and none left to process: after a merge of ten there is
-- another to do before postprocessing
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(46, 'fifteen') FROM generate_series(1, 15) n;
SELECT count(jobstate.upload_mark_processed(id)) FROM u;
SELECT jobstate.upload_decide(46, 'fifteen');
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(46, 'fifteen');
SELECT jobstate.upload_notify_decision(46, 'fifteen'), jobstate.upload_decide(46, 'fifteen');
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(46, 'fifteen');
SELECT jobstate.upload_decide(46, 'fifteen'), jobstate.upload_notify_decision(46, 'fifteen');

-- a repeated call marks nothing and asks again; the first verdict stands
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(46, 'repeat') FROM generate_series(1, 2) n;
SELECT jobstate.upload_finish(id, true) FROM u ORDER BY n;
SELECT jobstate.upload_finish(id, false) FROM u ORDER BY n;
SELECT n, state, succeeded FROM jobstate.upload JOIN u USING (id) ORDER BY n;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
-- A.3 open 2: nothing comes back from merged; the call is the last to ask, so it is told
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 1;
SELECT n, state FROM jobstate.upload JOIN u USING (id) ORDER BY n;

-- a transaction that does not commit was told nothing
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(46, 'abort') FROM generate_series(1, 1) n;
BEGIN;
SELECT jobstate.upload_finish(id, true) FROM u;
ROLLBACK;
SELECT jobstate.upload_finish(id, true) FROM u;
BEGIN;
SAVEPOINT s;
SELECT jobstate.upload_mark_merged(array_agg(id)), jobstate.upload_decide(46, 'abort') FROM u;
ROLLBACK TO s;
SELECT jobstate.upload_mark_merged(array_agg(id)), jobstate.upload_decide(46, 'abort') FROM u;
COMMIT;

-- what somebody was told to merge is gone: the next one is told about what comes
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(46, 'gone', storage_path => 'raw/' || n) FROM generate_series(1, 12) n;
SELECT count(jobstate.upload_mark_processed(id)) FROM u WHERE n < 11;
SELECT jobstate.upload_decide(46, 'gone');
SELECT jobstate.upload_mark_overwritten(array_agg(id)) FROM u WHERE n < 11;
SELECT count(*) FROM jobstate.upload_take_for_merging(46, 'gone');
SELECT jobstate.upload_decide(46, 'gone');
SELECT n, jobstate.upload_finish(id, true) FROM u WHERE n > 10 ORDER BY n;
-- the same where the whole commit starts again
SELECT jobstate.upload_reprocess(46, 'gone');
SELECT count(*), count(*) FILTER (WHERE answer = 'merge') AS told
  FROM (SELECT jobstate.upload_finish(id, true) AS answer FROM u) f;

-- more uploads after postprocessing: a round of its own
SELECT jobstate.upload_postprocessed(46, 'abort'), jobstate.upload_postprocessed(46, 'abort');
SELECT jobstate.upload_create(46, 'abort') AS id \gset
SELECT jobstate.upload_postprocessed(46, 'abort');
SELECT jobstate.upload_finish(:id, true);
SELECT jobstate.upload_mark_merged(ARRAY[:id]), jobstate.upload_decide(46, 'abort');

-- an upload that was written without the functions opens a round too
INSERT INTO jobstate.upload (repo_id, commit_sha) VALUES (46, 'abort') RETURNING id \gset
SELECT jobstate.upload_finish(:id, true);
SELECT jobstate.upload_mark_merged(ARRAY[:id]), jobstate.upload_decide(46, 'abort');

-- other reports are no part of it, neither before nor after
SELECT jobstate.upload_create(46, 'abort', 'test_results') AS id \gset
SELECT jobstate.upload_decide(46, 'abort'), jobstate.upload_finish(:id, true), jobstate.upload_decide(46, 'abort');

-- the last one fails without a result: those before it are merged all the same
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(46, 'clear') FROM generate_series(1, 2) n;
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 1;
SELECT jobstate.upload_clear_in_progress(array_agg(id)), jobstate.upload_decide(46, 'clear') FROM u;
-- it has no result to keep
SELECT jobstate.upload_finish(id, true) AS cleared FROM u WHERE n = 2;   -- fails

-- the end of the last: nobody is left to finish, the caller of the clean-up asks
SELECT jobstate.upload_create(46, 'alone') AS id \gset
SELECT jobstate.upload_clear_in_progress(ARRAY[:id]), jobstate.upload_decide(46, 'alone');
SELECT jobstate.upload_notify_decision(46, 'alone');

-- an upload that does not exist
SELECT jobstate.upload_finish(-1, true);                                 -- fails

DELETE FROM jobstate.upload WHERE repo_id = 46;
DELETE FROM jobstate.upload_scope WHERE repo_id = 46;
SELECT * FROM jobstate.verify('jobstate.upload');
