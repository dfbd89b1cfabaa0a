-- upload_report: completion, and whether to notify.
SELECT jobstate.install('uploads');
CREATE TEMP TABLE u (n integer, id bigint);

-- A.2.2 by the counts: s uploads merged, f in error, p uploaded; each rule in turn
CREATE FUNCTION pg_temp.commit_of(sha text, s integer, f integer, p integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
BEGIN
    SELECT array_agg(jobstate.upload_create(54, sha)) INTO ids FROM generate_series(1, s + f + p);
    PERFORM jobstate.upload_finish(ids[n], n <= s) FROM generate_series(1, s + f) n;
    PERFORM jobstate.upload_mark_merged(ids);
    RETURN sha;
END $$;
SELECT pg_temp.commit_of('good', 8, 0, 0), pg_temp.commit_of('mixed', 7, 1, 0), pg_temp.commit_of('bad', 0, 2, 0),
       pg_temp.commit_of('open', 3, 1, 1), pg_temp.commit_of('open_bad', 0, 1, 1);
SELECT sha, c.*,
       jobstate.upload_notify_decision(54, sha) AS plain,
       jobstate.upload_notify_decision(54, sha, notify_error => true) AS notify_error,
       jobstate.upload_notify_decision(54, sha, manual_trigger => true) AS manual
  FROM unnest(ARRAY['good', 'mixed', 'bad', 'open', 'open_bad', 'none']) sha,
       jobstate.upload_completion(54, sha) c;

-- after_n_builds: nine wanted, eight there; and ten
SELECT jobstate.upload_notify_decision(54, 'good', after_n_builds => 9) AS of_uploads,
       jobstate.upload_notify_decision(54, 'good', after_n_builds => 8) AS enough,
       jobstate.upload_notify_decision(54, 'good', after_n_builds => 9, sessions => 10) AS of_sessions,
       jobstate.upload_notify_decision(54, 'good', after_n_builds => 9, sessions => 8) AS of_too_few;
-- earlier rules win
SELECT jobstate.upload_notify_decision(54, 'mixed', after_n_builds => 9, notify_error => true) AS too_few,
       jobstate.upload_notify_decision(54, 'mixed', manual_trigger => true, notify_error => true) AS manual,
       jobstate.upload_notify_decision(54, 'good', ci_skip => true) AS skipped;

-- other reports do not hold it up
SELECT jobstate.upload_create(54, 'good', 'test_results') IS NOT NULL AS created,
       jobstate.upload_notify_decision(54, 'good'), jobstate.upload_completion(54, 'good');
-- A.3 open 11b: what is processed but not merged does
SELECT jobstate.upload_create(54, 'good') AS id \gset
SELECT jobstate.upload_finish(:id, true);
SELECT jobstate.upload_notify_decision(54, 'good'), jobstate.upload_completion(54, 'good');
SELECT jobstate.upload_mark_merged(ARRAY[:id]), jobstate.upload_notify_decision(54, 'good');
-- what was carried forward is in the report, but is no success of this commit
SELECT jobstate.upload_create(54, 'carried', upload_type => 'carriedforward') IS NOT NULL AS created;
SELECT pg_temp.commit_of('carried', 0, 1, 0);
SELECT jobstate.upload_notify_decision(54, 'carried'), jobstate.upload_completion(54, 'carried');

-- A.5/17 Idempotency of a finisher
INSERT INTO u SELECT n, jobstate.upload_create(54, 'done') FROM generate_series(1, 4) n;
SELECT jobstate.upload_finish(id, n <> 2) FROM u WHERE n < 3 ORDER BY n;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT jobstate.upload_already_completed(array_agg(id)) AS one_is_unfinished FROM u;
SELECT jobstate.upload_already_completed(array_agg(id)) AS another_is_unfinished FROM u WHERE n < 3;
SELECT jobstate.upload_clear_in_progress(array_agg(id)) FROM u WHERE n = 4;
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 3;
-- A.3 open 12: processed is not done
SELECT jobstate.upload_already_completed(array_agg(id)) AS one_is_processed FROM u;
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
CREATE TEMP TABLE before AS SELECT * FROM jobstate.upload WHERE repo_id = 54;
CREATE TEMP TABLE scopes AS SELECT * FROM jobstate.upload_scope WHERE repo_id = 54;
SELECT jobstate.upload_already_completed(array_agg(id)) AS all_are_settled FROM u;
-- A.3 open 9: duplicates are one
SELECT jobstate.upload_already_completed(array_agg(id) || array_agg(id)) AS twice FROM u;
SELECT jobstate.upload_already_completed(array_agg(id) || -1::bigint) AS one_is_missing FROM u;
SELECT jobstate.upload_already_completed('{}') AS none;
-- no side effect
TABLE before EXCEPT SELECT * FROM jobstate.upload;
TABLE scopes EXCEPT SELECT * FROM jobstate.upload_scope;

-- follow-ups, over a commit's life
TRUNCATE u;
INSERT INTO u SELECT n, jobstate.upload_create(54, 'life') FROM generate_series(1, 2) n;
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_finish(id, true) FROM u WHERE n = 1;
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_mark_processed(id) FROM u WHERE n = 2;
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_decide(54, 'life');
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_mark_merged(array_agg(id)) FROM u;
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_decide(54, 'life');
SELECT * FROM jobstate.upload_next_check(54, 'life');
SELECT jobstate.upload_postprocessed(54, 'life');
SELECT * FROM jobstate.upload_next_check(54, 'life');
-- the delays are data
SELECT kind, delay FROM jobstate.upload_follow_up ORDER BY delay;

DELETE FROM jobstate.upload WHERE repo_id = 54;
DELETE FROM jobstate.upload_scope WHERE repo_id = 54;
SELECT * FROM jobstate.verify('jobstate.upload');
