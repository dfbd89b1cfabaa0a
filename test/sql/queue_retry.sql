-- queue_retry: what failed or was cancelled starts again, at the tail of its lane,
-- with all its attempts, unless another job has its unique key by now.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_retry', '{"dead_letters": false, "max_attempts": 2}');
CREATE FUNCTION pg_temp.id(kind text) RETURNS bigint LANGUAGE sql AS
    $$SELECT j.id FROM jobstate.jobs j WHERE j.queue ~ '^regress_retry' AND j.kind = $1$$;
-- the form for one job, with the id left out of what it says
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
SELECT count(*) FROM jobstate.enqueue_many('regress_retry', '{failed,cancelled,running,done,first,second}',
                                           array_fill('{}'::jsonb, '{6}'));
SELECT max(token) AS token FROM jobstate.claim('regress_retry', 'w', 4) \gset
SELECT jobstate.fail(pg_temp.id('failed'), :token, 'broken', retryable => false);
SELECT outcome FROM jobstate.cancel(ARRAY[pg_temp.id('cancelled')]);
SELECT jobstate.cancel(pg_temp.id('cancelled'), :token);
SELECT jobstate.complete(pg_temp.id('done'), :token, '{"answer": 42}');

SELECT kind FROM jobstate.retry(ARRAY[pg_temp.id('running'), pg_temp.id('cancelled'), pg_temp.id('done'),
    pg_temp.id('failed'), pg_temp.id('first'), -1, pg_temp.id('failed')]) r (id) JOIN jobstate.jobs USING (id) ORDER BY kind;
SELECT kind, state, attempt, max_attempts, cancel_requested, finished_at, claimed_at, lease_until, worker,
       errors -> 0 ->> 'error' AS error
  FROM jobstate.jobs WHERE kind IN ('failed', 'cancelled') AND queue = 'regress_retry' ORDER BY kind;
SELECT * FROM jobstate.verify('jobstate.job');
-- the old token is worth nothing, and the tail is the tail, in the old order
SELECT pg_temp.told(format('jobstate.complete(%s, %s)', pg_temp.id('failed'), :token));
SELECT kind, attempt FROM jobstate.claim('regress_retry', 'w', 10);

-- the form for one
SELECT pg_temp.told(format('jobstate.retry(%s)', pg_temp.id('running')));
SELECT pg_temp.told(format('jobstate.retry(%s)', pg_temp.id('done')));
SELECT pg_temp.told('jobstate.retry(-1)');
SELECT jobstate.fail(pg_temp.id('failed'), token, 'broken again', retryable => false) FROM jobstate.job WHERE id = pg_temp.id('failed');
SELECT jobstate.retry(pg_temp.id('failed')) = pg_temp.id('failed') AS same;
SELECT jsonb_array_length(errors) AS errors FROM jobstate.jobs WHERE id = pg_temp.id('failed');
SELECT * FROM jobstate.verify('jobstate.job');

-- unique keys: taken again, or refused
SELECT duplicate FROM jobstate.enqueue('regress_retry', 'key1', unique_key => 'k', unique_states => '{available,running}');
SELECT jobstate.cancel(pg_temp.id('key1'));
SELECT duplicate FROM jobstate.enqueue('regress_retry', 'key2', unique_key => 'k');
SELECT count(*) FROM jobstate.retry(ARRAY[pg_temp.id('key1')]);
SELECT pg_temp.told(format('jobstate.retry(%s)', pg_temp.id('key1')));
SELECT jobstate.cancel(pg_temp.id('key2'));
-- of two the first gets it
SELECT kind FROM jobstate.retry(ARRAY[pg_temp.id('key2'), pg_temp.id('key1')]) r (id) JOIN jobstate.jobs USING (id);
SELECT u.id = pg_temp.id('key1') AS key1_has_it, states FROM jobstate.unique_job u WHERE queue = 'regress_retry';
SELECT c.id = pg_temp.id('key1') AS held, duplicate FROM jobstate.enqueue('regress_retry', 'key3', unique_key => 'k') c;
-- a job that kept its key keeps the states that it covers
SELECT jobstate.cancel(pg_temp.id('key1'));
UPDATE jobstate.unique_job SET states = '{available}' WHERE queue = 'regress_retry';
SELECT jobstate.retry(pg_temp.id('key1')) IS NOT NULL AS again;
SELECT states FROM jobstate.unique_job WHERE queue = 'regress_retry';

-- in bulk: failed ones
SELECT count(*) FROM jobstate.enqueue_many('regress_retry', '{x,x,y}', array_fill('{}'::jsonb, '{3}'), priorities => '{1,1,1}');
SELECT count(f.*) FROM (SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM jobstate.claim('regress_retry', 'w', 3)) c,
       jobstate.fail(c.ids, c.tokens, '{e,e,e}', retryables => '{f,f,f}') f;
SELECT jobstate.retry_all();                                                  -- fails
SELECT jobstate.retry_all(kind => 'x');
SELECT jobstate.retry_all('regress_retry', 'x');
SELECT jobstate.retry_all('regress_retry');
SELECT state, n FROM jobstate.queue_counts('regress_retry') ORDER BY 1, priority;
SELECT * FROM jobstate.verify('jobstate.job');

-- nothing in, nothing done; what is null is refused
SELECT jobstate.retry('{}'::bigint[]);
SELECT pg_temp.told('jobstate.retry(NULL::bigint[])'), pg_temp.told('jobstate.retry(NULL::bigint)');
SELECT pg_temp.told('jobstate.retry(ARRAY[1,NULL]::bigint[])');

DELETE FROM jobstate.job WHERE queue ~ '^regress_retry';
DELETE FROM jobstate.unique_job WHERE queue ~ '^regress_retry';
SELECT * FROM jobstate.verify('jobstate.job');
