-- discard_families: as discard.sql, for the verbs of the queue and the store, those first that are C.  Each has one row
-- or two: every row makes anew what is known of its table, and each of the tables that the statement has open.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\timing on
SET client_min_messages = warning;
CREATE EXTENSION jobstate;
SELECT jobstate.install(f) FROM unnest('{queue,store}'::text[]) f;
-- the smallest ring
SELECT jobstate.queue_ring_define('{"slots": 3}');
SELECT format('DROP TABLE jobstate.job_%s', n) FROM generate_series(3, 15) n \gexec
SELECT jobstate.queue_define('q', '{"max_running_per_key": 2}');
SELECT jobstate.store_create('s', '{"status": "queued"}');
SELECT count(*) FROM jobstate.enqueue_many('q', '{k,k}', '{"{}","{}"}');
SELECT jobstate.fold();
\pset tuples_only off

SET debug_discard_caches = 1;
SELECT jobstate.store_update('s', '{"status": "preprocessing", "progress": {"percent_complete": 5}}') ->> 'status';
SELECT id FROM jobstate.enqueue('q', 'k', '{"n": 1}', unique_key => 'u', limit_key => 'l');
SELECT count(*) FROM jobstate.enqueue_many('q', '{k,k}', '{"{}","{}"}');
SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens FROM jobstate.claim('q', 'w', 2) \gset
SELECT jobstate.complete(ids => (:'ids'::bigint[])[:1], tokens => (:'tokens'::bigint[])[:1]);
SELECT jobstate.complete((:'ids'::bigint[])[2], (:'tokens'::bigint[])[2]);
SELECT jobstate.store_update('new', '{"n": 1}', upsert => true) ->> 'n';
SELECT id, token FROM jobstate.claim('q', 'w') \gset
SELECT count(*) FROM jobstate.heartbeat(ids => ARRAY[:id], tokens => ARRAY[:token]);
SELECT jobstate.fail(:id, :token, 'no');
SELECT jobstate.cancel(max(id)) FROM jobstate.job;
SELECT jobstate.promote('q');
SELECT count(*) FROM jobstate.queue_counts('q');
RESET debug_discard_caches;

\pset tuples_only on
SELECT 'drift', * FROM jobstate.verify();
SELECT state_id, count(*) FROM jobstate.job GROUP BY 1 ORDER BY 1;
