-- queue_claim: each job to one worker, in the order of its lane; priorities, aging,
-- pauses and limits.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT count(*) FROM jobstate.enqueue_many('test', ARRAY(SELECT 'k' || n FROM generate_series(1, 5) n),
                                           array_fill('{"x": 1}'::jsonb, ARRAY[5]));
-- in order; what is claimed is another's; nothing is nothing
CREATE TEMP TABLE c AS SELECT * FROM jobstate.claim('test', 'worker 1', 2, '5 min') WITH ORDINALITY;
SELECT kind, payload, priority, attempt, token > 0 AS token, lease_until - clock_timestamp() > '4 min 59 s' AS lease,
       enqueued_at <= clock_timestamp() AS enqueued FROM c ORDER BY ordinality;
SELECT count(DISTINCT token) AS tokens FROM c;
SELECT kind, attempt, worker, jobstate.queue_state_name(state_id) AS state, j.token = c.token AS token,
       j.lease_until = c.lease_until AS lease, claimed_at <= clock_timestamp() AS claimed
  FROM jobstate.job j LEFT JOIN c USING (id, kind, attempt) WHERE queue = 'test' ORDER BY position;
SELECT kind, token NOT IN (SELECT token FROM c) AS other_token,
       lease_until - clock_timestamp() BETWEEN '89 s' AND '90 s' AS queues_lease
  FROM jobstate.claim('test', 'worker 2', 10);
SELECT count(*) FROM jobstate.claim('test', 'worker 2');
SELECT count(*) FROM jobstate.claim('test nobody knows', 'worker');

-- what is deferred is not claimed until it is due; then whoever finds too little
-- promotes it
SELECT duplicate FROM jobstate.enqueue('test', 'later', run_at => clock_timestamp() + interval '1 h');
SELECT count(*) FROM jobstate.claim('test', 'worker');
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE kind = 'later';
SELECT kind, attempt FROM jobstate.claim('test', 'worker');

-- rolled back, it is there again for the next one, as the same attempt
SELECT duplicate FROM jobstate.enqueue('test', 'again');
BEGIN;
SELECT kind, attempt FROM jobstate.claim('test', 'worker');
ROLLBACK;
SELECT kind, attempt FROM jobstate.claim('test', 'worker');

-- priorities; a head that has waited for the queue's aging counts one more
SELECT count(*) FROM jobstate.enqueue_many('test prio', '{low,normal,high,usual}', '{"{}","{}","{}","{}"}', '{4,3,1,2}');
SELECT kind, priority FROM jobstate.claim('test prio', 'worker', 3);
SELECT count(*) FROM jobstate.enqueue_many('test prio', '{h1,h2}', '{"{}","{}"}', '{1,1}');
UPDATE jobstate.job SET run_at = run_at - interval '4 min' WHERE kind = 'low' AND queue = 'test prio';
SELECT kind, priority FROM jobstate.claim('test prio', 'worker', 1);
SELECT kind, priority FROM jobstate.claim('test prio', 'worker', 5);

-- every shard is served, each in its order
SELECT jobstate.queue_define('test shards', '{"shards": 3}');
SELECT count(*) FROM jobstate.enqueue_many('test shards', array_fill('k'::text, ARRAY[30]), array_fill('{}'::jsonb, ARRAY[30]));
CREATE TEMP TABLE s (n serial, id bigint);
DO $$ BEGIN FOR i IN 1 .. 10 LOOP INSERT INTO s (id) SELECT id FROM jobstate.claim('test shards', 'worker', 4); END LOOP; END $$;
SELECT count(*), count(DISTINCT id) AS jobs FROM s;
SELECT count(*) AS out_of_order FROM (SELECT id < lag(id) OVER (PARTITION BY id >> 48 ORDER BY n) AS bad FROM s) o WHERE bad;

-- a paused queue gives nothing, and takes what comes
SELECT jobstate.pause('test pause');
SELECT duplicate FROM jobstate.enqueue('test pause', 'k');
SELECT count(*) FROM jobstate.claim('test pause', 'worker');
SELECT jobstate.resume('test pause');
SELECT count(*) FROM jobstate.claim('test pause', 'worker');

-- limits: at most so many run, of the queue, and of one key
SELECT jobstate.queue_define('test limit', '{"max_running": 3, "dead_letters": false}');
SELECT count(*) FROM jobstate.enqueue_many('test limit', '{1,2,3,4,5,6}', array_fill('{}'::jsonb, ARRAY[6]));
CREATE TEMP TABLE l AS SELECT * FROM jobstate.claim('test limit', 'worker', 2);
INSERT INTO l SELECT * FROM jobstate.claim('test limit', 'worker', 2);
INSERT INTO l SELECT * FROM jobstate.claim('test limit', 'worker', 2);
SELECT kind FROM l ORDER BY id;
-- each way out makes room: completed, failed, snoozed
SELECT jobstate.complete(id, token) FROM l WHERE kind = '1';
SELECT kind FROM jobstate.claim('test limit', 'worker', 5);
SELECT jobstate.fail(id, token, 'no', retryable => false) FROM l WHERE kind = '2';
SELECT jobstate.snooze(id, token, '1 h') FROM l WHERE kind = '3';
SELECT kind FROM jobstate.claim('test limit', 'worker', 5);
SELECT count(*) FROM jobstate.claim('test limit', 'worker', 5);
SELECT jobstate.queue_define('test key', '{"max_running_per_key": 2}');
SELECT count(*) FROM jobstate.enqueue_many('test key', '{a1,a2,a3,b1,n1,n2,n3,b2,b3}', array_fill('{}'::jsonb, ARRAY[9]),
                                           limit_keys => '{a,a,a,b,NULL,NULL,NULL,b,b}');
SELECT kind FROM jobstate.claim('test key', 'worker', 4);
SELECT kind FROM jobstate.claim('test key', 'worker', 10);
SELECT jobstate.complete(id, token) FROM jobstate.job WHERE queue = 'test key' AND kind = 'b1';
SELECT kind FROM jobstate.claim('test key', 'worker', 10);
SELECT jobstate.queue_define('test key', '{"max_running": 8}');
SELECT jobstate.complete(id, token) FROM jobstate.job WHERE queue = 'test key' AND kind = 'a1';
SELECT kind FROM jobstate.claim('test key', 'worker', 10);

-- the limit of a key holds where a page lacks room for what is claimed, and is pruned in the middle of it
SELECT jobstate.queue_define('test full', '{"max_running_per_key": 2}');
SELECT count(*) FROM jobstate.enqueue_many('test full', array_fill('k'::text, ARRAY[200]),
    ARRAY(SELECT to_jsonb(repeat('x', n % 7 * 20)) FROM generate_series(1, 200) n),
    limit_keys => ARRAY(SELECT repeat(chr(97 + n % 5), 1 + n % 5 * 9) FROM generate_series(1, 200) n));
UPDATE jobstate.job SET payload = to_jsonb(repeat('y', 150) || repeat(md5('z'), 1 + (position % 3)::int)) WHERE queue = 'test full';
CREATE TEMP TABLE f AS SELECT * FROM jobstate.claim('test full', 'worker', 100);
SELECT left(limit_key, 1) AS key, count(*) FROM jobstate.job WHERE queue = 'test full' AND state_id = 2 GROUP BY 1 ORDER BY 1;

-- refusals
SELECT * FROM jobstate.claim(NULL, 'worker');                                    -- fails
SELECT * FROM jobstate.claim('test', NULL);                                      -- fails
SELECT * FROM jobstate.claim('test', 'worker', NULL);                            -- fails
SELECT * FROM jobstate.claim('test', 'worker', 0);                               -- fails
SELECT * FROM jobstate.claim('test', 'worker', 1, '0 s');                        -- fails

DELETE FROM jobstate.job WHERE queue LIKE 'test%';
DELETE FROM jobstate.queue WHERE queue LIKE 'test%';
SELECT * FROM jobstate.verify('jobstate.job');
