-- queue_cancel: what waits is cancelled at once, a running job's worker is asked,
-- and ends it under its token.
\set SHOW_CONTEXT never
SELECT jobstate.install('queue');
SELECT jobstate.queue_define('regress_cancel');
CREATE FUNCTION pg_temp.id(kind text) RETURNS bigint LANGUAGE sql AS
    $$SELECT j.id FROM jobstate.jobs j WHERE j.queue ~ '^regress_cancel' AND j.kind = $1$$;
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
CREATE VIEW pg_temp.now_there AS
    SELECT j.kind, s.name AS state, j.slot >= 0 AS on_ring, j.id <> j.position AS moved,
           j.cancel_requested AS asked, j.finished_at IS NOT NULL AS ended
      FROM jobstate.job j JOIN jobstate.state s ON s.machine = 'job' AND s.state_id = j.state_id
     WHERE j.queue ~ '^regress_cancel' ORDER BY j.kind;
SELECT count(*) FROM jobstate.enqueue_many('regress_cancel', '{run1,run2,done,ready1,ready2}', array_fill('{}'::jsonb, '{5}'));
SELECT duplicate FROM jobstate.enqueue('regress_cancel', 'later', run_at => now() + '1 day');
SELECT max(token) AS token FROM jobstate.claim('regress_cancel', 'w', 3) \gset
SELECT jobstate.complete(pg_temp.id('done'), :token);

-- many: those that ended otherwise and those that are not there are left out
SELECT kind, outcome FROM jobstate.cancel(ARRAY[-1, pg_temp.id('run1'), pg_temp.id('done'), pg_temp.id('ready1'),
    pg_temp.id('later'), pg_temp.id('ready1')]) c JOIN jobstate.jobs USING (id) ORDER BY kind;
TABLE pg_temp.now_there;
SELECT * FROM jobstate.verify('jobstate.job');
-- again: the same answer, and nothing is written
CREATE TEMP TABLE before AS SELECT j.ctid AS place, j.tableoid AS part, j.* FROM jobstate.job j;
SELECT kind, outcome FROM jobstate.cancel(ARRAY[pg_temp.id('run1'), pg_temp.id('ready1'), pg_temp.id('later')]) c
  JOIN jobstate.jobs USING (id) ORDER BY kind;
SELECT count(*) FROM (TABLE before EXCEPT SELECT j.ctid, j.tableoid, j.* FROM jobstate.job j) d;
-- a cancelled job is not claimed, and the heartbeat tells the worker
SELECT cancel_requested FROM jobstate.heartbeat(pg_temp.id('run1'), :token);
SELECT kind FROM jobstate.claim('regress_cancel', 'w', 10);

-- by the worker: only under its token, asked for or not, and once is enough
SELECT pg_temp.told(format('jobstate.cancel(%s, %s)', pg_temp.id('run1'), 1));
SELECT jobstate.cancel(pg_temp.id('run1'), :token);
SELECT jobstate.cancel(pg_temp.id('run1'), :token);
SELECT pg_temp.told(format('jobstate.cancel(%s, %s)', pg_temp.id('done'), :token));
SELECT pg_temp.told(format('jobstate.cancel(%s, %s)', pg_temp.id('later'), :token));
SELECT pg_temp.told('jobstate.cancel(-1, 1)');
SELECT kind FROM jobstate.cancel(ARRAY[pg_temp.id('run1'), pg_temp.id('run2'), pg_temp.id('done'), pg_temp.id('ready2')],
    ARRAY[:token, :token, :token, :token]) c (id) JOIN jobstate.jobs USING (id) ORDER BY kind;
TABLE pg_temp.now_there;
SELECT * FROM jobstate.verify('jobstate.job');

-- one: refused where nothing can be done
SELECT jobstate.cancel(pg_temp.id('run1'));
SELECT jobstate.cancel(pg_temp.id('ready2'));
SELECT jobstate.cancel(-1);                                                   -- fails
SELECT pg_temp.told(format('jobstate.cancel(%s)', pg_temp.id('done')));

-- by unique key
SELECT duplicate FROM jobstate.enqueue('regress_cancel', 'keyed', unique_key => 'k');
SELECT outcome FROM jobstate.cancel_unique('regress_cancel', 'k');
SELECT duplicate FROM jobstate.enqueue('regress_cancel', 'keyed again', unique_key => 'k');
SELECT c.outcome, c.id = pg_temp.id('keyed again') AS newest FROM jobstate.cancel_unique('regress_cancel', 'k') c;
SELECT jobstate.cancel_unique('regress_cancel', 'none');                      -- fails
SELECT jobstate.cancel_unique('regress_cancel_none', 'k');                    -- fails

-- in bulk: a filter, or everything in so many words
SELECT count(*) FROM jobstate.enqueue_many('regress_cancel', '{x,x,y}', array_fill('{}'::jsonb, '{3}'));
SELECT count(*) FROM jobstate.enqueue_many('regress_cancel_2', '{x,y}', array_fill('{}'::jsonb, '{2}'));
SELECT count(*) FROM jobstate.claim('regress_cancel_2', 'w', 1);
SELECT jobstate.cancel_all();                                                 -- fails
SELECT jobstate.cancel_all(everything => NULL);                               -- fails
SELECT * FROM jobstate.cancel_all('regress_cancel', 'x');
SELECT * FROM jobstate.cancel_all(kind => 'y');
SELECT * FROM jobstate.cancel_all('regress_cancel_none');
BEGIN;
SELECT requested >= 2 AS asked FROM jobstate.cancel_all(everything => true);
ROLLBACK;
SELECT queue, state, n FROM jobstate.queue_counts() WHERE queue ~ '^regress_cancel' ORDER BY 1, 2;
SELECT * FROM jobstate.verify('jobstate.job');

-- nothing in, nothing done; what is null is refused
SELECT * FROM jobstate.cancel('{}'::bigint[]);
SELECT * FROM jobstate.cancel('{}'::bigint[], '{}'::bigint[]);
SELECT * FROM jobstate.cancel(NULL::bigint[]);                                -- fails
SELECT * FROM jobstate.cancel('{1,NULL}'::bigint[]);                          -- fails
SELECT * FROM jobstate.cancel(NULL::bigint);                                  -- fails
SELECT * FROM jobstate.cancel(1, NULL);                                       -- fails
SELECT * FROM jobstate.cancel('{1}'::bigint[], '{NULL}'::bigint[]);           -- fails
SELECT * FROM jobstate.cancel('{1}'::bigint[], '{1,2}'::bigint[]);            -- fails
SELECT * FROM jobstate.cancel_unique(NULL, 'k');                              -- fails
SELECT * FROM jobstate.cancel_unique('q', NULL);                              -- fails

DELETE FROM jobstate.job WHERE queue ~ '^regress_cancel';
DELETE FROM jobstate.unique_job WHERE queue ~ '^regress_cancel';
SELECT * FROM jobstate.verify('jobstate.job');
