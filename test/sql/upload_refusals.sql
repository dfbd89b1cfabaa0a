-- upload_refusals: what the functions say when they refuse, and that NULL, nothing
-- and too little are never taken for something.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');
INSERT INTO jobstate.upload (id, repo_id, commit_sha)
VALUES (5000000001, 50, 'refusals'), (5000000002, 50, 'refusals');

-- leases: class JS
SELECT jobstate.upload_finish(5000000001, true, gen_random_uuid());      -- fails
SELECT jobstate.upload_finish(5000000009, true);                         -- fails
SELECT jobstate.upload_clear_in_progress('{5000000001}');
SELECT jobstate.upload_finish(5000000001, true);                         -- fails
SELECT jobstate.upload_mark_processed(5000000002);
SELECT jobstate.upload_retry(5000000002);                                -- fails

-- NULL is refused by name, with 22004
CREATE FUNCTION pg_temp.refusal(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'SELECT ' || call;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END $$;
SELECT call, pg_temp.refusal('jobstate.' || call)
  FROM unnest(ARRAY[
    'upload_create(NULL, ''a'')', 'upload_create(50, NULL)',
    'upload_create(50, ''a'', upload_type => NULL)', 'upload_create(50, ''a'', extras => NULL)',
    'upload_numbers(NULL, ''a'')', 'upload_numbers(50, NULL)',
    'upload_mark_processed(NULL)',
    'upload_take(NULL, ''a'')', 'upload_take(50, NULL)', 'upload_take(50, ''a'', NULL)',
    'upload_take(50, ''a'', lease => NULL)', 'upload_take(50, ''a'', report_type => NULL)',
    'upload_start(NULL)', 'upload_start(''{}'', NULL)',
    'upload_heartbeat(NULL, gen_random_uuid())', 'upload_heartbeat(''{}'', NULL)',
    'upload_take_for_merging(NULL, ''a'')', 'upload_take_for_merging(50, NULL)',
    'upload_take_for_merging(50, ''a'', NULL)', 'upload_take_for_merging(50, ''a'', lease => NULL)',
    'upload_mark_merged(NULL)', 'upload_apply_results(NULL)',
    'upload_mark_overwritten(NULL)', 'upload_mark_overwritten(''{}'', NULL)',
    'upload_clear_in_progress(NULL)',
    'upload_finish(NULL, true)', 'upload_finish(1, NULL)',
    'upload_decide(NULL, ''a'')', 'upload_decide(50, NULL)',
    'upload_next_check(NULL, ''a'')', 'upload_next_check(50, NULL)',
    'upload_retry(NULL)', 'upload_retry(1, NULL)',
    'upload_already_completed(NULL)',
    'upload_gate_acquire(NULL, ''a'')', 'upload_gate_acquire(50, NULL)',
    'upload_gate_acquire(50, ''a'', NULL)', 'upload_gate_acquire(50, ''a'', lease => NULL)',
    'upload_gate_refresh(NULL, ''a'')', 'upload_gate_refresh(50, NULL)', 'upload_gate_refresh(50, ''a'', NULL)',
    'upload_gate_release(NULL, ''a'')', 'upload_gate_release(50, NULL)', 'upload_gate_release(50, ''a'', NULL)',
    'upload_reprocess(NULL, ''a'')', 'upload_reprocess(50, NULL)',
    'upload_replace_carriedforward(NULL, ''a'', ''{}'')', 'upload_replace_carriedforward(50, NULL, ''{}'')',
    'upload_replace_carriedforward(50, ''a'', NULL)',
    'upload_completion(NULL, ''a'')', 'upload_completion(50, NULL)',
    'upload_notify_decision(NULL, ''a'')', 'upload_notify_decision(50, NULL)',
    'upload_notify_decision(50, ''a'', NULL)', 'upload_notify_decision(50, ''a'', after_n_builds => NULL)',
    'upload_notify_decision(50, ''a'', notify_error => NULL)',
    'upload_postprocessed(NULL, ''a'')', 'upload_postprocessed(50, NULL)',
    'upload_rescue(NULL)', 'upload_forget(NULL)', 'upload_grant(NULL)']) call;

-- not above zero: 22023
SELECT call, pg_temp.refusal('jobstate.' || call)
  FROM unnest(ARRAY[
    'upload_take(50, ''a'', 0)', 'upload_take(50, ''a'', lease => ''0 s'')',
    'upload_start(''{}'', ''-1 s'')', 'upload_heartbeat(''{}'', gen_random_uuid(), ''0 s'')',
    'upload_take_for_merging(50, ''a'', 0)', 'upload_take_for_merging(50, ''a'', -1)',
    'upload_take_for_merging(50, ''a'', lease => ''0 s'')',
    'upload_gate_acquire(50, ''a'', lease => ''0 s'')', 'upload_gate_refresh(50, ''a'', lease => ''0 s'')',
    'upload_rescue(0)', 'upload_forget(0)', 'upload_apply_results(''{}'')']) call;

-- nothing in, nothing done, and no trace of it
CREATE TEMP TABLE before AS SELECT * FROM jobstate.upload_scope WHERE repo_id = 50;
SELECT jobstate.upload_mark_merged('{}'), jobstate.upload_clear_in_progress('{}'),
       jobstate.upload_mark_overwritten('{}'), jobstate.upload_apply_results('[]'),
       jobstate.upload_already_completed('{}');
SELECT count(*) FROM jobstate.upload_start('{}');
SELECT jobstate.upload_heartbeat('{}', gen_random_uuid()) IS NOT NULL AS done;
TABLE before EXCEPT SELECT * FROM jobstate.upload_scope WHERE repo_id = 50;
-- ids that are not there, nor NULL, are nothing either
SELECT jobstate.upload_mark_merged('{-1, NULL}'), jobstate.upload_clear_in_progress('{-1, NULL}');

DELETE FROM jobstate.upload WHERE repo_id = 50;
DELETE FROM jobstate.upload_scope WHERE repo_id = 50;
SELECT * FROM jobstate.verify('jobstate.upload');
