-- queue_dlq: jobs that failed for good wait as dead letters until somebody decides.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_dlq', '{"dead_letters": false}');
SELECT jobstate.queue_define('regress_dlq_2', '{"dead_letters": true}');
CREATE FUNCTION pg_temp.id(kind text) RETURNS bigint LANGUAGE sql AS
    $$SELECT j.id FROM jobstate.jobs j WHERE j.queue ~ '^regress_dlq' AND j.kind = $1
      UNION ALL SELECT d.id FROM jobstate.dead_letter d WHERE d.queue ~ '^regress_dlq' AND d.kind = $1$$;
CREATE FUNCTION pg_temp.told(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE 'SELECT ' || call;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || ' ' || regexp_replace(concat_ws(' | ', sqlerrm, detail, hint), '\d{5,}', 'N', 'g');
END $$;
CREATE FUNCTION pg_temp.run_and_fail(q text, n integer) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(f.*) FROM (SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.claim($1, 'w', $2)) c,
           jobstate.fail(c.ids, c.tokens, array_fill('broken'::text, ARRAY[$2]), retryables => array_fill(false, ARRAY[$2])) f
$$;
SELECT count(*) FROM jobstate.enqueue_many('regress_dlq', '{a,b,c,d,e}', '{"1","2","3","4","5"}', limit_keys => '{x,x,x,x,x}');
SELECT duplicate FROM jobstate.enqueue('regress_dlq', 'free');
SELECT pg_temp.run_and_fail('regress_dlq', 5);

-- moved: failed ones only, with all that is known of them
SELECT count(*) FROM jobstate.dlq_move(ARRAY[pg_temp.id('a'), pg_temp.id('b'), pg_temp.id('free'), -1, pg_temp.id('a')]);
SELECT kind, priority, payload, attempt, limit_key, errors -> 0 ->> 'error' AS error, died_at > enqueued_at AS later
  FROM jobstate.dead_letter WHERE queue = 'regress_dlq' ORDER BY kind;
SELECT state, queue, kind, attempt, run_at, finished_at IS NOT NULL AS ended FROM jobstate.job_status(pg_temp.id('a'));
SELECT * FROM jobstate.verify('jobstate.job');
SELECT pg_temp.told(format('jobstate.cancel(%s)', pg_temp.id('a')));
SELECT jobstate.dlq_move_all();                                               -- fails
SELECT jobstate.dlq_move_all('regress_dlq', 'c');
SELECT jobstate.dlq_move_all('regress_dlq', 'free');
-- or at once, by the queue's setting
SELECT count(*) FROM jobstate.enqueue_many('regress_dlq_2', '{a2,b2}', array_fill('{}'::jsonb, '{2}'));
SELECT pg_temp.run_and_fail('regress_dlq_2', 2);
SELECT queue, kind FROM jobstate.dead_letter WHERE queue ~ '^regress_dlq' ORDER BY 1, 2;
SELECT queue, state, n FROM jobstate.queue_counts() WHERE queue ~ '^regress_dlq';

-- retried: the same id, all attempts, the errors that it has had
SELECT pg_temp.id('a') AS a \gset
SELECT count(*) FROM jobstate.dlq_retry(ARRAY[:a, -1, :a]);
SELECT id = :a AS same_id, state, attempt, payload, limit_key, jsonb_array_length(errors) AS errors FROM jobstate.jobs WHERE id = :a;
SELECT jobstate.dlq_retry(pg_temp.id('b')) = pg_temp.id('b') AS same_id;
SELECT pg_temp.told(format('jobstate.dlq_retry(%s)', :a));
SELECT kind, attempt FROM jobstate.claim('regress_dlq', 'w', 10);
SELECT jobstate.dlq_retry_all();                                              -- fails
SELECT jobstate.dlq_retry_all(kind => 'a2');
SELECT jobstate.dlq_retry_all('regress_dlq');
SELECT * FROM jobstate.verify('jobstate.job');
-- a unique key, taken again or refused
SELECT duplicate FROM jobstate.enqueue('regress_dlq_2', 'key1', unique_key => 'k', priority => 1);
SELECT pg_temp.run_and_fail('regress_dlq_2', 1);
SELECT duplicate FROM jobstate.enqueue('regress_dlq_2', 'key2', unique_key => 'k');
SELECT count(*) FROM jobstate.dlq_retry(ARRAY[pg_temp.id('key1')]);
SELECT pg_temp.told(format('jobstate.dlq_retry(%s)', pg_temp.id('key1')));
SELECT jobstate.cancel(pg_temp.id('key2'));
SELECT jobstate.dlq_retry(pg_temp.id('key1')) = pg_temp.id('key1') AS back;
SELECT c.id = pg_temp.id('key1') AS held, duplicate FROM jobstate.enqueue('regress_dlq_2', 'key3', unique_key => 'k') c;

-- purged
UPDATE jobstate.dead_letter SET died_at = now() - interval '40 days' WHERE queue = 'regress_dlq_2' AND kind = 'b2';
SELECT jobstate.dlq_purge_all();                                              -- fails
SELECT jobstate.dlq_purge_all('regress_dlq_2', older_than => '50 days');
SELECT jobstate.dlq_purge_all('regress_dlq_2', older_than => '30 days');
SELECT jobstate.dlq_move_all('regress_dlq', 'd');
SELECT count(*) FROM jobstate.dlq_purge(ARRAY[pg_temp.id('d'), -1, pg_temp.id('e')]);
SELECT queue, kind FROM jobstate.dead_letter WHERE queue ~ '^regress_dlq' ORDER BY 1, 2;

-- discarded: failed jobs and dead letters
SELECT pg_temp.run_and_fail('regress_dlq_2', 1);
SELECT jobstate.discard();                                                    -- fails
SELECT * FROM jobstate.discard('regress_dlq_2');
SELECT * FROM jobstate.discard('regress_dlq', older_than => '1 day');
SELECT * FROM jobstate.discard(kind => 'e');
SELECT (jobstate.job_status(:a)).state;
SELECT (jobstate.job_status(-1)).state IS NULL AS unknown;
SELECT queue, state, n FROM jobstate.queue_counts() WHERE queue ~ '^regress_dlq';
SELECT * FROM jobstate.verify('jobstate.job');

-- nothing in, nothing done; what is null is refused
SELECT jobstate.dlq_move('{}') UNION ALL SELECT jobstate.dlq_retry('{}'::bigint[]) UNION ALL SELECT jobstate.dlq_purge('{}');
SELECT call, pg_temp.told('jobstate.' || call) FROM unnest(ARRAY['dlq_move(NULL)', 'dlq_move(''{1,NULL}'')',
    'dlq_retry(NULL::bigint[])', 'dlq_retry(ARRAY[NULL::bigint])', 'dlq_retry(NULL::bigint)',
    'dlq_purge(NULL)', 'dlq_purge(''{NULL}'')', 'job_status(NULL)', 'discard(everything => NULL)',
    'discard(''q'', older_than => ''-1 s'')', 'dlq_purge_all(''q'', older_than => ''-1 s'')']) call;

DELETE FROM jobstate.job WHERE queue ~ '^regress_dlq';
DELETE FROM jobstate.dead_letter WHERE queue ~ '^regress_dlq';
DELETE FROM jobstate.unique_job WHERE queue ~ '^regress_dlq';
SELECT * FROM jobstate.verify('jobstate.job');
