-- health_queue: jobs that are due, leases that ran out, queues that are paused, at a
-- limit or without workers, dead letters.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP TABLE IF EXISTS jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE IF EXISTS jobstate.job_number;
SELECT jobstate.install('queue');
CREATE VIEW regress_found AS
    SELECT check_name, object, status, regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:+-]+', 'TIME', 'g') AS detail, fix
      FROM jobstate.health() WHERE check_name ~ '^queue' AND status <> 'ok';
CREATE VIEW regress_metrics AS
    SELECT name, labels ->> 'queue' AS queue, value FROM jobstate.metrics WHERE name ~ '^jobstate_queue' AND name !~ 'seconds$' ORDER BY 1, 2;
-- how a fix is tried: executed as it stands, and looked whether the row is gone
CREATE PROCEDURE regress_mend(checked text) LANGUAGE plpgsql AS $$
DECLARE
    row record;
BEGIN
    FOR row IN SELECT * FROM regress_found WHERE check_name = checked LOOP
        EXECUTE row.fix;
        RAISE WARNING '%: % %', row.fix, row.object,
            CASE WHEN EXISTS (SELECT FROM regress_found f WHERE (f.check_name, f.object) = (row.check_name, row.object))
                 THEN 'IS STILL THERE' ELSE 'is gone' END;
    END LOOP;
END $$;
SELECT * FROM regress_found;
SELECT check_name, detail FROM jobstate.health() WHERE check_name ~ '^queue';

-- due for long
SELECT count(*) FROM jobstate.enqueue_many('due', '{a,b,c}', array_fill('{}'::jsonb, '{3}'), run_ats => array_fill(now() + interval '1 day', '{3}'));
SELECT * FROM regress_found;
UPDATE jobstate.job SET run_at = now() - interval '11 minutes' WHERE queue = 'due' AND kind <> 'c';
SELECT * FROM regress_found WHERE check_name = 'queue due';
SELECT round(value / 60) AS minutes FROM jobstate.metrics WHERE name = 'jobstate_queue_overdue_seconds' AND labels ->> 'queue' = 'due';
CALL regress_mend('queue due');
SELECT * FROM regress_found;
DELETE FROM jobstate.job;

-- workers that are gone: one by lease, one by timeout, one whose job was carried over
SELECT count(*) FROM jobstate.enqueue_many('lost', array_fill('k'::text, '{4}'), array_fill('{}'::jsonb, '{4}'), timeout => '1 hour');
SELECT count(*) FROM jobstate.claim('lost', 'w', 4);
SELECT * FROM regress_found;
UPDATE jobstate.job SET lease_until = now() - interval '11 minutes' WHERE id = (SELECT min(id) FROM jobstate.job);
UPDATE jobstate.job SET claimed_at = now() - interval '71 minutes' WHERE id = (SELECT min(id) + 1 FROM jobstate.job);
UPDATE jobstate.job SET lease_until = now() - interval '13 minutes', slot = -2 WHERE id = (SELECT min(id) + 2 FROM jobstate.job);
SELECT * FROM regress_found;
CALL regress_mend('queue expired');
SELECT * FROM regress_found;
DELETE FROM jobstate.job;

-- paused, at its limit, at a key's limit, without workers
SELECT jobstate.pause('paused'), jobstate.queue_define('full', '{"max_running": 1}'), jobstate.queue_define('keys', '{"max_running_per_key": 1}');
SELECT count(*) FROM unnest('{paused,full,keys,slow,idle}'::text[]) q,
    LATERAL jobstate.enqueue_many(q, '{a,b}', '{"{}","{}"}', limit_keys => '{k,k}');
SELECT count(*) FROM unnest('{full,keys,slow}'::text[]) q, LATERAL jobstate.claim(q, 'w', 1);
SELECT * FROM regress_found;
SELECT * FROM regress_metrics WHERE value <> 0;
UPDATE jobstate.job SET run_at = now() - interval '11 minutes' WHERE state_id = 1;
UPDATE jobstate.queue SET paused_at = now() - interval '11 minutes' WHERE paused_at IS NOT NULL;
SELECT * FROM regress_found;
SELECT check_name, object, status FROM jobstate.health(patience => '1 hour') WHERE check_name ~ '^queue' AND object IS NOT NULL;
CALL regress_mend('queue paused');
CALL regress_mend('queue limit');
-- no SQL starts workers; that they come is what mends it
SELECT check_name, object FROM regress_found;
SELECT count(*) FROM unnest('{paused,full,keys,slow,idle}'::text[]) q, LATERAL jobstate.claim(q, 'w', 9);
SELECT check_name, object FROM regress_found;

-- dead letters: they want a decision, soon if there are new ones
SELECT count(*) FROM jobstate.enqueue_many('dying', '{a,b}', '{"{}","{}"}', max_attempts => 1);
SELECT outcome FROM (SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.claim('dying', 'w', 2)) c,
    LATERAL jobstate.fail(ids, tokens, '{no,no}') f;
SELECT * FROM regress_found;
UPDATE jobstate.dead_letter SET died_at = now() - interval '2 hours';
SELECT * FROM regress_found;
SELECT value FROM jobstate.metrics WHERE name = 'jobstate_queue_dead_letters' AND labels ->> 'queue' = 'dying';
CALL regress_mend('queue dead letters');
SELECT state, n FROM jobstate.queue_counts('dying');
SELECT * FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;

DROP VIEW regress_found, regress_metrics;
DROP PROCEDURE regress_mend;
DROP TABLE jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine('job');
