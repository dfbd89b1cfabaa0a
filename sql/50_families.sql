-- families ------------------------------------------------------------------
--
-- A family is SQL over the kernel.  Its tables are ordinary tables of whoever
-- installs them: pg_dump carries them with their data, and their triggers come
-- back after the data.
--
-- A function compares by the collation of its arguments, which may come from
-- columns of the caller's that have one of their own.  So keys are compared under
-- the collation that their index has: a column's side says COLLATE, or a variable does.

-- require_argument: refuses NULL where it means nothing.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.require_argument(argument text, value anyelement)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF value IS NULL THEN
        RAISE EXCEPTION 'argument "%" must not be null', argument
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.require_argument(text, anyelement)
    IS 'raises 22004 with the argument''s name if the value is null';

-- require_positive: refuses a lease, a batch or a limit that is not above zero.
-- Called as require_positive('n', n > 0), for any type that compares.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.require_positive(argument text, is_positive boolean)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, is_positive);
    IF NOT is_positive THEN
        RAISE EXCEPTION 'argument "%" must be greater than zero', argument
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.require_positive(text, boolean)
    IS 'raises 22004 or 22023 with the argument''s name unless the comparison with zero holds';

-- require_role: refuses NULL, and the number of a role that is not there.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.require_role(argument text, role regrole)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, role);
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role with OID % does not exist', role::oid
            USING ERRCODE = 'undefined_object';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.require_role(text, regrole)
    IS 'raises 22004 with the argument''s name if the role is null, 42704 if there is no such role';

-- require_json: refuses what is not of the wanted kind: object or array.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.require_json(argument text, value jsonb, kind text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, value);
    IF jsonb_typeof(value) <> kind THEN
        RAISE EXCEPTION 'argument "%" must be a JSON %', argument, kind
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.require_json(text, jsonb, text)
    IS 'raises 22004 or 22023 with the argument''s name unless the value is an object, or an array';

-- hooks: functions of the extension by prefix and types of arguments.  Only members
-- of the extension count that its tables' owner has, so nobody can plant one: the
-- database's owner, who may create the extension, can make his functions members.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.hooks(prefix text, arguments text)
RETURNS SETOF name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.proname
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
     WHERE d.deptype = 'e' AND e.extname = 'jobstate'
       AND p.pronamespace = 'jobstate'::regnamespace
       AND p.proowner = (SELECT c.relowner FROM pg_class c WHERE c.oid = 'jobstate.attachment'::regclass)
       AND starts_with(p.proname, prefix) AND oidvectortypes(p.proargtypes) = arguments
     ORDER BY p.proname
$$;
COMMENT ON FUNCTION jobstate.hooks(text, text)
    IS 'internal: the functions that install(), health() and metrics ask';

-- family_names: every function install_<family>() of the extension is a family.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.family_names()
RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT substr(h, length('install_') + 1) FROM jobstate.hooks('install_', '') h
$$;
COMMENT ON FUNCTION jobstate.family_names()
    IS 'the families that install() knows';

-- install: makes a family's machine and tables, owned by the caller.
-- Writes and locks what the family's own install_<family>() says.
CREATE FUNCTION jobstate.install(family text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text[] := ARRAY(SELECT f FROM jobstate.family_names() f);
BEGIN
    PERFORM jobstate.require_argument('family', family);
    IF NOT family = ANY (known) THEN
        RAISE EXCEPTION 'family "%" does not exist', family
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Families: %s.', array_to_string(known, ', '));
    END IF;
    EXECUTE format('SELECT jobstate.%I()', 'install_' || family);
END
$$;
COMMENT ON FUNCTION jobstate.install(text)
    IS 'makes a family''s tables in schema jobstate, owned by the caller; does nothing where they exist';
