-- queue_ring: slots are emptied as a whole, and what has to stay stays.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP TABLE IF EXISTS jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE IF EXISTS jobstate.job_number;
RESET client_min_messages;
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_q', '{"max_attempts": 1, "dead_letters": false}');
SELECT jobstate.queue_ring_define('{"slots": 4, "slot_jobs": 100, "slot_length": "1 hour", "retention": "1 hour", "failed_retention": "3 days"}');
SELECT setval('jobstate.job_number', 100, false);
CREATE VIEW regress_slots AS
    SELECT j.slot, jobstate.queue_state_name(j.state_id) AS state, count(*) AS n,
           bool_and(j.slot IN (-2, jobstate.queue_slot(j.position))) AS at_home
      FROM jobstate.job j GROUP BY 1, 2 ORDER BY 1, 2;
CREATE VIEW regress_sum AS
    SELECT t.state, sum(t.live) AS live, sum(t.rolled_up) AS rolled_up FROM jobstate.totals('jobstate.job') t
     GROUP BY 1 HAVING sum(t.total) > 0 ORDER BY 1;
CREATE FUNCTION regress_add(n integer) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM jobstate.enqueue_many('regress_q', array_fill('k'::text, ARRAY[n]), array_fill('{}'::jsonb, ARRAY[n]))
$$;
-- n jobs are claimed and come to an end, that long ago
CREATE FUNCTION regress_end(n integer, ago interval, fails boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    got record;
BEGIN
    SELECT array_agg(c.id) AS ids, array_agg(c.token) AS tokens INTO got FROM jobstate.claim('regress_q', 'w', n) c;
    IF fails THEN
        PERFORM jobstate.fail(got.ids, got.tokens, array_fill('no'::text, ARRAY[n]));
    ELSE
        PERFORM jobstate.complete(got.ids, got.tokens);
    END IF;
    UPDATE jobstate.job j SET finished_at = j.finished_at - ago, enqueued_at = j.enqueued_at - ago, run_at = j.run_at - ago
     WHERE j.id = ANY (got.ids);
END
$$;

-- an empty ring is left alone
SELECT jobstate.rotate(), (SELECT count(*) FROM jobstate.prune_slots(9));
-- slots 1 and 2: old, but a few; slot 3 is the current one
SELECT regress_add(220);
SELECT regress_end(60, '2 hours'), regress_end(10, '2 hours', true), regress_end(5, '4 days', true), regress_end(120, '2 hours');
SELECT * FROM regress_slots;
-- some of slot 2 are available and nobody needs it: only slot 1 goes, but for what failed not long ago
SELECT * FROM jobstate.prune_slots(9);
SELECT * FROM regress_slots;
SELECT * FROM regress_sum;
SELECT * FROM jobstate.verify('jobstate.job');
SELECT pg_relation_size('jobstate.job_1') AS size;
SELECT * FROM jobstate.prune_slots(9);
-- one that ended a moment ago keeps its slot, too
SELECT regress_end(4, '0'), regress_end(1, '2 hours');
SELECT count(*) FROM jobstate.prune_slots(9);

-- the ring comes round: what it needs next goes early, and those that have not ended go on elsewhere
SELECT regress_add(150);
SELECT regress_end(1, '0') FROM generate_series(1, 3);
SELECT slot FROM jobstate.queue_ring_now();
SELECT count(*) AS claimed FROM jobstate.claim('regress_q', 'w', 7);
SELECT slot, state, n FROM regress_slots;
SELECT * FROM jobstate.prune_slots(9);
SELECT * FROM regress_slots;
SELECT * FROM regress_sum;
SELECT * FROM jobstate.verify('jobstate.job');
SELECT regress_add(100);
SELECT * FROM jobstate.prune_slots(9);
SELECT * FROM regress_slots;
SELECT * FROM jobstate.verify('jobstate.job');
-- they keep their places in the lane: the oldest is the next, and can be completed
SELECT jobstate.complete(c.id, c.token) FROM (
    SELECT c.id, c.token, (SELECT min(j.position) FROM jobstate.job j WHERE j.state_id = 1) AS first
      FROM jobstate.claim('regress_q', 'w', 1) c) c WHERE c.id <= c.first;
SELECT jobstate.complete(j.id, j.token) FROM jobstate.job j WHERE j.slot = -2 AND j.state_id = 2 ORDER BY j.id LIMIT 1;
SELECT * FROM regress_slots WHERE slot = -2;
SELECT * FROM jobstate.verify('jobstate.job');

-- a slot full of jobs that have not ended is left, and used a second time
SELECT regress_add(6000);
SELECT count(*) FROM jobstate.prune_slots(9);
SELECT count(*) AS claimed, count(DISTINCT c.id) AS different FROM jobstate.claim('regress_q', 'w', 9000) c;
SELECT count(*) AS completed FROM (SELECT array_agg(j.id) AS ids, array_agg(j.token) AS tokens FROM jobstate.job j WHERE j.state_id = 2) j,
       LATERAL jobstate.complete(j.ids, j.tokens);
UPDATE jobstate.queue_ring SET retention = '0';
SELECT slot IS NOT NULL AS slot, rolled_up > 0 AS rolled_up FROM jobstate.prune_slots(9);
-- what was carried over goes when its time has come
SELECT slot, state, n FROM regress_slots WHERE slot = -2;
SELECT jobstate.queue_prune_kept();
SELECT slot, state, n FROM regress_slots WHERE slot = -2;
UPDATE jobstate.queue_ring SET failed_retention = '1 hour';
SELECT jobstate.queue_prune_kept();
SELECT slot, state, n FROM regress_slots WHERE slot = -2;
SELECT * FROM regress_sum;
SELECT * FROM jobstate.verify('jobstate.job');

-- rotate: once the current slot is old and the next one is free
SELECT jobstate.rotate() AS young;
UPDATE jobstate.job SET enqueued_at = enqueued_at - interval '2 hours', run_at = run_at - interval '2 hours';
SELECT number AS before, slot AS slot_before FROM jobstate.queue_ring_now() \gset
SELECT jobstate.rotate();
SELECT slot = (:slot_before + 1) % 4 AS next, number % 100 AS begins FROM jobstate.queue_ring_now();
SELECT jobstate.rotate() AS empty;
SELECT regress_add(1);
SELECT slot = (:slot_before + 1) % 4 AS in_next FROM jobstate.job WHERE state_id = 1;
UPDATE jobstate.job SET enqueued_at = enqueued_at - interval '2 hours', run_at = run_at - interval '2 hours' WHERE state_id = 1;
SELECT rolled_up > 0 AS rolled_up FROM jobstate.prune_slots();
SELECT jobstate.rotate();
SELECT jobstate.rotate() AS empty;

-- all of it by maintain(), also within a transaction
SELECT regress_add(50);
SELECT regress_end(51, '2 hours');
SELECT jobstate.enqueue('regress_q', 'due', run_at => clock_timestamp() - interval '1 s') IS NOT NULL AS due;
SELECT regress_add(100);
CALL jobstate.maintain();
SELECT slot, state, n FROM regress_slots;
BEGIN;
SELECT regress_end(101, '2 hours');
CALL jobstate.maintain();
COMMIT;
SELECT * FROM jobstate.verify('jobstate.job');
SELECT * FROM regress_sum;

-- unique keys that no job holds, dead letters that nobody wanted
SELECT jobstate.queue_define('regress_q', '{"dead_letters": true}');
SELECT jobstate.enqueue('regress_q', 'k', unique_key => 'ended') IS NOT NULL, jobstate.enqueue('regress_q', 'k', unique_key => 'holds') IS NOT NULL;
SELECT regress_end(1, '0', true);
SELECT unique_key FROM jobstate.unique_job ORDER BY 1;
SELECT jobstate.queue_sweep_keys();
SELECT unique_key FROM jobstate.unique_job ORDER BY 1;
SELECT jobstate.queue_sweep_dead();
UPDATE jobstate.queue_ring SET dead_letter_retention = '1 day';
UPDATE jobstate.dead_letter SET died_at = died_at - interval '2 days';
SELECT jobstate.queue_sweep_dead();
-- the windows
SELECT jobstate.queue_sweep_windows() AS small;
INSERT INTO jobstate.queue_window SELECT 7, n, n + 10, n - 10 FROM generate_series(1, 5000) n;
SELECT jobstate.queue_sweep_windows();
SELECT * FROM jobstate.queue_window WHERE lane = 7;
-- maintain() does so too, and moves the ring on
INSERT INTO jobstate.queue_window SELECT 7, n, n + 10, n - 10 FROM generate_series(1, 5000) n;
SELECT regress_add(1);
UPDATE jobstate.job SET enqueued_at = enqueued_at - interval '2 hours', run_at = run_at - interval '2 hours' WHERE state_id = 1;
SELECT slot AS slot_before FROM jobstate.queue_ring_now() \gset
CALL jobstate.maintain();
SELECT count(*) FROM jobstate.queue_window WHERE lane = 7;
SELECT slot = (:slot_before + 1) % 4 AS next FROM jobstate.queue_ring_now();

-- settings of the ring
SELECT jobstate.queue_ring_define('{"retention": "2 hours"}');
SELECT jobstate.queue_ring_define('{"slots": 5}');                                 -- fails
\echo :SQLSTATE
SELECT jobstate.queue_ring_define('{"size": 5}');                                  -- fails
\echo :SQLSTATE
SELECT jobstate.queue_ring_define('{"retention": "-1 hour"}');                     -- fails
SELECT jobstate.queue_ring_define(NULL);                                           -- fails
SELECT jobstate.prune_slots(0);                                                    -- fails
\echo :SQLSTATE
TRUNCATE jobstate.job;
SELECT jobstate.queue_ring_define('{"slots": 5}');
SELECT slots FROM jobstate.queue_ring;
SELECT to_regclass('jobstate.job_4') IS NOT NULL AS made;
SELECT regress_add(500);
SELECT count(DISTINCT slot) >= 5 AS all_slots FROM jobstate.job;
DROP VIEW regress_slots, regress_sum;
DROP FUNCTION regress_add, regress_end;
SET client_min_messages = warning;
DROP TABLE jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine('job');
