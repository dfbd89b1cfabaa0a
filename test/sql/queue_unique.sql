-- queue_unique: at most one job of a unique key is in the states that the key covers;
-- whoever comes second is told of the first.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SELECT jobstate.install('queue');
SELECT id AS first FROM jobstate.enqueue('test', 'k', unique_key => 'a') \gset
SELECT id = :first AS same, duplicate FROM jobstate.enqueue('test', 'other', '{"x": 1}', unique_key => 'a');
-- per queue; without a key nothing is unique
SELECT duplicate FROM jobstate.enqueue('test 2', 'k', unique_key => 'a');
SELECT duplicate FROM jobstate.enqueue('test', 'k');
SELECT duplicate FROM jobstate.enqueue('test', 'k');
SELECT queue, kind, payload, unique_key FROM jobstate.job WHERE queue LIKE 'test%' ORDER BY queue, position;

-- while it runs; not when it has completed
SELECT token AS t FROM jobstate.claim('test', 'w') WHERE id = :first \gset
SELECT id = :first AS same, duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'a');
SELECT jobstate.complete(:first, :t);
SELECT id <> :first AS new, duplicate, id AS second FROM jobstate.enqueue('test', 'k', unique_key => 'a') \gset
\echo :new :duplicate
-- deferred, from the start or for a retry
SELECT duplicate, id AS later FROM jobstate.enqueue('test', 'k', run_at => clock_timestamp() + interval '1 h', unique_key => 'later') \gset
SELECT id = :later AS same, duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'later');
SELECT id = :later AS same, duplicate FROM jobstate.enqueue('test', 'k', run_at => clock_timestamp(), unique_key => 'later');
-- a job that is gone holds nothing
DELETE FROM jobstate.job WHERE id = :later;
SELECT id <> :later AS new, duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'later');

-- the job found by another position than its id: what was moved holds its key too
SELECT id AS moved FROM jobstate.enqueue('test moved', 'k', unique_key => 'm') \gset
SELECT token AS t FROM jobstate.claim('test moved', 'w') \gset
SELECT jobstate.fail(:moved, :t, 'once', '0 s');
SELECT jobstate.promote('test moved');
SELECT id = :moved AS same_id, position <> id AS moved, state_id FROM jobstate.job WHERE queue = 'test moved';
SELECT id = :moved AS same, duplicate FROM jobstate.enqueue('test moved', 'k', unique_key => 'm');

-- other states: only while nobody has begun; or even when it has completed
SELECT id AS waits FROM jobstate.enqueue('test states', 'k', unique_key => 'w', unique_states => '{available}') \gset
SELECT id = :waits AS same, duplicate FROM jobstate.enqueue('test states', 'k', unique_key => 'w', unique_states => '{available}');
SELECT count(*) FROM jobstate.claim('test states', 'w');
SELECT id <> :waits AS new, duplicate FROM jobstate.enqueue('test states', 'k', unique_key => 'w', unique_states => '{available}');
SELECT id AS ever FROM jobstate.enqueue('test ever', 'k', unique_key => 'e',
    unique_states => '{available,running,deferred,completed,failed,cancelled}') \gset
SELECT jobstate.complete(id, token) FROM jobstate.claim('test ever', 'w');
-- the holder's states count, not the newcomer's
SELECT id = :ever AS same, duplicate FROM jobstate.enqueue('test ever', 'k', unique_key => 'e', unique_states => '{available}');

-- batches: against others, and within
SELECT n, id = :second AS is_second, id = min(id) FILTER (WHERE n = 2) OVER () AS is_n2, duplicate
  FROM jobstate.enqueue_many('test', '{k,k,k,k,k}', '{"{}","{}","{}","{}","{}"}', unique_keys => '{a,b,b,NULL,c}')
       WITH ORDINALITY r (id, duplicate, n) ORDER BY n;
SELECT unique_key, count(*) FROM jobstate.job WHERE queue = 'test' AND state_id IN (1, 2, 3) GROUP BY 1 ORDER BY 1;
SELECT n, duplicate FROM jobstate.enqueue_many('test', '{k,k}', '{"{}","{}"}', unique_keys => '{b,c}')
       WITH ORDINALITY r (id, duplicate, n) ORDER BY n;
-- in one transaction
BEGIN;
SELECT id AS own FROM jobstate.enqueue('test', 'k', unique_key => 'own') \gset
SELECT id = :own AS same, duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'own');
SAVEPOINT s;
SELECT duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'own 2');
ROLLBACK TO s;
SELECT duplicate FROM jobstate.enqueue('test', 'k', unique_key => 'own 2');
COMMIT;

-- a job that comes back takes its key again, or does not come back
SELECT jobstate.queue_define('test back', '{"dead_letters": false}');
SELECT id AS back FROM jobstate.enqueue('test back', 'k', unique_key => 'x', max_attempts => 1) \gset
SELECT jobstate.fail(id, token, 'no') FROM jobstate.claim('test back', 'w');
SELECT id AS next FROM jobstate.enqueue('test back', 'k', unique_key => 'x') \gset
SELECT count(*) FROM jobstate.retry(ARRAY[:back]);
\set VERBOSITY sqlstate
SELECT jobstate.retry(:back);                                                    -- fails
\set VERBOSITY terse
SELECT jobstate.complete(id, token) FROM jobstate.claim('test back', 'w');
SELECT count(*) FROM jobstate.retry(ARRAY[:back]);
SELECT id = :back AS same, duplicate FROM jobstate.enqueue('test back', 'k', unique_key => 'x');

-- refusals
SELECT * FROM jobstate.enqueue('test', 'k', unique_key => 'a', unique_states => '{gone}');   -- fails
SELECT * FROM jobstate.enqueue('test', 'k', unique_key => 'a', unique_states => '{}');       -- fails
SELECT * FROM jobstate.enqueue_many('test', '{k,k}', '{"{}","{}"}', unique_keys => '{a}');   -- fails

DELETE FROM jobstate.job WHERE queue LIKE 'test%';
DELETE FROM jobstate.unique_job WHERE queue LIKE 'test%';
DELETE FROM jobstate.queue WHERE queue LIKE 'test%';
SELECT * FROM jobstate.verify('jobstate.job');
