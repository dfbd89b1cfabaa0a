-- queue_rights: a database owner who is no superuser installs the family; a worker
-- needs what queue_grant() gives, and can neither change a queue nor the ring.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_queue_rights;
DROP ROLE IF EXISTS regress_queue_owner, regress_queue_worker, regress_queue_reader;
RESET client_min_messages;
SELECT current_database() AS home, current_user AS superuser \gset
CREATE ROLE regress_queue_owner LOGIN;
CREATE ROLE regress_queue_worker LOGIN;
CREATE ROLE regress_queue_reader LOGIN;
CREATE DATABASE regress_queue_rights OWNER regress_queue_owner;

\c regress_queue_rights regress_queue_owner
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('q', '{"max_running": 100, "notify": true}');
SELECT duplicate FROM jobstate.enqueue('q', 'owner');
-- the owner owns the tables and the views, once installed they stay
SELECT DISTINCT relowner::regrole FROM pg_class
 WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^(job|dead|unique|queue)';
SELECT jobstate.install('queue');
GRANT SELECT ON jobstate.job, jobstate.dead_letter, jobstate.jobs, jobstate.queue, jobstate.queues TO regress_queue_reader;

-- before the grant: nothing that writes
\c - regress_queue_worker
\set SHOW_CONTEXT never
SELECT jobstate.enqueue('q', 'a');                                            -- fails
SELECT jobstate.claim('q', 'w');                                              -- fails
SELECT jobstate.cancel_all(everything => true);                               -- fails
SELECT jobstate.queue_grant('regress_queue_worker');                          -- fails
SELECT jobstate.install('queue');                                             -- fails
SELECT * FROM jobstate.queue_counts();                                        -- fails
SELECT * FROM jobstate.queues;                                                -- fails

-- after it: a worker's whole day
\c - regress_queue_owner
SELECT jobstate.queue_grant('regress_queue_worker');
\c - regress_queue_worker
\set SHOW_CONTEXT never
SELECT duplicate FROM jobstate.enqueue('q', 'a', unique_key => 'k');
SELECT count(*) FROM jobstate.enqueue_many('new', '{b,c,d,e}', array_fill('{}'::jsonb, '{4}'));
SELECT duplicate FROM jobstate.enqueue('q', 'later', run_at => now() + '1 day');
SELECT kind FROM jobstate.claim('q', 'w', 2);
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.job WHERE state_id = 2 \gset
SELECT count(*) FROM jobstate.heartbeat(:'ids'::bigint[], :'tokens'::bigint[]);
SELECT count(*) FROM jobstate.complete(:'ids'::bigint[], :'tokens'::bigint[]);
SELECT id, token FROM jobstate.claim('new', 'w') \gset
SELECT jobstate.fail(:id, :token, 'x', '0 s');
SELECT jobstate.promote(), jobstate.next_due('new');
SELECT id, token FROM jobstate.claim('new', 'w') \gset
SELECT jobstate.snooze(:id, :token, '1 day') IS NOT NULL AS snoozed;
SELECT count(*) FROM jobstate.set_priority(ARRAY[:id], 1);
SELECT count(*) FROM jobstate.move_queue(ARRAY[:id], 'newest');
SELECT jobstate.cancel(:id), jobstate.retry(:id) = :id AS back;
SELECT id, token FROM jobstate.claim('new', 'w') \gset
SELECT jobstate.fail(:id, :token, 'x', retryable => false);
SELECT jobstate.dlq_retry(:id) = :id AS back;
SELECT count(*) FROM jobstate.rescue();
SELECT jobstate.cancel_all('new'), jobstate.discard('new'), jobstate.dlq_purge_all('new');
SELECT queue, state, n FROM jobstate.queue_counts() ORDER BY 1, 2;
SELECT queue, available, completed FROM jobstate.queues ORDER BY 1;
SELECT count(*) FROM jobstate.jobs;
-- but not the policy, the ring or the kernel's
SELECT jobstate.queue_define('q', '{"max_running": 1}');                      -- fails
SELECT jobstate.pause('q');                                                   -- fails
UPDATE jobstate.queue SET paused_at = now();                                  -- fails
UPDATE jobstate.queue_ring SET slots = 3;                                     -- fails
SELECT jobstate.rotate();                                                     -- fails
SELECT jobstate.prune_slots();                                                -- fails
TRUNCATE jobstate.job;                                                        -- fails
SELECT setval('jobstate.job_number', 1);                                      -- fails
DELETE FROM jobstate.queue;                                                   -- fails
DELETE FROM jobstate.attachment;                                              -- fails

-- who may read the jobs may read the numbers
\c - regress_queue_reader
\set SHOW_CONTEXT never
SELECT queue, state, n FROM jobstate.queue_counts('q');
SELECT queue, state, total FROM jobstate.queue_totals('q');
SELECT queue, available FROM jobstate.queues WHERE queue = 'q';
SELECT state FROM jobstate.job_status((SELECT min(id) FROM jobstate.jobs WHERE queue = 'q'));
SELECT jobstate.enqueue('q', 'a');                                            -- fails

\c - :superuser
SELECT * FROM jobstate.verify();
\c :home :superuser
DROP DATABASE regress_queue_rights;
DROP ROLE regress_queue_owner, regress_queue_worker, regress_queue_reader;
