-- queue_move: jobs that wait get another priority or another queue, at the tail of
-- the lane, with their unique keys, and are claimed where they are now.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_move');
SELECT jobstate.queue_define('regress_move_4', '{"shards": 4}');
CREATE FUNCTION pg_temp.id(VARIADIC kinds text[]) RETURNS bigint[] LANGUAGE sql AS
    $$SELECT array_agg(j.id ORDER BY j.id) FROM jobstate.jobs j WHERE j.queue ~ '^regress_move' AND j.kind = ANY ($1)$$;
CREATE FUNCTION pg_temp.kinds(ids bigint[]) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(j.kind, ' ' ORDER BY j.id) FROM jobstate.jobs j WHERE j.id = ANY ($1)$$;
CREATE VIEW pg_temp.lanes AS
    SELECT l.queue, l.priority, string_agg(j.kind || CASE j.state_id WHEN 3 THEN ' (deferred)' ELSE '' END, ', ' ORDER BY j.position) AS jobs
      FROM jobstate.job j JOIN jobstate.queue_lane l ON l.lane = j.position >> 48
     WHERE l.queue ~ '^regress_move' AND l.queue = j.queue AND l.priority = j.priority
     GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM jobstate.enqueue_many('regress_move', '{run,a,b,c,d}', array_fill('{}'::jsonb, '{5}'));
SELECT duplicate FROM jobstate.enqueue('regress_move', 'later', run_at => now() + '1 day', payload => '{"kept": true}');
SELECT duplicate FROM jobstate.enqueue('regress_move', 'urgent', priority => 1);
UPDATE jobstate.job SET state_id = 6 WHERE queue = 'regress_move' AND kind = 'd';
SELECT kind FROM jobstate.claim('regress_move', 'w', 2);

-- set_priority: available and deferred ones; those that have it stay where they are
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.set_priority(pg_temp.id('run', 'b', 'd', 'later', 'urgent') || -1::bigint, 3)));
TABLE pg_temp.lanes;
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.set_priority(pg_temp.id('a', 'b'), 3)));
SELECT kind, payload, attempt, enqueued_at < clock_timestamp() AS kept FROM jobstate.jobs WHERE kind = 'later' AND queue = 'regress_move';
SELECT * FROM jobstate.verify('jobstate.job');
TABLE pg_temp.lanes;
SELECT jobstate.set_priority('{}', 5);                                        -- fails
SELECT jobstate.set_priority('{}', 0);                                        -- fails
SELECT jobstate.set_priority('{}', NULL);                                     -- fails
SELECT jobstate.set_priority(NULL, 1);                                        -- fails
SELECT jobstate.set_priority('{NULL}', 1);                                    -- fails
SELECT jobstate.set_priority('{}', 1);

-- move_queue: the queue need not have lanes yet
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.move_queue(pg_temp.id('run', 'a', 'c', 'd', 'later'), 'regress_move_4')));
SELECT jobstate.move_queue(pg_temp.id('a'), 'regress_move_4');
TABLE pg_temp.lanes;
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.move_queue(pg_temp.id('a'), 'regress_move_new')));
SELECT * FROM jobstate.verify('jobstate.job');
SELECT c.kind, j.queue FROM jobstate.claim('regress_move_4', 'w', 5) c JOIN jobstate.jobs j USING (id);
SELECT c.kind, j.queue FROM jobstate.claim('regress_move_new', 'w', 5) c JOIN jobstate.jobs j USING (id);
SELECT jobstate.move_queue(NULL, 'q');                                        -- fails
SELECT jobstate.move_queue('{NULL}', 'q');                                    -- fails
SELECT jobstate.move_queue('{}', NULL);                                       -- fails
SELECT jobstate.move_queue('{}', 'regress_move_none');
SELECT count(*) FROM jobstate.queue WHERE queue = 'regress_move_none';

-- a shard stays a shard, as far as the queue has it
SELECT count(DISTINCT p.lane) AS lanes FROM jobstate.enqueue_many('regress_move_4', array_fill('s'::text, '{40}'),
    array_fill('{}'::jsonb, '{40}'), shard_keys => ARRAY(SELECT g::text FROM generate_series(1, 40) g)) e,
    LATERAL (SELECT e.id >> 48 AS lane) p;
SELECT count(*) FROM jobstate.set_priority(pg_temp.id('s'), 1);
SELECT count(*) AS in_their_shards, count(DISTINCT n.shard) AS shards
  FROM jobstate.job j JOIN jobstate.queue_lane o ON o.lane = j.id >> 48 JOIN jobstate.queue_lane n ON n.lane = j.position >> 48
 WHERE j.kind = 's' AND j.queue = 'regress_move_4' AND n.priority = 1 AND o.priority = 2 AND o.shard = n.shard;
SELECT count(*) FROM jobstate.move_queue(pg_temp.id('s'), 'regress_move');
SELECT count(DISTINCT position >> 48) AS lanes FROM jobstate.job WHERE kind = 's' AND queue = 'regress_move';

-- unique keys go along, and do not push others out
SELECT duplicate FROM jobstate.enqueue('regress_move', 'k1', unique_key => 'k');
SELECT duplicate FROM jobstate.enqueue('regress_move_4', 'k2', unique_key => 'k');
SELECT duplicate FROM jobstate.enqueue('regress_move', 'l', unique_key => 'l');
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.move_queue(pg_temp.id('k1', 'l'), 'regress_move_4')));
SELECT u.queue, u.unique_key, j.kind FROM jobstate.unique_job u JOIN jobstate.jobs j USING (id) WHERE u.queue ~ '^regress_move' ORDER BY 1, 2;
SELECT duplicate FROM jobstate.enqueue('regress_move_4', 'again', unique_key => 'l');
SELECT duplicate FROM jobstate.enqueue('regress_move', 'again', unique_key => 'l');
-- two with one key: the first
SELECT pg_temp.kinds(ARRAY(SELECT jobstate.move_queue(pg_temp.id('k1', 'k2'), 'regress_move_new')));
SELECT u.queue, u.unique_key, j.kind FROM jobstate.unique_job u JOIN jobstate.jobs j USING (id) WHERE u.queue ~ '^regress_move' ORDER BY 1, 2;
SELECT * FROM jobstate.verify('jobstate.job');
SELECT queue, priority, state, n FROM jobstate.queue_counts() WHERE queue ~ '^regress_move';
SELECT queue, paused, available, running, deferred, cancelled, dead_letters, oldest_available > '0' AS waiting
  FROM jobstate.queues WHERE queue ~ '^regress_move' ORDER BY 1;

DELETE FROM jobstate.job WHERE queue ~ '^regress_move';
DELETE FROM jobstate.unique_job WHERE queue ~ '^regress_move';
SELECT * FROM jobstate.verify('jobstate.job');
