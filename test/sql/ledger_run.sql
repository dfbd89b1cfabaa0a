-- ledger_run: one run of a processor at a time, and every run in the records.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SELECT jobstate.install('ledger');
SELECT jobstate.ledger_define('regress_r', '{"cap": 5}');

-- a second run is refused at once, with who is at it and since when; another processor is free
SELECT run_id AS run, token, stop_at - lease_until AS budget, cap FROM jobstate.ledger_begin_run('regress_r', 'one', '10 min') \gset
SELECT :'budget' AS budget_less_lease, :cap AS cap;
SELECT jobstate.ledger_begin_run('regress_r', 'two');                            -- fails
DO $$
DECLARE
    detail text;
    hint text;
BEGIN
    PERFORM jobstate.ledger_begin_run('regress_r', 'two');
EXCEPTION WHEN lock_not_available THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE NOTICE '% %', SQLSTATE, SQLERRM;
    RAISE NOTICE '%', replace(regexp_replace(regexp_replace(detail, 'Run \d+', 'Run N'), '\w{3} \w{3} [^,]*', 'T', 'g'), pg_backend_pid()::text, 'N');
    RAISE NOTICE '%', hint;
END $$;
SELECT jobstate.ledger_define('regress_s');
SELECT cap FROM jobstate.ledger_begin_run('regress_s');

-- D.5 scenario 9: a cap of 5, 12 candidates, 2 of them found to be unchanged
CREATE TEMP VIEW candidate AS SELECT array_agg('f' || lpad(n::text, 2, '0') ORDER BY n) AS items FROM generate_series(1, 12) n;
SELECT count(*) FROM candidate, jobstate.ledger_take('regress_r', items, run => :'token');
SELECT array_agg(item ORDER BY item) AS taken FROM jobstate.ledger WHERE processor = 'regress_r' AND state = 'claimed';
SELECT token AS claim FROM jobstate.ledger WHERE processor = 'regress_r' AND item = 'f01' \gset
SELECT jobstate.ledger_release('regress_r', i, :'claim', skipped => true) FROM unnest('{f01,f02}'::text[]) i;
SELECT count(jobstate.ledger_mark('regress_r', i, 'x', 2, token => :'claim')) FROM unnest('{f03,f04,f05}'::text[]) i;
-- what was skipped does not use the cap; what was looked at is not looked at twice
SELECT item, nth FROM candidate, jobstate.ledger_take('regress_r', items, run => :'token');
SELECT count(*) FROM candidate, jobstate.ledger_take('regress_r', items, run => :'token');
SELECT count(jobstate.ledger_mark('regress_r', item, 'x', 1, token => token)) FROM jobstate.ledger WHERE item IN ('f06', 'f07');
SELECT jobstate.ledger_end_run('regress_r', :'token');
SELECT state, owner, scanned, processed, skipped, capped, errors, items_extracted, errors_detail, error, ended_at > started_at AS ended
  FROM jobstate.ledger_run WHERE processor = 'regress_r';
-- once more, because the answer was lost: nothing changes
SELECT jobstate.ledger_end_run('regress_r', :'token');
-- and what was given back, or skipped, is offered to the next run
SELECT array_agg(u.item) FROM candidate, jobstate.ledger_unprocessed('regress_r', items) u;

-- D.3: a time budget; nothing is taken after it
SELECT token FROM jobstate.ledger_begin_run('regress_r', 'three') \gset
UPDATE jobstate.ledger_run SET stop_at = clock_timestamp() WHERE processor = 'regress_r' AND state = 'running';
SELECT count(*) FROM candidate, jobstate.ledger_take('regress_r', items, run => :'token');
-- what a run holds when it ends is given back; figures that it knows better replace what was noted
UPDATE jobstate.ledger_run SET stop_at = NULL WHERE processor = 'regress_r' AND state = 'running';
SELECT count(*) FROM candidate, jobstate.ledger_take('regress_r', items, run => :'token');
SELECT jobstate.ledger_end_run('regress_r', :'token', stats => '{"scanned": 100, "capped": 88}');
SELECT state, scanned, processed, skipped, capped, errors FROM jobstate.ledger_run WHERE owner = 'three';
SELECT state, n FROM jobstate.counts('jobstate.ledger', '{"processor": "regress_r"}') WHERE n > 0;

-- a run that raises is in the records as well, and the processor is free at once
SELECT token FROM jobstate.ledger_begin_run('regress_r', 'four') \gset
SELECT jobstate.ledger_end_run('regress_r', :'token', 'unhandled: no space left');
SELECT state, error FROM jobstate.ledger_run WHERE owner = 'four';

-- a run whose lease ended is lost; so are its claims, and what it says afterwards is refused
SELECT token FROM jobstate.ledger_begin_run('regress_r', 'five') \gset
SELECT jobstate.ledger_mark('regress_r', 'f08', 'x', 7, token => :'token') IS NOT NULL AS marked;
SELECT item FROM jobstate.ledger_take('regress_r', '{f09}', run => :'token');
SELECT jobstate.ledger_heartbeat_run('regress_r', :'token', '1 hour') > now() + interval '59 min' AS kept;
UPDATE jobstate.ledger_processor SET run_until = '2020-01-01' WHERE processor = 'regress_r';
SELECT token AS next FROM jobstate.ledger_begin_run('regress_r', 'six') \gset
SELECT state, processed, errors, items_extracted, errors_detail, error FROM jobstate.ledger_run WHERE owner = 'five';
SELECT item, state, error FROM jobstate.ledger_items('regress_r', '{f09}');
SELECT jobstate.ledger_mark('regress_r', 'f10', token => :'token');              -- fails
SELECT jobstate.ledger_fail('regress_r', 'f10', 'late', :'token');               -- fails
SELECT jobstate.ledger_take('regress_r', '{f10}', run => :'token');              -- fails
SELECT jobstate.ledger_heartbeat_run('regress_r', :'token');                     -- fails
SELECT jobstate.ledger_hold_run('regress_r', :'token');                          -- fails
SELECT jobstate.ledger_end_run('regress_r', :'token');                           -- fails
-- one whose lease ended and that nobody replaced may still end
UPDATE jobstate.ledger_processor SET run_until = '2020-01-01' WHERE processor = 'regress_r';
SELECT jobstate.ledger_end_run('regress_r', :'next');
SELECT run_id IS NULL AS free FROM jobstate.ledger_processor WHERE processor = 'regress_r';

-- D.5 scenario 10: what a transaction began is gone with it
BEGIN;
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'seven');
SELECT 1 / 0;
ROLLBACK;
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'eight', hold => 'session');
SELECT run_pid = pg_backend_pid() AS mine, run_hold FROM jobstate.ledger_processor WHERE processor = 'regress_r';
SELECT jobstate.ledger_begin_run('regress_r', 'nine');                           -- fails
-- as if that session were gone: free at once, whatever the lease says
UPDATE jobstate.ledger_processor SET run_backend = '2020-01-01' WHERE processor = 'regress_r';
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'nine', hold => 'transaction');
-- held by a transaction that is over, so free
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'ten');
SELECT owner, state FROM jobstate.ledger_run WHERE processor = 'regress_r' ORDER BY id;

-- begun twice in one transaction: the first one is not lost
UPDATE jobstate.ledger_processor SET run_until = '2020-01-01' WHERE processor = 'regress_r';
BEGIN;
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'eleven', hold => 'transaction');
SAVEPOINT again;
SELECT jobstate.ledger_begin_run('regress_r', 'twelve', hold => 'transaction');  -- fails
ROLLBACK TO again;
SELECT owner, state FROM jobstate.ledger_run WHERE processor = 'regress_r' AND state = 'running';
COMMIT;
SELECT cap FROM jobstate.ledger_begin_run('regress_r', 'twelve', hold => 'transaction');

-- no processor of that name
SELECT jobstate.ledger_begin_run('regress_unknown');                             -- fails
DELETE FROM jobstate.ledger_processor WHERE processor ~ '^regress';
DELETE FROM jobstate.ledger_run WHERE processor ~ '^regress';
SELECT jobstate.ledger_forget('{regress_r}') > 0 AS forgotten;
SELECT * FROM jobstate.verify();
