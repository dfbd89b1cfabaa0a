-- health_queue_ring: a ring that is full, because nobody prunes it, because somebody
-- holds a slot, or because of jobs that nobody works off.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP TABLE IF EXISTS jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE IF EXISTS jobstate.job_number;
SELECT jobstate.install('queue');
SELECT jobstate.queue_ring_define('{"slots": 3, "slot_jobs": 100, "retention": "0", "failed_retention": "0"}');
CREATE VIEW regress_found AS
    SELECT check_name, regexp_replace(object, ' of \S+$', ' of ME') AS object, status,
           regexp_replace(detail, '\d+ transactions.*', 'SOME transactions') AS detail, fix
      FROM jobstate.health(patience => '0') WHERE check_name IN ('queue ring', 'health') OR check_name = 'snapshots' AND object ~ '^prepared';
CREATE VIEW regress_ring AS
    SELECT string_agg(value::text, ' ' ORDER BY name) AS "free slots used" FROM jobstate.metrics WHERE name ~ '^jobstate_queue_ring';
-- n jobs come, and end at once if they are to
CREATE PROCEDURE regress_jobs(n integer, ends boolean) LANGUAGE plpgsql AS $$
DECLARE
    got record;
BEGIN
    PERFORM FROM jobstate.enqueue_many('regress_q', array_fill('k'::text, ARRAY[n]), array_fill('{}'::jsonb, ARRAY[n]));
    IF ends THEN
        SELECT array_agg(c.id) AS ids, array_agg(c.token) AS tokens INTO got FROM jobstate.claim('regress_q', 'w', n) c;
        PERFORM jobstate.complete(got.ids, got.tokens);
    END IF;
END $$;
SELECT * FROM regress_found;
SELECT * FROM regress_ring;
CALL regress_jobs(90, true);
SELECT * FROM regress_found;
CALL regress_jobs(150, true);
SELECT * FROM regress_ring;
SELECT * FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_ring;
SELECT * FROM regress_found;

-- somebody holds the slots: here a prepared transaction that has only read
CALL regress_jobs(100, true);
BEGIN;
SELECT count(*) FROM jobstate.job;
PREPARE TRANSACTION 'regress_reader';
CALL regress_jobs(100, true);
SELECT * FROM regress_found;
SELECT check_name, object FROM jobstate.health() WHERE check_name = 'queue ring';
SELECT fix FROM regress_found WHERE object = 'slot 2' \gexec
SELECT check_name, object FROM regress_found WHERE check_name = 'queue ring';
SELECT fix FROM regress_found WHERE object ~ '^prepared' GROUP BY fix \gexec
SELECT check_name, object FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;

-- jobs that nobody works off: no SQL can end them rightly
TRUNCATE jobstate.job;
SELECT jobstate.queue_ring_define('{"slot_jobs": 1200}');
SELECT setval('jobstate.job_number', 3600, false);
CALL regress_jobs(3000, false);
SELECT * FROM regress_found;
CALL regress_jobs(1, true);
SELECT array_agg(c.id) AS ids, array_agg(c.token) AS tokens FROM jobstate.claim('regress_q', 'w', 3000) c \gset
SELECT count(*) FROM jobstate.complete(:'ids'::bigint[], :'tokens'::bigint[]);
SELECT object, detail FROM regress_found;
SELECT fix FROM regress_found WHERE status = 'warning' \gexec
SELECT * FROM regress_found;
SELECT * FROM jobstate.verify();

DROP VIEW regress_found, regress_ring;
DROP PROCEDURE regress_jobs;
DROP TABLE jobstate.job, jobstate.queue_lane, jobstate.queue, jobstate.queue_window, jobstate.queue_ring,
    jobstate.dead_letter, jobstate.unique_job CASCADE;
DROP SEQUENCE jobstate.job_number;
SELECT jobstate.drop_machine('job');
