-- ledger: rights -------------------------------------------------------------------

-- ledger_functions: what of the family writes, and whether a worker needs it.  What
-- defines processors, forgets items or maintains is the owner's.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure, p.proname !~ '^(ledger_(install_.*|grant|define|forget|retain)|maintain_ledger)$'
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
       AND (starts_with(p.proname, 'ledger_') OR p.proname = 'maintain_ledger')
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.ledger_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- ledger_grant: what a worker's role needs: to run processors, claim, mark and fail.
-- It can neither change the settings of a processor nor delete what is known of items.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.ledger_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.ledger_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON jobstate.ledger TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON jobstate.ledger_run TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT ON jobstate.ledger_outcome TO %s', worker);
    EXECUTE format('GRANT SELECT, UPDATE (run_id, run_token, run_owner, run_since, run_until, run_hold, run_pid,
                    run_backend) ON jobstate.ledger_processor TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.ledger_policy TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_grant(regrole)
    IS 'lets a role run processors, claim, mark, fail and reset items, but neither change the settings of processors nor forget items';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.ledger_functions() f
                UNION ALL SELECT 'jobstate.install_ledger()'::regprocedure LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
