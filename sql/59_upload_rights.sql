-- uploads: rights ------------------------------------------------------------------

-- upload_grant: what a worker's role needs: to call the family's functions, and
-- to read and write the family's tables, nothing on the kernel's.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.upload_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fn regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR fn IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v'
           AND starts_with(p.proname, 'upload_') AND NOT starts_with(p.proname, 'upload_install_')
           AND p.proname <> 'upload_grant'
         ORDER BY p.proname
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', fn, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.upload, jobstate.upload_scope,
                    jobstate.upload_error, jobstate.upload_totals TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.upload_follow_up, jobstate.upload_error_code TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.upload_grant(regrole)
    IS 'lets a role do a worker''s part: call the uploads'' functions and write the uploads'' tables';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    fn regprocedure;
BEGIN
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v'
           AND (p.proname ~ '^(upload_|install_)' OR p.proname = 'install')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', fn);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', fn);
    END LOOP;
END
$$;
