-- schedule: rights -----------------------------------------------------------------

-- schedule_functions: what of the family writes, and whether a worker needs it.  What
-- makes, changes and drops schedules or maintains them is the owner's.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure, p.proname = ANY ('{schedule_due,schedule_finish,schedule_heartbeat}'::name[])
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
       AND (starts_with(p.proname, 'schedule_') OR p.proname = 'maintain_schedule')
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.schedule_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- schedule_grant: what a worker's role needs: to take what is due, and to finish it.
-- It can neither make a schedule nor change what one says.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.schedule_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.schedule_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, UPDATE (state, last_run, runs, failures, last_error, last_success_at, last_ended_at,
                    taken_by, token, lease_until, hold, pid, backend) ON jobstate.schedule TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.schedule_grant(regrole)
    IS 'lets a role take what is due and finish it, but neither make nor change a schedule';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.schedule_functions() f
                UNION ALL SELECT 'jobstate.install_schedule()'::regprocedure LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
