-- applies: rights --------------------------------------------------------------------

-- apply_functions: what of the family writes, and whether a driver or whoever
-- controls applies needs it.  What defines, sweeps or grants is the owner's.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure,
           p.proname !~ '^(.*_install_.*|install_apply|maintain_apply|apply_(attach|derive|use_rules|grant|expire.*|strand|obey|reap))$'
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
       AND (p.proname ~ '^(apply|operation|task)_' OR p.proname IN ('install_apply', 'maintain_apply'))
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.apply_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- apply_grant: what a driver's role needs: to call the verbs, and to read and write
-- applies, operations, tasks and requests.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.apply_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.apply_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.apply, jobstate.operation, jobstate.task,
                    jobstate.apply_control_request, jobstate.apply_target TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.apply_policy TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.apply_grant(regrole)
    IS 'lets a role create, drive and control applies';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.apply_functions() f LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
