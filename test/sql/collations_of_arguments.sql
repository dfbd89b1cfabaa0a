-- Arguments may come from columns that have a collation of their own: keys are compared by the collation
-- of the family's tables all the same, and found by their indexes.
SET client_min_messages = warning;
CREATE COLLATION regress_own (provider = libc, locale = 'C');
DO $$ BEGIN PERFORM jobstate.install(f) FROM unnest('{queue,uploads,store,ledger,schedule,apply}'::text[]) f; END $$;
CREATE TABLE regress_said (key text COLLATE regress_own, other text COLLATE "C", word text COLLATE regress_own);
INSERT INTO regress_said VALUES ('collated', 'collated', 'a');

-- the ledger and the schedule, whose keys are COLLATE "C"
SELECT jobstate.ledger_define(key) FROM regress_said;
SELECT jobstate.ledger_define(key, '{"cap": 3}') FROM regress_said;
SELECT token IS NOT NULL AS begun FROM regress_said, jobstate.ledger_begin_run(key, other);
SELECT count(*) FROM regress_said, jobstate.ledger_unprocessed(key, ARRAY[word, 'b']);
SELECT item, attempt FROM regress_said, jobstate.ledger_take(key, ARRAY[word, 'b' || word], worker => key);
SELECT jobstate.ledger_mark(key, word, token => l.token) IS NOT NULL AS marked
  FROM regress_said, jobstate.ledger l WHERE l.processor = other AND l.item = 'a';
SELECT jobstate.ledger_fail(key, 'b' || word, 'no', l.token) FROM regress_said, jobstate.ledger l WHERE l.processor = other AND l.item = 'ba';
SELECT jobstate.ledger_end_run(key, p.run_token) FROM regress_said, jobstate.ledger_processor p WHERE p.processor = other;
SELECT jobstate.ledger_rename(key, word, 'c' || word), jobstate.ledger_retain(key, ARRAY['c' || word]),
       jobstate.ledger_reset(key, ARRAY[word]) FROM regress_said;
SELECT count(*) AS told FROM regress_said, jobstate.ledger_health(key, ARRAY[word], ARRAY[now()], root => other);
SELECT jobstate.ledger_forget(ARRAY[key]) FROM regress_said;
SELECT jobstate.schedule_define(key, 'every 1h') IS NOT NULL AS defined FROM regress_said;
SELECT count(*) FROM regress_said, jobstate.schedule_due(word, names => ARRAY[key]);
SELECT jobstate.schedule_finish(key, s.token) IS NOT NULL AS finished FROM regress_said, jobstate.schedule s WHERE s.name = other;
SELECT jobstate.schedule_pause(key), jobstate.schedule_pause(key, false), jobstate.schedule_drop(key) FROM regress_said;

-- the others, whose keys are of the database's collation
SELECT jobstate.queue_define(key) FROM regress_said;
SELECT count(*) FROM regress_said, jobstate.enqueue(key, word, unique_key => other);
SELECT count(*) FROM regress_said, jobstate.enqueue(key, word, unique_key => other);
SELECT count(*) FROM regress_said, jobstate.claim(key, word, 5);
SELECT jobstate.store_create(key, '{"status": "queued", "input": {}, "result": null}') IS NOT NULL AS created FROM regress_said;
SELECT token IS NOT NULL AS begun FROM regress_said, jobstate.store_begin(key);
SELECT jobstate.store_update(key, '{"progress": {"stage": "s"}}', s.token) IS NOT NULL AS updated FROM regress_said, jobstate.store s WHERE s.id = other;
SELECT jobstate.store_delete(key) FROM regress_said;
SELECT apply_id IS NOT NULL AS created FROM regress_said, jobstate.apply_create(key, other, word, '[{"deployment": "eu"}]');
SELECT count(*) FROM regress_said, jobstate.operation_claim(key, only_deployment => 'eu' || left(word, 0));

-- One commit of a thousand: its row is found, not looked for.
SELECT count(jobstate.upload_create(97, 'commit ' || n)) FROM generate_series(1, 1000) n;
ANALYZE jobstate.upload, jobstate.upload_scope;
BEGIN;
SELECT idx_tup_fetch AS before FROM pg_stat_xact_user_tables WHERE relid = 'jobstate.upload_scope'::regclass \gset
SELECT jobstate.upload_mark_merged(ARRAY(SELECT u.id FROM jobstate.upload u WHERE u.repo_id = 97 AND u.commit_sha = 'commit 7'));
SELECT jobstate.upload_decide(97, 'commit 7' || left(other, 0)), jobstate.upload_decide(97, 'commit 7' || left(key, 0)) FROM regress_said;
SELECT idx_tup_fetch - :before < 20 AS few, seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = 'jobstate.upload_scope'::regclass;
ROLLBACK;

-- So are one record of a thousand, one unique key and one target.
BEGIN;
SELECT count(jobstate.store_create('record ' || n, '{"status": "queued", "input": {}, "result": null}')) FROM generate_series(1, 1000) n;
SELECT count(e.id) FROM generate_series(1, 1000) n, jobstate.enqueue('collated', 'k', unique_key => 'key ' || n) e;
SELECT count(apply_id) FROM generate_series(1, 300) n, jobstate.apply_create('collated', 'type', 'env ' || n, '[{"deployment": "eu"}]');
ANALYZE jobstate.store, jobstate.unique_job, jobstate.apply_target, jobstate.apply, jobstate.operation;
CREATE TEMP VIEW looked_at AS SELECT relid::regclass AS looked_at, idx_tup_fetch + seq_tup_read AS rows FROM pg_stat_xact_user_tables
 WHERE relid IN ('jobstate.store'::regclass, 'jobstate.unique_job'::regclass, 'jobstate.apply_target'::regclass);
CREATE TEMP TABLE before AS SELECT * FROM looked_at;
SELECT jobstate.store_get('record 7' || left(key, 0)) IS NOT NULL AS found FROM regress_said;
SELECT count(*) FROM regress_said, jobstate.enqueue(key, word, unique_key => 'key 7' || left(key, 0));
SELECT apply_id IS NOT NULL AS created FROM regress_said, jobstate.apply_create(key, 'type' || left(key, 0), 'env' || left(key, 0), '[{"deployment": "eu"}]');
SELECT looked_at, l.rows - coalesce(b.rows, 0) < 20 AS few FROM looked_at l LEFT JOIN before b USING (looked_at) ORDER BY looked_at::text COLLATE "C";
ROLLBACK;

DELETE FROM jobstate.upload WHERE repo_id = 97;
DELETE FROM jobstate.upload_scope WHERE repo_id = 97;
DELETE FROM jobstate.operation o USING jobstate.apply a WHERE a.id = o.apply_id AND a.database_name = 'collated';
DELETE FROM jobstate.apply WHERE database_name = 'collated';
DELETE FROM jobstate.apply_target WHERE database_name = 'collated';
DELETE FROM jobstate.ledger_processor WHERE processor = 'collated';
DROP TABLE regress_said;
DROP COLLATION regress_own;
