-- queue_rescue: whatever happens to its worker, a job comes to an end.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP TABLE IF EXISTS jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE IF EXISTS jobstate.job_number;
RESET client_min_messages;
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_q', '{"max_attempts": 2, "backoff": "1 hour"}');
SELECT jobstate.queue_define('regress_nodlq', '{"max_attempts": 1, "dead_letters": false}');
-- a job that is running; its lease may be over
CREATE FUNCTION regress_run(queue text, kind text, lease interval DEFAULT '1 h') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    fresh bigint := (jobstate.enqueue(queue, kind)).id;
BEGIN
    PERFORM jobstate.claim(queue, 'worker', 1);
    UPDATE jobstate.job j SET lease_until = clock_timestamp() + lease WHERE j.id = fresh;
    RETURN fresh;
END
$$;
CREATE VIEW regress_jobs AS
    SELECT j.kind, jobstate.queue_state_name(j.state_id) AS state, j.attempt,
           CASE WHEN j.slot >= 0 THEN 'ring' WHEN j.slot = -1 THEN 'waiting' ELSE 'kept' END AS place,
           j.finished_at IS NOT NULL AS ended, j.errors -> -1 ->> 'error' AS error
      FROM jobstate.job j ORDER BY j.id;

-- nothing runs
SELECT * FROM jobstate.rescue();
-- a lease that lasts, and one that does not
SELECT regress_run('regress_q', 'alive') AS alive, regress_run('regress_q', 'lost', '-1 s') AS lost \gset
SELECT token FROM jobstate.job WHERE id = :lost \gset
SELECT outcome FROM jobstate.rescue();
SELECT outcome FROM jobstate.rescue();
SELECT * FROM regress_jobs;
-- a backoff of an hour, a quarter more or less
SELECT run_at - clock_timestamp() BETWEEN '44 min' AND '76 min' AS later FROM jobstate.job WHERE id = :lost;
-- who comes back too late has lost
SELECT jobstate.complete(:lost, :token);                                           -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.heartbeat(ARRAY[:lost::bigint], ARRAY[:token::bigint]);
-- the second attempt is the last one
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE id = :lost;
SELECT jobstate.promote();
SELECT kind, attempt FROM jobstate.claim('regress_q', 'worker', 9, '1 us');
SELECT outcome FROM jobstate.rescue();
SELECT d.kind, d.attempt, jsonb_array_length(d.errors) AS errors, d.errors -> 1 ->> 'error' AS error FROM jobstate.dead_letter d;
-- where nobody wants dead letters it has failed
SELECT regress_run('regress_nodlq', 'failed', '-1 s') > 0;
-- one that its owner wants cancelled is
SELECT regress_run('regress_q', 'unwanted', '-1 s') AS unwanted \gset
SELECT jobstate.cancel(:unwanted);
SELECT outcome FROM jobstate.rescue() ORDER BY id;
SELECT * FROM regress_jobs;
SELECT * FROM jobstate.verify('jobstate.job');

-- a job has a time of its own, whatever its heartbeats say
SELECT id AS timed FROM jobstate.enqueue('regress_q', 'timed', timeout => '1 hour') \gset
SELECT count(*) FROM jobstate.claim('regress_q', 'worker');
SELECT outcome FROM jobstate.rescue();
UPDATE jobstate.job SET claimed_at = claimed_at - interval '2 hours' WHERE id = :timed;
SELECT outcome FROM jobstate.rescue();
SELECT error FROM regress_jobs WHERE kind = 'timed';
-- made to run by hand: nobody else would ever end it
SELECT id AS hand FROM jobstate.enqueue('regress_q', 'hand') \gset
UPDATE jobstate.job SET state_id = 2, attempt = 1 WHERE id = :hand;
SELECT outcome FROM jobstate.rescue();
-- what somebody moved by hand while it ran is found in the lane where it lies, whatever it says of itself,
-- and comes back in the lane where it belongs; an idle worker does not look there
SELECT jobstate.queue_define('regress_other');
SELECT regress_run('regress_moved', 'astray', '-1 s') AS astray, regress_run('regress_moved', 'urgent', '-1 s') AS urgent \gset
UPDATE jobstate.job SET queue = 'regress_other' WHERE id = :astray;
UPDATE jobstate.job SET priority = 1 WHERE id = :urgent;
SELECT count(*) FROM jobstate.queue_rescue_lanes(10, false);
SELECT outcome FROM jobstate.rescue();
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE id IN (:astray, :urgent);
SELECT jobstate.promote();
SELECT kind FROM jobstate.claim('regress_other', 'worker');
SELECT kind, priority FROM jobstate.claim('regress_moved', 'worker');
SELECT count(*) FROM jobstate.cancel(ARRAY[:astray, :urgent]);
UPDATE jobstate.job SET lease_until = clock_timestamp() WHERE id IN (:astray, :urgent);
SELECT outcome FROM jobstate.rescue();

-- no more than asked for
SELECT count(regress_run('regress_q', 'many', '-1 s')) FROM generate_series(1, 10);
SELECT count(*) FROM jobstate.rescue(4);
SELECT count(*) FROM jobstate.rescue(4);
SELECT count(*) FROM jobstate.rescue(4);
SELECT * FROM jobstate.verify('jobstate.job');
-- taken back
BEGIN;
SELECT regress_run('regress_q', 'back', '-1 s') > 0;
SELECT outcome FROM jobstate.rescue();
ROLLBACK;
SELECT count(*) FROM regress_jobs WHERE kind = 'back';

-- what runs for long is carried over, out of the way of those who look, and is found there
SELECT setval('jobstate.job_number', 500000) > 0;
SELECT regress_run('regress_q', 'new') > 0;
SELECT * FROM jobstate.rescue();
SELECT kind, state, place FROM regress_jobs WHERE kind IN ('alive', 'new');
SELECT token FROM jobstate.job WHERE id = :alive \gset
SELECT count(*) FROM jobstate.heartbeat(ARRAY[:alive::bigint], ARRAY[:token::bigint], '1 us');
SELECT outcome FROM jobstate.rescue();
SELECT kind, state, place FROM regress_jobs WHERE kind = 'alive';
SELECT * FROM jobstate.verify('jobstate.job');

-- the lower bound rises over what has ended, never over what has not
SELECT lane, lane::bigint << 48 AS start FROM jobstate.queue_lane WHERE queue = 'regress_q' AND priority = 2 \gset
SELECT count(*) FROM jobstate.enqueue_many('regress_q', array_fill('done'::text, '{3000}'), array_fill('{}'::jsonb, '{3000}'));
CREATE TABLE regress_claimed AS SELECT * FROM jobstate.claim('regress_q', 'worker', 3000);
SELECT count(*) FROM jobstate.complete((SELECT array_agg(id) FROM regress_claimed), (SELECT array_agg(token) FROM regress_claimed));
SELECT regress_run('regress_q', 'runs') AS runs \gset
INSERT INTO jobstate.queue_window SELECT lane, :runs, max(ceiling), min(settled) FROM jobstate.queue_window WHERE lane = :lane GROUP BY 1;
SELECT count(*) FROM jobstate.rescue();
SELECT max(w.settled) > :start AS risen, max(w.settled) <= :runs AS not_above, max(w.settled) <= max(w.floor) AS below_floor
  FROM jobstate.queue_window w WHERE w.lane = :lane;
UPDATE jobstate.job SET lease_until = clock_timestamp() WHERE id = :runs;
SELECT outcome FROM jobstate.rescue();
-- not for a few
SELECT max(w.settled) AS was FROM jobstate.queue_window w WHERE w.lane = :lane \gset
SELECT jobstate.queue_settle(:lane::smallint, :was + 5000, :was + 5000, :was, :was + 999);
SELECT max(w.settled) = :was AS same FROM jobstate.queue_window w WHERE w.lane = :lane;
SELECT jobstate.queue_settle(:lane::smallint, :was + 5000, :was + 5000, :was, :was + 1000);
SELECT max(w.settled) - :was AS more FROM jobstate.queue_window w WHERE w.lane = :lane;
DROP TABLE regress_claimed;

-- refusals
SELECT jobstate.rescue(0);                                                         -- fails
\echo :SQLSTATE
SELECT jobstate.rescue(NULL);                                                      -- fails
DROP VIEW regress_jobs;
DROP FUNCTION regress_run;
SET client_min_messages = warning;
DROP TABLE jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine('job');
