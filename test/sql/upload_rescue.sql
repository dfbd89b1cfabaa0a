-- upload_rescue: whatever dies, the sweep finds what it left.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');
CREATE TEMP TABLE u (n integer, id bigint);

-- lets time pass for a commit, leases and grants included
CREATE FUNCTION pg_temp.pass(sha text, t interval) RETURNS void LANGUAGE sql AS $$
    UPDATE jobstate.upload
       SET lease_until = lease_until - t, merge_until = merge_until - t, retry_at = retry_at - t,
           updated_at = updated_at - t
     WHERE repo_id = 49 AND commit_sha = sha;
    UPDATE jobstate.upload_scope
       SET merge_until = merge_until - t, postprocess_at = postprocess_at - t,
           gate_until = gate_until - t, check_at = check_at - t
     WHERE repo_id = 49 AND commit_sha = sha;
$$;
CREATE FUNCTION pg_temp.rescue() RETURNS TABLE (sha text, action text, uploads integer[]) LANGUAGE sql AS $$
    SELECT commit_sha, action, ARRAY(SELECT n FROM u WHERE id = ANY (upload_ids) ORDER BY n)
      FROM jobstate.upload_rescue() WHERE repo_id = 49;
$$;

-- a worker dies with its uploads
INSERT INTO u SELECT n, jobstate.upload_create(49, 'worker') FROM generate_series(1, 3) n;
SELECT count(*) FROM jobstate.upload_take(49, 'worker', 2);
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 1;
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('worker', '299 s');
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('worker', '30 s');
SELECT * FROM pg_temp.rescue();
-- the upload is free, and the dead one's clean-up cannot take it away
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u WHERE n = 2;
SELECT u.n, attempt FROM jobstate.upload_take(49, 'worker') t JOIN u ON u.id = t.upload_id;
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 2;
-- nobody ever took the third one: a queue has lost it
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 3;

-- who was told to merge dies before it took a batch, and the next one with a batch
SELECT pg_temp.pass('worker', '30 s');
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT count(*) FROM jobstate.upload_take_for_merging(49, 'worker', lease => '1 hour');
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('worker', '1 hour');
SELECT * FROM pg_temp.rescue();
-- the next one merges, and dies before it asked
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(49, 'worker');
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
-- who was told to postprocess dies; the next holds the gate, which counts as alive
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT jobstate.upload_gate_acquire(49, 'worker', 'second', '1 day');
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT jobstate.upload_postprocessed(49, 'worker'), jobstate.upload_gate_release(49, 'worker', 'second');
-- nothing is left to look for
SELECT pg_temp.pass('worker', '900 s');
SELECT * FROM pg_temp.rescue();
SELECT check_at FROM jobstate.upload_scope WHERE repo_id = 49 AND commit_sha = 'worker';

-- an upload that kills every worker ends in error, and the commit goes on
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(49, 'poison') FROM generate_series(1, 1) n;
DO $$
BEGIN
    FOR i IN 1 .. 20 LOOP
        PERFORM jobstate.upload_take(49, 'poison');
        PERFORM pg_temp.pass('poison', '900 s');
        PERFORM pg_temp.rescue();
        EXIT WHEN NOT EXISTS (SELECT FROM jobstate.upload WHERE repo_id = 49 AND commit_sha = 'poison' AND state_id = 1);
    END LOOP;
END $$;
SELECT u.state, u.attempt, u.retries, e.error_code
  FROM jobstate.upload u JOIN jobstate.upload_error e ON e.upload_id = u.id WHERE u.repo_id = 49 AND u.commit_sha = 'poison';
SELECT jobstate.upload_decide(49, 'poison'), jobstate.upload_notify_decision(49, 'poison', notify_error => true);

-- A.5/16 Sweep/notify: three merged, one uploaded
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(49, 'sweep') FROM generate_series(1, 4) n;
SELECT count(jobstate.upload_mark_processed(id)) FROM u WHERE n <= 3;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_notify_decision(49, 'sweep'), kind, delay, remaining FROM jobstate.upload_next_check(49, 'sweep');
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u WHERE n = 4;
SELECT jobstate.upload_notify_decision(49, 'sweep');
SELECT pg_temp.pass('sweep', '30 s');
SELECT * FROM pg_temp.rescue();
SELECT pg_temp.pass('sweep', '30 s');
SELECT * FROM pg_temp.rescue();

-- a commit without coverage is nobody's to postprocess, but its workers die too
TRUNCATE u;
INSERT INTO u SELECT 1, jobstate.upload_create(49, 'tests', 'test_results');
SELECT count(*) FROM jobstate.upload_take(49, 'tests', report_type => 'test_results');
SELECT pg_temp.pass('tests', '300 s');
SELECT * FROM pg_temp.rescue();
SELECT jobstate.upload_finish(id, true) FROM u;
SELECT pg_temp.pass('tests', '300 s');
SELECT * FROM pg_temp.rescue();
SELECT check_at FROM jobstate.upload_scope WHERE repo_id = 49 AND commit_sha = 'tests';

-- commits that were written without the functions are adopted, once
TRUNCATE u;
INSERT INTO jobstate.upload (repo_id, commit_sha, updated_at)
VALUES (49, 'foreign', clock_timestamp() - interval '1 hour');
INSERT INTO u SELECT 1, id FROM jobstate.upload WHERE repo_id = 49 AND commit_sha = 'foreign';
SELECT * FROM pg_temp.rescue();
SELECT jobstate.upload_adopt() > 0 AS adopted, jobstate.upload_adopt() AS again;
SELECT * FROM pg_temp.rescue();

-- commits whose uploads are all pruned are forgotten; the others are kept
SELECT jobstate.prune('jobstate.upload', interval '0 s', 'updated_at') > 0 AS pruned;
SELECT s.commit_sha, count(u) AS uploads
  FROM jobstate.upload_scope s LEFT JOIN jobstate.upload u USING (repo_id, commit_sha)
 WHERE repo_id = 49 GROUP BY s.commit_sha ORDER BY 1;
SELECT jobstate.upload_forget(1), jobstate.upload_forget() > 0 AS others;
SELECT commit_sha FROM jobstate.upload_scope WHERE repo_id = 49 ORDER BY 1;

DELETE FROM jobstate.upload WHERE repo_id = 49;
DELETE FROM jobstate.upload_scope WHERE repo_id = 49;
SELECT * FROM jobstate.verify('jobstate.upload');
