-- ledger: settings, and what every verb needs -------------------------------------

-- ledger_define: makes a processor, or changes some of its settings.
-- Writes: ledger_processor.  Locks: the processor's row.
CREATE FUNCTION jobstate.ledger_define(processor text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR processor;
    known CONSTANT text[] := '{interval,lease,max_failures,cap,budget}';
    unknown text;
BEGIN
    PERFORM jobstate.require_argument('processor', name);
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for processor "%s".', name),
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    INSERT INTO jobstate.ledger_processor (processor) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.ledger_processor p
       SET ("interval", lease, max_failures, cap, budget) =
           (SELECT n."interval", n.lease, n.max_failures, n.cap, n.budget
              FROM jsonb_populate_record(p, settings) n)
     WHERE p.processor COLLATE "C" = name;
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for processor "%" are not valid', name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'Numbers and times are above zero; only cap and budget may be null, which is none.';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_define(text, jsonb)
    IS 'makes a processor or changes settings of it: {"max_failures": 5, "cap": 50, "budget": "150 s", ...}';

-- ledger_setting: a limit as an environment gives it.  What is empty, no number or
-- not above zero means the other value, which is none unless it is given.  What is
-- not set at all may mean yet another.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_setting(value text, otherwise numeric DEFAULT NULL, unset numeric DEFAULT NULL)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value ~ '^\s*\d{1,9}(\.\d{1,6})?\s*$' AND value::numeric > 0 THEN value::numeric
                WHEN value IS NULL THEN coalesce(unset, otherwise) ELSE otherwise END
$$;
COMMENT ON FUNCTION jobstate.ledger_setting(text, numeric, numeric)
    IS 'a number above zero from a text, as environment variables hold them; anything else is the other value, or none';

-- ledger_max_failures: after how many failures an item is dead.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_max_failures(processor text)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT p.max_failures FROM jobstate.ledger_processor p
                      WHERE p.processor COLLATE "C" = ledger_max_failures.processor), 5);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_max_failures(text)
    IS 'internal: the setting, also of a processor that was never defined';

-- ledger_lease: how long a claim or a run may be silent: what the call says, else
-- the processor's setting.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_lease(processor text, lease interval)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF lease IS NOT NULL THEN
        PERFORM jobstate.require_positive('lease', lease > interval '0');
        RETURN lease;
    END IF;
    RETURN coalesce((SELECT p.lease FROM jobstate.ledger_processor p
                      WHERE p.processor COLLATE "C" = ledger_lease.processor), interval '900 s');
END
$$;
COMMENT ON FUNCTION jobstate.ledger_lease(text, interval)
    IS 'internal: the lease that a call gives, or the processor''s';

-- ledger_refuse: words every refusal of a call that speaks of one item.  The token may
-- have been that of a run.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_refuse(processor text, item text, token uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known record;
BEGIN
    SELECT l.state, l.claimed_by, l.lease_until INTO known FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2;
    IF EXISTS (SELECT FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.token = $3) THEN
        PERFORM jobstate.ledger_refuse_run($1);
    ELSIF known.state IS NULL THEN
        RAISE EXCEPTION 'item "%" is not in the ledger of processor "%"', $2, $1
            USING ERRCODE = 'JS002',
                  DETAIL = 'A token stands for an item that was claimed.',
                  HINT = 'It was forgotten meanwhile, or the name is another one.';
    ELSIF known.state = 'claimed' THEN
        RAISE EXCEPTION 'lease on item "%" of processor "%" is lost', $2, $1
            USING ERRCODE = 'JS001',
                  DETAIL = format('It is claimed by "%s" until %s.', known.claimed_by, known.lease_until),
                  HINT = 'Roll back: whoever holds the item will mark it.';
    END IF;
    RAISE EXCEPTION 'lease on item "%" of processor "%" is lost', $2, $1
        USING ERRCODE = 'JS001',
              DETAIL = format('Its state is "%s", and the token is not that of its last claim, or was used before.', known.state),
              HINT = 'Roll back, and claim the item again if it is still to be processed.';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_refuse(text, text, uuid)
    IS 'internal: raises JS001 or JS002 for an item and a token';

-- ledger_refuse_run: words every refusal of a run's token.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_refuse_run(processor text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the run of processor "%" is lost', processor
        USING ERRCODE = 'JS001',
              DETAIL = 'The token is not that of the run that holds the processor.',
              HINT = 'Roll back and stop: somebody else may run it by now.';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_refuse_run(text)
    IS 'internal: raises JS001 for a run that holds its processor no longer';

-- ledger_backend_gone: true if that backend has ended for certain.  Whoever may not see
-- when another role's backend started, or could not when it began (after SET ROLE),
-- takes a later one with the same number for it, and so errs on the side of waiting.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_backend_gone(pid integer, started_at timestamptz)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- else a transaction would see for ever who was there when it first looked
    PERFORM pg_stat_clear_snapshot();
    RETURN coalesce(pg_postmaster_start_time() > started_at, false)
        OR NOT EXISTS (SELECT FROM pg_stat_activity a
                        WHERE a.pid = ledger_backend_gone.pid
                          AND coalesce(a.backend_start = started_at, true));
END
$$;
COMMENT ON FUNCTION jobstate.ledger_backend_gone(integer, timestamptz)
    IS 'internal: true if the backend that had this number then has ended';
