-- ledger_refusals: every error of the ledger's verbs, with its number and its hint.
\set SHOW_CONTEXT never
\set VERBOSITY default
SELECT jobstate.install('ledger');
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(regexp_replace(detail, '(until|Failing) .*', '\1 ...'), ''), nullif(hint, ''));
END $$;
\pset tuples_only on
\pset format unaligned
-- settings
SELECT pg_temp.try($$SELECT jobstate.ledger_define(NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_define('')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_define('regress_e', '{"cap": 0}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_define('regress_e', '{"lease": null}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_define('regress_e', '{"interval": "soon"}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_define('regress_e', '{"caps": 1}')$$);
-- candidates
SELECT pg_temp.try($$SELECT jobstate.ledger_unprocessed('regress_e', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_unprocessed(NULL, '{}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_unprocessed('regress_e', '{a,b}', '{2026-01-01}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_take('regress_e', '{a}', fingerprints => '{h,i}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_unprocessed('regress_e', '{a}', rule => 'newest')$$);
-- marks and claims
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'a', items => NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'a', items => -1)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'a', read_at => 'infinity')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_fail('regress_e', 'a', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_is_processed(NULL, 'a', 'h')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_claim('regress_e', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_claim('regress_e', 'a', lease => '0')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_claim('regress_e', 'a', worker => NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_heartbeat('regress_e', '{a}', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_release('regress_e', 'a', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_forget(NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_retain('regress_e', NULL)$$);
-- tokens
SELECT count(*) FROM jobstate.ledger_claim('regress_e', 'a', worker => 'one');
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'a', token => gen_random_uuid())$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'b', token => gen_random_uuid())$$);
SELECT jobstate.ledger_reset('regress_e');
SELECT pg_temp.try($$SELECT jobstate.ledger_mark('regress_e', 'a', token => gen_random_uuid())$$);
-- runs
SELECT pg_temp.try($$SELECT jobstate.ledger_begin_run('regress_e')$$);
SELECT jobstate.ledger_define('regress_e');
SELECT pg_temp.try($$SELECT jobstate.ledger_begin_run('regress_e', hold => 'prayer')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_begin_run('regress_e', NULL)$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_begin_run('regress_e', lease => '-1 s')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_end_run('regress_e', gen_random_uuid())$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_end_run('regress_e', gen_random_uuid(), stats => '{"done": 1}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_end_run('regress_e', gen_random_uuid(), stats => '{"errors": -1}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_end_run('regress_e', gen_random_uuid(), stats => '{"errors_detail": 1}')$$);
SELECT pg_temp.try($$SELECT jobstate.ledger_take('regress_e', '{a}', run => gen_random_uuid())$$);
-- the machine is the kernel's
SELECT pg_temp.try($$INSERT INTO jobstate.ledger (processor, item, state) VALUES ('regress_e', 'z', 'lost')$$);
SELECT pg_temp.try($$UPDATE jobstate.ledger_run SET state = 'done'$$);
\pset tuples_only off
\pset format aligned
SELECT jobstate.ledger_forget('{regress_e}');
DELETE FROM jobstate.ledger_processor WHERE processor ~ '^regress';
