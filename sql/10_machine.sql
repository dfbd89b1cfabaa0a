-- machine: state machines as data -------------------------------------------

CREATE FUNCTION jobstate.catalog_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_catalog_trigger';
COMMENT ON FUNCTION jobstate.catalog_changed() IS 'makes every session forget what it compiled from the catalogue';

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.machine
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.state
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.transition
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.attachment
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();

ALTER TABLE jobstate.machine ENABLE ALWAYS TRIGGER changed;
ALTER TABLE jobstate.state ENABLE ALWAYS TRIGGER changed;
ALTER TABLE jobstate.transition ENABLE ALWAYS TRIGGER changed;
ALTER TABLE jobstate.attachment ENABLE ALWAYS TRIGGER changed;

-- "from -> to: event", taken apart.
CREATE FUNCTION jobstate.parse_transition(line text, OUT from_name text, OUT to_name text, OUT event text)
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT m[1], m[2], m[3]
      FROM regexp_match(line, '^\s*([^\s:]+)\s*->\s*([^\s:]+)\s*(?::\s*(.*?)\s*)?$') AS m
$$;
COMMENT ON FUNCTION jobstate.parse_transition(text) IS 'takes "from -> to: event" apart; nulls where it is not of that form';

-- Does a state column hold ids (else names)?
CREATE FUNCTION jobstate.holds_ids(target regclass, state_column name)
    RETURNS boolean LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE type (oid) AS (
        SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = target AND a.attname = state_column
        UNION ALL
        SELECT t.typbasetype FROM type JOIN pg_type t ON t.oid = type.oid WHERE t.typbasetype <> 0)
    SELECT EXISTS (SELECT FROM type WHERE type.oid IN ('smallint'::regtype, 'integer'::regtype))
$$;
COMMENT ON FUNCTION jobstate.holds_ids(regclass, name) IS 'whether a state column holds ids; else it holds names';

-- Refuses a definition that is not sound by itself.
CREATE FUNCTION jobstate.check_definition(states jsonb, transitions text[], initial text[], terminal text[])
    RETURNS void LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    known text := (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(states) k);
    bad   text;
BEGIN
    IF array_position(transitions || initial || terminal, NULL) IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'transitions and states must not be null';
    END IF;
    SELECT format('"%s": %s', s.key, s.value) INTO bad FROM jsonb_each(states) s
     WHERE s.key !~ '^[^\s:]+$' OR s.key LIKE '%->%' OR jsonb_typeof(s.value) <> 'number'
        OR s.value::text !~ '^-?[0-9]{1,5}$' OR s.value::text::int NOT BETWEEN -32768 AND 32767 LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid state %s', bad),
            HINT = 'States are names without blanks and colons, each with its smallint id, like {"uploaded": 1}.';
    END IF;
    SELECT s.value::text INTO bad FROM jsonb_each(states) s GROUP BY s.value HAVING count(*) > 1 LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('state id %s is given more than once', bad);
    END IF;
    SELECT l INTO bad FROM unnest(transitions) l
     WHERE (jobstate.parse_transition(l)).from_name IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid transition "%s"', bad),
            HINT = 'A transition is "from -> to" or "from -> to: event".';
    END IF;
    SELECT n INTO bad
      FROM (SELECT unnest(ARRAY[t.from_name, t.to_name]) AS n
              FROM unnest(transitions) l, jobstate.parse_transition(l) t
            UNION ALL SELECT unnest(initial) UNION ALL SELECT unnest(terminal)) named
     WHERE NOT states ? n LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown state "%s"', bad),
            HINT = format('States of the machine: %s.', known);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.check_definition(jsonb, text[], text[], text[]) IS 'refuses a machine that is not sound';

CREATE FUNCTION jobstate.rows_now(target regclass, state_id smallint)
    RETURNS bigint LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_rows_now';
COMMENT ON FUNCTION jobstate.rows_now(regclass, smallint) IS 'rows in a state as the newest snapshot sees them; for define_machine()';

-- Refuses to take a state away from rows that are in it, or were when they
-- were rolled up.  A table that holds states by id needs the id, one that holds
-- them by name needs name and id as they were.  Writers are kept out, so that
-- none comes in meanwhile.
CREATE FUNCTION jobstate.check_stranded(machine_name text, states jsonb)
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    gone record;
    rows bigint;
BEGIN
    FOR gone IN
        SELECT a.target, s.name, s.state_id
          FROM jobstate.attachment a JOIN jobstate.state s USING (machine)
         WHERE a.machine = machine_name
           AND CASE WHEN jobstate.holds_ids(a.target, a.state_column)
                    THEN s.state_id NOT IN (SELECT value::text::int FROM jsonb_each(states))
                    ELSE states ->> s.name IS DISTINCT FROM s.state_id::text END
         ORDER BY a.target, s.state_id
    LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', gone.target);
        rows := jobstate.rows_now(gone.target, gone.state_id)
                + (SELECT coalesce(sum(r.n), 0) FROM jobstate.rollup r
                    WHERE r.target = gone.target AND r.state_id = gone.state_id);
        IF rows > 0 THEN
            RAISE check_violation USING
                MESSAGE = format('cannot remove or renumber state "%s" of machine "%s"', gone.name, machine_name),
                DETAIL = format('Rows of table %s that are in it or were rolled up from it: %s.', gone.target, rows),
                HINT = 'Keep the state; leave out the transitions that lead to it.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.check_stranded(text, jsonb) IS 'refuses a definition that would strand rows';

-- Makes a machine, or makes it what it is told to be from here on.
-- Writes machine, state, transition.  Locks machine against other definitions,
-- and attached tables that lose a state against writers.
CREATE FUNCTION jobstate.define_machine(name text, states jsonb, transitions text[],
                                        initial text[] DEFAULT NULL, terminal text[] DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing text := CASE WHEN name IS NULL THEN 'name' WHEN states IS NULL THEN 'states'
                         WHEN transitions IS NULL THEN 'transitions' END;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('argument "%s" must not be null', missing);
    END IF;
    IF name = '' OR jsonb_typeof(states) <> 'object' OR states = '{}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a machine needs a name and at least one state',
            HINT = 'States are an object of names and ids, like {"uploaded": 1}.';
    END IF;
    IF initial = '{}' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('machine "%s" needs an initial state', name),
            HINT = 'Leave "initial" out to let rows begin in any state.';
    END IF;
    IF (SELECT count(*) FROM jsonb_object_keys(states)) > 256 THEN
        RAISE program_limit_exceeded USING MESSAGE = format('machine "%s" has more than 256 states', name);
    END IF;
    PERFORM jobstate.check_definition(states, transitions, initial, terminal);
    LOCK TABLE jobstate.machine IN SHARE ROW EXCLUSIVE MODE;
    PERFORM jobstate.check_stranded(name, states);

    INSERT INTO jobstate.machine VALUES (define_machine.name) ON CONFLICT DO NOTHING;
    DELETE FROM jobstate.transition t WHERE t.machine = define_machine.name;
    DELETE FROM jobstate.state s WHERE s.machine = define_machine.name;
    INSERT INTO jobstate.state
    SELECT define_machine.name, s.value::text::smallint, s.key,
           initial IS NULL OR s.key = ANY (initial),
           CASE WHEN terminal IS NULL
                THEN NOT EXISTS (SELECT FROM unnest(transitions) l, jobstate.parse_transition(l) t
                                  WHERE t.from_name = s.key AND t.to_name <> s.key)
                ELSE s.key = ANY (terminal) END
      FROM jsonb_each(states) s;
    INSERT INTO jobstate.transition
    SELECT define_machine.name, (states ->> t.from_name)::smallint, (states ->> t.to_name)::smallint, min(t.event)
      FROM unnest(transitions) l, jobstate.parse_transition(l) t
     GROUP BY t.from_name, t.to_name;
END
$$;
COMMENT ON FUNCTION jobstate.define_machine(text, jsonb, text[], text[], text[]) IS
    'makes a state machine, or changes it; refuses what would strand rows';

CREATE FUNCTION jobstate.drop_machine(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    users text;
BEGIN
    IF name IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "name" must not be null';
    END IF;
    LOCK TABLE jobstate.machine IN SHARE ROW EXCLUSIVE MODE;
    SELECT string_agg(a.target::text, ', ' ORDER BY a.target::text) INTO users
      FROM jobstate.attachment a WHERE a.machine = drop_machine.name;
    IF users IS NOT NULL THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('machine "%s" is in use', name),
            DETAIL = format('Attached tables: %s.', users),
            HINT = 'Use jobstate.detach() first.';
    END IF;
    DELETE FROM jobstate.machine m WHERE m.name = drop_machine.name;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('machine "%s" does not exist', name),
            HINT = 'Make it with jobstate.define_machine(), or see the view jobstate.machines.';
    END IF;
    DELETE FROM jobstate.transition t WHERE t.machine = drop_machine.name;
    DELETE FROM jobstate.state s WHERE s.machine = drop_machine.name;
END
$$;
COMMENT ON FUNCTION jobstate.drop_machine(text) IS 'drops a machine that no table is attached to';

CREATE VIEW jobstate.machines AS
    SELECT m.name,
           (SELECT jsonb_object_agg(s.name, s.state_id) FROM jobstate.state s WHERE s.machine = m.name) AS states,
           (SELECT array_agg(s.name ORDER BY s.state_id) FROM jobstate.state s
             WHERE s.machine = m.name AND s.is_initial) AS initial,
           (SELECT array_agg(s.name ORDER BY s.state_id) FROM jobstate.state s
             WHERE s.machine = m.name AND s.is_terminal) AS terminal
      FROM jobstate.machine m;
COMMENT ON VIEW jobstate.machines IS 'the state machines: states with their ids, which are initial, which terminal';
GRANT SELECT ON jobstate.machines TO PUBLIC;

CREATE VIEW jobstate.transitions AS
    SELECT t.machine, f.name AS from_state, o.name AS to_state, t.event
      FROM jobstate.transition t
      JOIN jobstate.state f ON f.machine = t.machine AND f.state_id = t.from_state
      JOIN jobstate.state o ON o.machine = t.machine AND o.state_id = t.to_state
     ORDER BY t.machine, t.from_state, t.to_state;
COMMENT ON VIEW jobstate.transitions IS 'the edges of the state machines by name';
GRANT SELECT ON jobstate.transitions TO PUBLIC;
