-- store: maintenance and rights ---------------------------------------------------------

-- store_sweep: looks at the records that may have expired.  Those that did are marked
-- for the prune, and nobody can bring them back: no write finds them.  The others are
-- looked at again when they would expire now.  Behind an old snapshot one whose
-- check_at was set back by hand may be found half a minute later, see low_end().
-- Writes: store.  Locks: the records, with SKIP LOCKED.
CREATE FUNCTION jobstate.store_sweep(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    looked bigint;
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    since := jobstate.low_end('jobstate.store', 'check_at', 'check_at IS NOT NULL', 30);
    UPDATE jobstate.store s
       SET check_at = CASE WHEN s.expires_at > now THEN s.expires_at END,
           expired_at = CASE WHEN s.expires_at <= now THEN s.expires_at END
     WHERE s.id = ANY (ARRAY(
           SELECT d.id FROM jobstate.store d WHERE d.check_at BETWEEN since AND now
            ORDER BY d.check_at LIMIT n FOR NO KEY UPDATE SKIP LOCKED));
    GET DIAGNOSTICS looked = ROW_COUNT;
    RETURN looked;
END
$$;
COMMENT ON FUNCTION jobstate.store_sweep(integer)
    IS 'internal: marks records that expired, and tells how many it looked at';

-- store_prune: removes what expired, and adds it to the rollup by status.
-- Writes: store, rollup.  Locks: the records, with SKIP LOCKED.
CREATE FUNCTION jobstate.store_prune(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.store_sweep(n);
    RETURN jobstate.prune('jobstate.store', interval '0', 'expired_at', n);
END
$$;
COMMENT ON FUNCTION jobstate.store_prune(integer)
    IS 'removes up to n expired records, adds them to the rollup by status and tells how many';

-- maintain_store: a step of the store's maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the store is not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_store(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.store')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            RETURN jobstate.store_sweep(many) >= many;
        WHEN 1 THEN
            RETURN jobstate.prune('jobstate.store', interval '0', 'expired_at', many) >= many;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_store(integer)
    IS 'internal: a step of the store''s maintenance, called by maintain(): removes expired records';

-- store_functions: what of the family writes, and whether a worker needs it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure, p.proname !~ '^(install_store|maintain_store|store_(install_.*|grant|sweep|prune))$'
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v'
       AND (starts_with(p.proname, 'store_') OR p.proname IN ('install_store', 'maintain_store'))
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.store_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- store_grant: what a client's role needs: to call the family's functions, and to read
-- and write records; nothing on the kernel's tables.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.store_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.store_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.store TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.store_records, jobstate.store_setting, jobstate.store_artifact_name TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.store_grant(regrole)
    IS 'lets a role create, read and write records, but not change the store''s settings';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.store_functions() f LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
