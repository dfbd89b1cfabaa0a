-- queue_promote: what is due goes to the tail of its lane, in the order of its time.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP TABLE IF EXISTS jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE IF EXISTS jobstate.job_number;
RESET client_min_messages;
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_a', '{"shards": 1}');
CREATE FUNCTION regress_defer(queue text, kind text, late interval, priority integer DEFAULT 2) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    fresh bigint := (jobstate.enqueue(queue, kind, priority => priority, run_at => clock_timestamp() + '1 h')).id;
BEGIN
    UPDATE jobstate.job j SET run_at = clock_timestamp() - late WHERE j.slot = -1 AND j.id = fresh;
    RETURN fresh;
END
$$;
CREATE VIEW regress_jobs AS
    SELECT j.queue, j.kind, jobstate.queue_state_name(j.state_id) AS state, j.priority,
           CASE WHEN j.slot >= 0 THEN 'ring' WHEN j.slot = -1 THEN 'waiting' ELSE 'kept' END AS place,
           j.id = j.position AS unmoved, j.slot = jobstate.queue_slot(j.position) AS at_home,
           l.queue = j.queue AND l.priority = j.priority AS in_lane
      FROM jobstate.job j JOIN jobstate.queue_lane l ON l.lane = j.position >> 48
     ORDER BY j.position & 281474976710655;

-- nothing is due, nothing is written
SELECT jobstate.promote();
SELECT (jobstate.enqueue('regress_a', 'later', run_at => clock_timestamp() + '1 h')).duplicate;
BEGIN;
SELECT jobstate.promote();
SELECT pg_current_xact_id_if_assigned();
ROLLBACK;

-- in the order in which they became due, behind what is there already
SELECT regress_defer('regress_a', 'third', '1 s') > 0, regress_defer('regress_a', 'first', '3 s') > 0,
       regress_defer('regress_a', 'second', '2 s') > 0;
SELECT (jobstate.enqueue('regress_a', 'there')).duplicate;
SELECT jobstate.promote('regress_a', 2);
SELECT jobstate.promote('regress_a', 2);
SELECT jobstate.promote('regress_a', 2);
SELECT * FROM regress_jobs;
SELECT c.kind FROM jobstate.claim('regress_a', 'w', 10) c;
SELECT * FROM jobstate.verify('jobstate.job');

-- one queue, or all of them, up to n together
SELECT regress_defer('regress_a', 'a', '1 s') > 0, regress_defer('regress_b', 'b1', '1 s') > 0,
       regress_defer('regress_b', 'b2', '2 s', 1) > 0, regress_defer('regress_c', 'c', '1 s') > 0;
SELECT jobstate.promote('regress_b');
SELECT queue, kind, state, priority, in_lane FROM regress_jobs WHERE kind ~ '^(a|b.|c)$';
SELECT jobstate.promote(n => 1);
SELECT jobstate.promote(n => 10);
SELECT count(*) FROM regress_jobs WHERE kind ~ '^(a|b.|c)$' AND state = 'available';
SELECT jobstate.promote('regress_none');
-- a lane that is not the job's any more: the job was moved by hand, or has fewer shards now
SELECT regress_defer('regress_c', 'moved', '1 s') AS id \gset
UPDATE jobstate.job SET queue = 'regress_a', priority = 4 WHERE slot = -1 AND id = :id;
SELECT jobstate.promote();
SELECT * FROM regress_jobs WHERE kind = 'moved';
SELECT jobstate.queue_define('regress_s', '{"shards": 4}');
SELECT count(regress_defer('regress_s', 'sharded', '1 s')) FROM generate_series(1, 40);
SELECT jobstate.queue_define('regress_s', '{"shards": 2}');
SELECT jobstate.promote();
SELECT l.shard, count(*) > 0 AS some FROM jobstate.job j JOIN jobstate.queue_lane l ON l.lane = j.position >> 48
 WHERE j.kind = 'sharded' GROUP BY 1 ORDER BY 1;

-- a paused queue too: it only gives nothing
SELECT jobstate.pause('regress_c');
SELECT regress_defer('regress_c', 'paused', '1 s') > 0;
SELECT jobstate.promote('regress_c');
SELECT count(*) FROM jobstate.claim('regress_c', 'w');
-- taken back
BEGIN;
SELECT regress_defer('regress_a', 'back', '1 s') > 0;
SELECT jobstate.promote();
ROLLBACK;
SELECT * FROM jobstate.verify('jobstate.job');
SELECT state, sum(n) FROM jobstate.counts('jobstate.job') GROUP BY 1 ORDER BY 1;

-- refusals
SELECT jobstate.promote('regress_a', 0);                                           -- fails
\echo :SQLSTATE
SELECT jobstate.promote('regress_a', NULL);                                        -- fails
\echo :SQLSTATE
DROP VIEW regress_jobs;
DROP FUNCTION regress_defer;
SET client_min_messages = warning;
DROP TABLE jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine('job');
