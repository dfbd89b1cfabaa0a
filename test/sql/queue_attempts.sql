-- queue_attempts: what a worker says about its jobs, with the token of its claim:
-- heartbeat, complete, fail, snooze.  A token that does not hold a job writes nothing.
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SELECT jobstate.install('queue');
CREATE TEMP VIEW jobs AS
SELECT kind, jobstate.queue_state_name(state_id) AS state, attempt AS att, result, jsonb_array_length(errors) AS errors,
       finished_at IS NOT NULL AS finished, state_id = 2 AND lease_until > clock_timestamp() AS leased, slot < 0 AS waiting
  FROM jobstate.job WHERE queue = 'test';
SELECT jobstate.queue_define('test', '{"max_attempts": 3, "backoff": "1 min", "dead_letters": false}');
SELECT count(*) FROM jobstate.enqueue_many('test', '{a,b,c,d,e,f}', array_fill('{}'::jsonb, ARRAY[6]));
CREATE TEMP TABLE c AS SELECT * FROM jobstate.claim('test', 'worker', 5);
SELECT id AS a, token FROM c WHERE kind = 'a' \gset
SELECT id AS b FROM c WHERE kind = 'b' \gset
SELECT id AS f FROM jobstate.job WHERE kind = 'f' AND queue = 'test' \gset

-- complete: once, and said again
SELECT jobstate.complete(:a, :token, '{"sum": 3}');
SELECT jobstate.complete(:a, :token, '{"sum": 4}');
SELECT * FROM jobs WHERE kind = 'a';
-- in batches: only what the token holds, once each, whatever the order
SELECT c.kind, x = c.id AS x
  FROM jobstate.complete(ARRAY[:f, :b, :a, 1, :b], ARRAY[:token, :token, :token, :token, :token],
                         '{"0", "1", "2", "3", "4"}') x JOIN c ON c.id = x ORDER BY 1;
SELECT * FROM jobs WHERE kind IN ('a', 'b', 'f') ORDER BY kind;
SELECT count(*) FROM jobstate.complete(ARRAY(SELECT id FROM c), ARRAY(SELECT token + 1 FROM c));
SELECT * FROM jobstate.complete('{}'::bigint[], '{}');

-- heartbeat: the lease of the queue, or another; and what somebody wants
SELECT c.kind, h.lease_until - clock_timestamp() BETWEEN '89 s' AND '90 s' AS usual, h.cancel_requested
  FROM jobstate.heartbeat(ARRAY(SELECT id FROM c ORDER BY id DESC), ARRAY(SELECT token FROM c)) h JOIN c USING (id) ORDER BY 1;
SELECT outcome FROM jobstate.cancel(ARRAY(SELECT id FROM c WHERE kind = 'e'));
SELECT c.kind, h.lease_until - clock_timestamp() > '59 min' AS longer, h.cancel_requested
  FROM jobstate.heartbeat(ARRAY(SELECT id FROM c), ARRAY(SELECT token FROM c), '1 h') h JOIN c USING (id) ORDER BY 1;
SELECT h.lease_until - clock_timestamp() > '4 min 59 s' AS longer, h.cancel_requested
  FROM c, LATERAL jobstate.heartbeat(c.id, c.token, '5 min') h WHERE kind = 'c';
-- no lease goes beyond the timeout
UPDATE jobstate.job SET timeout = '10 s' WHERE queue = 'test' AND kind = 'c';
SELECT h.lease_until = j.claimed_at + interval '10 s' AS the_end
  FROM jobstate.job j, LATERAL jobstate.heartbeat(j.id, j.token) h WHERE j.queue = 'test' AND j.kind = 'c';

-- fail: deferred by the backoff, doubled each time, a quarter more or less
SELECT id AS c FROM c WHERE kind = 'c' \gset
SELECT jobstate.fail(:c, :token, 'no network');
SELECT jobstate.fail(:c, :token, 'no network');
SELECT * FROM jobs WHERE kind = 'c';
SELECT (errors -> 0) - 'at' AS error, (errors -> 0 ->> 'at')::timestamptz <= clock_timestamp() AS at,
       run_at - clock_timestamp() BETWEEN '44 s' AND '75 s' AS backoff FROM jobstate.job WHERE id = :c;
SELECT jobstate.queue_backoff('1 s', 5) BETWEEN '12 s' AND '20 s' AS fifth,
       jobstate.queue_backoff('1 s', 32767) AS longest, jobstate.queue_backoff('1 year', 1) AS longest;
SELECT count(DISTINCT jobstate.queue_backoff('1 h', 1)) AS different FROM generate_series(1, 5);
-- of an id that is given twice the first one counts
SELECT count(*) FROM c, LATERAL jobstate.fail(ARRAY[id, id], ARRAY[token + 1, token], '{no,yes}') WHERE kind = 'd';
SELECT count(*) FROM c, LATERAL jobstate.heartbeat(ARRAY[id, id], ARRAY[token + 1, token]) WHERE kind = 'd';
SELECT count(*) FROM c, LATERAL jobstate.heartbeat(ARRAY[id, id], ARRAY[token, token + 1]) WHERE kind = 'd';
-- the token is over, whatever becomes of the job
SELECT jobstate.complete(:c, :token);                                            -- fails
SELECT jobstate.snooze(:c, :token, '1 s');                                       -- fails
SELECT * FROM jobstate.heartbeat(:c, :token);                                    -- fails
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE id = :c;
SELECT jobstate.promote('test');
SELECT jobstate.fail(:c, :token, 'late');                                        -- fails
SELECT attempt, id = :c AS same_id, token AS second FROM jobstate.claim('test', 'worker', 2) WHERE kind = 'c' \gset
SELECT :attempt AS attempt, :'same_id' AS same_id, :second <> :token AS fresh;
SELECT jobstate.complete(:c, :token);                                            -- fails
-- the wait that is asked for, here none
SELECT jobstate.fail(:c, :second, 'come back', '0 s');
SELECT run_at <= clock_timestamp() AS due FROM jobstate.job WHERE id = :c;
SELECT jobstate.promote('test');
SELECT token AS third FROM jobstate.claim('test', 'worker') \gset
-- the last attempt
SELECT jobstate.fail(:c, :third, 'third');
SELECT jobstate.fail(:c, :third, 'third');
SELECT jobstate.complete(:c, :third);                                            -- fails
SELECT * FROM jobs WHERE kind = 'c';
SELECT e ->> 'attempt' AS attempt, e ->> 'error' AS error FROM jobstate.job, jsonb_array_elements(errors) e WHERE id = :c;

-- snooze: the attempt does not count; nor is there an error
SELECT id AS d FROM c WHERE kind = 'd' \gset
SELECT jobstate.snooze(:d, :token, '1 h');
SELECT j.*, run_at - clock_timestamp() BETWEEN '59 min' AND '60 min' AS hour FROM jobs j, jobstate.job WHERE j.kind = 'd' AND id = :d;
-- a job that somebody wants cancelled neither fails nor sleeps
SELECT jobstate.snooze(id, token, '1 h') FROM c WHERE kind = 'e';
SELECT jobstate.fail(id, token, 'no') FROM c WHERE kind = 'e';
SELECT jobstate.complete(id, token) FROM c WHERE kind = 'e';                     -- fails
SELECT * FROM jobs WHERE kind = 'e';

-- what is said, without the numbers
\set VERBOSITY default
DO $$
DECLARE
    said text;
    detail text;
    hint text;
    job record;
BEGIN
    FOR job IN SELECT id, token FROM (SELECT * FROM jobstate.job WHERE queue = 'test' AND kind IN ('b', 'd', 'e') ORDER BY kind) j
               UNION ALL SELECT 1, 1 LOOP
        BEGIN
            PERFORM jobstate.heartbeat(job.id, job.token);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RAISE NOTICE '% %', SQLSTATE, replace(concat_ws(' | ', said, detail, hint), job.id::text, 'N');
        END;
    END LOOP;
END
$$;
\set VERBOSITY sqlstate

-- ten errors are kept, and 8192 characters of each
SELECT id, token FROM jobstate.job WHERE queue = 'test' AND kind = 'f' \gset
UPDATE jobstate.job SET errors = (SELECT jsonb_agg(n) FROM generate_series(1, 10) n) WHERE id = :id;
SELECT jobstate.fail(:id, :token, repeat('x', 10000), retryable => false);
SELECT jsonb_array_length(errors) AS n, errors -> 0 AS first, length(errors -> -1 ->> 'error') AS length,
       right(errors -> -1 ->> 'error', 24) AS cut FROM jobstate.job WHERE id = :id;
SELECT * FROM jobs WHERE kind = 'f';

-- dead letters: where the queue has them, in the transaction of the last failure
SELECT jobstate.queue_define('test dead');
SELECT count(*) FROM jobstate.enqueue_many('test dead', '{a,b,c}', '{"1","2","3"}', '{1,1,1}', max_attempts => 1,
           unique_keys => '{u,NULL,NULL}', limit_keys => '{l,NULL,NULL}', timeout => '1 h');
CREATE TEMP TABLE dead AS SELECT * FROM jobstate.claim('test dead', 'worker', 3);
BEGIN;
SELECT jobstate.fail(id, token, 'never mind') FROM dead WHERE kind = 'a';
SELECT count(*) FROM jobstate.dead_letter WHERE queue = 'test dead';
ROLLBACK;
SELECT count(*) FROM jobstate.dead_letter WHERE queue = 'test dead';
-- a batch, with one that waits, one that may not, and one that has no attempt left
UPDATE jobstate.job SET max_attempts = 2 WHERE queue = 'test dead' AND kind IN ('b', 'c');
SELECT d.kind, f.outcome
  FROM jobstate.fail(ARRAY(SELECT id FROM dead ORDER BY kind), ARRAY(SELECT token FROM dead), '{ea,eb,ec}',
                     '{NULL,"1 h",NULL}', '{true,true,false}') f JOIN dead d USING (id) ORDER BY 1;
SELECT l.kind, l.payload, l.priority, l.attempt, l.max_attempts, l.timeout, l.unique_key, l.limit_key,
       l.errors -> 0 ->> 'error' AS error, l.enqueued_at = d.enqueued_at AS enqueued, l.died_at <= clock_timestamp() AS died
  FROM jobstate.dead_letter l JOIN dead d USING (id) ORDER BY 1;
SELECT kind, jobstate.queue_state_name(state_id) AS state FROM jobstate.job WHERE queue = 'test dead' ORDER BY kind;
SELECT jobstate.fail(id, token, 'again') FROM dead WHERE kind = 'a';             -- fails
SELECT jobstate.complete(1, 1);                                                  -- fails
SELECT jobstate.snooze(1, 1, '1 s');                                             -- fails
SELECT * FROM jobstate.heartbeat(1, 1);                                          -- fails

-- refusals
SELECT jobstate.complete(NULL, 1);                                               -- fails
SELECT jobstate.complete(1, NULL);                                               -- fails
SELECT jobstate.complete('{1,2}'::bigint[], '{1}');                              -- fails
SELECT jobstate.complete('{1}'::bigint[], '{1}', '{}');                          -- fails
SELECT jobstate.complete(NULL::bigint[], '{1}');                                 -- fails
SELECT jobstate.heartbeat('{1,NULL}'::bigint[], '{1,2}');                        -- fails
SELECT jobstate.heartbeat('{1,2}'::bigint[], '{1,NULL}');                        -- fails
SELECT jobstate.heartbeat('{1}'::bigint[], '{1,2}');                             -- fails
SELECT jobstate.heartbeat('{1}'::bigint[], '{1}', '0 s');                        -- fails
SELECT jobstate.fail(1, 1, NULL);                                                -- fails
SELECT jobstate.fail(1, 1, 'e', '-1 s');                                         -- fails
SELECT jobstate.fail('{1}'::bigint[], '{1}', '{}');                              -- fails
SELECT jobstate.fail('{1}'::bigint[], '{1}', '{e}', '{}');                       -- fails
SELECT jobstate.fail('{1}'::bigint[], '{1}', '{e}', NULL, '{true,true}');        -- fails
SELECT jobstate.snooze(1, 1, NULL);                                              -- fails
SELECT jobstate.snooze(1, 1, '-1 s');                                            -- fails
SELECT count(*) FROM jobstate.fail('{}'::bigint[], '{}', '{}');
SELECT count(*) FROM jobstate.snooze('{}'::bigint[], '{}', '{}');
SELECT count(*) FROM jobstate.heartbeat('{}'::bigint[], '{}');

DELETE FROM jobstate.job WHERE queue LIKE 'test%';
DELETE FROM jobstate.dead_letter WHERE queue LIKE 'test%';
DELETE FROM jobstate.unique_job WHERE queue LIKE 'test%';
DELETE FROM jobstate.queue WHERE queue LIKE 'test%';
SELECT * FROM jobstate.verify('jobstate.job');
