-- ledger_poison: what fails is offered again, but not for ever.
\set SHOW_CONTEXT never
SELECT jobstate.install('ledger');
SELECT jobstate.ledger_define('regress_f', '{"max_failures": 3}');

-- D.5 scenario 7: the second of three files raises
SELECT token AS run FROM jobstate.ledger_begin_run('regress_f', 'one') \gset
CREATE TEMP TABLE result (item text PRIMARY KEY);
CREATE FUNCTION pg_temp.work(item text, run uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO result VALUES (item);
    PERFORM jobstate.ledger_mark('regress_f', item, 'x', 2, 'h', token => run);
    IF item = '2' THEN
        RAISE 'cannot parse %', item;
    END IF;
    RETURN 'processed';
EXCEPTION WHEN raise_exception THEN
    RETURN jobstate.ledger_fail('regress_f', item, SQLERRM, run);
END $$;
SELECT item, pg_temp.work(item, :'run') FROM jobstate.ledger_unprocessed('regress_f', '{1,2,3}') u;
SELECT jobstate.ledger_end_run('regress_f', :'run', stats => '{"scanned": 3}');
SELECT state, scanned, processed, skipped, capped, errors, items_extracted, errors_detail FROM jobstate.ledger_run WHERE processor = 'regress_f';
SELECT item, state, failures, error FROM jobstate.ledger WHERE processor = 'regress_f' ORDER BY item;
SELECT * FROM result ORDER BY 1;
-- the next run looks at exactly the second
SELECT item FROM jobstate.ledger_unprocessed('regress_f', '{1,2,3}') u;

-- D.5 scenario 8: after as many failures as the setting says it is dead, and not offered again
SELECT jobstate.ledger_fail('regress_f', '2', 'again'), jobstate.ledger_fail('regress_f', '2', 'and again');
SELECT state, failures, error FROM jobstate.ledger_items('regress_f', '{2}');
SELECT item FROM jobstate.ledger_unprocessed('regress_f', '{1,2,3}', fingerprints => '{h,new,h}') u;
SELECT count(*) FROM jobstate.ledger_claim('regress_f', '2', 'new');
-- failing once more changes nothing about that
SELECT jobstate.ledger_fail('regress_f', '2', 'by hand');
-- a reset offers it again, with its failures forgotten; only dead ones where that is asked for
SELECT jobstate.ledger_reset('regress_f', states => '{dead}');
SELECT item FROM jobstate.ledger_unprocessed('regress_f', '{1,2,3}', fingerprints => '{h,h,h}') u;
SELECT state, failures, error FROM jobstate.ledger_items('regress_f', '{2}');
SELECT jobstate.ledger_fail('regress_f', '2', 'no');
-- a success forgets failures; a dead one may be marked by hand
SELECT jobstate.ledger_mark('regress_f', '2') IS NOT NULL AS marked;
SELECT state, failures, error FROM jobstate.ledger_items('regress_f', '{2}');
SELECT jobstate.ledger_fail('regress_f', '2', e) FROM unnest('{a,b,c}'::text[]) e;
SELECT jobstate.ledger_mark('regress_f', '2') IS NOT NULL AS marked;

-- an item that kills its workers ends dead as well
SELECT count(*) FROM jobstate.ledger_claim('regress_f', 'killer');
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE item = 'killer';
SELECT attempt FROM jobstate.ledger_claim('regress_f', 'killer');
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE item = 'killer';
CALL jobstate.maintain();
SELECT state, failures, error FROM jobstate.ledger_items('regress_f', '{killer}');
SELECT attempt FROM jobstate.ledger_claim('regress_f', 'killer');
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE item = 'killer';
SELECT attempt FROM jobstate.ledger_claim('regress_f', 'killer');
SELECT state, failures, error FROM jobstate.ledger_items('regress_f', '{killer}');

-- a processor that was never defined allows five; one that allows one failure
SELECT jobstate.ledger_fail('regress_g', 'x', 'no') FROM generate_series(1, 5);
SELECT jobstate.ledger_define('regress_g', '{"max_failures": 1}');
SELECT jobstate.ledger_fail('regress_g', 'y', 'no');
-- everything of a processor again
SELECT jobstate.ledger_reset('regress_g'), jobstate.ledger_reset('regress_g'), jobstate.ledger_reset('regress_nobody');
SELECT state, n FROM jobstate.counts('jobstate.ledger', '{"processor": "regress_g"}') WHERE n > 0;

SELECT jobstate.ledger_forget('{regress_f,regress_g}');
DELETE FROM jobstate.ledger_processor WHERE processor ~ '^regress';
DELETE FROM jobstate.ledger_run WHERE processor ~ '^regress';
SELECT * FROM jobstate.verify();
