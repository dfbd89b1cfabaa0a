-- queue_read_only: a read-only transaction reads the queue, and writes nothing.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DO $$ BEGIN PERFORM jobstate.install('queue'); END $$;
SELECT duplicate FROM jobstate.enqueue('test read only', 'k');
SET default_transaction_read_only = on;
SELECT priority, state, n FROM jobstate.queue_counts('test read only') WHERE n > 0;
SELECT * FROM jobstate.enqueue('test read only', 'k');                           -- fails
SELECT * FROM jobstate.enqueue_many('test read only', '{k}', ARRAY['{}'::jsonb]); -- fails
SELECT * FROM jobstate.claim('test read only', 'w');                             -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.complete('{1}'::bigint[], '{1}'::bigint[]);               -- fails
SELECT * FROM jobstate.fail('{1}'::bigint[], '{1}'::bigint[], '{e}'::text[]);    -- fails
RESET default_transaction_read_only;
DELETE FROM jobstate.job WHERE queue = 'test read only';
DELETE FROM jobstate.queue WHERE queue = 'test read only';
SELECT * FROM jobstate.verify('jobstate.job');
