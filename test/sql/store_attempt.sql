-- store_attempt: what is over stays so, until a new attempt begins; who is late is refused.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
-- the edges: what is not over may go anywhere
SELECT from_state, string_agg(to_state, ' ' ORDER BY to_state) FROM jobstate.transitions WHERE machine = 'store' GROUP BY 1 ORDER BY 1;

-- B.3 bug 1: nobody takes a job back, neither by the functions nor by hand
SELECT jobstate.store_create('a1', '{"status": "queued", "error": null, "progress": null}') IS NOT NULL;
SELECT attempt, token AS first, record FROM jobstate.store_begin('a1') \gset
SELECT :'attempt', :'record';
SELECT jobstate.store_update('a1', '{"status": "transcribing", "progress": {"stage": "t", "percent_complete": 50}}', :'first') -> 'progress';
-- B.3 bug 4: progress does not go back; what comes late is left out, the rest is written
SELECT jobstate.store_update('a1', '{"progress": {"stage": "p", "percent_complete": 10}, "quality": {"snr": 3}}', :'first');
SELECT jobstate.store_update('a1', '{"progress": {"stage": "without"}}', :'first') -> 'progress';
SELECT jobstate.store_update('a1', '{"progress": {"stage": "late", "percent_complete": 49.5}}', :'first') -> 'progress';
SELECT jobstate.store_put('a1', 'progress', 'percent_complete', '49', :'first') -> 'progress';
SELECT jobstate.store_update('a1', '{"progress": {"stage": "u", "percent_complete": 50}}', :'first') -> 'progress';
-- completed, in one write
SELECT jobstate.store_complete('a1', '{"text": "hi"}', '{"transcript.txt": "hi"}', '{"artifacts_error": "srt"}', :'first') - 'completed_at';
SELECT completed_at BETWEEN clock_timestamp() - interval '10 s' AND clock_timestamp() FROM jobstate.store_status('a1');
-- once more by the same attempt: the record as it is
SELECT jobstate.store_complete('a1', '{"text": "other"}', token => :'first') -> 'result';
SELECT jobstate.store_complete('a1', '{"text": "other"}');                       -- fails
SELECT jobstate.store_fail('a1', 'boom', token => :'first');                     -- fails
SELECT jobstate.store_update('a1', '{"status": "preprocessing"}');               -- fails
SELECT jobstate.store_update('a1', '{"status": "failed", "error": "x"}');        -- fails
SELECT jobstate.store_cas('a1', 'status', '"completed"', '"queued"');            -- fails
UPDATE jobstate.store SET state_id = 3 WHERE id = 'a1';                          -- fails
SELECT jobstate.store_enqueue_failed('a1') ->> 'status';
-- what does not touch the status may still be added
SELECT jobstate.store_update('a1', '{"quality": {"snr": 4}, "status": "completed"}') -> 'quality';

-- a new attempt, if it is wanted: fresh token, nothing left of the one before
SELECT jobstate.store_begin('a1', restart => false);                             -- fails
SELECT jobstate.store_get('a1') ->> 'status';
SELECT attempt, token AS second, record FROM jobstate.store_begin('a1') \gset
SELECT :'attempt', :'first' <> :'second' AS fresh, :'record';
SELECT percent FROM jobstate.store WHERE id = 'a1';
-- the one before is refused, whatever it tries
SELECT jobstate.store_update('a1', '{"progress": {"percent_complete": 60}}', :'first');   -- fails
SELECT jobstate.store_update('a1', '{}', :'first');                              -- fails
SELECT jobstate.store_put('a1', 'o', 'k', '1', :'first');                        -- fails
SELECT jobstate.store_incr('a1', 'n', 1, :'first');                              -- fails
SELECT jobstate.store_append('a1', 'l', '1', :'first');                          -- fails
SELECT jobstate.store_cas('a1', 'error', NULL, '"x"', :'first');                 -- fails
SELECT jobstate.store_clear('a1', '{error}', :'first');                          -- fails
SELECT jobstate.store_complete('a1', '{}', token => :'first');                   -- fails
SELECT jobstate.store_fail('a1', 'x', token => :'first');                        -- fails
SELECT jobstate.store_update('a1', '{"n": 1}', :'first', upsert => true);        -- fails
-- progress begins anew
SELECT jobstate.store_update('a1', '{"progress": {"percent_complete": 5}}', :'second') -> 'progress';
-- an error, and another attempt after it
SELECT jobstate.store_fail('a1', 'Unexpected error: boom', '{"progress": {"stage": "failed"}}', :'second') - 'completed_at';
SELECT completed_at IS NOT NULL, error FROM jobstate.store_status('a1');
SELECT attempt, record FROM jobstate.store_begin('a1', 'transcribing', false);
-- in place, without an end between: the same
SELECT attempt, record ->> 'status' FROM jobstate.store_begin('a1');
-- created anew, it knows no attempts, and theirs is over
SELECT token AS third FROM jobstate.store_begin('a1') \gset
SELECT jobstate.store_create('a1', '{}') IS NOT NULL;
SELECT jobstate.store_update('a1', '{"n": 1}', :'third');                        -- fails

-- B.5 scenario 16: the queue did not take it
SELECT jobstate.store_create('a2', '{"status": "queued", "error": null, "completed_at": null}') IS NOT NULL;
SELECT jobstate.store_enqueue_failed('a2');
-- and if it did take it after all, the worker's word counts
SELECT jobstate.store_create('a3', '{"status": "queued"}') IS NOT NULL;
SELECT attempt FROM jobstate.store_begin('a3');
SELECT jobstate.store_enqueue_failed('a3');
-- with a queue in the same database there is no such case: both or none
SELECT jobstate.install('queue');
BEGIN;
SELECT jobstate.store_create('a4', '{"status": "queued"}') IS NOT NULL;
SELECT count(*) FROM jobstate.enqueue('store', NULL);                            -- fails
ROLLBACK;
SELECT jobstate.store_get('a4') IS NULL AS none;
BEGIN;
SELECT jobstate.store_create('a4', '{"status": "queued"}') IS NOT NULL;
SELECT count(*) FROM jobstate.enqueue('regress_store', 'transcribe', '{"id": "a4"}');
COMMIT;
SELECT jobstate.store_get('a4'), payload FROM jobstate.jobs WHERE queue = 'regress_store';
DELETE FROM jobstate.job WHERE queue = 'regress_store';
DELETE FROM jobstate.queue WHERE queue = 'regress_store';

-- B.5 scenario 19: results and artifacts
SELECT jobstate.store_create('a5', '{"status": "transcribing", "result": null}') IS NOT NULL;
SELECT jobstate.store_results('a5');                                             -- fails
SELECT jobstate.store_artifact('a5', 'transcript.txt');                          -- fails
SELECT jobstate.store_results('nope');                                           -- fails
SELECT jobstate.store_complete('a5', NULL, '{"transcript.txt": "hi"}') ->> 'status';
SELECT jobstate.store_results('a5');                                             -- fails
SELECT jobstate.store_artifact('a5', 'transcript.txt');
SELECT jobstate.store_artifact('a5', 'transcript.doc');                          -- fails
SELECT jobstate.store_artifact('a5', 'transcript.srt');                          -- fails
SELECT * FROM jobstate.verify('jobstate.store');
DELETE FROM jobstate.store;
