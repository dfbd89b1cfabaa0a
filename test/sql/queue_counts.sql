-- queue_counts: after every verb, alone and mixed with others, what is counted is
-- what is there; and what is there and was pruned is what ever ended, less what was
-- taken back on purpose.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_counts', '{"dead_letters": false}');
SELECT jobstate.queue_define('regress_counts_dead', '{"dead_letters": true}');

CREATE FUNCTION pg_temp.sound() RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM jobstate.verify('jobstate.job')) THEN 'counters have drifted'
        WHEN EXISTS ((SELECT queue, priority, state, count(*) FROM jobstate.jobs GROUP BY 1, 2, 3
                      EXCEPT SELECT * FROM jobstate.queue_counts())
                     UNION ALL
                     (SELECT * FROM jobstate.queue_counts()
                      EXCEPT SELECT queue, priority, state, count(*) FROM jobstate.jobs GROUP BY 1, 2, 3))
            THEN 'queue_counts() tells something else'
        ELSE 'sound' END
$$;
CREATE FUNCTION pg_temp.ended() RETURNS numeric LANGUAGE sql AS $$
    SELECT coalesce(sum(t.total), 0) FROM jobstate.queue_totals() t
     WHERE t.queue ~ '^regress_counts' AND t.state IN ('completed', 'failed', 'cancelled')
$$;
-- Looks before, at what the last step has committed, and after, at the own work.
CREATE FUNCTION pg_temp.step(verb text, call text) RETURNS TABLE (did text, answer text, ended numeric, seen text)
LANGUAGE plpgsql AS $$
DECLARE
    was numeric := pg_temp.ended();
BEGIN
    did := verb;
    seen := pg_temp.sound();
    EXECUTE 'SELECT string_agg(c::text, '' '') FROM (' || call || ') c' INTO answer;
    ended := pg_temp.ended() - was;
    seen := concat_ws(', ', nullif(seen, 'sound'), pg_temp.sound());
    RETURN NEXT;
END $$;
CREATE FUNCTION pg_temp.ids(VARIADIC kinds text[]) RETURNS bigint[] LANGUAGE sql AS $$
    SELECT array_agg(id ORDER BY id) FROM jobstate.jobs WHERE queue ~ '^regress_counts' AND kind = ANY (kinds)
$$;
CREATE FUNCTION pg_temp.token(k text) RETURNS bigint LANGUAGE sql AS $$
    SELECT token FROM jobstate.job WHERE queue ~ '^regress_counts' AND kind = k
$$;

-- in: nothing ends
SELECT * FROM pg_temp.step('enqueue', $$SELECT duplicate FROM jobstate.enqueue('regress_counts', 'a')$$);
SELECT * FROM pg_temp.step('enqueue, due later',
    $$SELECT duplicate FROM jobstate.enqueue('regress_counts', 'later', run_at => now() + '1 day')$$);
SELECT * FROM pg_temp.step('enqueue, unique',
    $$SELECT duplicate FROM jobstate.enqueue('regress_counts', 'u', unique_key => 'k')$$);
SELECT * FROM pg_temp.step('enqueue, again',
    $$SELECT duplicate FROM jobstate.enqueue('regress_counts', 'u', unique_key => 'k')$$);
SELECT * FROM pg_temp.step('enqueue_many',
    $$SELECT count(*) FROM jobstate.enqueue_many('regress_counts', ARRAY['b','c','d','e','f','g','h','i'],
                                                 array_fill('{}'::jsonb, '{8}'))$$);
-- running
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts', 'w', 2)$$);
SELECT * FROM pg_temp.step('heartbeat',
    $$SELECT count(*) FROM jobstate.heartbeat(pg_temp.ids('a'), ARRAY[pg_temp.token('a')])$$);
SELECT * FROM pg_temp.step('complete', $$SELECT jobstate.complete((pg_temp.ids('a'))[1], pg_temp.token('a'))$$);
SELECT * FROM pg_temp.step('complete, again', $$SELECT jobstate.complete((pg_temp.ids('a'))[1], pg_temp.token('a'))$$);
SELECT * FROM pg_temp.step('complete, stale',
    $$SELECT count(*) FROM jobstate.complete(pg_temp.ids('u'), ARRAY[1::bigint])$$);
SELECT * FROM pg_temp.step('complete, batch',
    $$SELECT count(*) FROM jobstate.complete(pg_temp.ids('u'), ARRAY[pg_temp.token('u')])$$);
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts', 'w', 3)$$);
SELECT * FROM pg_temp.step('fail, retryable',
    $$SELECT jobstate.fail((pg_temp.ids('b'))[1], pg_temp.token('b'), 'later')$$);
SELECT * FROM pg_temp.step('fail, for good',
    $$SELECT jobstate.fail((pg_temp.ids('c'))[1], pg_temp.token('c'), 'never', retryable => false)$$);
SELECT * FROM pg_temp.step('snooze', $$SELECT jobstate.snooze((pg_temp.ids('d'))[1], pg_temp.token('d'), '1 day') IS NOT NULL$$);
-- cancel
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts', 'w', 1)$$);
SELECT * FROM pg_temp.step('cancel, running', $$SELECT outcome FROM jobstate.cancel(pg_temp.ids('e'))$$);
SELECT * FROM pg_temp.step('cancel, by worker', $$SELECT jobstate.cancel((pg_temp.ids('e'))[1], pg_temp.token('e'))$$);
SELECT * FROM pg_temp.step('cancel, available', $$SELECT outcome FROM jobstate.cancel(pg_temp.ids('f'))$$);
SELECT * FROM pg_temp.step('cancel, deferred', $$SELECT outcome FROM jobstate.cancel(pg_temp.ids('later', 'd'))$$);
SELECT * FROM pg_temp.step('cancel, again', $$SELECT outcome FROM jobstate.cancel(pg_temp.ids('e', 'f', 'later'))$$);
-- back, and elsewhere
SELECT * FROM pg_temp.step('retry', $$SELECT count(*) FROM jobstate.retry(pg_temp.ids('c', 'f', 'later', 'a', 'g'))$$);
SELECT * FROM pg_temp.step('set_priority', $$SELECT count(*) FROM jobstate.set_priority(pg_temp.ids('b', 'c', 'f', 'a'), 1)$$);
SELECT * FROM pg_temp.step('move_queue', $$SELECT count(*) FROM jobstate.move_queue(pg_temp.ids('b', 'c', 'f', 'a'), 'regress_counts_dead')$$);
-- dead letters
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts', 'w', 3)$$);
SELECT * FROM pg_temp.step('fail, batch', $$SELECT f.outcome FROM jobstate.fail(pg_temp.ids('g', 'h', 'i'),
    ARRAY[pg_temp.token('g'), pg_temp.token('h'), pg_temp.token('i')], '{x,x,x}', retryables => '{f,f,f}') f$$);
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts_dead', 'w', 1)$$);
SELECT * FROM pg_temp.step('fail, dead', $$SELECT jobstate.fail((pg_temp.ids('c'))[1], pg_temp.token('c'), 'x', retryable => false)$$);
SELECT * FROM pg_temp.step('dlq_move', $$SELECT count(*) FROM jobstate.dlq_move(pg_temp.ids('g', 'a'))$$);
SELECT * FROM pg_temp.step('dlq_move_all', $$SELECT jobstate.dlq_move_all('regress_counts', 'h')$$);
SELECT * FROM pg_temp.step('dlq_retry', $$SELECT count(*) FROM jobstate.dlq_retry(
    ARRAY(SELECT id FROM jobstate.dead_letter WHERE queue = 'regress_counts' AND kind = 'g'))$$);
SELECT * FROM pg_temp.step('dlq_purge', $$SELECT count(*) FROM jobstate.dlq_purge(
    ARRAY(SELECT id FROM jobstate.dead_letter WHERE queue = 'regress_counts' AND kind = 'h'))$$);
SELECT * FROM pg_temp.step('discard', $$SELECT * FROM jobstate.discard('regress_counts', 'i')$$);
SELECT * FROM pg_temp.step('dlq_purge_all', $$SELECT jobstate.dlq_purge_all('regress_counts_dead')$$);
-- maintenance
UPDATE jobstate.job SET run_at = now() WHERE queue = 'regress_counts_dead' AND kind = 'b';
SELECT * FROM pg_temp.step('promote', $$SELECT jobstate.promote('regress_counts_dead')$$);
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts', 'w', 1)$$);
SELECT * FROM pg_temp.step('claim', $$SELECT kind FROM jobstate.claim('regress_counts_dead', 'w', 3)$$);
UPDATE jobstate.job SET lease_until = '2000-01-01', claimed_at = '2000-01-01', cancel_requested = kind = 'f', max_attempts = CASE kind WHEN 'b' THEN attempt ELSE 25 END
 WHERE queue ~ '^regress_counts' AND state_id = 2;
SELECT * FROM pg_temp.step('rescue', $$SELECT outcome, count(*) FROM jobstate.rescue() GROUP BY 1 ORDER BY 1$$);
SELECT * FROM pg_temp.step('maintain', $$SELECT NULL FROM generate_series(0, 9) step WHERE jobstate.maintain_queue(step) IS NULL$$);
-- pruned: the sum stays
SELECT * FROM pg_temp.step('prune', $$SELECT sum(jobstate.prune(inhrelid, '0 s', 'finished_at'))
    FROM pg_inherits WHERE inhparent = 'jobstate.job'::regclass$$);
SELECT state, sum(live) AS live, sum(rolled_up) AS rolled_up FROM jobstate.queue_totals()
 WHERE queue ~ '^regress_counts' GROUP BY 1 ORDER BY 1;

-- all mixed, in one transaction, with a part of it taken back
BEGIN;
SELECT * FROM pg_temp.step('enqueue_many',
    $$SELECT count(*) FROM jobstate.enqueue_many('regress_counts', array_fill('m'::text, '{20}'), array_fill('{}'::jsonb, '{20}'))$$);
SELECT * FROM pg_temp.step('claim', $$SELECT count(*) FROM jobstate.claim('regress_counts', 'w', 12)$$);
SAVEPOINT s;
SELECT * FROM pg_temp.step('complete', $$SELECT count(*) FROM jobstate.job j, jobstate.complete(j.id, j.token) c WHERE j.state_id = 2 AND j.queue = 'regress_counts'$$);
ROLLBACK TO s;
SELECT * FROM pg_temp.step('cancel_all', $$SELECT * FROM jobstate.cancel_all('regress_counts')$$);
SELECT * FROM pg_temp.step('retry', $$SELECT count(*) FROM jobstate.retry(pg_temp.ids('m'))$$);
SELECT * FROM pg_temp.step('set_priority', $$SELECT count(*) FROM jobstate.set_priority(pg_temp.ids('m'), 4)$$);
COMMIT;
-- by hand
SELECT * FROM pg_temp.step('nothing', 'SELECT true');
UPDATE jobstate.job SET priority = 3 WHERE queue = 'regress_counts' AND state_id = 1;
SELECT * FROM pg_temp.step('nothing', 'SELECT true');
SELECT pg_temp.ended() AS ended \gset
DELETE FROM jobstate.job WHERE queue = 'regress_counts' AND state_id IN (2, 6);
SELECT pg_temp.sound(), pg_temp.ended() - :ended AS ended;
SELECT * FROM jobstate.queue_counts('regress_counts');
SELECT * FROM jobstate.queue_counts('regress_counts_none');

DELETE FROM jobstate.job WHERE queue ~ '^regress_counts';
DELETE FROM jobstate.dead_letter WHERE queue ~ '^regress_counts';
DELETE FROM jobstate.unique_job WHERE queue ~ '^regress_counts';
SELECT pg_temp.sound();
