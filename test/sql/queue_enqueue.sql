-- queue_enqueue: jobs come in one by one and in batches, with what their queue says
-- where nothing else is said; a queue and its lanes come to be with their first job.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
-- every job of the test's queues, by what does not depend on the sequence
CREATE TEMP VIEW jobs AS
SELECT j.queue, row_number() OVER (PARTITION BY j.queue ORDER BY j.position & 281474976710655) AS n,
       l.shard, j.kind, j.payload, j.priority AS pri, jobstate.queue_state_name(j.state_id) AS state,
       CASE WHEN j.slot = jobstate.queue_slot(j.position) THEN 'ring' ELSE j.slot::text END AS slot,
       j.max_attempts AS max, j.timeout, j.limit_key AS lim, j.id = j.position AS in_place,
       l.queue = j.queue AND l.priority = j.priority AS in_lane
  FROM jobstate.job j JOIN jobstate.queue_lane l ON l.lane = j.position >> 48
 WHERE j.queue LIKE 'test%';

-- the queue and its lane are made by the first job
SELECT id AS first, duplicate FROM jobstate.enqueue('test', 'mail') \gset
SELECT id = :first AS told, :'duplicate' AS duplicate FROM jobstate.job WHERE queue = 'test';
SELECT queue, paused_at, shards, lease, max_attempts, backoff, aging, max_running, max_running_per_key, dead_letters, notify
  FROM jobstate.queue WHERE queue = 'test';
SELECT duplicate FROM jobstate.enqueue('test', 'mail', '{"to": "a"}', 1, max_attempts => 3,
                                       limit_key => 'a', timeout => '5 min');
-- due later, and due since some time
SELECT duplicate FROM jobstate.enqueue('test', 'later', run_at => clock_timestamp() + interval '1 h');
SELECT duplicate FROM jobstate.enqueue('test', 'late', run_at => clock_timestamp() - interval '1 h');
SELECT * FROM jobs ORDER BY queue, n;
SELECT kind, run_at > enqueued_at + interval '59 min' AS later, run_at < enqueued_at - interval '59 min' AS late
  FROM jobstate.job WHERE queue = 'test' ORDER BY position & 281474976710655;
SELECT priority, count(*) FROM jobstate.queue_lane WHERE queue = 'test' GROUP BY 1 ORDER BY 1;

-- batches: ids in the order given, one lane's positions in that order too
SELECT count(*), count(*) FILTER (WHERE duplicate) AS duplicates
  FROM jobstate.enqueue_many('test many', '{a,b,c}', '{"{\"i\": 1}", "{\"i\": 2}", "{}"}');
CREATE TEMP TABLE made AS
SELECT * FROM jobstate.enqueue_many('test many', '{d,e,f,g}', '{"{}", "{}", "{}", "{}"}', '{4,NULL,2,1}',
         ARRAY[NULL, NULL, clock_timestamp() + interval '1 h', NULL], limit_keys => '{x,NULL,y,NULL}',
         max_attempts => 2, timeout => '1 s') WITH ORDINALITY r (id, duplicate, n);
SELECT m.n, j.kind, m.duplicate FROM made m JOIN jobstate.job j USING (id) ORDER BY m.n;
SELECT * FROM jobs WHERE queue = 'test many' ORDER BY n;
-- nothing is nothing
SELECT * FROM jobstate.enqueue_many('test none', '{}', '{}');
SELECT count(*) FROM jobstate.queue WHERE queue = 'test none';

-- shards: one key's jobs are in one shard, the others take turns
SELECT jobstate.queue_define('test shards', '{"shards": 4}');
SELECT count(*) FROM jobstate.enqueue_many('test shards', array_fill('k'::text, ARRAY[40]), array_fill('{}'::jsonb, ARRAY[40]),
                                           shard_keys => array_fill('same'::text, ARRAY[40]));
SELECT count(*) FROM generate_series(1, 10), LATERAL jobstate.enqueue('test shards', 'k', shard_key => 'same');
SELECT count(DISTINCT shard) FROM jobs WHERE queue = 'test shards';
SELECT count(*) FROM jobstate.enqueue_many('test shards', array_fill('t'::text, ARRAY[40]), array_fill('{}'::jsonb, ARRAY[40]));
SELECT shard, count(*) FROM jobs WHERE queue = 'test shards' AND kind = 't' GROUP BY 1 ORDER BY 1;
-- with fewer shards the old lanes stay for what is in them
SELECT jobstate.queue_define('test shards', '{"shards": 1}');
SELECT duplicate FROM jobstate.enqueue('test shards', 'one', shard_key => 'other');
SELECT shard FROM jobs WHERE queue = 'test shards' AND kind = 'one';

-- a job that is rolled back was never there
BEGIN;
SELECT duplicate FROM jobstate.enqueue('test rolled back', 'k');
ROLLBACK;
SELECT count(*) FROM jobstate.queue WHERE queue = 'test rolled back';

-- the time until there is something to claim
SELECT jobstate.next_due('test'), jobstate.next_due('test none');
SELECT jobstate.pause('test'), jobstate.pause('test'), jobstate.next_due('test');
SELECT jobstate.resume('test'), jobstate.resume('test');
SELECT duplicate FROM jobstate.enqueue('test later', 'k', run_at => clock_timestamp() + interval '1 h');
SELECT jobstate.next_due('test later') BETWEEN interval '59 min' AND interval '1 h' AS in_an_hour;
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE queue = 'test later';
SELECT jobstate.next_due('test later') <= interval '0' AS due;

-- settings
SELECT jobstate.queue_define('test', '{"max_attempts": 5, "lease": "5 min", "backoff": "2 s", "dead_letters": false}');
SELECT jobstate.queue_define('test', '{"max_running": 10, "max_running_per_key": 1}');
SELECT jobstate.queue_define('test', '{"max_running": null}');
SELECT max_attempts, lease, backoff, dead_letters, max_running, max_running_per_key FROM jobstate.queue WHERE queue = 'test';
SELECT jobstate.queue_define('test', '{"color": "red"}');                        -- fails
SELECT jobstate.queue_define('test', '{"shards": 65}');                          -- fails
SELECT jobstate.queue_define('test', '{"shards": "many"}');                      -- fails
SELECT jobstate.queue_define('test', '{"lease": null}');                         -- fails
SELECT jobstate.queue_define('test', '{"lease": "0 s"}');                        -- fails
SELECT jobstate.queue_define('test', NULL);                                      -- fails
SELECT jobstate.queue_define('', '{}');                                          -- fails
SELECT jobstate.queue_define(NULL);                                              -- fails

-- refusals
SELECT * FROM jobstate.enqueue(NULL, 'k');                                       -- fails
SELECT * FROM jobstate.enqueue('', 'k');                                         -- fails
SELECT * FROM jobstate.enqueue('test', NULL);                                    -- fails
SELECT * FROM jobstate.enqueue('test', 'k', NULL);                               -- fails
SELECT * FROM jobstate.enqueue('test', 'k', priority => 0);                      -- fails
SELECT * FROM jobstate.enqueue('test', 'k', priority => NULL);                   -- fails
SELECT * FROM jobstate.enqueue('test', 'k', max_attempts => 0);                  -- fails
SELECT * FROM jobstate.enqueue('test', 'k', max_attempts => 40000);              -- fails
SELECT * FROM jobstate.enqueue('test', 'k', timeout => '0 s');                   -- fails
SELECT * FROM jobstate.enqueue_many(NULL, '{k}', '{"{}"}');                      -- fails
SELECT * FROM jobstate.enqueue_many('test', NULL, '{}');                         -- fails
SELECT * FROM jobstate.enqueue_many('test', '{}', NULL);                         -- fails
SELECT * FROM jobstate.enqueue_many('test', '{a,b}', '{"{}"}');                  -- fails
SELECT * FROM jobstate.enqueue_many('test', '{a,b}', '{"{}", "{}"}', '{1}');     -- fails
SELECT * FROM jobstate.enqueue_many('test', '{a,NULL}', '{"{}", "{}"}');         -- fails
SELECT * FROM jobstate.enqueue_many('test', '{a,b}', '{"{}", NULL}');            -- fails
SELECT * FROM jobstate.enqueue_many('test', '{a,b}', '{"{}", "{}"}', '{1,5}');   -- fails
SELECT jobstate.next_due(NULL);                                                  -- fails
SELECT jobstate.pause(NULL);                                                     -- fails

DELETE FROM jobstate.job WHERE queue LIKE 'test%';
DELETE FROM jobstate.queue WHERE queue LIKE 'test%';
SELECT * FROM jobstate.verify('jobstate.job');
