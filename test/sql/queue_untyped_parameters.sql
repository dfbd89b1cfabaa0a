-- Parameters without types, as some drivers send them: each verb that has a form for one job and one
-- for many is told apart by the names of its arguments, or by the type of the first one.
SELECT jobstate.install('queue');

PREPARE which AS SELECT jobstate.complete($1, $2);                               -- fails

PREPARE one_beat AS SELECT cancel_requested FROM jobstate.heartbeat(id => $1, token => $2);
PREPARE many_beat AS SELECT count(*) FROM jobstate.heartbeat(ids => $1, tokens => $2, lease => $3);
PREPARE one_done AS SELECT jobstate.complete(id => $1, token => $2, result => $3);
PREPARE many_done AS SELECT count(*) FROM jobstate.complete(ids => $1, tokens => $2);
PREPARE one_failed AS SELECT jobstate.fail(id => $1, token => $2, error => $3);
PREPARE many_failed AS SELECT count(*) FROM jobstate.fail(ids => $1, tokens => $2, errors => $3);
PREPARE one_snoozed AS SELECT jobstate.snooze(id => $1, token => $2, delay => $3);
PREPARE many_snoozed AS SELECT count(*) FROM jobstate.snooze(ids => $1, tokens => $2, delays => $3);
PREPARE one_dropped AS SELECT jobstate.cancel(id => $1, token => $2);
PREPARE many_dropped AS SELECT count(*) FROM jobstate.cancel(ids => $1, tokens => $2);
PREPARE one_cancelled AS SELECT jobstate.cancel(id => $1);
PREPARE many_cancelled AS SELECT count(*) FROM jobstate.cancel(ids => $1);
PREPARE one_again AS SELECT jobstate.retry(id => $1) > 0 AS again;
PREPARE many_again AS SELECT count(*) FROM jobstate.retry(ids => $1);
PREPARE one_revived AS SELECT jobstate.dlq_retry(id => $1) > 0 AS revived;
PREPARE many_revived AS SELECT count(*) FROM jobstate.dlq_retry(ids => $1);
PREPARE one_cast AS SELECT jobstate.complete($1::bigint, $2, $3);
PREPARE many_cast AS SELECT count(*) FROM jobstate.complete($1::bigint[], $2);
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY name;

-- and there is no verb with two forms that would not be told apart
SELECT p.proname, array_agg(p.proargnames[1] ORDER BY p.oid) AS first_arguments
  FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace
   AND p.proname IN ('enqueue', 'enqueue_many', 'claim', 'heartbeat', 'complete', 'fail', 'snooze', 'cancel', 'cancel_unique',
                     'retry', 'dlq_move', 'dlq_retry', 'dlq_purge', 'set_priority', 'move_queue', 'next_due', 'job_status')
 GROUP BY p.proname HAVING count(*) <> count(DISTINCT (p.proargnames[1], p.pronargs));

-- they do what they say
SELECT count(*) FROM jobstate.enqueue_many('test', '{a,b}', '{"{}","{}"}');
SELECT id, token FROM jobstate.claim('test', 'worker') \gset
EXECUTE one_cast (:'id', :'token', '[1]');
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.claim('test', 'worker') \gset
EXECUTE many_done (:'ids', :'tokens');
SELECT kind, jobstate.queue_state_name(state_id) AS state, result FROM jobstate.job WHERE queue = 'test' ORDER BY kind;

DEALLOCATE ALL;
DELETE FROM jobstate.job WHERE queue = 'test';
DELETE FROM jobstate.queue WHERE queue = 'test';
