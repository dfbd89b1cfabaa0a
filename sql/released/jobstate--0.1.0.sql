\echo Use "CREATE EXTENSION jobstate" to load this file. \quit
-- The script runs as a superuser: no operator or function that somebody planted
-- in another schema may be meant by what stands here without a schema.
SET LOCAL search_path = pg_catalog, pg_temp;

-- The room that everything stands in.  The script makes the schema itself, so
-- that it belongs to the extension's owner and cannot be planted beforehand.
CREATE SCHEMA jobstate;
COMMENT ON SCHEMA jobstate IS 'upload and job state, kept true in the database';
GRANT USAGE ON SCHEMA jobstate TO PUBLIC;
-- The families' tables are the application's own: install() and pg_restore
-- create them here as whoever runs them.
GRANT CREATE ON SCHEMA jobstate TO pg_database_owner;

-- machines ------------------------------------------------------------------
--
-- No foreign keys among these tables: a parallel restore loads them in any
-- order.  Only the functions write here.

CREATE TABLE jobstate.machine (
    name        text PRIMARY KEY CHECK (name <> '')
);
COMMENT ON TABLE jobstate.machine IS 'the state machines; written by define_machine()';

CREATE TABLE jobstate.state (
    machine     text NOT NULL,
    state_id    smallint NOT NULL,
    name        text NOT NULL CHECK (name <> ''),
    is_initial  boolean NOT NULL,
    is_terminal boolean NOT NULL,
    PRIMARY KEY (machine, state_id),
    UNIQUE (machine, name)
);
COMMENT ON TABLE jobstate.state IS 'the states of each machine';
COMMENT ON COLUMN jobstate.state.is_initial IS 'an INSERT may bring a row in this state';
COMMENT ON COLUMN jobstate.state.is_terminal IS 'a row that reached this state is done; prune() may take it';

CREATE TABLE jobstate.transition (
    machine     text NOT NULL,
    from_state  smallint NOT NULL,
    to_state    smallint NOT NULL,
    event       text,
    PRIMARY KEY (machine, from_state, to_state)
);
COMMENT ON TABLE jobstate.transition IS 'the edges of each machine: what guard allows';

-- attachments ---------------------------------------------------------------

CREATE TABLE jobstate.attachment (
    target       regclass PRIMARY KEY,
    machine      text NOT NULL,
    state_column name NOT NULL,
    group_by     name[] NOT NULL,
    epoch        bigint NOT NULL
);
COMMENT ON TABLE jobstate.attachment IS 'the tables that are watched; written by attach() and detach()';
COMMENT ON COLUMN jobstate.attachment.epoch IS 'which rows of the counter log belong to this table now; a random number, so that a restored one means nothing here; without its marker in the log the table is uncounted';

CREATE TABLE jobstate.rollup (
    target      regclass NOT NULL,
    group_key   jsonb NOT NULL,
    state_id    smallint NOT NULL,
    day         date NOT NULL,
    n           bigint NOT NULL CHECK (n > 0),
    PRIMARY KEY (target, group_key, state_id, day)
);
COMMENT ON TABLE jobstate.rollup IS 'terminal rows that prune() took, summed per group, state and UTC day of the age column';

-- derivations ---------------------------------------------------------------

CREATE TABLE jobstate.rule_set (
    name         text PRIMARY KEY CHECK (name <> ''),
    unknown      text
);
COMMENT ON TABLE jobstate.rule_set IS 'the rule sets; written by define_rules()';
COMMENT ON COLUMN jobstate.rule_set.unknown IS 'the state that a NULL counts as';

CREATE TABLE jobstate.rule (
    rule_set     text NOT NULL,
    ord          smallint NOT NULL,
    part         smallint NOT NULL,
    quantifier   text NOT NULL CHECK (quantifier IN ('empty', 'always', 'any', 'any not', 'all', 'none', 'later', 'later not')),
    states       text[] NOT NULL,
    result       text NOT NULL,
    PRIMARY KEY (rule_set, ord, part)
);
COMMENT ON TABLE jobstate.rule IS 'the conditions of the rules, a row each: all parts of a rule must hold, the first rule that holds wins';

CREATE TABLE jobstate.derivation (
    parent        regclass NOT NULL,
    child         regclass NOT NULL,
    ord           smallint NOT NULL,
    key           name[] NOT NULL,
    rule_set      text NOT NULL,
    completed_at  name,
    error         name,
    reason        name,
    child_error   name,
    child_variant name,
    child_order   name[],
    PRIMARY KEY (parent, child)
);
CREATE INDEX derivation_child ON jobstate.derivation (child);
COMMENT ON TABLE jobstate.derivation IS 'the tables whose state follows from another table''s rows; written by derive() and underive()';
COMMENT ON COLUMN jobstate.derivation.ord IS 'of several children tables the first that has rows for the parent decides';
COMMENT ON COLUMN jobstate.derivation.key IS 'the child''s columns that refer to the parent''s primary key';

SELECT pg_catalog.pg_extension_config_dump('jobstate.machine', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.state', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.transition', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.attachment', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rollup', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rule_set', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rule', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.derivation', '');

GRANT SELECT ON jobstate.machine, jobstate.state, jobstate.transition, jobstate.rule_set, jobstate.rule, jobstate.derivation
    TO PUBLIC;
-- A database's owner dumps and restores it.
GRANT SELECT, INSERT ON jobstate.machine, jobstate.state, jobstate.transition, jobstate.attachment, jobstate.rollup,
    jobstate.rule_set, jobstate.rule, jobstate.derivation TO pg_database_owner;

-- the counter log and its base -----------------------------------------------
--
-- Insert-only: rows leave by TRUNCATE.  Every column is NOT NULL and stored
-- plain, so that a row is one flat piece of memory and no TOAST table exists.
-- The columns come by ALTER TABLE because only that decides about TOAST after
-- the storage is known.

-- A publication FOR ALL TABLES would copy the log to the subscriber, which counts
-- for itself: there it is turned away.  The extension's own rows do not come
-- through the executor.
CREATE FUNCTION jobstate.turn_away() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN RETURN NULL; END $$;
COMMENT ON FUNCTION jobstate.turn_away() IS 'keeps rows of another database''s counter log out of this one''s';

DO $$
DECLARE
    relname text;
BEGIN
    FOREACH relname IN ARRAY ARRAY['segment_0', 'segment_1', 'segment_2', 'segment_3',
                                   'segment_4', 'segment_5', 'segment_6', 'segment_7',
                                   'base_recent', 'base_settled_0', 'base_settled_1']
    LOOP
        EXECUTE pg_catalog.format('CREATE TABLE jobstate.%I () USING heap WITH (autovacuum_enabled = off)', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I'
            ' ADD epoch bigint NOT NULL, ADD key_hash integer NOT NULL,'
            ' ADD group_key text COLLATE "C" NOT NULL, ADD deltas text COLLATE "C" NOT NULL,'
            ' ALTER group_key SET STORAGE PLAIN, ALTER deltas SET STORAGE PLAIN', relname);
        EXECUTE pg_catalog.format('CREATE TRIGGER turn_away BEFORE INSERT ON jobstate.%I'
            ' FOR EACH ROW EXECUTE FUNCTION jobstate.turn_away()', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I ENABLE ALWAYS TRIGGER turn_away', relname);
        EXECUTE pg_catalog.format('COMMENT ON TABLE jobstate.%I IS %L', relname,
            CASE WHEN relname LIKE 'segment%'
                 THEN 'counter log: one row per touched key and transaction; deltas = state_id:change,...; emptied by fold()'
                 WHEN relname LIKE 'base_recent%'
                 THEN 'counter base, recent: sums of folded segments; epoch 0 marks each fold'
                 ELSE 'counter base, settled: sums that left base_recent; epoch 0 tells its size at the last rewrite'
            END);
    END LOOP;
    FOREACH relname IN ARRAY ARRAY['base_settled_0', 'base_settled_1']
    LOOP
        EXECUTE pg_catalog.format('CREATE INDEX %I ON jobstate.%I (epoch, key_hash)', relname || '_key', relname);
    END LOOP;
END
$$;
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
-- guard and tally: the triggers of watched tables -----------------------------

CREATE FUNCTION jobstate.watch() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_watch';
COMMENT ON FUNCTION jobstate.watch() IS 'row trigger of attached tables: refuses illegal state changes and counts the others';

CREATE FUNCTION jobstate.watch_truncate() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_watch_truncate';
COMMENT ON FUNCTION jobstate.watch_truncate() IS 'truncate trigger of attached tables: books what they held';

-- attach: putting a table under watch ------------------------------------------

-- Writes attachment and the counter log.  Locks the table and its partitions
-- SHARE ROW EXCLUSIVE until commit: writers wait, readers do not.
CREATE FUNCTION jobstate.attach(target regclass, machine text, state_column name, group_by name[] DEFAULT '{}')
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_attach';
COMMENT ON FUNCTION jobstate.attach(regclass, text, name, name[]) IS
    'guards and counts a table from here on; counts the rows that are there and returns how many';

CREATE FUNCTION jobstate.detach(target regclass)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_detach';
COMMENT ON FUNCTION jobstate.detach(regclass) IS 'lets a table go: no guard, no counts; its rollup stays';

CREATE FUNCTION jobstate.rebuild(target regclass)
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_rebuild';
COMMENT ON FUNCTION jobstate.rebuild(regclass) IS
    'counts a table afresh, whatever the counters say; writers wait until commit';

CREATE FUNCTION jobstate.recount(target regclass)
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_recount_uncounted';
COMMENT ON FUNCTION jobstate.recount(regclass) IS
    'counts a table that is uncounted while writers go on; -1 where there is nothing to do';

CREATE FUNCTION jobstate.uncount(target regclass)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_uncount';
COMMENT ON FUNCTION jobstate.uncount(regclass) IS
    'gives up a table''s counters: counts() scans it until recount() or rebuild()';

CREATE FUNCTION jobstate.uncount_dropped(dropped oid)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'jobstate_uncount_dropped';
COMMENT ON FUNCTION jobstate.uncount_dropped(oid) IS
    'gives up the counters of the table that a dropped partition belonged to';

CREATE FUNCTION jobstate.validate(target regclass, machine text, state_column name, group_by name[])
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_validate';
COMMENT ON FUNCTION jobstate.validate(regclass, text, name, name[]) IS 'raises what attach() would raise before it looks at rows';

-- What attach() would refuse, without attaching.
CREATE FUNCTION jobstate.check(target regclass, machine text, state_column name, group_by name[] DEFAULT '{}')
    RETURNS TABLE (problem text, detail text, hint text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    by_id boolean;
BEGIN
    BEGIN
        PERFORM jobstate.validate(target, machine, state_column, group_by);
    EXCEPTION WHEN others THEN
        GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN NEXT;
        -- the rows of an attached table may have gone wrong behind its back
        IF SQLSTATE <> '42710' THEN
            RETURN;
        END IF;
    END;
    by_id := jobstate.holds_ids(target, state_column);
    RETURN QUERY EXECUTE format($q$
        SELECT CASE WHEN t.%1$I IS NULL THEN 'rows without a state' ELSE 'rows in an unknown state' END,
               format('%%s rows: %%s', count(*), coalesce(t.%1$I::text, 'null')),
               format('Set the column to a state of machine "%%s" first.', %3$L)
          FROM %5$s %2$s t
         WHERE NOT EXISTS (SELECT FROM jobstate.state s WHERE s.machine = %3$L
                              AND CASE WHEN %4$L THEN s.state_id::text ELSE s.name END = t.%1$I::text)
         GROUP BY t.%1$I ORDER BY 2$q$, state_column, target, machine, by_id,
        (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY' ELSE '' END FROM pg_class c WHERE c.oid = target));
END
$$;
COMMENT ON FUNCTION jobstate.check(regclass, text, name, name[]) IS 'what attach() would refuse; no row = nothing';

-- renames, drops ---------------------------------------------------------------

CREATE FUNCTION jobstate.ddl_command_end() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_ddl_command_end';
COMMENT ON FUNCTION jobstate.ddl_command_end() IS 'follows renamed columns and partitions that come and go';

-- Runs as the owner, because whoever drops a table has no right on ours.
CREATE FUNCTION jobstate.sql_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    dropped record;
BEGIN
    FOR dropped IN
        SELECT d.objid, d.object_type, d.address_names
          FROM pg_event_trigger_dropped_objects() d
         WHERE d.object_type IN ('table', 'table column', 'trigger')
    LOOP
        IF dropped.object_type = 'table' THEN
            -- a DELETE of nothing would still make every session recompile
            IF EXISTS (SELECT FROM jobstate.attachment a WHERE a.target = dropped.objid) THEN
                DELETE FROM jobstate.attachment a WHERE a.target = dropped.objid;
            END IF;
            DELETE FROM jobstate.rollup r WHERE r.target = dropped.objid;
            IF EXISTS (SELECT FROM jobstate.derivation d WHERE dropped.objid IN (d.parent, d.child)) THEN
                PERFORM jobstate.touch_parents(d.parent) FROM jobstate.derivation d WHERE d.child = dropped.objid;
                DELETE FROM jobstate.derivation d WHERE dropped.objid IN (d.parent, d.child);
            END IF;
            PERFORM jobstate.uncount_dropped(dropped.objid);
        ELSIF dropped.object_type = 'trigger' AND dropped.address_names[3] IN ('jobstate_watch', 'jobstate_truncate') THEN
            PERFORM jobstate.uncount(to_regclass(format('%I.%I', dropped.address_names[1], dropped.address_names[2])));
        ELSIF EXISTS (SELECT FROM jobstate.attachment a
                       WHERE a.target = dropped.objid
                         AND dropped.address_names[3] = ANY (a.group_by || a.state_column)
                         AND EXISTS (SELECT FROM pg_class c WHERE c.oid = dropped.objid)) THEN
            RAISE dependent_objects_still_exist USING
                MESSAGE = format('cannot drop column "%s" of table %s', dropped.address_names[3], dropped.objid::regclass),
                DETAIL = 'The table is attached by it.',
                HINT = 'Use jobstate.detach() first.';
        ELSIF EXISTS (SELECT FROM jobstate.derivation d
                       WHERE (d.parent = dropped.objid
                              AND dropped.address_names[3] IN (d.completed_at, d.error, d.reason)
                              OR d.child = dropped.objid
                              AND dropped.address_names[3] = ANY (d.key || d.child_order || d.child_error || d.child_variant))
                         AND EXISTS (SELECT FROM pg_class c WHERE c.oid = dropped.objid)) THEN
            RAISE dependent_objects_still_exist USING
                MESSAGE = format('cannot drop column "%s" of table %s', dropped.address_names[3], dropped.objid::regclass),
                DETAIL = 'A derived state depends on it.',
                HINT = 'Use jobstate.underive() first.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.sql_drop() IS 'cleans up after dropped tables, and keeps the columns that a table is attached by';

CREATE FUNCTION jobstate.ddl_command_start() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_ddl_command_start';
COMMENT ON FUNCTION jobstate.ddl_command_start() IS 'gives up counters before a partition is detached concurrently';

CREATE EVENT TRIGGER jobstate_ddl_command_start ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE')
    EXECUTE FUNCTION jobstate.ddl_command_start();
CREATE EVENT TRIGGER jobstate_ddl_command_end ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'ALTER TYPE')
    EXECUTE FUNCTION jobstate.ddl_command_end();
CREATE EVENT TRIGGER jobstate_sql_drop ON sql_drop
    EXECUTE FUNCTION jobstate.sql_drop();
ALTER EVENT TRIGGER jobstate_ddl_command_start ENABLE ALWAYS;
ALTER EVENT TRIGGER jobstate_ddl_command_end ENABLE ALWAYS;
ALTER EVENT TRIGGER jobstate_sql_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER jobstate_ddl_command_start IS 'keeps attachments true while a partition is detached concurrently';
COMMENT ON EVENT TRIGGER jobstate_ddl_command_end IS 'keeps attachments true when tables and types are altered';
COMMENT ON EVENT TRIGGER jobstate_sql_drop IS 'keeps attachments true when tables, columns and triggers are dropped';
-- counts ------------------------------------------------------------------------

CREATE FUNCTION jobstate.counts(target regclass, group_key jsonb DEFAULT NULL)
    RETURNS TABLE (group_key jsonb, state text, n bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100
    AS 'MODULE_PATHNAME', 'jobstate_counts';
COMMENT ON FUNCTION jobstate.counts(regclass, jsonb) IS
    'rows per group and state, exact in the caller''s snapshot, own uncommitted work included; a group key may name some of the group columns';

-- For who decides under a lock: a REPEATABLE READ transaction's own snapshot may be
-- older than the lock, and counts() answers from that.
CREATE FUNCTION jobstate.counts_now(target regclass, group_key jsonb DEFAULT NULL)
    RETURNS TABLE (group_key jsonb, state text, n bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100
    AS 'MODULE_PATHNAME', 'jobstate_counts_now';
COMMENT ON FUNCTION jobstate.counts_now(regclass, jsonb) IS
    'what counts() says to a transaction that begins now, own uncommitted work included';

CREATE FUNCTION jobstate.counted(target regclass)
    RETURNS boolean LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_counted';
COMMENT ON FUNCTION jobstate.counted(regclass) IS 'whether counts() reads counters; else it scans the table; null where the table or a column that it is attached by is gone';

CREATE FUNCTION jobstate.verify_one(target regclass)
    RETURNS TABLE (target regclass, group_key jsonb, state text, counted bigint, actual bigint)
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_verify';
COMMENT ON FUNCTION jobstate.verify_one(regclass) IS 'drift of one table, as rows';

CREATE FUNCTION jobstate.verify(target regclass DEFAULT NULL)
    RETURNS TABLE (target regclass, group_key jsonb, state text, counted bigint, actual bigint)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT v.* FROM (SELECT $1 WHERE $1 IS NOT NULL
                     UNION ALL
                     SELECT a.target FROM jobstate.attachment a
                      WHERE $1 IS NULL AND jobstate.counted(a.target) IS NOT NULL) AS wanted (target),
                    LATERAL jobstate.verify_one(wanted.target) v
$$;
COMMENT ON FUNCTION jobstate.verify(regclass) IS
    'what the counters say beside what is there, where they differ; no row = no drift; scans the table';

CREATE FUNCTION jobstate.totals(target regclass, group_key jsonb DEFAULT NULL)
    RETURNS TABLE (group_key jsonb, state text, live bigint, rolled_up bigint, total bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_totals';
COMMENT ON FUNCTION jobstate.totals(regclass, jsonb) IS
    'rows per group and state that are there, that prune() rolled up, and both together';

CREATE FUNCTION jobstate.state_totals(target regclass)
    RETURNS TABLE (state text, live bigint, rolled_up bigint)
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE ROWS 10
    AS 'MODULE_PATHNAME', 'jobstate_state_totals';
COMMENT ON FUNCTION jobstate.state_totals(regclass) IS
    'rows per state over all groups, there and rolled up, of this moment; no row where the table is uncounted';

CREATE VIEW jobstate.attachments AS
    SELECT a.target, a.machine, a.state_column, a.group_by, jobstate.counted(a.target) AS counted,
           NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                        WHERE (c.oid = a.target OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(a.target) p))
                          AND (SELECT count(*) FROM pg_catalog.pg_trigger g
                                WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'O')
                                  AND g.tgname IN ('jobstate_watch', 'jobstate_truncate'))
                              < CASE c.relkind WHEN 'p' THEN 1 ELSE 2 END)
           AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = a.target) AS watched
      FROM jobstate.attachment a;
COMMENT ON VIEW jobstate.attachments IS 'the attached tables: are they counted, and do their triggers fire?';
GRANT SELECT ON jobstate.attachment, jobstate.attachments TO PUBLIC;

-- The machine as a diagram ---------------------------------------------------------

CREATE FUNCTION jobstate.diagram_states(machine text, target regclass)
    RETURNS TABLE (state_id smallint, name text, label text, is_initial boolean, is_terminal boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF diagram_states.machine IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "machine" must not be null';
    END IF;
    IF EXISTS (SELECT FROM jobstate.attachment a
                WHERE a.target = diagram_states.target AND a.machine <> diagram_states.machine) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('relation "%s" is not attached to machine "%s"', diagram_states.target, diagram_states.machine);
    END IF;
    RETURN QUERY
    WITH live AS (SELECT c.state, sum(c.n) AS n
                    FROM jobstate.counts(diagram_states.target, NULL::jsonb) c
                   WHERE diagram_states.target IS NOT NULL GROUP BY c.state)
    SELECT s.state_id, s.name,
           s.name || CASE WHEN diagram_states.target IS NULL THEN '' ELSE format(' (%s)', coalesce(l.n, 0)) END,
           s.is_initial AND EXISTS (SELECT FROM jobstate.state o WHERE o.machine = s.machine AND NOT o.is_initial),
           s.is_terminal
      FROM jobstate.state s LEFT JOIN live l ON l.state = s.name
     WHERE s.machine = diagram_states.machine
     ORDER BY s.state_id;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('machine "%s" does not exist', diagram_states.machine),
            HINT = 'Make it with jobstate.define_machine(), or see the view jobstate.machines.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.diagram_states(text, regclass) IS 'the nodes of mermaid() and dot()';

CREATE FUNCTION jobstate.mermaid(machine text, target regclass DEFAULT NULL)
    RETURNS text LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH node AS MATERIALIZED (SELECT * FROM jobstate.diagram_states($1, $2)),
         line (part, a, b, text) AS (
            SELECT 1, state_id, 0, format('    state "%s" as s%s', replace(label, '"', ''''), replace(state_id::text, '-', '_'))
              FROM node
            UNION ALL
            SELECT 2, state_id, 0, format('    [*] --> s%s', replace(state_id::text, '-', '_'))
              FROM node WHERE is_initial
            UNION ALL
            SELECT 3, t.from_state, t.to_state,
                   format('    s%s --> s%s', replace(t.from_state::text, '-', '_'), replace(t.to_state::text, '-', '_'))
                   || coalesce(' : ' || t.event, '')
              FROM jobstate.transition t WHERE t.machine = $1
            UNION ALL
            SELECT 4, state_id, 0, format('    s%s --> [*]', replace(state_id::text, '-', '_'))
              FROM node WHERE is_terminal)
    SELECT E'stateDiagram-v2\n' || string_agg(text, E'\n' ORDER BY part, a, b) FROM line
$$;
COMMENT ON FUNCTION jobstate.mermaid(text, regclass) IS
    'a machine as a Mermaid state diagram, with the live counts of a table if one is given';

CREATE FUNCTION jobstate.dot(machine text, target regclass DEFAULT NULL)
    RETURNS text LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH node AS MATERIALIZED (SELECT * FROM jobstate.diagram_states($1, $2)),
         line (part, a, b, text) AS (
            SELECT 1, state_id, 0,
                   format('    "%s" [shape=%s];', replace(label, '"', '\"'),
                          CASE WHEN is_terminal THEN 'doublecircle' ELSE 'ellipse' END)
              FROM node
            UNION ALL
            SELECT 2, t.from_state, t.to_state,
                   format('    "%s" -> "%s"%s;', replace(f.label, '"', '\"'), replace(o.label, '"', '\"'),
                          coalesce(' [label="' || replace(t.event, '"', '\"') || '"]', ''))
              FROM jobstate.transition t
              JOIN node f ON f.state_id = t.from_state
              JOIN node o ON o.state_id = t.to_state
             WHERE t.machine = $1)
    SELECT format(E'digraph "%s" {\n', replace($1, '"', '\"')) || string_agg(text, E'\n' ORDER BY part, a, b) || E'\n}'
      FROM line
$$;
COMMENT ON FUNCTION jobstate.dot(text, regclass) IS
    'a machine as a Graphviz digraph, with the live counts of a table if one is given';
-- transition, take: verbs for workers ------------------------------------------------

-- Writes the target, as the caller.  Locks its rows in the order of their ids.
CREATE FUNCTION jobstate.transition(target regclass, ids bigint[], to_state text, from_state text DEFAULT NULL)
    RETURNS SETOF bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_transition';
COMMENT ON FUNCTION jobstate.transition(regclass, bigint[], text, text) IS
    'moves the rows that may go to a state, or only those in one state; returns the ids that moved';

-- Writes the target, as the caller.  Passes over rows that others have locked.
CREATE FUNCTION jobstate.take(target regclass, from_state text, to_state text,
                              group_key jsonb DEFAULT NULL, n integer DEFAULT 1)
    RETURNS SETOF bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_take';
COMMENT ON FUNCTION jobstate.take(regclass, text, text, jsonb, integer) IS
    'claims up to n rows in a state by moving them on, oldest id first, without waiting; returns their ids';

-- prune ----------------------------------------------------------------------------------

-- Deletes from the target as the caller, and writes rollup.
CREATE FUNCTION jobstate.prune(target regclass, older_than interval, age_column name, batch integer DEFAULT 1000,
                               states text[] DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_prune';
COMMENT ON FUNCTION jobstate.prune(regclass, interval, name, integer, text[]) IS
    'deletes one batch of old rows in terminal states, or in some of them, and adds them to the rollup; returns how many; the target may be a partition';

-- Truncates the partition as the caller, and writes rollup.  Locks the partition
-- against everybody.
CREATE FUNCTION jobstate.prune_partition(part regclass, age_column name)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_prune_partition';
COMMENT ON FUNCTION jobstate.prune_partition(regclass, name) IS
    'adds all rows of a partition to the rollup and truncates it; refused unless all are in terminal states; returns how many';

-- fold, maintain ---------------------------------------------------------------------------

-- Writes base and truncates segments; readers of counts wait until commit.
CREATE FUNCTION jobstate.fold()
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_fold_all';
COMMENT ON FUNCTION jobstate.fold() IS
    'folds all of the counter log that is free into the base; returns the rows folded';

CREATE PROCEDURE jobstate.maintain()
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_maintain';
COMMENT ON PROCEDURE jobstate.maintain() IS
    'folds what is full, settles the base, counts uncounted tables of the caller and does what the caller''s families need; commits between the steps';

-- rights -----------------------------------------------------------------------------------
--
-- Reading is for everybody: each function asks for SELECT on the table itself.
-- What writes is for the database's owner to hand out.

REVOKE EXECUTE ON FUNCTION
    jobstate.define_machine(text, jsonb, text[], text[], text[]), jobstate.drop_machine(text),
    jobstate.check_stranded(text, jsonb), jobstate.rows_now(regclass, smallint),
    jobstate.attach(regclass, text, name, name[]), jobstate.detach(regclass),
    jobstate.rebuild(regclass), jobstate.recount(regclass), jobstate.uncount(regclass),
    jobstate.uncount_dropped(oid), jobstate.transition(regclass, bigint[], text, text),
    jobstate.take(regclass, text, text, jsonb, integer),
    jobstate.prune(regclass, interval, name, integer, text[]),
    jobstate.prune_partition(regclass, name), jobstate.fold() FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE jobstate.maintain() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    jobstate.define_machine(text, jsonb, text[], text[], text[]), jobstate.drop_machine(text),
    jobstate.attach(regclass, text, name, name[]), jobstate.detach(regclass),
    jobstate.rebuild(regclass), jobstate.recount(regclass),
    jobstate.transition(regclass, bigint[], text, text),
    jobstate.take(regclass, text, text, jsonb, integer),
    jobstate.prune(regclass, interval, name, integer, text[]),
    jobstate.prune_partition(regclass, name), jobstate.fold() TO pg_database_owner WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE jobstate.maintain() TO pg_database_owner WITH GRANT OPTION;
-- rules ------------------------------------------------------------------------
--
-- From the states of all children to one state, as data: the first rule that
-- holds tells.

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.rule_set
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.rule
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobstate.derivation
    FOR EACH STATEMENT EXECUTE FUNCTION jobstate.catalog_changed();
ALTER TABLE jobstate.rule_set ENABLE ALWAYS TRIGGER changed;
ALTER TABLE jobstate.rule ENABLE ALWAYS TRIGGER changed;
ALTER TABLE jobstate.derivation ENABLE ALWAYS TRIGGER changed;

-- One condition, like "any failed, stopped" or "later not completed": its
-- quantifier and its states; no row where it is none.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.parse_condition(condition text)
    RETURNS TABLE (quantifier text, states text[])
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT m[1], '{}'::text[]
      FROM regexp_match(condition, '^\s*(empty|always)\s*$') m
     WHERE m IS NOT NULL
    UNION ALL
    SELECT regexp_replace(m[1], '\s+', ' '), regexp_split_to_array(m[2], '\s*,\s*')
      FROM regexp_match(condition, '^\s*(any\s+not|any|all|none|later\s+not|later)\s+([^,]*[^,\s](?:\s*,\s*[^,]*[^,\s])*)\s*$') m
     WHERE m IS NOT NULL
$$;
COMMENT ON FUNCTION jobstate.parse_condition(text) IS 'takes a condition of a rule apart; no row where it is none';

-- Tells the names that a label like "failed/halt" may mean a state by.
CREATE FUNCTION jobstate.label_state(label text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT regexp_replace(label, '/[^/]*$', '') $$;
COMMENT ON FUNCTION jobstate.label_state(text) IS 'the state of a label like failed/halt';

-- What a rule set says against the machines of a derivation: every state that
-- it names must exist, else a typing error would go unseen.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.check_rules(rule_set_name text, parent_machine text, child_machine text)
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    bad record;
BEGIN
    SELECT q.name, q.machine INTO bad
      FROM (SELECT r.result AS name, parent_machine AS machine, r.ord FROM jobstate.rule r WHERE r.rule_set = rule_set_name
            UNION ALL
            SELECT l, child_machine, r.ord FROM jobstate.rule r, unnest(r.states) l WHERE r.rule_set = rule_set_name) q
     WHERE NOT EXISTS (SELECT FROM jobstate.state s
                        WHERE s.machine = q.machine
                          AND (s.name = q.name OR q.machine = child_machine AND s.name = jobstate.label_state(q.name)))
     ORDER BY q.ord LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('rule set "%s" names the state "%s", which machine "%s" does not have', rule_set_name, bad.name, bad.machine),
            HINT = format('States of the machine: %s.', (SELECT string_agg(s.name, ', ' ORDER BY s.state_id)
                                                           FROM jobstate.state s WHERE s.machine = bad.machine));
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.check_rules(text, text, text) IS 'refuses rules that name states which the machines do not have';

CREATE FUNCTION jobstate.touch_parents(parent regclass)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_touch_parents';
COMMENT ON FUNCTION jobstate.touch_parents(regclass) IS 'has every row of a derived table derived anew at commit; for define_rules()';

-- Below how many tables, each derived from the one before, a table is.  Writers come by
-- the deepest first, so whoever locks several does too.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.derivation_depth(target regclass) RETURNS integer
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE above AS (
        SELECT target AS relid, 0 AS depth
        UNION SELECT d.parent, a.depth + 1 FROM jobstate.derivation d JOIN above a ON d.child = a.relid)
    SELECT max(depth) FROM above
$$;
COMMENT ON FUNCTION jobstate.derivation_depth(regclass) IS 'how many tables are derived one after the other from this one';

-- Makes a rule set, or makes it what it is told to be from here on: then every
-- table that is derived by it is derived anew at commit.
-- Writes rule_set, rule.  Locks rule_set against other definitions, and the
-- tables that are derived by it, with their children, against writers.
CREATE FUNCTION jobstate.define_rules(rule_set text, rules text[], unknown text DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    bad text;
    used record;
BEGIN
    IF rule_set IS NULL OR rules IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = format('argument "%s" must not be null', CASE WHEN rule_set IS NULL THEN 'rule_set' ELSE 'rules' END);
    END IF;
    IF rule_set = '' OR rules = '{}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a rule set needs a name and at least one rule',
            HINT = 'Rules are texts like "any failed -> failed".';
    END IF;
    SELECT coalesce(l, 'null') INTO bad
      FROM unnest(rules) l, LATERAL (SELECT regexp_match(l, '^(.*)->\s*(\S.*?)\s*$') AS m) p
     WHERE p.m IS NULL
        OR EXISTS (SELECT FROM regexp_split_to_table(p.m[1], '\s+and\s+') c
                    WHERE NOT EXISTS (SELECT FROM jobstate.parse_condition(c)))
     LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid rule "%s"', bad),
            HINT = 'A rule is "condition -> state" or "condition and condition -> state"; a condition is empty, always, or any, any not, all, none, later or later not with states, like "any failed, stopped".';
    END IF;

    LOCK TABLE jobstate.rule_set IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO jobstate.rule_set VALUES (define_rules.rule_set, define_rules.unknown)
        ON CONFLICT (name) DO UPDATE SET unknown = excluded.unknown;
    DELETE FROM jobstate.rule r WHERE r.rule_set = define_rules.rule_set;
    INSERT INTO jobstate.rule
    SELECT define_rules.rule_set, l.ord, c.part, p.quantifier, p.states, m[2]
      FROM unnest(rules) WITH ORDINALITY l(rule, ord),
           LATERAL (SELECT regexp_match(l.rule, '^(.*)->\s*(\S.*?)\s*$') AS m) q,
           regexp_split_to_table(m[1], '\s+and\s+') WITH ORDINALITY c(condition, part),
           jobstate.parse_condition(c.condition) p;
    SELECT rules[r.ord] INTO bad FROM jobstate.rule r
     WHERE r.rule_set = define_rules.rule_set AND r.quantifier LIKE 'later%'
       AND NOT EXISTS (SELECT FROM jobstate.rule a WHERE a.rule_set = r.rule_set AND a.ord = r.ord
                          AND a.part < r.part AND a.quantifier LIKE 'any%')
     ORDER BY r.ord LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid rule "%s"', bad),
            DETAIL = 'It tells of later children, but not later than which.',
            HINT = 'Put "any" or "any not" before "later", like "any failed and later completed".';
    END IF;

    FOR used IN
        SELECT d.parent, d.child, p.machine AS parent_machine, c.machine AS child_machine
          FROM jobstate.derivation d
          JOIN jobstate.attachment p ON p.target = d.parent
          JOIN jobstate.attachment c ON c.target = d.child
         WHERE d.rule_set = define_rules.rule_set
         ORDER BY jobstate.derivation_depth(d.child) DESC, d.child, d.parent
    LOOP
        EXECUTE format('LOCK TABLE %s, %s IN SHARE ROW EXCLUSIVE MODE', used.child, used.parent);
        PERFORM jobstate.check_rules(rule_set, used.parent_machine, used.child_machine),
                jobstate.touch_parents(used.parent);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.define_rules(text, text[], text) IS
    'makes a rule set, or changes it: rules like "any failed, cancelled and none running -> failed", the first that holds wins';

CREATE FUNCTION jobstate.drop_rules(rule_set text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    users text;
BEGIN
    IF rule_set IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "rule_set" must not be null';
    END IF;
    LOCK TABLE jobstate.rule_set IN SHARE ROW EXCLUSIVE MODE;
    SELECT string_agg(DISTINCT d.parent::text, ', ') INTO users
      FROM jobstate.derivation d WHERE d.rule_set = drop_rules.rule_set;
    IF users IS NOT NULL THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('rule set "%s" is in use', rule_set),
            DETAIL = format('Derived tables: %s.', users),
            HINT = 'Use jobstate.underive() first.';
    END IF;
    DELETE FROM jobstate.rule_set s WHERE s.name = drop_rules.rule_set;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('rule set "%s" does not exist', rule_set),
            HINT = 'Make it with jobstate.define_rules(), or see the view jobstate.rules.';
    END IF;
    DELETE FROM jobstate.rule r WHERE r.rule_set = drop_rules.rule_set;
END
$$;
COMMENT ON FUNCTION jobstate.drop_rules(text) IS 'drops a rule set by which no table is derived';

CREATE FUNCTION jobstate.fold(rule_set text, states text[], variants text[] DEFAULT NULL)
    RETURNS text LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'jobstate_fold_rules';
COMMENT ON FUNCTION jobstate.fold(text, text[], text[]) IS
    'the state that the rules give for children in these states, in this order; null where no rule holds';

CREATE VIEW jobstate.rules AS
    SELECT r.rule_set, r.ord,
           string_agg(concat_ws(' ', r.quantifier, nullif(array_to_string(r.states, ', '), '')), ' and ' ORDER BY r.part) AS condition,
           r.result
      FROM jobstate.rule r
     GROUP BY r.rule_set, r.ord, r.result
     ORDER BY r.rule_set, r.ord;
COMMENT ON VIEW jobstate.rules IS 'the rule sets, a row per rule: the first whose condition holds tells the state';

-- derive -----------------------------------------------------------------------

CREATE FUNCTION jobstate.derivation_add(parent regclass, child regclass, key name[], rules text, completed_at name, error name,
                                        reason name, child_error name, child_variant name, child_order name[])
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_derivation_add';
COMMENT ON FUNCTION jobstate.derivation_add(regclass, regclass, name[], text, name, name, name, name, name, name[]) IS
    'enters a derivation as the owner of both tables; for derive()';
CREATE FUNCTION jobstate.derivation_drop(parent regclass, child regclass)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'jobstate_derivation_drop';
COMMENT ON FUNCTION jobstate.derivation_drop(regclass, regclass) IS 'takes a derivation away; for underive()';
CREATE FUNCTION jobstate.rederive(parent regclass)
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_rederive';
COMMENT ON FUNCTION jobstate.rederive(regclass) IS
    'derives every row of a table anew, and returns how many were wrong; for when triggers were off';
CREATE FUNCTION jobstate.derive_now()
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_derive_now';
COMMENT ON FUNCTION jobstate.derive_now() IS
    'derives at once what this transaction''s commit would derive, and returns how many rows changed';

-- The columns of a table's primary key, in order.
CREATE FUNCTION jobstate.primary_key_of(target regclass) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT array_agg(a.attname ORDER BY k.n)
      FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k(attnum, n), pg_attribute a
     WHERE c.conrelid = target AND c.contype = 'p' AND a.attrelid = target AND a.attnum = k.attnum
$$;
COMMENT ON FUNCTION jobstate.primary_key_of(regclass) IS 'the columns of a table''s primary key';

-- What a domain is made of in the end; any other type is itself.
CREATE FUNCTION jobstate.base_type_of(type regtype) RETURNS regtype
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE base AS (
        SELECT type::oid AS oid
        UNION ALL SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
    SELECT b.oid::regtype FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'
$$;
COMMENT ON FUNCTION jobstate.base_type_of(regtype) IS 'the type that a domain is made of';

-- One column that derive() was told of: it must be there, and of such a type.
-- Where there is no type that it must be of, values must have an order.
CREATE FUNCTION jobstate.check_derive_column(target regclass, argument text, wanted name, types regtype[])
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    a pg_attribute;
    type regtype;
BEGIN
    IF wanted IS NULL THEN
        RETURN;
    END IF;
    SELECT * INTO a FROM pg_attribute
     WHERE attrelid = target AND attname = wanted AND attnum > 0 AND NOT attisdropped;
    IF NOT FOUND THEN
        RAISE undefined_column USING MESSAGE = format('column "%s" of relation "%s" does not exist', wanted, target),
            DETAIL = format('It is the argument "%s".', argument);
    END IF;
    type := jobstate.base_type_of(a.atttypid);
    IF NOT type = ANY (types) THEN
        RAISE datatype_mismatch USING MESSAGE = format('column "%s" of relation "%s" is of type %s', wanted, target, type),
            DETAIL = format('The argument "%s" wants a column of type %s.', argument, array_to_string(types, ' or '));
    END IF;
    IF types IS NULL AND NOT EXISTS (
        SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod JOIN pg_type t ON t.oid = type
         WHERE m.amname = 'btree' AND o.opcdefault
           AND o.opcintype IN (type, CASE WHEN type = 'varchar'::regtype THEN 'text'::regtype END,
                               CASE t.typtype WHEN 'e' THEN 'anyenum'::regtype WHEN 'r' THEN 'anyrange'::regtype
                                              WHEN 'c' THEN 'record'::regtype END,
                               CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN 'anyarray'::regtype END)) THEN
        RAISE undefined_function USING
            MESSAGE = format('column "%s" of relation "%s" has no order', wanted, target),
            DETAIL = format('Its type is %s, which has no default operator class for btree.', type);
    END IF;
    IF a.attgenerated = 'v' OR a.attgenerated <> '' AND argument IN ('completed_at', 'error', 'reason') THEN
        RAISE invalid_column_definition USING
            MESSAGE = format('column "%s" of relation "%s" is generated', wanted, target),
            DETAIL = format('The argument "%s" wants a column that is stored as it is written.', argument);
    END IF;
    IF a.atttypmod >= 0 AND argument IN ('error', 'reason') THEN
        RAISE datatype_mismatch USING
            MESSAGE = format('column "%s" of relation "%s" has a limit', wanted, target),
            DETAIL = 'A text that is longer than that would keep the children from being written.',
            HINT = format('ALTER TABLE %s ALTER COLUMN %I TYPE text;', target, wanted);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.check_derive_column(regclass, text, name, regtype[]) IS 'refuses a column that derive() cannot use';

-- What derive() writes are columns of their own, and none that identifies the
-- row: an UPDATE of a column of a unique index excludes the children's foreign
-- keys, which would make transactions with a child each wait for each other.
CREATE FUNCTION jobstate.check_derive_written(parent regclass, written name[])
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    bad record;
BEGIN
    SELECT w INTO bad FROM unnest(written) w WHERE w IS NOT NULL GROUP BY w HAVING count(*) > 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('column "%s" of relation "%s" is named twice', bad.w, parent),
            HINT = 'The state, completed_at, error and reason are columns of their own.';
    END IF;
    SELECT a.attname, x.indexrelid::regclass AS index INTO bad
      FROM pg_index x JOIN pg_attribute a ON a.attrelid = parent AND a.attnum = ANY (x.indkey::smallint[])
     WHERE x.indrelid = parent AND x.indisunique AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL
       AND a.attname = ANY (written)
     LIMIT 1;
    IF FOUND THEN
        RAISE feature_not_supported USING
            MESSAGE = format('column "%s" of relation "%s" is in a unique index', bad.attname, parent),
            DETAIL = format('Index "%s". Foreign keys may refer to its columns, so who writes them waits for those who refer to the row.', bad.index),
            HINT = 'Make it a partial unique index, with the state in its WHERE.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.check_derive_written(regclass, name[]) IS 'refuses columns that derive() could not write';

-- The child's key must be of the parent's primary key, and have an index.
CREATE FUNCTION jobstate.check_derive_key(parent regclass, child regclass, key name[])
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    own name[] := jobstate.primary_key_of(parent);
    i integer;
BEGIN
    IF own IS NULL THEN
        RAISE undefined_object USING MESSAGE = format('relation "%s" has no primary key', parent);
    END IF;
    IF cardinality(own) IS DISTINCT FROM cardinality(key) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the key has %s columns, the primary key of relation "%s" has %s', cardinality(key), parent, cardinality(own)),
            HINT = format('Name the columns of relation "%s" that refer to (%s).', child, array_to_string(own, ', '));
    END IF;
    FOR i IN 1 .. cardinality(key) LOOP
        PERFORM jobstate.check_derive_column(child, 'key', key[i],
            ARRAY(SELECT jobstate.base_type_of(a.atttypid) FROM pg_attribute a
                   WHERE a.attrelid = parent AND a.attname = own[i]));
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am m ON m.oid = c.relam
                    WHERE x.indrelid = child AND m.amname = 'btree' AND x.indisvalid AND x.indpred IS NULL
                      AND (SELECT array_agg(a.attname ORDER BY k.n)
                             FROM unnest(x.indkey::smallint[]) WITH ORDINALITY k(attnum, n)
                             JOIN pg_attribute a ON a.attrelid = child AND a.attnum = k.attnum
                            WHERE k.n <= cardinality(key)) = key) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('relation "%s" has no index by which the children of a parent can be found', child),
            HINT = format('CREATE INDEX ON %s (%s);', child, (SELECT string_agg(quote_ident(k), ', ') FROM unnest(key) k));
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.check_derive_key(regclass, regclass, name[]) IS 'refuses a key that does not fit the parent, or has no index';

-- From here on the parent's state follows from its children's.
-- Writes derivation and the parent's rows.  Locks both tables SHARE ROW
-- EXCLUSIVE until commit: writers wait, readers do not.
CREATE FUNCTION jobstate.derive(parent regclass, child regclass, key name[], rules text,
                                completed_at name DEFAULT NULL, error name DEFAULT NULL, reason name DEFAULT NULL,
                                child_error name DEFAULT NULL, child_variant name DEFAULT NULL, child_order name[] DEFAULT NULL)
    RETURNS bigint LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing text := CASE WHEN parent IS NULL THEN 'parent' WHEN child IS NULL THEN 'child'
                         WHEN key IS NULL OR array_position(key, NULL) > 0 THEN 'key' WHEN rules IS NULL THEN 'rules' END;
    ordering name;
BEGIN
    IF missing IS NOT NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('argument "%s" must not be null', missing);
    END IF;
    IF NOT EXISTS (SELECT FROM jobstate.rule_set s WHERE s.name = rules) THEN
        RAISE undefined_object USING MESSAGE = format('rule set "%s" does not exist', rules),
            HINT = 'Make it with jobstate.define_rules(), or see the view jobstate.rules.';
    END IF;
    child_order := coalesce(child_order, jobstate.primary_key_of(child));
    PERFORM jobstate.derivation_add(parent, child, key, rules, completed_at, error, reason, child_error, child_variant, child_order);

    PERFORM jobstate.check_derive_key(parent, child, key),
            jobstate.check_derive_column(parent, 'completed_at', completed_at, '{timestamptz}'),
            jobstate.check_derive_column(parent, 'error', error, '{text,varchar}'),
            jobstate.check_derive_column(parent, 'reason', reason, '{text,varchar}'),
            jobstate.check_derive_column(child, 'child_error', child_error, '{text,varchar}'),
            jobstate.check_derive_column(child, 'child_variant', child_variant, '{text,varchar,name}'),
            jobstate.check_derive_written(parent, ARRAY[completed_at, error, reason,
                (SELECT a.state_column FROM jobstate.attachment a WHERE a.target = parent)]);
    FOREACH ordering IN ARRAY coalesce(child_order, '{}') LOOP
        PERFORM jobstate.check_derive_column(child, 'child_order', ordering, NULL);
    END LOOP;
    IF (error IS NULL) <> (child_error IS NULL) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'arguments "error" and "child_error" go together';
    END IF;
    PERFORM jobstate.check_rules(rules,
                (SELECT a.machine FROM jobstate.attachment a WHERE a.target = parent),
                (SELECT a.machine FROM jobstate.attachment a WHERE a.target = child));
    RETURN jobstate.rederive(parent);
END
$$;
COMMENT ON FUNCTION jobstate.derive(regclass, regclass, name[], text, name, name, name, name, name, name[]) IS
    'has a table''s state follow from its children''s by rules, from here on; derives the rows that are there and returns how many changed';

-- The same for a key of one column.
CREATE FUNCTION jobstate.derive(parent regclass, child regclass, key name, rules text,
                                completed_at name DEFAULT NULL, error name DEFAULT NULL, reason name DEFAULT NULL,
                                child_error name DEFAULT NULL, child_variant name DEFAULT NULL, child_order name[] DEFAULT NULL)
    RETURNS bigint LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT jobstate.derive(parent, child, ARRAY[key], rules, completed_at, error, reason, child_error, child_variant, child_order) $$;
COMMENT ON FUNCTION jobstate.derive(regclass, regclass, name, text, name, name, name, name, name, name[]) IS
    'has a table''s state follow from its children''s by rules, from here on; derives the rows that are there and returns how many changed';

-- Writes derivation.  Locks the parent's table SHARE ROW EXCLUSIVE until commit.
CREATE FUNCTION jobstate.underive(parent regclass, child regclass)
    RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF parent IS NULL OR child IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = format('argument "%s" must not be null', CASE WHEN parent IS NULL THEN 'parent' ELSE 'child' END);
    END IF;
    PERFORM jobstate.derivation_drop(parent, child);
END
$$;
COMMENT ON FUNCTION jobstate.underive(regclass, regclass) IS 'lets a derived table''s state be written directly again';

CREATE VIEW jobstate.derivations AS
    SELECT d.parent, d.child, d.key, d.rule_set, d.completed_at, d.error, d.reason, d.child_error, d.child_variant, d.child_order
      FROM jobstate.derivation d
     ORDER BY d.parent::text, d.ord;
COMMENT ON VIEW jobstate.derivations IS 'the derived tables, and what their states follow from';
GRANT SELECT ON jobstate.rules, jobstate.derivations TO PUBLIC;

REVOKE EXECUTE ON FUNCTION
    jobstate.define_rules(text, text[], text), jobstate.drop_rules(text), jobstate.touch_parents(regclass),
    jobstate.derivation_add(regclass, regclass, name[], text, name, name, name, name, name, name[]),
    jobstate.derivation_drop(regclass, regclass), jobstate.rederive(regclass),
    jobstate.derive(regclass, regclass, name[], text, name, name, name, name, name, name[]),
    jobstate.derive(regclass, regclass, name, text, name, name, name, name, name, name[]),
    jobstate.underive(regclass, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    jobstate.define_rules(text, text[], text), jobstate.drop_rules(text),
    jobstate.derivation_add(regclass, regclass, name[], text, name, name, name, name, name, name[]),
    jobstate.derivation_drop(regclass, regclass), jobstate.rederive(regclass),
    jobstate.derive(regclass, regclass, name[], text, name, name, name, name, name, name[]),
    jobstate.derive(regclass, regclass, name, text, name, name, name, name, name, name[]),
    jobstate.underive(regclass, regclass) TO pg_database_owner WITH GRANT OPTION;
-- families ------------------------------------------------------------------
--
-- A family is SQL over the kernel.  Its tables are ordinary tables of whoever
-- installs them: pg_dump carries them with their data, and their triggers come
-- back after the data.

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

-- family_names: every function install_<family>() of the extension is a family.
-- Only members of the extension count, so nobody can plant one.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.family_names()
RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT substr(p.proname, length('install_') + 1)
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
     WHERE d.deptype = 'e' AND e.extname = 'jobstate'
       AND p.pronamespace = 'jobstate'::regnamespace
       AND starts_with(p.proname, 'install_') AND p.pronargs = 0
     ORDER BY 1
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
-- uploads: machine and tables -------------------------------------------------
--
-- A commit (repo_id, commit_sha) is the scope of every decision.  Every key
-- begins with repo_id, so that a commit's rows can live on one node.  State ids
-- are those of the coverage pipeline that the family takes over:
--   1 uploaded, 2 processed, 3 error,
--   4 fully_overwritten, 5 partially_overwritten, 6 merged.
-- No index holds the state or a lease, so every change of either is a HOT update;
-- a commit's uploads are found by the primary key.

-- upload_install_machine: an INSERT may bring "merged" only because a
-- carried-forward upload is born as part of the report.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.upload_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('upload',
        '{"uploaded": 1, "processed": 2, "error": 3, "fully_overwritten": 4,
          "partially_overwritten": 5, "merged": 6}',
        ARRAY['uploaded -> processed: parsed',
              'uploaded -> error: failed',
              'processed -> merged: merged',
              'processed -> error: no result',
              'processed -> fully_overwritten: overwritten',
              'processed -> partially_overwritten: overwritten',
              'merged -> fully_overwritten: overwritten',
              'merged -> partially_overwritten: overwritten',
              'error -> uploaded: retry',
              'processed -> uploaded: reprocess',
              'merged -> uploaded: reprocess',
              'fully_overwritten -> uploaded: reprocess',
              'partially_overwritten -> uploaded: reprocess'],
        initial => ARRAY['uploaded', 'merged'],
        terminal => ARRAY['error', 'fully_overwritten', 'partially_overwritten', 'merged']);
END
$$;
COMMENT ON FUNCTION jobstate.upload_install_machine()
    IS 'internal: defines the machine "upload"';

-- upload_install_uploads: the uploads themselves.  The check on results keeps
-- a row that is to be processed (again) free of what an earlier round left, so
-- a merged row cannot be sent back by its state alone.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.upload_install_uploads()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.upload (
        repo_id      bigint NOT NULL,
        commit_sha   text NOT NULL,
        id           bigint GENERATED BY DEFAULT AS IDENTITY,
        report_type  text DEFAULT 'coverage'
                     CHECK (report_type IN ('coverage', 'test_results', 'bundle_analysis')),
        upload_type  text NOT NULL DEFAULT 'uploaded'
                     CHECK (upload_type IN ('uploaded', 'carriedforward')),
        state_id     smallint NOT NULL DEFAULT 1,
        state        text GENERATED ALWAYS AS (CASE
                         WHEN state_id = 6 AND upload_type = 'carriedforward' THEN 'complete'
                         WHEN state_id = 1 THEN 'started'
                         WHEN state_id = 2 THEN 'processed'
                         WHEN state_id = 3 THEN 'error'
                         WHEN state_id = 4 THEN 'fully_overwritten'
                         WHEN state_id = 5 THEN 'partially_overwritten'
                         WHEN state_id = 6 THEN 'merged' END) STORED,
        succeeded    boolean,
        attempt      integer NOT NULL DEFAULT 0,
        retries      integer NOT NULL DEFAULT 0,
        retry_at     timestamptz,
        token        uuid,
        lease_until  timestamptz,
        merge_token  uuid,
        merge_until  timestamptz,
        order_number integer,
        storage_path text,
        extras       jsonb NOT NULL DEFAULT '{}',
        created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (repo_id, commit_sha, id),
        UNIQUE (id),
        CONSTRAINT upload_result_check CHECK (state_id <> 1
            OR (succeeded IS NULL AND merge_token IS NULL AND merge_until IS NULL))
    ) WITH (fillfactor = 80);

    CREATE TABLE IF NOT EXISTS jobstate.upload_error (
        repo_id      bigint NOT NULL,
        commit_sha   text NOT NULL,
        upload_id    bigint NOT NULL,
        error_code   text NOT NULL,
        error_params jsonb NOT NULL DEFAULT '{}',
        created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (repo_id, commit_sha, upload_id, error_code),
        FOREIGN KEY (repo_id, commit_sha, upload_id)
            REFERENCES jobstate.upload (repo_id, commit_sha, id) ON UPDATE CASCADE ON DELETE CASCADE
    );

    CREATE TABLE IF NOT EXISTS jobstate.upload_totals (
        repo_id    bigint NOT NULL,
        commit_sha text NOT NULL,
        upload_id  bigint NOT NULL,
        files      integer,
        lines      integer,
        hits       integer,
        misses     integer,
        partials   integer,
        branches   integer,
        methods    integer,
        coverage   numeric(8, 5),
        PRIMARY KEY (repo_id, commit_sha, upload_id),
        FOREIGN KEY (repo_id, commit_sha, upload_id)
            REFERENCES jobstate.upload (repo_id, commit_sha, id) ON UPDATE CASCADE ON DELETE CASCADE
    );
END
$$;
COMMENT ON FUNCTION jobstate.upload_install_uploads()
    IS 'internal: creates upload, upload_error and upload_totals';

-- upload_install_scope: the row per commit that every decision locks and
-- updates.  check_at is the only indexed column that changes, and it is lazy:
-- it moves when a commit opens, is swept or is settled, not with its uploads.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.upload_install_scope()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.upload_scope (
        repo_id          bigint NOT NULL,
        commit_sha       text NOT NULL,
        version          bigint NOT NULL DEFAULT 1,
        merge_until      timestamptz,
        postprocess_at   timestamptz,
        postprocessed_at timestamptz,
        gate_owner       text,
        gate_until       timestamptz,
        check_at         timestamptz,
        PRIMARY KEY (repo_id, commit_sha)
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS upload_scope_check_at
        ON jobstate.upload_scope (check_at) WHERE check_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.upload_install_scope()
    IS 'internal: creates upload_scope';

-- upload_install_policy: delays and retries as data.  Rows that exist stay as
-- they are: they may have been tuned.
-- Writes: upload_follow_up, upload_error_code.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.upload_install_policy()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.upload_follow_up (
        kind    text PRIMARY KEY CHECK (kind IN ('continuation', 'sweep', 'watchdog')),
        delay   interval NOT NULL CHECK (delay >= interval '0')
    );
    INSERT INTO jobstate.upload_follow_up (kind, delay)
    VALUES ('continuation', '0 s'), ('sweep', '30 s'), ('watchdog', '900 s')
        ON CONFLICT DO NOTHING;

    CREATE TABLE IF NOT EXISTS jobstate.upload_error_code (
        error_code  text PRIMARY KEY,
        max_retries integer NOT NULL CHECK (max_retries >= 0)
    );
    INSERT INTO jobstate.upload_error_code (error_code, max_retries)
    VALUES ('file_not_in_storage', 1), ('report_expired', 0), ('report_empty', 0),
           ('unsupported_file_format', 0), ('missing_intermediate_report', 0),
           ('processing_timeout', 10), ('unknown_processing', 10),
           ('unknown_storage', 10), ('unknown_error_code', 10)
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.upload_install_policy()
    IS 'internal: creates and fills upload_follow_up and upload_error_code';

-- upload_install_comments: says in the database what each table is for.
-- Writes nothing.  Locks: the tables, SHARE UPDATE EXCLUSIVE.
CREATE FUNCTION jobstate.upload_install_comments()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMENT ON TABLE jobstate.upload IS 'one row per upload of a commit';
    COMMENT ON COLUMN jobstate.upload.report_type IS 'NULL means coverage: rows from before the column';
    COMMENT ON COLUMN jobstate.upload.state IS 'the state''s name in the old interface; follows state_id';
    COMMENT ON COLUMN jobstate.upload.succeeded IS 'what upload_finish() was told; NULL as long as it was not called';
    COMMENT ON COLUMN jobstate.upload.attempt IS 'how often a worker took the upload';
    COMMENT ON COLUMN jobstate.upload.retries IS 'how often the upload was given back by upload_retry() or upload_rescue()';
    COMMENT ON COLUMN jobstate.upload.retry_at IS 'set while the upload waits for a retry: when it may be taken';
    COMMENT ON COLUMN jobstate.upload.token IS 'of the worker that took the upload last';
    COMMENT ON COLUMN jobstate.upload.lease_until IS 'until when that worker may be silent';
    COMMENT ON COLUMN jobstate.upload.merge_token IS 'of the batch that took the upload last';
    COMMENT ON COLUMN jobstate.upload.merge_until IS 'until when that batch''s merger may be silent';
    COMMENT ON COLUMN jobstate.upload.order_number IS 'the upload''s session in the merged report';
    COMMENT ON COLUMN jobstate.upload.extras IS 'what else the application keeps: build, job, flags, environment';
    COMMENT ON COLUMN jobstate.upload.updated_at IS 'the last move of state';

    COMMENT ON TABLE jobstate.upload_error IS 'why an upload is, or will be once merged, in state error';
    COMMENT ON TABLE jobstate.upload_totals IS 'the figures of one upload''s report';

    COMMENT ON TABLE jobstate.upload_scope IS 'one row per commit; locked and updated by whoever decides about it';
    COMMENT ON COLUMN jobstate.upload_scope.version IS 'moves with every call that writes to the commit';
    COMMENT ON COLUMN jobstate.upload_scope.merge_until IS 'somebody was told to merge and has until then to do so';
    COMMENT ON COLUMN jobstate.upload_scope.postprocess_at IS 'when somebody was told to postprocess';
    COMMENT ON COLUMN jobstate.upload_scope.postprocessed_at IS 'when upload_postprocessed() confirmed it';
    COMMENT ON COLUMN jobstate.upload_scope.gate_owner IS 'who holds the gate';
    COMMENT ON COLUMN jobstate.upload_scope.gate_until IS 'until when the gate is held';
    COMMENT ON COLUMN jobstate.upload_scope.check_at IS 'when upload_rescue() looks next; NULL once all is settled';
    COMMENT ON INDEX jobstate.upload_scope_check_at IS 'the commits that upload_rescue() has to look at';

    COMMENT ON TABLE jobstate.upload_follow_up IS 'how long after a decision to look again, per kind of follow-up';
    COMMENT ON TABLE jobstate.upload_error_code IS 'how often each error may be retried; unknown_error_code is for codes not listed';
END
$$;
COMMENT ON FUNCTION jobstate.upload_install_comments()
    IS 'internal: comments on the uploads'' tables';

-- install_uploads: the family's machine and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment and the policy tables.
-- Locks: upload against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_uploads()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.upload_install_machine();
    PERFORM jobstate.upload_install_uploads();
    PERFORM jobstate.upload_install_scope();
    PERFORM jobstate.upload_install_policy();
    PERFORM jobstate.upload_install_comments();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a
                    WHERE a.target = 'jobstate.upload'::regclass) THEN
        PERFORM jobstate.attach('jobstate.upload', 'upload', 'state_id',
                                '{repo_id,commit_sha,report_type}');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_uploads()
    IS 'internal: what install(''uploads'') runs';
-- uploads: the scope row --------------------------------------------------------
--
-- Problem: two workers finish the last two uploads of a commit at the same time,
-- each sees the other's as unfinished, and nobody merges.
-- Non-problems: taking (it moves no state and waits for nobody), reading.
-- Solution: whoever moves a state or decides first UPDATES the commit's scope
-- row, in a statement of its own, and counts afterwards.  Under READ COMMITTED
-- the count's snapshot is then younger than the wait; under REPEATABLE READ and
-- SERIALIZABLE an update of a row that has moved on fails with 40001, which a
-- mere lock would not.
--
-- Lock order: scope rows by key, then uploads by id, then what hangs on them.
-- Takers lock uploads alone, with SKIP LOCKED, and should commit before they call
-- anything else.

-- upload_refuse: words every refusal of a single upload.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_refuse(reason text, upload_id bigint, state text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on upload % is lost', upload_id
                USING ERRCODE = 'JS001',
                      DETAIL = 'The token is not that of the upload''s last taker.',
                      HINT = 'Drop the result: the upload is somebody else''s, or waits to be taken again.';
        WHEN 'not found' THEN
            RAISE EXCEPTION 'upload % does not exist', upload_id
                USING ERRCODE = 'JS002';
        WHEN 'not finishable' THEN
            RAISE EXCEPTION 'upload % cannot be finished', upload_id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Bring it back with upload_retry() first.';
        WHEN 'not retryable' THEN
            RAISE EXCEPTION 'upload % cannot be retried', upload_id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Only what is uploaded or in error can; upload_reprocess() starts a whole commit again.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.upload_refuse(text, bigint, text)
    IS 'internal: raises JS001, JS002 or JS003 for an upload';

-- upload_delay: how long after a decision to look again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_delay(kind text)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT f.delay FROM jobstate.upload_follow_up f WHERE f.kind = upload_delay.kind);
END
$$;
COMMENT ON FUNCTION jobstate.upload_delay(text)
    IS 'the delay of a follow-up: continuation, sweep or watchdog';

-- upload_scope_lock: the first statement of every decision about a commit; the
-- next statement sees what earlier holders did, or this one has failed with 40001.
-- Writes: upload_scope.  Locks: the scope row, until the end of the transaction.
CREATE FUNCTION jobstate.upload_scope_lock(repo_id bigint, commit_sha text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET version = s.version + 1
     WHERE s.repo_id = repo AND s.commit_sha = sha;
    IF NOT FOUND THEN
        INSERT INTO jobstate.upload_scope AS s (repo_id, commit_sha, check_at)
        VALUES (repo, sha, clock_timestamp() + jobstate.upload_delay('sweep'))
            ON CONFLICT (repo_id, commit_sha) DO UPDATE SET version = s.version + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.upload_scope_lock(bigint, text)
    IS 'internal: locks and updates a commit''s scope row';

-- upload_reopen: a commit that has something to process again gets swept again,
-- and gets postprocessed again if that is coverage.  The caller holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_reopen(repo_id bigint, commit_sha text, coverage boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = CASE WHEN coverage THEN NULL ELSE s.postprocess_at END,
           postprocessed_at = CASE WHEN coverage THEN NULL ELSE s.postprocessed_at END,
           check_at = clock_timestamp() + jobstate.upload_delay('sweep')
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND (s.check_at IS NULL OR coverage AND s.postprocess_at IS NOT NULL);
END
$$;
COMMENT ON FUNCTION jobstate.upload_reopen(bigint, text, boolean)
    IS 'internal: forgets that a commit was postprocessed';

-- upload_hold: one upload, held together with its commit's scope.  All columns
-- are NULL if there is no such upload; a token that is not its last taker's is
-- refused.
-- Writes: upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_hold(upload_id bigint, token uuid,
    OUT repo_id bigint, OUT commit_sha text, OUT state_id smallint, OUT state text,
    OUT succeeded boolean, OUT retries integer, OUT coverage boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    upload record;
BEGIN
    SELECT u.repo_id, u.commit_sha INTO upload
      FROM jobstate.upload u WHERE u.id = upload_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM jobstate.upload_scope_lock(upload.repo_id, upload.commit_sha);
    SELECT u.* INTO upload
      FROM jobstate.upload u
     WHERE u.repo_id = upload.repo_id AND u.commit_sha = upload.commit_sha AND u.id = upload_id
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF given IS NOT NULL AND upload.token IS DISTINCT FROM given THEN
        PERFORM jobstate.upload_refuse('lease lost', upload_id);
    END IF;
    repo_id := upload.repo_id;
    commit_sha := upload.commit_sha;
    state_id := upload.state_id;
    state := upload.state;
    succeeded := upload.succeeded;
    retries := upload.retries;
    coverage := coalesce(upload.report_type, 'coverage') = 'coverage';
END
$$;
COMMENT ON FUNCTION jobstate.upload_hold(bigint, uuid)
    IS 'internal: locks an upload and its commit''s scope';

-- upload_hold_all: the same for any number of uploads, of any commits.
-- Writes: upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_hold_all(upload_ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    scope record;
BEGIN
    FOR scope IN
        SELECT DISTINCT u.repo_id, u.commit_sha COLLATE "C" AS commit_sha
          FROM jobstate.upload u WHERE u.id = ANY (upload_ids) ORDER BY 1, 2
    LOOP
        PERFORM jobstate.upload_scope_lock(scope.repo_id, scope.commit_sha);
    END LOOP;
    PERFORM FROM jobstate.upload u
      WHERE u.id = ANY (upload_ids) ORDER BY u.id FOR NO KEY UPDATE;
END
$$;
COMMENT ON FUNCTION jobstate.upload_hold_all(bigint[])
    IS 'internal: locks uploads and their commits'' scopes';
-- uploads: numbers and decisions ---------------------------------------------
--
-- Only coverage counts: report_type 'coverage' or NULL.

-- upload_counts: a commit's uploads of some report types per state, from the
-- kernel's counts.  The types are listed because a whole group key is looked up,
-- where a part of one is searched for.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_counts(repo_id bigint, commit_sha text, report_types text[])
RETURNS TABLE (state text, n bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo_id);
    PERFORM jobstate.require_argument('commit_sha', commit_sha);
    RETURN QUERY
        SELECT c.state, sum(c.n)::bigint
          FROM unnest(report_types) AS t(report_type),
               jobstate.counts('jobstate.upload', jsonb_build_object(
                   'repo_id', repo_id, 'commit_sha', commit_sha, 'report_type', t.report_type)) c
         GROUP BY c.state;
END
$$;
COMMENT ON FUNCTION jobstate.upload_counts(bigint, text, text[])
    IS 'how many uploads of a commit, of these report types, are in each state';

-- upload_coverage: what every number and every decision of the family is made of.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_coverage(repo_id bigint, commit_sha text)
RETURNS TABLE (state text, n bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT c.* FROM jobstate.upload_counts(repo_id, commit_sha, ARRAY['coverage', NULL]) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_coverage(bigint, text)
    IS 'how many coverage uploads of a commit are in each state';

-- upload_numbers: what is unfinished.  An upload that waits for its retry is
-- uploaded, so it counts as processing.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_numbers(repo_id bigint, commit_sha text,
    OUT processing bigint, OUT processed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT coalesce(sum(c.n) FILTER (WHERE c.state = 'uploaded'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'processed'), 0)
      INTO processing, processed
      FROM jobstate.upload_coverage(repo_id, commit_sha) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_numbers(bigint, text)
    IS 'a commit''s coverage uploads: still being processed, and processed but not yet merged';

-- upload_should_merge, upload_should_postprocess: the rules of a decision.
-- With nothing there at all both hold: a merge of nothing is harmless.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.upload_should_merge(processing bigint, processed bigint,
    batch_size integer DEFAULT 10)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN processing = 0 OR processed >= batch_size;
COMMENT ON FUNCTION jobstate.upload_should_merge(bigint, bigint, integer)
    IS 'nothing is being processed any more, or a batch is full';

CREATE FUNCTION jobstate.upload_should_postprocess(processing bigint, processed bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN processing = 0 AND processed = 0;
COMMENT ON FUNCTION jobstate.upload_should_postprocess(bigint, bigint)
    IS 'everything is merged or in error';

-- upload_merging: somebody was told to merge, or holds a batch.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_merging(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.upload_scope s
                    WHERE s.repo_id = repo AND s.commit_sha = sha
                      AND s.merge_until > clock_timestamp())
        OR EXISTS (SELECT FROM jobstate.upload u
                    WHERE u.repo_id = repo AND u.commit_sha = sha
                      AND u.state_id = 2 AND u.merge_until > clock_timestamp());
END
$$;
COMMENT ON FUNCTION jobstate.upload_merging(bigint, text)
    IS 'whether somebody was told to merge a commit, or holds a batch of it, and is not overdue';

-- upload_grant_merge, upload_withdraw_merge, upload_grant_postprocess: what the
-- scope row remembers of an answer, so that nobody else gets the same.  The
-- caller holds the scope.
-- Write: upload_scope.  Lock nothing more.
CREATE FUNCTION jobstate.upload_grant_merge(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    IF jobstate.upload_merging(repo, sha) THEN
        RETURN false;
    END IF;
    UPDATE jobstate.upload_scope s
       SET merge_until = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.upload_grant_merge(bigint, text)
    IS 'internal: true if the caller is the one to merge';

CREATE FUNCTION jobstate.upload_withdraw_merge(repo_id bigint, commit_sha text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET merge_until = NULL
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.merge_until IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.upload_withdraw_merge(bigint, text)
    IS 'internal: nobody is the one to merge any more';

CREATE FUNCTION jobstate.upload_grant_postprocess(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = clock_timestamp(), postprocessed_at = NULL, merge_until = NULL,
           check_at = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocess_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_grant_postprocess(bigint, text)
    IS 'internal: true if the caller is the one to postprocess';

-- upload_answer: counts, in a statement after the one that locked the scope.
-- Work that is open ends an earlier grant to postprocess, as uploads may have been
-- written without the functions; and a grant to merge what is gone by now ends.
-- Writes: upload_scope.  Locks nothing more: the caller holds the scope.
CREATE FUNCTION jobstate.upload_answer(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_there record;
    granted boolean := false;
BEGIN
    SELECT n.processing, n.processed INTO now_there
      FROM jobstate.upload_numbers(repo_id, commit_sha) n;
    IF jobstate.upload_should_postprocess(now_there.processing, now_there.processed) THEN
        granted := jobstate.upload_grant_postprocess(repo_id, commit_sha);
        RETURN CASE WHEN granted THEN 'postprocess' ELSE 'wait' END;
    END IF;
    PERFORM jobstate.upload_reopen(repo_id, commit_sha, true);
    IF now_there.processed = 0 THEN
        PERFORM jobstate.upload_withdraw_merge(repo_id, commit_sha);
    ELSIF jobstate.upload_should_merge(now_there.processing, now_there.processed) THEN
        granted := jobstate.upload_grant_merge(repo_id, commit_sha);
    END IF;
    RETURN CASE WHEN granted THEN 'merge' ELSE 'wait' END;
END
$$;
COMMENT ON FUNCTION jobstate.upload_answer(bigint, text)
    IS 'internal: wait, merge or postprocess, for a caller that holds the scope';

-- upload_decide: what is to be done about a commit now, and by the caller alone.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_decide(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo_id);
    PERFORM jobstate.require_argument('commit_sha', commit_sha);
    PERFORM jobstate.upload_scope_lock(repo_id, commit_sha);
    RETURN jobstate.upload_answer(repo_id, commit_sha);
END
$$;
COMMENT ON FUNCTION jobstate.upload_decide(bigint, text)
    IS 'wait, merge or postprocess: the last two go to one caller each';

-- upload_next_check: the follow-up that an application with a scheduler of its
-- own plans after a decision; no row once all is settled.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_next_check(repo_id bigint, commit_sha text)
RETURNS TABLE (kind text, delay interval, remaining bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    now_there record;
    scope record;
BEGIN
    SELECT n.processing, n.processed INTO now_there FROM jobstate.upload_numbers(repo, sha) n;
    remaining := now_there.processing + now_there.processed;
    SELECT s.postprocess_at, s.postprocessed_at INTO scope
      FROM jobstate.upload_scope s WHERE s.repo_id = repo AND s.commit_sha = sha;
    IF remaining = 0 AND scope.postprocessed_at IS NOT NULL THEN
        RETURN;
    END IF;
    kind := CASE
        WHEN remaining = 0 AND scope.postprocess_at IS NOT NULL THEN 'watchdog'
        WHEN jobstate.upload_merging(repo, sha) THEN 'watchdog'
        WHEN jobstate.upload_should_merge(now_there.processing, now_there.processed) THEN 'continuation'
        ELSE 'sweep' END;
    delay := jobstate.upload_delay(kind);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION jobstate.upload_next_check(bigint, text)
    IS 'what follow-up a commit needs, after what delay, and how many uploads are not settled';
-- uploads: from creation to "processed" ------------------------------------------

-- upload_create: a new upload.  A carried-forward one is part of the report
-- from the start: it is born merged and opens nothing.
-- Writes: upload, upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_create(repo_id bigint, commit_sha text,
    report_type text DEFAULT 'coverage', storage_path text DEFAULT NULL,
    upload_type text DEFAULT 'uploaded', order_number integer DEFAULT NULL,
    extras jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    kind ALIAS FOR report_type;
    carried CONSTANT boolean := upload_type = 'carriedforward';
    created bigint;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('upload_type', $5);
    PERFORM jobstate.require_argument('extras', $7);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    INSERT INTO jobstate.upload (repo_id, commit_sha, report_type, storage_path,
                                 upload_type, state_id, order_number, extras)
    VALUES (repo, sha, kind, $4, $5, CASE WHEN carried THEN 6 ELSE 1 END, $6, $7)
    RETURNING id INTO created;
    IF NOT carried THEN
        PERFORM jobstate.upload_reopen(repo, sha, coalesce(kind, 'coverage') = 'coverage');
    END IF;
    RETURN created;
END
$$;
COMMENT ON FUNCTION jobstate.upload_create(bigint, text, text, text, text, integer, jsonb)
    IS 'adds an upload to a commit and returns its id';

-- upload_lease: gives uploads that the caller has locked to one worker, under
-- one fresh token.
-- Writes: upload.  Locks nothing more.
CREATE FUNCTION jobstate.upload_lease(upload_ids bigint[], lease interval)
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fresh CONSTANT uuid := gen_random_uuid();
    deadline CONSTANT timestamptz := clock_timestamp() + lease;
BEGIN
    RETURN QUERY
        WITH leased AS (
            UPDATE jobstate.upload u
               SET attempt = u.attempt + 1, token = fresh, lease_until = deadline, retry_at = NULL
             WHERE u.id = ANY (upload_ids)
            RETURNING u.id, u.token, u.attempt, u.lease_until, u.storage_path)
        SELECT l.* FROM leased l ORDER BY l.id;
END
$$;
COMMENT ON FUNCTION jobstate.upload_lease(bigint[], interval)
    IS 'internal: leases locked uploads under one fresh token';

-- upload_take: uploads of a commit for one worker to process.  What another
-- worker has, or what waits for a retry that is not yet due, is passed over.
-- Commit before processing: the lease only protects what others can see.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_take(repo_id bigint, commit_sha text,
    n integer DEFAULT 1, lease interval DEFAULT '300 s', report_type text DEFAULT 'coverage')
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    kind ALIAS FOR report_type;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_positive('n', n > 0);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM jobstate.require_argument('report_type', kind);
    RETURN QUERY
        SELECT l.* FROM jobstate.upload_lease(ARRAY(
            SELECT u.id FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 1
               AND coalesce(u.report_type, 'coverage') = kind
               AND (u.token IS NULL OR u.lease_until <= clock_timestamp())
               AND (u.retry_at IS NULL OR u.retry_at <= clock_timestamp())
             ORDER BY u.id LIMIT n
               FOR NO KEY UPDATE SKIP LOCKED), lease) l;
END
$$;
COMMENT ON FUNCTION jobstate.upload_take(bigint, text, integer, interval, text)
    IS 'leases up to n uploads of a commit to the caller, for processing';

-- upload_start: the same by id, for queues that hand out ids.  A retry may start
-- a little before it is due: the queue's clock is not the server's.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_start(upload_ids bigint[], lease interval DEFAULT '300 s')
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    RETURN QUERY
        SELECT l.* FROM jobstate.upload_lease(ARRAY(
            SELECT u.id FROM jobstate.upload u
             WHERE u.id = ANY (upload_ids) AND u.state_id = 1
               AND (u.token IS NULL OR u.lease_until <= clock_timestamp())
             ORDER BY u.id
               FOR NO KEY UPDATE SKIP LOCKED), lease) l;
END
$$;
COMMENT ON FUNCTION jobstate.upload_start(bigint[], interval)
    IS 'leases the given uploads to the caller, for processing, and returns those that were free';

-- upload_heartbeat: keeps a lease, of processing or of a batch.
-- Writes: upload.  Locks: the uploads by id.
CREATE FUNCTION jobstate.upload_heartbeat(upload_ids bigint[], token uuid, lease interval DEFAULT '300 s')
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    deadline timestamptz;
    stale bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_argument('token', given);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM FROM jobstate.upload u
      WHERE u.id = ANY (upload_ids) ORDER BY u.id FOR NO KEY UPDATE;
    deadline := clock_timestamp() + lease;
    SELECT min(i) INTO stale
      FROM unnest(upload_ids) i
     WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                        WHERE u.id = i AND (u.state_id = 1 AND u.token = given
                                         OR u.state_id = 2 AND u.merge_token = given));
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
    UPDATE jobstate.upload u
       SET lease_until = CASE WHEN u.state_id = 1 THEN deadline END,
           merge_until = CASE WHEN u.state_id = 2 THEN deadline END
     WHERE u.id = ANY (upload_ids);
    RETURN deadline;
END
$$;
COMMENT ON FUNCTION jobstate.upload_heartbeat(bigint[], uuid, interval)
    IS 'extends the caller''s lease on uploads, and tells until when';

-- upload_mark: uploaded -> processed.  The token stays, so that a repeated call
-- is told from a stale one.  The caller holds the upload.
-- Writes: upload.  Locks nothing more.
CREATE FUNCTION jobstate.upload_mark(upload_id bigint, success boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.upload u
       SET state_id = 2, succeeded = success, lease_until = NULL, retry_at = NULL,
           updated_at = clock_timestamp()
     WHERE u.id = upload_id AND u.state_id = 1;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark(bigint, boolean)
    IS 'internal: moves a held upload to processed';

-- upload_mark_processed: the mark alone, for callers that decide separately.
-- Writes: upload, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_mark_processed(upload_id bigint, token uuid DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_id', upload_id);
    PERFORM jobstate.upload_hold(upload_id, token);
    RETURN jobstate.upload_mark(upload_id, true);
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_processed(bigint, uuid)
    IS 'moves an upload from uploaded to processed; false if it was not there to move';

-- upload_finish: marks an upload processed and tells the caller what it, and
-- nobody else, has to do now.  A failed parse is processed too: it becomes an
-- error when its batch is merged.  A repeated call changes nothing and asks
-- again.  An upload that was cleared to error has no result to keep.
-- Writes: upload, upload_error, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_finish(upload_id bigint, success boolean, token uuid DEFAULT NULL,
    error_code text DEFAULT NULL, error_params jsonb DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('upload_id', upload_id);
    PERFORM jobstate.require_argument('success', success);
    held := jobstate.upload_hold(upload_id, token);
    IF held.repo_id IS NULL THEN
        PERFORM jobstate.upload_refuse('not found', upload_id);
    ELSIF held.state_id = 3 AND held.succeeded IS NULL THEN
        PERFORM jobstate.upload_refuse('not finishable', upload_id, held.state);
    END IF;
    IF jobstate.upload_mark(upload_id, success) AND NOT success THEN
        PERFORM jobstate.upload_note_error(ARRAY[upload_id], error_code, error_params);
    END IF;
    IF NOT held.coverage THEN
        RETURN 'wait';
    END IF;
    RETURN jobstate.upload_answer(held.repo_id, held.commit_sha);
END
$$;
COMMENT ON FUNCTION jobstate.upload_finish(bigint, boolean, uuid, text, jsonb)
    IS 'marks an upload processed and answers wait, merge or postprocess; the last two go to one caller each';

-- upload_note_error: why uploads are, or will be, in error; once per code.
-- Writes: upload_error.  Locks nothing: the caller holds the uploads.
CREATE FUNCTION jobstate.upload_note_error(upload_ids bigint[], error_code text, error_params jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    code ALIAS FOR error_code;
    params ALIAS FOR error_params;
BEGIN
    INSERT INTO jobstate.upload_error (repo_id, commit_sha, upload_id, error_code, error_params)
    SELECT u.repo_id, u.commit_sha, u.id, code, coalesce(params, '{}')
      FROM jobstate.upload u
     WHERE u.id = ANY (upload_ids) AND code IS NOT NULL
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.upload_note_error(bigint[], text, jsonb)
    IS 'internal: adds an error to uploads unless they have it';

-- upload_fail: uploaded -> error, with the reason.  The caller holds the uploads.
-- Writes: upload, upload_error.  Locks nothing more.
CREATE FUNCTION jobstate.upload_fail(upload_ids bigint[], error_code text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.upload u
       SET state_id = 3, lease_until = NULL, retry_at = NULL, updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1;
    PERFORM jobstate.upload_note_error(upload_ids, error_code);
END
$$;
COMMENT ON FUNCTION jobstate.upload_fail(bigint[], text)
    IS 'internal: moves held uploads to error';

-- upload_max_retries: the policy of an error code.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_max_retries(error_code text)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    code ALIAS FOR error_code;
BEGIN
    RETURN (SELECT c.max_retries FROM jobstate.upload_error_code c
             WHERE c.error_code IN (code, 'unknown_error_code')
             ORDER BY c.error_code = code DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION jobstate.upload_max_retries(text)
    IS 'how often an upload with this error may be retried';

-- upload_retry: the upload is to be processed again after a delay, by default
-- 20 seconds doubled with every retry, 5 hours at most.  Until then it stays
-- uploaded, so nobody merges without it.  With its retries used up it is in
-- error, and the caller has to ask upload_decide() in its place.
-- Writes: upload, upload_error, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_retry(upload_id bigint, error_code text DEFAULT 'unknown_processing',
    delay interval DEFAULT NULL, token uuid DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    target ALIAS FOR upload_id;
    held record;
    due timestamptz;
BEGIN
    PERFORM jobstate.require_argument('upload_id', target);
    PERFORM jobstate.require_argument('error_code', $2);
    held := jobstate.upload_hold(target, $4);
    IF held.repo_id IS NULL THEN
        PERFORM jobstate.upload_refuse('not found', target);
    ELSIF held.state_id NOT IN (1, 3) THEN
        PERFORM jobstate.upload_refuse('not retryable', target, held.state);
    END IF;
    IF held.retries >= jobstate.upload_max_retries($2) THEN
        PERFORM jobstate.upload_fail(ARRAY[target], $2);
        RETURN NULL;
    END IF;
    due := clock_timestamp()
           + coalesce(delay, least(interval '20 s' * power(2, least(held.retries, 20)), interval '5 h'));
    PERFORM jobstate.upload_requeue(ARRAY[target], due);
    PERFORM jobstate.upload_reopen(held.repo_id, held.commit_sha, held.coverage AND held.state_id = 3);
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.upload_retry(bigint, text, interval, uuid)
    IS 'gives an upload back for a later attempt and tells when; NULL if its retries are used up and it is in error';

-- upload_requeue: back to uploaded, with nothing left of earlier results: for a
-- retry from the given time on, or, without a time, as if it were new.  The
-- caller holds the uploads.
-- Writes: upload, upload_error, upload_totals.  Locks nothing more.
CREATE FUNCTION jobstate.upload_requeue(upload_ids bigint[], due timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM jobstate.upload_error e USING jobstate.upload u
     WHERE u.id = ANY (upload_ids)
       AND e.repo_id = u.repo_id AND e.commit_sha = u.commit_sha AND e.upload_id = u.id;
    DELETE FROM jobstate.upload_totals t USING jobstate.upload u
     WHERE u.id = ANY (upload_ids)
       AND t.repo_id = u.repo_id AND t.commit_sha = u.commit_sha AND t.upload_id = u.id;
    UPDATE jobstate.upload u
       SET state_id = 1, succeeded = NULL, order_number = NULL,
           attempt = CASE WHEN due IS NULL THEN 0 ELSE u.attempt END,
           retries = CASE WHEN due IS NULL THEN 0 ELSE u.retries + 1 END, retry_at = due,
           token = NULL, lease_until = NULL, merge_token = NULL, merge_until = NULL,
           updated_at = CASE WHEN u.state_id = 1 THEN u.updated_at ELSE clock_timestamp() END
     WHERE u.id = ANY (upload_ids);
END
$$;
COMMENT ON FUNCTION jobstate.upload_requeue(bigint[], timestamptz)
    IS 'internal: brings held uploads back to uploaded';

-- upload_clear_in_progress: what a worker does in its clean-up with uploads that
-- it neither finished nor gave back.  An upload that waits for its retry is not
-- in progress and stays.
-- Writes: upload, upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_clear_in_progress(upload_ids bigint[], token uuid DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    stale bigint;
    moved bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.upload_hold_all(upload_ids);
    SELECT min(u.id) INTO stale
      FROM jobstate.upload u
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1 AND u.token <> given;
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
    UPDATE jobstate.upload u
       SET state_id = 3, lease_until = NULL, updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1 AND u.retry_at IS NULL;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.upload_clear_in_progress(bigint[], uuid)
    IS 'moves uploads that are still being processed to error, and tells how many';
-- uploads: from "processed" into the report -----------------------------------------

-- upload_take_for_merging: a batch of processed coverage uploads for one merger,
-- under a lease and one fresh token.  Concurrent mergers get different uploads; a
-- batch whose lease ran out is given again under another token.  Failed uploads
-- are in the batch too: marking it merged is what makes them errors.
-- Commit before merging: the lease only protects what others can see.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_take_for_merging(repo_id bigint, commit_sha text,
    batch_size integer DEFAULT 10, lease interval DEFAULT '300 s')
RETURNS TABLE (upload_id bigint, token uuid, lease_until timestamptz, success boolean, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    fresh CONSTANT uuid := gen_random_uuid();
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_positive('batch_size', batch_size > 0);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    RETURN QUERY
        WITH batch AS MATERIALIZED (
            SELECT u.id FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 2
               AND coalesce(u.report_type, 'coverage') = 'coverage'
               AND (u.merge_until IS NULL OR u.merge_until <= clock_timestamp())
             ORDER BY u.id LIMIT batch_size
               FOR NO KEY UPDATE SKIP LOCKED),
        taken AS (
            UPDATE jobstate.upload u
               SET merge_token = fresh, merge_until = clock_timestamp() + lease
              FROM batch b
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.id = b.id
            RETURNING u.id, u.merge_token, u.merge_until,
                      u.succeeded IS NOT FALSE, u.storage_path)
        SELECT t.* FROM taken t ORDER BY t.id;
END
$$;
COMMENT ON FUNCTION jobstate.upload_take_for_merging(bigint, text, integer, interval)
    IS 'leases a batch of processed uploads of a commit to the caller, for merging';

-- upload_check_batch: the uploads are, or were until they were merged, of the
-- batch with this token.  The caller holds the uploads.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_check_batch(upload_ids bigint[], token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given ALIAS FOR token;
    stale bigint;
BEGIN
    SELECT min(i) INTO stale
      FROM unnest(upload_ids) i
     WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                        WHERE u.id = i AND u.merge_token = given);
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.upload_check_batch(bigint[], uuid)
    IS 'internal: refuses a token that is not the uploads'' last batch''s';

-- upload_settle: processed -> merged, or -> error where the upload failed.
-- Whoever was told to merge has done so, so the next decision may tell somebody
-- again.  The caller holds the uploads and their scopes.
-- Writes: upload, upload_error, upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_settle(upload_ids bigint[], OUT merged bigint, OUT failed bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.upload_note_error(ARRAY(
        SELECT u.id FROM jobstate.upload u
         WHERE u.id = ANY (upload_ids) AND u.state_id = 2 AND NOT u.succeeded
           AND NOT EXISTS (SELECT FROM jobstate.upload_error e
                            WHERE e.repo_id = u.repo_id AND e.commit_sha = u.commit_sha
                              AND e.upload_id = u.id)), 'unknown_processing');
    WITH moved AS (
        UPDATE jobstate.upload u
           SET state_id = CASE WHEN u.succeeded IS FALSE THEN 3 ELSE 6 END,
               merge_until = NULL, updated_at = clock_timestamp()
         WHERE u.id = ANY (upload_ids) AND u.state_id = 2
        RETURNING u.repo_id, u.commit_sha, u.state_id),
    released AS (
        UPDATE jobstate.upload_scope s
           SET merge_until = NULL
         WHERE s.merge_until IS NOT NULL
           AND (s.repo_id, s.commit_sha) IN (SELECT m.repo_id, m.commit_sha FROM moved m))
    SELECT count(*) FILTER (WHERE m.state_id = 6), count(*) FILTER (WHERE m.state_id = 3)
      INTO merged, failed FROM moved m;
END
$$;
COMMENT ON FUNCTION jobstate.upload_settle(bigint[])
    IS 'internal: moves held processed uploads to merged, or to error';

-- upload_mark_merged: the batch is in the report.  With its token, a batch that
-- somebody else has taken meanwhile is refused as a whole; without, the caller is
-- trusted and only what is processed moves.  A repeated call moves nothing.
-- Writes: upload, upload_error, upload_scope.
-- Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_mark_merged(upload_ids bigint[], token uuid DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.upload_hold_all(upload_ids);
    IF token IS NOT NULL THEN
        PERFORM jobstate.upload_check_batch(upload_ids, token);
    END IF;
    RETURN (SELECT s.merged FROM jobstate.upload_settle(upload_ids) s);
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_merged(bigint[], uuid)
    IS 'moves processed uploads to merged, failed ones to error, and tells how many are merged';

-- upload_apply_results: the same with what the merge found out about each upload:
-- [{"upload_id": 7, "order_number": 3, "totals": {"files": 1, ...}},
--  {"upload_id": 8, "error_code": "report_empty", "error_params": {...}}]
-- Totals that are there stay.  Only what is processed takes part.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_apply_results(results jsonb, token uuid DEFAULT NULL,
    OUT merged bigint, OUT failed bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    upload_ids bigint[];
    failure record;
BEGIN
    PERFORM jobstate.require_argument('results', results);
    upload_ids := ARRAY(SELECT (r ->> 'upload_id')::bigint FROM jsonb_array_elements(results) r);
    PERFORM jobstate.upload_hold_all(upload_ids);
    IF token IS NOT NULL THEN
        PERFORM jobstate.upload_check_batch(upload_ids, token);
    END IF;
    UPDATE jobstate.upload u
       SET succeeded = u.succeeded IS NOT FALSE AND r.error_code IS NULL,
           order_number = CASE WHEN u.succeeded IS NOT FALSE AND r.error_code IS NULL THEN r.order_number END
      FROM jsonb_to_recordset(results) AS r(upload_id bigint, order_number integer, error_code text)
     WHERE u.id = r.upload_id AND u.state_id = 2;
    INSERT INTO jobstate.upload_totals (repo_id, commit_sha, upload_id,
                files, lines, hits, misses, partials, branches, methods, coverage)
    SELECT u.repo_id, u.commit_sha, u.id,
           t.files, t.lines, t.hits, t.misses, t.partials, t.branches, t.methods, t.coverage
      FROM jsonb_to_recordset(results) AS r(upload_id bigint, totals jsonb)
      JOIN jobstate.upload u ON u.id = r.upload_id AND u.state_id = 2 AND u.succeeded,
           jsonb_to_record(r.totals) AS t(files integer, lines integer, hits integer, misses integer,
               partials integer, branches integer, methods integer, coverage numeric)
     WHERE r.totals IS NOT NULL
        ON CONFLICT DO NOTHING;
    FOR failure IN
        SELECT r.* FROM jsonb_to_recordset(results)
               AS r(upload_id bigint, error_code text, error_params jsonb)
          JOIN jobstate.upload u ON u.id = r.upload_id AND u.state_id = 2
         WHERE r.error_code IS NOT NULL
    LOOP
        PERFORM jobstate.upload_note_error(ARRAY[failure.upload_id], failure.error_code, failure.error_params);
    END LOOP;
    SELECT s.merged, s.failed INTO merged, failed FROM jobstate.upload_settle(upload_ids) s;
END
$$;
COMMENT ON FUNCTION jobstate.upload_apply_results(jsonb, uuid)
    IS 'moves processed uploads to merged or error by the merge''s results, and keeps these';

-- upload_mark_overwritten: a later upload replaces these, wholly or in part.
-- Writes: upload, upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_mark_overwritten(upload_ids bigint[], fully boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_argument('fully', fully);
    PERFORM jobstate.upload_hold_all(upload_ids);
    UPDATE jobstate.upload u
       SET state_id = CASE WHEN fully THEN 4 ELSE 5 END, merge_until = NULL,
           updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id IN (2, 6);
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_overwritten(bigint[], boolean)
    IS 'moves processed and merged uploads to fully or partially overwritten, and tells how many';

-- upload_replace_carriedforward: carried-forward uploads whose sessions the
-- merge replaced leave, with their errors and totals.  Ids of a later call that
-- are gone by then are passed over like any other unknown id.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope row, then the uploads by id.
CREATE FUNCTION jobstate.upload_replace_carriedforward(repo_id bigint, commit_sha text,
    order_numbers integer[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    gone bigint[];
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('order_numbers', order_numbers);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    gone := ARRAY(SELECT u.id FROM jobstate.upload u
                   WHERE u.repo_id = repo AND u.commit_sha = sha
                     AND u.upload_type = 'carriedforward' AND u.order_number = ANY (order_numbers)
                   ORDER BY u.id FOR UPDATE);
    DELETE FROM jobstate.upload u WHERE u.id = ANY (gone);
    RETURN cardinality(gone);
END
$$;
COMMENT ON FUNCTION jobstate.upload_replace_carriedforward(bigint, text, integer[])
    IS 'deletes the carried-forward uploads of these sessions, and tells how many';

-- upload_reprocess: a whole commit again, from any state, where there is
-- something stored to process.  What is being processed goes on.  Sessions,
-- totals and errors of the round before leave, and so does whoever was told to
-- merge it: a batch of that round is refused.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope row, then the uploads by id.
CREATE FUNCTION jobstate.upload_reprocess(repo_id bigint, commit_sha text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    again bigint[];
    coverage boolean;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    SELECT array_agg(u.id), bool_or(coalesce(u.report_type, 'coverage') = 'coverage')
      INTO again, coverage
      FROM (SELECT u.id, u.report_type FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha
               AND u.state_id <> 1 AND u.storage_path IS NOT NULL
             ORDER BY u.id FOR NO KEY UPDATE) u;
    PERFORM jobstate.upload_requeue(again, NULL);
    PERFORM jobstate.upload_withdraw_merge(repo, sha);
    PERFORM jobstate.upload_reopen(repo, sha, coverage);
    RETURN coalesce(cardinality(again), 0);
END
$$;
COMMENT ON FUNCTION jobstate.upload_reprocess(bigint, text)
    IS 'brings all stored uploads of a commit back to uploaded, and tells how many';
-- uploads: the gate --------------------------------------------------------------
--
-- One finisher at a time per commit, for the part that the counts cannot guard.
-- A gate that is acquired in the transaction that also enqueues the finisher goes
-- with it if that fails.

-- upload_gate_acquire: true for exactly one of any number of concurrent callers.
-- An owner does not get the gate twice: two deliveries of one task are two callers.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_acquire(repo_id bigint, commit_sha text,
    owner text DEFAULT '', lease interval DEFAULT '900 s')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM jobstate.upload_scope_lock(repo, sha);
    UPDATE jobstate.upload_scope s
       SET gate_owner = owner, gate_until = clock_timestamp() + lease
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND (s.gate_until IS NULL OR s.gate_until <= clock_timestamp());
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_acquire(bigint, text, text, interval)
    IS 'takes the gate of a commit; false if somebody holds it';

-- upload_gate_refresh: false if the gate is no longer the owner's, so that the
-- owner stops.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_refresh(repo_id bigint, commit_sha text,
    owner text DEFAULT '', lease interval DEFAULT '900 s')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    UPDATE jobstate.upload_scope s
       SET gate_until = clock_timestamp() + lease
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND s.gate_owner = owner AND s.gate_until > clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_refresh(bigint, text, text, interval)
    IS 'keeps the gate; false if it ran out or is somebody else''s';

-- upload_gate_release: false if there was nothing of the owner's to release,
-- which is no error.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_release(repo_id bigint, commit_sha text, owner text DEFAULT '')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    UPDATE jobstate.upload_scope s
       SET gate_owner = NULL, gate_until = NULL
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.gate_owner = owner;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_release(bigint, text, text)
    IS 'gives the gate back; true if the owner held it';
-- uploads: sweeping -----------------------------------------------------------------
--
-- Nothing stays unfinished because a process died.  Whatever is told to a process
-- that may die is told under a deadline; the sweep finds what is overdue and tells
-- its caller, who puts it into the application's own queue.

-- upload_reclaim: takes overdue uploads of a commit from their workers, or out of
-- the hands of a queue that lost them, and returns them; those that were given
-- back too often are in error.  The caller holds the scope.
-- Writes: upload, upload_error.  Locks: the uploads, with SKIP LOCKED.
CREATE FUNCTION jobstate.upload_reclaim(repo_id bigint, commit_sha text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    watchdog CONSTANT interval := jobstate.upload_delay('watchdog');
    max_retries CONSTANT integer := jobstate.upload_max_retries('processing_timeout');
    spent bigint[];
    again bigint[];
BEGIN
    SELECT array_agg(u.id) FILTER (WHERE u.retries >= max_retries),
           array_agg(u.id) FILTER (WHERE u.retries < max_retries)
      INTO spent, again
      FROM (SELECT u.id, u.retries FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 1
               AND CASE WHEN u.token IS NOT NULL THEN u.lease_until
                        ELSE coalesce(u.retry_at, u.updated_at) + watchdog
                   END <= clock_timestamp()
             ORDER BY u.id FOR NO KEY UPDATE SKIP LOCKED) u;
    PERFORM jobstate.upload_fail(spent, 'processing_timeout');
    PERFORM jobstate.upload_requeue(again, clock_timestamp());
    RETURN again;
END
$$;
COMMENT ON FUNCTION jobstate.upload_reclaim(bigint, text)
    IS 'internal: takes overdue uploads from their workers';

-- upload_retell: who was told to postprocess has neither confirmed it within the
-- watchdog's delay nor holds the gate.  The caller holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_retell(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocessed_at IS NULL
       AND s.postprocess_at <= clock_timestamp() - jobstate.upload_delay('watchdog');
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_retell(bigint, text)
    IS 'internal: true if postprocessing was told to somebody who is overdue';

-- upload_sweep_answer: the decision, put by somebody who is nobody's finisher.  It
-- leaves a commit alone that has no coverage, or whose gate is held.  The caller
-- holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_sweep_answer(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    answer text;
BEGIN
    IF EXISTS (SELECT FROM jobstate.upload_scope s
                WHERE s.repo_id = repo AND s.commit_sha = sha AND s.gate_until > clock_timestamp())
       OR NOT EXISTS (SELECT FROM jobstate.upload_coverage(repo, sha) c WHERE c.n > 0) THEN
        RETURN 'wait';
    END IF;
    answer := jobstate.upload_answer(repo, sha);
    IF answer = 'wait' AND jobstate.upload_retell(repo, sha) THEN
        RETURN 'postprocess';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION jobstate.upload_sweep_answer(bigint, text)
    IS 'internal: wait, merge or postprocess, for the sweep';

-- upload_sweep_delay: until the sweep looks at a commit again; NULL once there is
-- nothing left to look for.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_sweep_delay(repo_id bigint, commit_sha text)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sweep CONSTANT interval := jobstate.upload_delay('sweep');
BEGIN
    IF EXISTS (SELECT FROM jobstate.upload_counts(repo_id, commit_sha,
                       ARRAY['coverage', 'test_results', 'bundle_analysis', NULL]) c
                WHERE c.state = 'uploaded' AND c.n > 0) THEN
        RETURN sweep;
    ELSIF EXISTS (SELECT FROM jobstate.upload_coverage(repo_id, commit_sha) c WHERE c.n > 0) THEN
        RETURN (SELECT greatest(k.delay, sweep) FROM jobstate.upload_next_check(repo_id, commit_sha) k);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.upload_sweep_delay(bigint, text)
    IS 'internal: how long the sweep may leave a commit alone';

-- upload_rescue: looks at the commits that are due and tells what is to be done,
-- a row each: "process" these uploads again, "merge", "postprocess".  Concurrent
-- sweeps pass over each other's commits.
-- Writes: upload, upload_error, upload_scope.
-- Locks: scope rows and uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_rescue(max_commits integer DEFAULT 100)
RETURNS TABLE (repo_id bigint, commit_sha text, action text, upload_ids bigint[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due CONSTANT timestamptz := clock_timestamp();
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    FOR repo_id, commit_sha IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE s.check_at <= due
         ORDER BY s.check_at LIMIT max_commits
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM jobstate.upload_scope_lock(upload_rescue.repo_id, upload_rescue.commit_sha);
        upload_ids := jobstate.upload_reclaim(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF upload_ids IS NOT NULL THEN
            action := 'process';
            RETURN NEXT;
        END IF;
        upload_ids := NULL;
        action := jobstate.upload_sweep_answer(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF action <> 'wait' THEN
            RETURN NEXT;
        END IF;
        UPDATE jobstate.upload_scope s
           SET check_at = clock_timestamp()
                          + jobstate.upload_sweep_delay(upload_rescue.repo_id, upload_rescue.commit_sha)
         WHERE s.repo_id = upload_rescue.repo_id AND s.commit_sha = upload_rescue.commit_sha;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.upload_rescue(integer)
    IS 'finds what died: a row per commit and action (process, merge, postprocess) that somebody has to take up';

-- upload_postprocessed: whoever was told to postprocess has done so, and the
-- sweep need not tell anybody else.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_postprocessed(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    UPDATE jobstate.upload_scope s
       SET postprocessed_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND s.postprocess_at IS NOT NULL AND s.postprocessed_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_postprocessed(bigint, text)
    IS 'confirms that a commit was postprocessed; false if it is not to be, or was confirmed before';

-- upload_adopt: makes the sweep look at commits whose uploads were written
-- without the functions: loaded, inserted, moved or deleted by hand.
-- Writes: upload_scope.  Locks: the scope rows that it writes, by key.
CREATE FUNCTION jobstate.upload_adopt()
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    adopted bigint;
BEGIN
    INSERT INTO jobstate.upload_scope AS s (repo_id, commit_sha, check_at)
    SELECT o.repo_id, o.commit_sha, clock_timestamp()
      FROM (SELECT DISTINCT (c.group_key ->> 'repo_id')::bigint AS repo_id,
                   (c.group_key ->> 'commit_sha') COLLATE "C" AS commit_sha
              FROM jobstate.counts('jobstate.upload') c
             WHERE c.state IN ('uploaded', 'processed') AND c.n > 0
             ORDER BY 1, 2) o
        ON CONFLICT (repo_id, commit_sha)
        DO UPDATE SET version = s.version + 1, check_at = excluded.check_at
        WHERE s.check_at IS NULL;
    GET DIAGNOSTICS adopted = ROW_COUNT;
    RETURN adopted;
END
$$;
COMMENT ON FUNCTION jobstate.upload_adopt()
    IS 'makes upload_rescue() look at commits that were written without the functions, and tells how many';

-- upload_forget: a commit whose uploads are all gone (pruned, deleted) needs no
-- scope row.  An upload may come between the search and the lock, so the row is
-- deleted by a statement that looks again.
-- Writes: upload_scope.  Locks: the scope rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.upload_forget(max_commits integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    scope record;
    forgotten bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    FOR scope IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE (s.gate_until IS NULL OR s.gate_until <= clock_timestamp())
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha)
         LIMIT max_commits
           FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM jobstate.upload_scope s
         WHERE s.repo_id = scope.repo_id AND s.commit_sha = scope.commit_sha
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha);
        forgotten := forgotten + CASE WHEN FOUND THEN 1 ELSE 0 END;
    END LOOP;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION jobstate.upload_forget(integer)
    IS 'drops what is remembered of commits that have no uploads left, and tells of how many';
-- uploads: health and metrics ------------------------------------------------------

-- health_upload: commits that nobody sweeps, and, if asked to look deep, those that no
-- sweep would find.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_upload(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.upload', 'jobstate.upload_scope') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'upload overdue', 'jobstate.upload_scope', 'warning',
           format('%s commits are due for upload_rescue(), the first since %s: dead workers and mergers are not replaced',
                  CASE WHEN o.n > 1000 THEN 'over 1000' ELSE o.n::text END, date_trunc('second', o.first)),
           'SELECT * FROM jobstate.upload_rescue(10000)'
      FROM (SELECT count(*) AS n, min(s.check_at) AS first
              FROM (SELECT s.check_at FROM jobstate.upload_scope s WHERE s.check_at < clock_timestamp() - patience
                     ORDER BY s.check_at LIMIT 1001) s) o
     WHERE o.n > 0
    UNION ALL
    SELECT 'upload overdue', NULL, 'ok', 'no commit waits for upload_rescue()', NULL;
    IF deep THEN
        RETURN QUERY
        SELECT 'upload forgotten', 'jobstate.upload', 'warning',
               format('%s commits, such as %s of repository %s, have uploads that are not settled, and upload_rescue() does not look at them',
                      count(*), min(u.commit_sha), (array_agg(u.repo_id ORDER BY u.commit_sha))[1]),
               'SELECT jobstate.upload_adopt()'
          FROM (SELECT DISTINCT u.repo_id, u.commit_sha FROM jobstate.upload u
                 WHERE (u.state_id = 1 OR u.state_id = 2 AND coalesce(u.report_type, 'coverage') = 'coverage')
                   AND u.updated_at < clock_timestamp() - patience) u
         WHERE NOT EXISTS (SELECT FROM jobstate.upload_scope s
                            WHERE s.repo_id = u.repo_id AND s.commit_sha = u.commit_sha AND s.check_at IS NOT NULL)
        HAVING count(*) > 0
        UNION ALL
        SELECT 'upload forgotten', NULL, 'ok', 'every commit that is not settled is swept', NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.health_upload(boolean, interval)
    IS 'internal: what health() says of the uploads';

-- metrics_upload: open commits, by the index on those that are swept.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_upload()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.upload_scope') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT count(*) AS open, count(*) FILTER (WHERE s.check_at <= clock_timestamp()) AS due,
                   count(*) FILTER (WHERE s.gate_until > clock_timestamp()) AS gates,
                   count(*) FILTER (WHERE s.merge_until > clock_timestamp()) AS merging,
                   min(s.check_at) AS first
              FROM jobstate.upload_scope s WHERE s.check_at IS NOT NULL) o
     CROSS JOIN LATERAL (VALUES
            ('jobstate_upload_commits_open', o.open, '', 'commits that are not settled'),
            ('jobstate_upload_commits_due', o.due, '', 'commits that upload_rescue() would look at now'),
            ('jobstate_upload_overdue_seconds', greatest(extract(epoch FROM clock_timestamp() - o.first), 0), 'seconds',
             'for how long the first commit has been due for upload_rescue()'),
            ('jobstate_upload_gates_held', o.gates, '', 'open commits whose gate is held'),
            ('jobstate_upload_commits_merging', o.merging, '', 'open commits that somebody was told to merge, and still has time'))
           AS m (name, value, unit, help);
END
$$;
COMMENT ON FUNCTION jobstate.metrics_upload()
    IS 'internal: the uploads'' part of the view metrics';
-- uploads: reports ---------------------------------------------------------------

-- upload_completion: how far a commit is.  What is processed but not merged is
-- still processing: a failed parse among it will be an error.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_completion(repo_id bigint, commit_sha text,
    OUT uploads_total bigint, OUT success bigint, OUT processing bigint, OUT error bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT coalesce(sum(c.n), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state IN ('merged', 'fully_overwritten', 'partially_overwritten')), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state IN ('uploaded', 'processed')), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'error'), 0)
      INTO uploads_total, success, processing, error
      FROM jobstate.upload_coverage(repo_id, commit_sha) c;
END
$$;
COMMENT ON FUNCTION jobstate.upload_completion(bigint, text)
    IS 'a commit''s coverage uploads: all, in the report, not settled, in error; zeros for an unknown commit';

-- upload_already_completed: a finisher that was called with these uploads has
-- nothing to do: all are there and settled, and so are their commits.  Ids count
-- once, however often they are given.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_already_completed(upload_ids bigint[])
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    IF cardinality(upload_ids) = 0 OR EXISTS (
           SELECT FROM unnest(upload_ids) i
            WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                               WHERE u.id = i AND u.state_id NOT IN (1, 2))) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM (SELECT DISTINCT u.repo_id, u.commit_sha
                       FROM jobstate.upload u WHERE u.id = ANY (upload_ids)) s,
               jobstate.upload_numbers(s.repo_id, s.commit_sha) n
         WHERE NOT jobstate.upload_should_postprocess(n.processing, n.processed));
END
$$;
COMMENT ON FUNCTION jobstate.upload_already_completed(bigint[])
    IS 'whether all these uploads exist and are settled, and nothing of their commits is left to do';

-- upload_notify_decision: whether to tell people about a commit.  Asked by the
-- one caller who was told to postprocess, so it needs no lock.  Sessions are those
-- of the merged report; unless told, they are the uploads that are in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_notify_decision(repo_id bigint, commit_sha text,
    manual_trigger boolean DEFAULT false, after_n_builds integer DEFAULT 0,
    notify_error boolean DEFAULT false, sessions bigint DEFAULT NULL, ci_skip boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha ALIAS FOR commit_sha;
    report record;
    any_success boolean;
BEGIN
    PERFORM jobstate.require_argument('manual_trigger', manual_trigger);
    PERFORM jobstate.require_argument('after_n_builds', after_n_builds);
    PERFORM jobstate.require_argument('notify_error', notify_error);
    PERFORM jobstate.require_argument('ci_skip', ci_skip);
    SELECT c.* INTO report FROM jobstate.upload_completion(repo, sha) c;
    any_success := EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = repo AND u.commit_sha = sha
                              AND u.state_id IN (4, 5, 6) AND u.upload_type <> 'carriedforward'
                              AND coalesce(u.report_type, 'coverage') = 'coverage');
    RETURN CASE
        WHEN ci_skip THEN 'do_not_notify'
        WHEN report.processing > 0 THEN 'do_not_notify'
        WHEN manual_trigger THEN 'do_not_notify'
        WHEN after_n_builds > coalesce($6, report.success) THEN 'do_not_notify'
        WHEN notify_error AND (report.error > 0 OR NOT any_success) THEN 'notify_error'
        WHEN NOT any_success THEN 'do_not_notify'
        ELSE 'notify' END;
END
$$;
COMMENT ON FUNCTION jobstate.upload_notify_decision(bigint, text, boolean, integer, boolean, bigint, boolean)
    IS 'notify, do_not_notify or notify_error for a commit';
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
    PERFORM jobstate.require_argument('worker', worker);
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
-- queue: machine and tables -----------------------------------------------------
--
-- A lane is (queue, priority, shard), and jobs of a lane are claimed in the order
-- of their positions.  A position is the lane's number and, in the low 48 bits,
-- one number of a sequence that all lanes share.  A job's id is the first
-- position that it had; it gets another one when it goes to the tail of a lane
-- again, and keeps its id.
--
-- The ring: the sequence's number also says in which partition (slot) of the job
-- table a row lives, so nobody has to ask which slot is the current one.  A row
-- stays where it was inserted and changes in place.  Two partitions stand beside
-- the ring: job_waiting for what is due later, job_kept for what a slot still held
-- when it was emptied.
--
-- No index holds a column that changes while a row stays in place, and a page has
-- room for the versions of a row's life, so claiming and completing are HOT
-- updates, also while an old snapshot keeps the dead versions alive.

-- queue_install_machine: only what waits can become available again, and it lies
-- in a partition of its own until then.  So a row cannot become available in
-- place, behind the backs of those who claim from a lane's lower bound upwards.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.queue_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('job',
        '{"available": 1, "running": 2, "deferred": 3,
          "completed": 4, "failed": 5, "cancelled": 6}',
        ARRAY['available -> running: claim',
              'available -> cancelled: cancel',
              'running -> completed: complete',
              'running -> failed: fail',
              'running -> cancelled: cancel',
              'running -> deferred: retry later',
              'deferred -> available: promote',
              'deferred -> cancelled: cancel',
              'failed -> deferred: retry',
              'cancelled -> deferred: retry'],
        initial => ARRAY['available', 'deferred'],
        terminal => ARRAY['completed', 'failed', 'cancelled']);
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_machine()
    IS 'internal: defines the machine "job"';

-- queue_keep: a queue stays, under its name, as long as it has jobs: without their
-- lanes nobody could claim or rescue them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_keep()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.queue = OLD.queue THEN
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', OLD.queue)) c
                WHERE c.n > 0) THEN
        RAISE EXCEPTION 'queue "%" still has jobs', OLD.queue
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'jobstate', TABLE = 'job',
                  HINT = 'Delete them from jobstate.job, or move them with jobstate.move_queue().';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION jobstate.queue_keep()
    IS 'internal: refuses to delete or rename a queue that has jobs';

-- queue_changed: the backends keep the settings in mind; this makes them look again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_changed()
RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'jobstate_queue_changed';
COMMENT ON FUNCTION jobstate.queue_changed()
    IS 'internal: makes every session forget what it knows of queues, lanes and ring';

-- queue_install_changed: has a table of settings tell of its changes.
-- Writes nothing.  Locks: the table, where it does not do so yet.
CREATE FUNCTION jobstate.queue_install_changed(settings text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.tgrelid = settings::regclass AND t.tgname = 'changed' AND t.tgenabled = 'A') THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION jobstate.queue_changed()', settings);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER changed', settings);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_changed(text)
    IS 'internal: creates the trigger that tells of a change of settings';

-- queue_install_settings: queues, their lanes, the ring.
-- Writes: queue_ring.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_settings()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.queue (
        queue               text PRIMARY KEY CHECK (queue <> ''),
        paused_at           timestamptz,
        shards              smallint NOT NULL DEFAULT 1 CHECK (shards BETWEEN 1 AND 64),
        lease               interval NOT NULL DEFAULT '90 seconds' CHECK (lease > '0'),
        max_attempts        smallint NOT NULL DEFAULT 25 CHECK (max_attempts > 0),
        backoff             interval NOT NULL DEFAULT '1 second' CHECK (backoff > '0'),
        aging               interval NOT NULL DEFAULT '1 minute' CHECK (aging > '0'),
        max_running         integer CHECK (max_running > 0),
        max_running_per_key integer CHECK (max_running_per_key > 0),
        dead_letters        boolean NOT NULL DEFAULT true,
        notify              boolean NOT NULL DEFAULT false,
        created_at          timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMENT ON TABLE jobstate.queue IS 'the queues and their settings; a queue comes to be with its first job';

    CREATE OR REPLACE TRIGGER queue_keep BEFORE DELETE OR UPDATE OF queue ON jobstate.queue
        FOR EACH ROW EXECUTE FUNCTION jobstate.queue_keep();

    CREATE TABLE IF NOT EXISTS jobstate.queue_lane (
        queue    text NOT NULL REFERENCES jobstate.queue ON UPDATE CASCADE ON DELETE CASCADE,
        priority smallint NOT NULL CHECK (priority BETWEEN 1 AND 4),
        shard    smallint NOT NULL CHECK (shard >= 0),
        lane     smallint GENERATED BY DEFAULT AS IDENTITY UNIQUE CHECK (lane > 0),
        PRIMARY KEY (queue, priority, shard)
    );
    COMMENT ON TABLE jobstate.queue_lane IS 'lanes by number: the high bits of every position';

    CREATE TABLE IF NOT EXISTS jobstate.queue_window (
        lane    smallint NOT NULL,
        floor   bigint NOT NULL,
        ceiling bigint NOT NULL,
        settled bigint NOT NULL
    );
    CREATE INDEX IF NOT EXISTS queue_window_lane ON jobstate.queue_window (lane, ceiling);
    COMMENT ON TABLE jobstate.queue_window IS 'where to look in a lane, appended to now and then, the greatest counts: no job below floor is or becomes available, none below settled is running, none at or above ceiling was ever claimed';

    CREATE TABLE IF NOT EXISTS jobstate.queue_ring (
        singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        slots       smallint NOT NULL DEFAULT 16 CHECK (slots BETWEEN 3 AND 1024),
        slot_jobs   bigint NOT NULL DEFAULT 50000 CHECK (slot_jobs > 0),
        slot_length interval NOT NULL DEFAULT '1 hour' CHECK (slot_length > '0'),
        retention   interval NOT NULL DEFAULT '1 hour' CHECK (retention >= '0'),
        failed_retention interval NOT NULL DEFAULT '72 hours' CHECK (failed_retention >= '0'),
        dead_letter_retention interval NOT NULL DEFAULT '30 days' CHECK (dead_letter_retention >= '0')
    );
    INSERT INTO jobstate.queue_ring DEFAULT VALUES ON CONFLICT DO NOTHING;
    COMMENT ON TABLE jobstate.queue_ring IS 'one row: the ring''s size and how long ended jobs are kept';

    PERFORM jobstate.queue_install_changed('jobstate.' || t) FROM unnest('{queue,queue_lane,queue_ring}'::text[]) t;

    CREATE SEQUENCE IF NOT EXISTS jobstate.job_number AS bigint MAXVALUE 281474976710655;
    COMMENT ON SEQUENCE jobstate.job_number IS 'the low 48 bits of every position';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_settings()
    IS 'internal: creates the tables of queues, lanes and the ring';

-- queue_install_jobs: the jobs.  What never changes in place stands before and
-- after what does, so that an update's WAL record is short.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_jobs()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.job (
        id           bigint NOT NULL,
        position     bigint NOT NULL,
        enqueued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        run_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        slot         smallint NOT NULL,
        priority     smallint NOT NULL,
        max_attempts smallint NOT NULL,
        attempt      smallint NOT NULL DEFAULT 0,
        state_id     smallint NOT NULL DEFAULT 1,
        cancel_requested boolean NOT NULL DEFAULT false,
        finished_at  timestamptz,
        token        bigint,
        claimed_at   timestamptz,
        lease_until  timestamptz,
        worker       text,
        queue        text NOT NULL,
        kind         text NOT NULL,
        timeout      interval,
        unique_key   text,
        limit_key    text,
        payload      jsonb NOT NULL DEFAULT '{}',
        errors       jsonb,
        result       jsonb
    ) PARTITION BY LIST (slot);
    CREATE INDEX IF NOT EXISTS job_moved ON jobstate.job (id) WHERE id <> position;
    COMMENT ON TABLE jobstate.job IS 'the jobs, on a ring of partitions; state ids are those of the machine "job"';
    COMMENT ON COLUMN jobstate.job.position IS 'place in the lane: the lane''s number and a number of job_number';
    COMMENT ON COLUMN jobstate.job.slot IS 'partition: of the ring, or -1 waiting, -2 kept';
    COMMENT ON COLUMN jobstate.job.token IS 'of the newest claim; whoever has another one has lost the lease';
    COMMENT ON COLUMN jobstate.job.timeout IS 'how long an attempt may take, however often it sends heartbeats';
    COMMENT ON COLUMN jobstate.job.limit_key IS 'queue.max_running_per_key limits how many jobs of one key run at a time';
    COMMENT ON COLUMN jobstate.job.errors IS 'the latest errors, newest last: [{"attempt", "at", "error"}, ...]';

    CREATE TABLE IF NOT EXISTS jobstate.job_waiting PARTITION OF jobstate.job
        (PRIMARY KEY (position), CHECK (state_id = 3)) FOR VALUES IN (-1);
    CREATE INDEX IF NOT EXISTS job_waiting_due ON jobstate.job_waiting (queue, run_at);
    COMMENT ON TABLE jobstate.job_waiting IS 'the jobs that are due later';
    CREATE TABLE IF NOT EXISTS jobstate.job_kept PARTITION OF jobstate.job
        (PRIMARY KEY (position), CHECK (state_id <> 3)) FOR VALUES IN (-2);
    COMMENT ON TABLE jobstate.job_kept IS 'the jobs that stayed when their slot of the ring was emptied';
    PERFORM jobstate.queue_add_slots();
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_jobs()
    IS 'internal: creates the job table and its partitions';

-- queue_add_slots: makes the partitions that the ring's size asks for.
-- Writes nothing.  Locks: job, where a partition is missing.
CREATE FUNCTION jobstate.queue_add_slots()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nslots integer := (SELECT r.slots FROM jobstate.queue_ring r);
BEGIN
    FOR i IN 0 .. nslots - 1 LOOP
        CONTINUE WHEN to_regclass(format('jobstate.job_%s', i)) IS NOT NULL;
        EXECUTE format('CREATE TABLE jobstate.job_%s PARTITION OF jobstate.job
                        (PRIMARY KEY (position), CHECK (state_id <> 3)) FOR VALUES IN (%s)
                        WITH (fillfactor = 33, autovacuum_enabled = off)', i, i);
        EXECUTE format('COMMENT ON TABLE jobstate.job_%s IS %L', i,
                       'a slot of the ring; emptied by TRUNCATE, so it needs no vacuum');
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_add_slots()
    IS 'internal: creates the partitions of the ring that are missing';

-- queue_install_rest: dead letters and unique keys.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.queue_install_rest()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.dead_letter (
        queue        text NOT NULL,
        id           bigint NOT NULL,
        kind         text NOT NULL,
        priority     smallint NOT NULL,
        payload      jsonb NOT NULL,
        attempt      smallint NOT NULL,
        max_attempts smallint NOT NULL,
        timeout      interval,
        unique_key   text,
        limit_key    text,
        errors       jsonb,
        enqueued_at  timestamptz NOT NULL,
        died_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (queue, id),
        UNIQUE (id)
    );
    CREATE INDEX IF NOT EXISTS dead_letter_died ON jobstate.dead_letter (died_at);
    COMMENT ON TABLE jobstate.dead_letter IS 'jobs that failed for good, until somebody decides about them';

    CREATE TABLE IF NOT EXISTS jobstate.unique_job (
        queue      text NOT NULL,
        unique_key text NOT NULL,
        id         bigint NOT NULL,
        states     text[] NOT NULL,
        PRIMARY KEY (queue, unique_key)
    );
    COMMENT ON TABLE jobstate.unique_job IS 'the last job of each unique key, and in which states it keeps others out';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_rest()
    IS 'internal: creates the tables of dead letters and unique keys';

-- install_queue: the family's machine and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment and queue_ring.
-- Locks: job against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_queue()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_install_machine();
    PERFORM jobstate.queue_install_settings();
    PERFORM jobstate.queue_install_jobs();
    PERFORM jobstate.queue_install_rest();
    PERFORM jobstate.queue_install_views();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a
                    WHERE a.target = 'jobstate.job'::regclass AND a.watched) THEN
        PERFORM jobstate.attach('jobstate.job', 'job', 'state_id', '{queue,priority,limit_key}');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_queue()
    IS 'internal: what install(''queue'') does';

-- queue_position: a place at the tail of a lane.  The number is drawn under a
-- transaction id: those who compute a lane's lower bound wait for transactions
-- that could still bring a lower position, and know them by their ids.
-- Writes: the sequence.  Locks nothing.
CREATE FUNCTION jobstate.queue_position(lane smallint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN lane::bigint << 48 | nextval('jobstate.job_number');
END
$$;
COMMENT ON FUNCTION jobstate.queue_position(smallint)
    IS 'internal: the next position of a lane';

-- queue_slot: the slot of the ring that a position belongs to.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_slot("position" bigint)
RETURNS smallint
LANGUAGE sql STABLE
AS $$
    SELECT (((queue_slot."position" & 281474976710655) / r.slot_jobs) % r.slots)::smallint
      FROM jobstate.queue_ring r
$$;
COMMENT ON FUNCTION jobstate.queue_slot(bigint)
    IS 'internal: the slot of the ring that a position belongs to';
-- queue: settings, lanes, and where a job is ----------------------------------------

-- queue_require_name: refuses a queue without a name.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_name(queue text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('queue', queue);
    IF queue = '' THEN
        RAISE EXCEPTION 'argument "queue" must not be empty'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'A queue is known by its name.',
                  HINT = 'Give the queue a name; it comes to be with its first job.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_name(text)
    IS 'internal: raises 22004 or 22023 for a queue without a name';

-- queue_define: makes a queue, or changes some of its settings.
-- Writes: queue.  Locks: the queue's row.
CREATE FUNCTION jobstate.queue_define(queue text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    known CONSTANT text[] := '{shards,lease,max_attempts,backoff,aging,max_running,max_running_per_key,dead_letters,notify}';
    unknown text;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    PERFORM jobstate.require_argument('settings', settings);
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for queue "%s".', name),
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET (shards, lease, max_attempts, backoff, aging,
            max_running, max_running_per_key, dead_letters, notify) =
           (SELECT n.shards, n.lease, n.max_attempts, n.backoff, n.aging,
                   n.max_running, n.max_running_per_key, n.dead_letters, n.notify
              FROM jsonb_populate_record(q, settings) n)
     WHERE q.queue = name;
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for queue "%" are not valid', name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'Sizes, times and limits are above zero, shards at most 64; only the limits may be null, which is none.';
END
$$;
COMMENT ON FUNCTION jobstate.queue_define(text, jsonb)
    IS 'makes a queue or changes settings of it: {"max_attempts": 5, "lease": "5 min", ...}';

-- queue_pause: writes pause() and resume(); a queue may be paused before its first job.
-- Writes: queue.  Locks: the queue's row.
CREATE FUNCTION jobstate.queue_pause(queue text, pauses boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET paused_at = CASE WHEN pauses THEN clock_timestamp() END
     WHERE q.queue = name AND q.paused_at IS NOT NULL <> pauses;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.queue_pause(text, boolean)
    IS 'internal: pauses or resumes a queue';

CREATE FUNCTION jobstate.pause(queue text)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT jobstate.queue_pause($1, true)';
COMMENT ON FUNCTION jobstate.pause(text)
    IS 'no job of the queue is claimed from now on; true if it was not paused before';

CREATE FUNCTION jobstate.resume(queue text)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT jobstate.queue_pause($1, false)';
COMMENT ON FUNCTION jobstate.resume(text)
    IS 'jobs of the queue are claimed again; true if it was paused';

-- queue_add_lanes: makes sure that the queue exists, and with it the lanes of these
-- priorities.  Only reads where they do.
-- Writes: queue, queue_lane.  Locks: whoever makes the same waits until commit.
CREATE FUNCTION jobstate.queue_add_lanes(queue text, priorities integer[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM FROM jobstate.queue q WHERE q.queue = name;
    IF NOT FOUND THEN
        INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO jobstate.queue_lane (queue, priority, shard)
    SELECT q.queue, p, s
      FROM jobstate.queue q, generate_series(0, q.shards - 1) s, unnest(priorities) p
     WHERE q.queue = name
       AND NOT EXISTS (SELECT FROM jobstate.queue_lane l
                        WHERE l.queue = q.queue AND l.priority = p AND l.shard = s)
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.queue_add_lanes(text, integer[])
    IS 'internal: creates a queue''s lanes where they are missing';

-- queue_lane_of: the number of a lane, which is made if need be.  Without a shard,
-- any one of the queue's.
-- Writes: queue, queue_lane, as queue_add_lanes() does.  Locks nothing more.
CREATE FUNCTION jobstate.queue_lane_of(queue text, priority integer, shard integer DEFAULT NULL)
RETURNS smallint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    number smallint;
BEGIN
    LOOP
        SELECT l.lane INTO number
          FROM (SELECT q.queue, coalesce($3, floor(random() * q.shards)::integer) % q.shards AS shard
                  FROM jobstate.queue q WHERE q.queue = $1) q
          JOIN jobstate.queue_lane l ON l.queue = q.queue AND l.priority = $2 AND l.shard = q.shard;
        EXIT WHEN FOUND;
        PERFORM jobstate.queue_add_lanes($1, ARRAY[$2]);
    END LOOP;
    RETURN number;
END
$$;
COMMENT ON FUNCTION jobstate.queue_lane_of(text, integer, integer)
    IS 'internal: the lane of a queue, a priority and a shard';

-- queue_wake: tells those who listen that a queue has something to claim.  The
-- server sends equal notifications of a transaction once.
-- Writes nothing.  Locks: at commit, what NOTIFY locks, where the queue wants it.
CREATE FUNCTION jobstate.queue_wake(queue text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_notify('jobstate_queue', q.queue) FROM jobstate.queue q WHERE q.queue = $1 AND q.notify;
END
$$;
COMMENT ON FUNCTION jobstate.queue_wake(text)
    IS 'internal: notifies jobstate_queue, where the queue''s setting notify is on';

-- next_due: how long a worker that got nothing may sleep.  A limit may let go at any
-- time, whenever somebody's job ends, and nobody tells: then ask again in a second.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.next_due(queue text)
RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    look_again CONSTANT interval := '1 s';
    settings record;
    seen record;
    due interval;
BEGIN
    PERFORM jobstate.require_argument('queue', name);
    SELECT q.paused_at, q.max_running, q.max_running_per_key INTO settings FROM jobstate.queue q WHERE q.queue = name;
    IF settings.paused_at IS NOT NULL THEN
        RETURN NULL;
    END IF;
    SELECT sum(k.running) >= settings.max_running AS is_full, bool_or(k.available > 0) AS is_some,
           bool_or(k.available > 0
                   AND (k.key IS NOT NULL AND k.running >= settings.max_running_per_key) IS NOT TRUE) AS is_free
      INTO seen
      FROM (SELECT c.group_key ->> 'limit_key' AS key, sum(c.n) FILTER (WHERE c.state = 'running') AS running,
                   sum(c.n) FILTER (WHERE c.state = 'available') AS available
              FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', name)) c
             GROUP BY 1) k;
    IF seen.is_free AND seen.is_full IS NOT TRUE THEN
        RETURN interval '0';
    END IF;
    due := (SELECT min(w.run_at) - clock_timestamp() FROM jobstate.job_waiting w WHERE w.queue = name);
    RETURN CASE WHEN seen.is_full AND due < look_again THEN look_again
                WHEN seen.is_some THEN least(due, look_again)
                ELSE due END;
END
$$;
COMMENT ON FUNCTION jobstate.next_due(text)
    IS 'time until the queue has something to claim: zero or less means now, one second that its limits let nothing be claimed, null that nothing is known of or that the queue is paused';

-- queue_whole: a job that is not there may be one whose slot was emptied after the
-- caller's snapshot was taken, where that is kept: then 40001 is the answer.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_whole()
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_queue_whole';
COMMENT ON FUNCTION jobstate.queue_whole()
    IS 'internal: raises 40001 where a slot of the ring was emptied since the transaction''s snapshot';

-- queue_find: where jobs are.  A job that was never moved lies under its id: in
-- that position's slot, or beside the ring, or, where the ring's size was changed
-- since, in any slot.  One that was moved has an index of its own.
-- It is volatile so that each look has its own snapshot, taken after the partitions
-- are locked: whoever empties a slot may carry the job over while we wait.
-- Writes nothing, locks nothing.  What is found may have moved on when it is locked.
CREATE FUNCTION jobstate.queue_find(ids bigint[])
RETURNS TABLE (id bigint, "position" bigint, slot smallint, state_id smallint)
LANGUAGE plpgsql VOLATILE ROWS 10
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    wanted record;
    found_home bigint;
    found_moved bigint;
BEGIN
    SELECT array_agg(i.id ORDER BY i.id) AS ids, array_agg(i.home ORDER BY i.id) AS homes INTO wanted
      FROM (SELECT DISTINCT u AS id, (((u & 281474976710655) / r.slot_jobs) % r.slots)::smallint AS home
              FROM unnest(ids) u, jobstate.queue_ring r WHERE r.singleton) i;
    RETURN QUERY
        SELECT g.id, f."position", f.slot, f.state_id
          FROM unnest(wanted.ids, wanted.homes) g (id, home)
         CROSS JOIN LATERAL (
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j.slot = ANY (ARRAY[g.home, -1::smallint, -2::smallint])
                   AND j."position" = g.id AND j.id = g.id LIMIT 1) f;
    GET DIAGNOSTICS found_home = ROW_COUNT;
    IF found_home = cardinality(wanted.ids) THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT g.id, f."position", f.slot, f.state_id
          FROM unnest(wanted.ids, wanted.homes) g (id, home)
         CROSS JOIN LATERAL (
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j.id = g.id AND j.id <> j."position"
                UNION ALL
                SELECT j."position", j.slot, j.state_id FROM jobstate.job j
                 WHERE j."position" = g.id AND j.id = g.id
                   AND j.slot <> ALL (ARRAY[g.home, -1::smallint, -2::smallint]) LIMIT 1) f;
    GET DIAGNOSTICS found_moved = ROW_COUNT;
    IF found_home + found_moved < cardinality(wanted.ids) THEN
        PERFORM jobstate.queue_whole();
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_find(bigint[])
    IS 'internal: position, partition and state of the jobs that exist';
-- queue: unique keys ----------------------------------------------------------------
--
-- A key's row names the last job that took the key, and the states in which that
-- job keeps others out.  Nothing is done when the job ends: whoever wants the key
-- next looks at the job itself.
--
-- Problem: two jobs may want the key at once, or one that ended may come back
-- (retry) while another takes the key.  Solution: whoever takes a key writes its
-- row before the next statement looks at the holder, so the second one waits, and
-- looks with a newer snapshot, or fails with 40001.

-- queue_key_holders: of these keys, those that a job holds now.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_key_holders(queue text, unique_keys text[])
RETURNS TABLE (unique_key text, id bigint)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    ids bigint[] := ARRAY(
        SELECT u.id FROM unnest($2) w (unique_key)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue = $1 AND u.unique_key = w.unique_key LIMIT 1) u);
BEGIN
    IF ids = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT u.unique_key, u.id
          FROM jobstate.queue_find(ids) f
         CROSS JOIN (SELECT DISTINCT w.unique_key FROM unnest($2) w (unique_key)) w
         CROSS JOIN LATERAL (SELECT u.unique_key, u.id, u.states FROM jobstate.unique_job u
                              WHERE u.queue = $1 AND u.unique_key = w.unique_key LIMIT 1) u
         WHERE u.id = f.id AND jobstate.queue_state_name(f.state_id) = ANY (u.states);
END
$$;
COMMENT ON FUNCTION jobstate.queue_key_holders(text, text[])
    IS 'internal: the unique keys that are held, and by which jobs';

-- queue_take_keys: for each job the key that it wants, or the job that has it: the
-- holder is the job itself where it got the key.  Null keys have no holder.  Null
-- states are those that the job has the key with, or had it not, the usual ones.
-- Writes: unique_job.  Locks: the keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.queue_take_keys(queue text, unique_keys text[], ids bigint[], states text[])
RETURNS TABLE (id bigint, holder bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    usual CONSTANT text[] := jobstate.queue_key_states(states);
    new_keys text[];
    wish record;
    owner bigint;
BEGIN
    WITH made AS (
        INSERT INTO jobstate.unique_job (queue, unique_key, id, states)
        SELECT DISTINCT ON (w.unique_key COLLATE "C") $1, w.unique_key, w.id, usual
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL
         ORDER BY w.unique_key COLLATE "C", w.ord
            ON CONFLICT DO NOTHING
        RETURNING unique_key)
    SELECT coalesce(array_agg(m.unique_key), '{}') INTO new_keys FROM made m;
    FOR wish IN
        SELECT DISTINCT ON (w.unique_key COLLATE "C") w.unique_key, w.id
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL AND w.unique_key <> ALL (new_keys)
         ORDER BY w.unique_key COLLATE "C", w.ord
    LOOP
        INSERT INTO jobstate.unique_job AS u (queue, unique_key, id, states)
        VALUES ($1, wish.unique_key, wish.id, usual)
            ON CONFLICT (queue, unique_key) DO UPDATE SET id = u.id
        RETURNING u.id INTO owner;
        CONTINUE WHEN CASE WHEN owner = wish.id THEN $4 IS NULL
                           ELSE EXISTS (SELECT FROM jobstate.queue_key_holders($1, ARRAY[wish.unique_key])) END;
        UPDATE jobstate.unique_job u SET id = wish.id, states = usual
         WHERE u.queue = $1 AND u.unique_key = wish.unique_key;
    END LOOP;
    RETURN QUERY
        SELECT w.id, u.id
          FROM unnest($2, $3) w (unique_key, id)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue = $1 AND u.unique_key = w.unique_key LIMIT 1) u;
END
$$;
COMMENT ON FUNCTION jobstate.queue_take_keys(text, text[], bigint[], text[])
    IS 'internal: takes unique keys for jobs where nobody holds them';

-- queue_key_states: the states that a unique key covers, checked.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_key_states(states text[])
RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{available,running,deferred,completed,failed,cancelled}';
BEGIN
    IF states IS NULL THEN
        RETURN '{available,running,deferred}';
    END IF;
    IF states = '{}' OR NOT states <@ known THEN
        RAISE EXCEPTION 'argument "unique_states" must name states of a job'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', states),
                  HINT = format('States: %s.', array_to_string(known, ', '));
    END IF;
    RETURN states;
END
$$;
COMMENT ON FUNCTION jobstate.queue_key_states(text[])
    IS 'internal: the states in which a unique key keeps others out; raises 22023';

-- queue: bringing jobs in ------------------------------------------------------------

-- enqueue_check: says what is wrong with a single job's arguments, if anything is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.enqueue_check(queue text, kind text, payload jsonb, priority integer,
    max_attempts integer, timeout interval)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_require_name(queue);
    PERFORM jobstate.require_argument('kind', kind);
    PERFORM jobstate.require_argument('payload', payload);
    PERFORM jobstate.require_argument('priority', priority);
    IF priority NOT BETWEEN 1 AND 4 THEN
        RAISE EXCEPTION 'priority % does not exist', priority
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for a job of queue "%s".', queue),
                  HINT = 'Priorities are 1 (most urgent) to 4; 2 is the usual one.';
    END IF;
    PERFORM jobstate.require_positive('max_attempts', coalesce(max_attempts, 1) > 0);
    IF max_attempts > 32767 THEN
        RAISE EXCEPTION 'argument "max_attempts" is too large'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', max_attempts),
                  HINT = 'A job has 32767 attempts at most; snooze() gives an attempt back.';
    END IF;
    PERFORM jobstate.require_positive('timeout', coalesce(timeout, '1 s') > '0');
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_check(text, text, jsonb, integer, integer, interval)
    IS 'internal: raises 22004 or 22023 for a job that cannot be';

-- enqueue_rows: brings a batch in, in C, without unique keys' say.  A job for which
-- an id is given already gets no row.  NULL: the queue or one of its lanes does not
-- exist, or something is wrong with the batch, and nothing was written.
-- Writes: job.  Locks nothing.
CREATE FUNCTION jobstate.enqueue_rows(queue text, kinds text[], payloads jsonb[], priorities integer[],
    run_ats timestamptz[], unique_keys text[], shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval, known bigint[])
RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_enqueue_rows';
COMMENT ON FUNCTION jobstate.enqueue_rows(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], integer, interval, bigint[])
    IS 'internal: inserts a batch of jobs and returns their ids in the order given';

-- enqueue_slowly: one job that enqueue() could not bring in at once: it has a unique
-- key, or it is the first of its lane, or something is wrong with it.
-- Writes and locks what enqueue() says.
CREATE FUNCTION jobstate.enqueue_slowly(queue text, kind text, payload jsonb,
    priority integer, run_at timestamptz,
    unique_key text, unique_states text[],
    max_attempts integer, shard_key text,
    limit_key text, timeout interval,
    OUT id bigint, OUT duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    IF ($1 <> '' AND $2 IS NOT NULL AND $3 IS NOT NULL AND $4 BETWEEN 1 AND 4
        AND coalesce($8, 1) BETWEEN 1 AND 32767 AND coalesce($11, '1 s') > '0') IS NOT TRUE THEN
        PERFORM jobstate.enqueue_check($1, $2, $3, $4, $8, $11);
    END IF;
    IF $6 IS NOT NULL THEN
        SELECT k.id, k.duplicate INTO id, duplicate
          FROM jobstate.enqueue_keyed($1, ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5], ARRAY[$6], ARRAY[$9],
                                      ARRAY[$10], $8, $11, jobstate.queue_key_states($7)) k;
        RETURN;
    END IF;
    LOOP
        ids := jobstate.enqueue_rows($1, ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5], NULL,
                                     ARRAY[$9], ARRAY[$10], $8, $11, NULL);
        EXIT WHEN ids IS NOT NULL;
        PERFORM jobstate.queue_add_lanes($1, ARRAY[$4]);
    END LOOP;
    id := ids[1];
    duplicate := false;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_slowly(text, text, jsonb, integer, timestamptz, text, text[], integer, text, text, interval)
    IS 'internal: enqueue() where there is more to do than to insert a row';

-- enqueue: one job, in the caller's transaction.
-- Writes: job; unique_job where there is a unique key; queue and queue_lane for the
-- first job of a lane.  Locks: the unique key's row.
CREATE FUNCTION jobstate.enqueue(queue text, kind text, payload jsonb DEFAULT '{}',
    priority integer DEFAULT 2, run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL, unique_states text[] DEFAULT NULL,
    max_attempts integer DEFAULT NULL, shard_key text DEFAULT NULL,
    limit_key text DEFAULT NULL, timeout interval DEFAULT NULL,
    OUT id bigint, OUT duplicate boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_enqueue';
COMMENT ON FUNCTION jobstate.enqueue(text, text, jsonb, integer, timestamptz, text, text[], integer, text, text, interval)
    IS 'adds a job and returns its id, or the id of the job that has the unique key';

-- enqueue_keyed: a batch in which some jobs have unique keys.  What a committed job
-- holds is seen before anything is written; who loses a race, or comes second in
-- the batch, takes its job back.
-- Writes: job, unique_job.  Locks: the unique keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.enqueue_keyed(queue text, kinds text[], payloads jsonb[], priorities integer[],
    run_ats timestamptz[], unique_keys text[], shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval, states text[])
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    ids bigint[];
    holders bigint[];
BEGIN
    SELECT array_agg(h.id ORDER BY u.ord) INTO held
      FROM unnest($6) WITH ORDINALITY u (unique_key, ord)
      LEFT JOIN jobstate.queue_key_holders($1, $6) h USING (unique_key);
    LOOP
        ids := jobstate.enqueue_rows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, held);
        EXIT WHEN ids IS NOT NULL;
        PERFORM jobstate.queue_add_lanes($1, coalesce(array_replace($4, NULL, 2), '{2}'));
    END LOOP;
    SELECT array_agg(coalesce(g.known, t.holder, g.id) ORDER BY g.ord) INTO holders
      FROM unnest(held, ids) WITH ORDINALITY g (known, id, ord)
      LEFT JOIN jobstate.queue_take_keys($1,
                    ARRAY(SELECT w.unique_key FROM unnest(held, $6) WITH ORDINALITY w (known, unique_key, ord)
                           WHERE w.known IS NULL ORDER BY w.ord),
                    ARRAY(SELECT w.id FROM unnest(held, ids) WITH ORDINALITY w (known, id, ord)
                           WHERE w.known IS NULL ORDER BY w.ord), $11) t ON t.id = g.id;
    IF holders <> ids THEN
        PERFORM jobstate.queue_withdraw(ARRAY(
            SELECT g.id FROM unnest(ids, holders) g (id, holder) WHERE g.id <> g.holder));
    END IF;
    RETURN QUERY
        SELECT g.holder, g.holder <> g.id OR g.known IS NOT NULL
          FROM unnest(holders, ids, held) WITH ORDINALITY g (holder, id, known, ord) ORDER BY g.ord;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_keyed(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], integer, interval, text[])
    IS 'internal: enqueue_many() with unique keys';

-- queue_withdraw: takes back jobs that the caller's transaction has just made.
-- Writes: job.  Locks nothing more.
CREATE FUNCTION jobstate.queue_withdraw(ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM jobstate.job j USING jobstate.queue_find(ids) f
     WHERE j.slot = f.slot AND j."position" = f."position";
END
$$;
COMMENT ON FUNCTION jobstate.queue_withdraw(bigint[])
    IS 'internal: deletes jobs of this transaction that lost their unique key';

-- enqueue_many_check: says what is wrong with a batch, if anything is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.enqueue_many_check(queue text, kinds text[], payloads jsonb[],
    priorities integer[], max_attempts integer, timeout interval, sizes integer[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    n CONSTANT integer := cardinality(kinds);
BEGIN
    PERFORM jobstate.require_argument('queue', queue);
    PERFORM jobstate.require_argument('kinds', kinds);
    PERFORM jobstate.require_argument('payloads', payloads);
    IF n <> ANY (sizes) THEN
        RAISE EXCEPTION 'the lists of a batch differ in length'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('There are %s kinds; the lists that were given have %s elements.',
                                  n, array_to_string(array_remove(sizes, NULL), ', ')),
                  HINT = 'Give one element per job, null where it means nothing for that job.';
    END IF;
    PERFORM jobstate.enqueue_check(queue, k.kind, k.payload, coalesce(k.priority, 2), max_attempts, timeout)
       FROM unnest(kinds, payloads, priorities) k (kind, payload, priority)
      WHERE (k.kind IS NOT NULL AND k.payload IS NOT NULL
             AND coalesce(k.priority, 2) BETWEEN 1 AND 4) IS NOT TRUE;
    PERFORM jobstate.enqueue_check(queue, '', '{}', 2, max_attempts, timeout);
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_many_check(text, text[], jsonb[], integer[], integer, interval, integer[])
    IS 'internal: raises 22004 or 22023 for a batch that cannot be';

-- enqueue_many_slowly: a batch that enqueue_many() could not bring in at once: it has
-- unique keys, or it is the first of its lanes, or something is wrong with it.
-- Writes and locks what enqueue_many() says.
CREATE FUNCTION jobstate.enqueue_many_slowly(queue text, kinds text[], payloads jsonb[],
    priorities integer[], run_ats timestamptz[],
    unique_keys text[], unique_states text[],
    shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval)
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    WHILE coalesce(num_nonnulls(VARIADIC $6), 0) = 0 LOOP
        RETURN QUERY
            SELECT r.id, false
              FROM unnest(jobstate.enqueue_rows($1, $2, $3, $4, $5, NULL, $8, $9, $10, $11, NULL)) r (id);
        IF FOUND THEN
            RETURN;
        END IF;
        -- Something is wrong with the batch, or it is the first of its lanes.
        PERFORM jobstate.enqueue_many_check($1, $2, $3, $4, $10, $11,
            ARRAY[cardinality($3), cardinality($4), cardinality($5), cardinality($6), cardinality($8), cardinality($9)]);
        IF cardinality($2) = 0 THEN
            RETURN;
        END IF;
        PERFORM jobstate.queue_add_lanes($1, coalesce(array_replace($4, NULL, 2), '{2}'));
    END LOOP;
    PERFORM jobstate.enqueue_many_check($1, $2, $3, $4, $10, $11,
        ARRAY[cardinality($3), cardinality($4), cardinality($5), cardinality($6), cardinality($8), cardinality($9)]);
    RETURN QUERY
        SELECT k.* FROM jobstate.enqueue_keyed($1, $2, $3, $4, $5, $6, $8, $9, $10, $11,
                                               jobstate.queue_key_states($7)) k;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_many_slowly(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], text[], integer, interval)
    IS 'internal: enqueue_many() where there is more to do than to insert rows';

-- enqueue_many: a batch of jobs of one queue, in the caller's transaction.
-- Writes: job; unique_job where there are unique keys; queue and queue_lane for the
-- first job of a lane.  Locks: the unique keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.enqueue_many(queue text, kinds text[], payloads jsonb[],
    priorities integer[] DEFAULT NULL, run_ats timestamptz[] DEFAULT NULL,
    unique_keys text[] DEFAULT NULL, unique_states text[] DEFAULT NULL,
    shard_keys text[] DEFAULT NULL, limit_keys text[] DEFAULT NULL,
    max_attempts integer DEFAULT NULL, timeout interval DEFAULT NULL)
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_enqueue_many';
COMMENT ON FUNCTION jobstate.enqueue_many(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], text[], integer, interval)
    IS 'adds a batch of jobs and returns their ids in the order given, or those of the jobs that have the unique keys';
-- queue: what a worker says about its jobs --------------------------------------------

-- queue_require_length: one element for each id, or no list at all; null elements
-- mean that nothing is given for that id.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_length(argument text, ids bigint[], elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cardinality(ids) <> cardinality(elements) THEN
        RAISE EXCEPTION 'arguments "ids" and "%" must have the same length', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(ids), cardinality(elements)),
                  HINT = 'Give one element for each id, null where nothing is meant.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_length(text, bigint[], anyarray)
    IS 'raises 22023 unless there is no list or one element for each id';

-- queue_held: the jobs that run under these tokens, as far as the statement's
-- snapshot knows; of an id that is given twice, the first counts.
-- Writes nothing, locks nothing: check state and token again on the locked row.
CREATE FUNCTION jobstate.queue_held(ids bigint[], tokens bigint[])
RETURNS TABLE (id bigint, token bigint, ord bigint, "position" bigint, slot smallint, state_id smallint)
LANGUAGE sql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.id, g.token, g.ord, f."position", f.slot, f.state_id
      FROM (SELECT DISTINCT ON (u.id) u.id, u.token, u.ord
              FROM unnest($1, $2) WITH ORDINALITY u (id, token, ord)
             ORDER BY u.id, u.ord) g
      JOIN jobstate.queue_find($1) f ON f.id = g.id
     ORDER BY g.id
$$;
COMMENT ON FUNCTION jobstate.queue_held(bigint[], bigint[])
    IS 'internal: where the given jobs are, with the token that was given for each';

-- queue_refuse: why a token does not hold a job, from what the job is now; without a
-- token, why the job is not one for the verb.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_refuse(id bigint, token bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
DECLARE
    job record;
BEGIN
    SELECT jobstate.queue_state_name(f.state_id) AS state, j.token INTO job
      FROM jobstate.queue_find(ARRAY[$1]) f
      JOIN jobstate.job j ON j.slot = f.slot AND j."position" = f."position";
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse('not found', $1);
    ELSIF $2 IS NOT NULL AND (job.token IS DISTINCT FROM $2 OR job.state IN ('available', 'deferred')) THEN
        PERFORM jobstate.queue_refuse('lease lost', $1, job.state);
    ELSE
        PERFORM jobstate.queue_refuse('wrong state', $1, job.state);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_refuse(bigint, bigint)
    IS 'internal: raises JS001, JS002 or JS003 for a job and a token';

-- complete: the attempts' good end.  What its token completed before is told again,
-- and nothing is written.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.complete(ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_complete';
COMMENT ON FUNCTION jobstate.complete(bigint[], bigint[], jsonb[])
    IS 'completes jobs, with their results, and returns those that the tokens held';

CREATE FUNCTION jobstate.complete(id bigint, token bigint, result jsonb DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_complete_one';
COMMENT ON FUNCTION jobstate.complete(bigint, bigint, jsonb)
    IS 'completes a job; raises JS001, JS002 or JS003 where the token does not hold it';

-- heartbeat: keeps leases, and tells whether somebody wants the job cancelled.  No
-- lease goes beyond the job's timeout.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.heartbeat(ids bigint[], tokens bigint[], lease interval DEFAULT NULL)
RETURNS TABLE (id bigint, lease_until timestamptz, cancel_requested boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.require_positive('lease', coalesce(lease, '1 s') > '0');
    PERFORM jobstate.queue_hold(ids);
    RETURN QUERY
        UPDATE jobstate.job j
           SET lease_until = least(j.claimed_at + j.timeout, clock_timestamp()
                   + coalesce($3, (SELECT q.lease FROM jobstate.queue q WHERE q.queue = j.queue)))
          FROM jobstate.queue_held(ids, tokens) h
         WHERE j.slot = h.slot AND j."position" = h."position"
           AND j.state_id = 2 AND j.token = h.token
        RETURNING j.id, j.lease_until, j.cancel_requested;
END
$$;
COMMENT ON FUNCTION jobstate.heartbeat(bigint[], bigint[], interval)
    IS 'extends the leases that the tokens hold, and tells which jobs are to be cancelled';

CREATE FUNCTION jobstate.heartbeat(id bigint, token bigint, lease interval DEFAULT NULL,
    OUT lease_until timestamptz, OUT cancel_requested boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    SELECT h.lease_until, h.cancel_requested INTO lease_until, cancel_requested
      FROM jobstate.heartbeat(ARRAY[$1], ARRAY[$2], $3) h;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.heartbeat(bigint, bigint, interval)
    IS 'extends a lease; raises JS001, JS002 or JS003 where the token does not hold the job';

-- queue_errors: a job's errors with one more: the newest ten are kept, and 8192
-- characters of each.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_errors(errors jsonb, attempt integer, error text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_path_query_array(coalesce($1, '[]') || jsonb_build_object(
        'attempt', $2, 'at', clock_timestamp(),
        'error', CASE WHEN length($3) > 8192
                      THEN format('%s (cut, %s characters)', left($3, 8192), length($3)) ELSE $3 END),
        '$[last - 9 to last]')
$$;
COMMENT ON FUNCTION jobstate.queue_errors(jsonb, integer, text)
    IS 'internal: appends an error, keeping the newest ten';

-- queue_backoff: how long the next attempt waits: doubled each time, a quarter more
-- or less so that what failed together does not come back together, a day at most.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_backoff(backoff interval, attempt integer)
RETURNS interval
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT make_interval(secs => least(86400,
        extract(epoch FROM $1)::float8 * 2 ^ least($2 - 1, 60) * (0.75 + random() / 2)))
$$;
COMMENT ON FUNCTION jobstate.queue_backoff(interval, integer)
    IS 'internal: the delay after a failed attempt';

-- queue_put_back: ends a running attempt that did not complete, on the row that
-- the caller has locked.
-- Writes: job.  Locks nothing more.
CREATE FUNCTION jobstate.queue_put_back(slot smallint, "position" bigint, outcome text, errors jsonb,
    due timestamptz, attempt integer)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.job j
       SET state_id = CASE $3 WHEN 'deferred' THEN 3 WHEN 'failed' THEN 5 WHEN 'cancelled' THEN 6 END,
           slot = CASE $3 WHEN 'deferred' THEN -1::smallint ELSE j.slot END,
           run_at = CASE $3 WHEN 'deferred' THEN $5 ELSE j.run_at END,
           finished_at = CASE $3 WHEN 'deferred' THEN NULL ELSE clock_timestamp() END,
           attempt = $6, errors = $4, lease_until = NULL
     WHERE j.slot = $1 AND j."position" = $2;
END
$$;
COMMENT ON FUNCTION jobstate.queue_put_back(smallint, bigint, text, jsonb, timestamptz, integer)
    IS 'internal: moves a running job to deferred, failed or cancelled';

-- queue_end_attempts: what fail(), snooze() and rescue() have in common.  A job
-- that somebody wants cancelled does not run again.  A null error is a snooze: the
-- attempt is given back.
-- Writes: job, dead_letter.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.queue_end_attempts(ids bigint[], tokens bigint[], errors text[],
    delays interval[], retryables boolean[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    job record;
    history jsonb;
BEGIN
    PERFORM jobstate.queue_hold(ids);
    FOR job IN
        SELECT j.id, j.slot, j."position", j.attempt, j.errors, j.cancel_requested, q.dead_letters,
               ($3)[h.ord] AS error, j.attempt < j.max_attempts AND coalesce(($5)[h.ord], true) AS again,
               coalesce(($4)[h.ord], jobstate.queue_backoff(coalesce(q.backoff, '1 s'), j.attempt)) AS delay
          FROM jobstate.queue_held(ids, tokens) h
          JOIN jobstate.job j ON j.slot = h.slot AND j."position" = h."position"
          LEFT JOIN jobstate.queue q ON q.queue = j.queue
         WHERE j.state_id = 2 AND j.token = h.token
         ORDER BY j.id
    LOOP
        id := job.id;
        outcome := CASE WHEN job.cancel_requested THEN 'cancelled'
                        WHEN job.again OR job.error IS NULL THEN 'deferred'
                        WHEN coalesce(job.dead_letters, true) THEN 'dead'
                        ELSE 'failed' END;
        history := CASE WHEN job.error IS NULL THEN job.errors
                        ELSE jobstate.queue_errors(job.errors, job.attempt, job.error) END;
        IF outcome = 'dead' THEN
            PERFORM jobstate.queue_bury(ARRAY[id], ARRAY[history]);
        ELSE
            PERFORM jobstate.queue_put_back(job.slot, job."position", outcome, history,
                clock_timestamp() + job.delay, job.attempt - (job.error IS NULL AND outcome = 'deferred')::integer);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_end_attempts(bigint[], bigint[], text[], interval[], boolean[])
    IS 'internal: ends attempts that did not complete, and tells what became of each job';

-- queue_ended: what these tokens brought about before, for a caller that says it again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_ended(ids bigint[], tokens bigint[], but bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT h.id, s.name
          FROM jobstate.queue_held(ids, tokens) h
          JOIN jobstate.job j ON j.slot = h.slot AND j."position" = h."position"
          JOIN jobstate.state s ON s.machine = 'job' AND s.state_id = j.state_id
         WHERE j.state_id > 2 AND j.token = h.token AND (h.id = ANY (but)) IS NOT TRUE;
END
$$;
COMMENT ON FUNCTION jobstate.queue_ended(bigint[], bigint[], bigint[])
    IS 'internal: the states that jobs have reached under these tokens';

-- fail: the attempts' bad end.  A job that may be tried again is deferred, by its
-- queue's backoff or for as long as is said here.
-- Writes: job, dead_letter.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.fail(ids bigint[], tokens bigint[], errors text[],
    retry_afters interval[] DEFAULT NULL, retryables boolean[] DEFAULT NULL)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    done bigint[] := '{}';
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.queue_require_pairs('errors', ids, errors);
    PERFORM jobstate.queue_require_length('retry_afters', ids, retry_afters);
    PERFORM jobstate.queue_require_length('retryables', ids, retryables);
    PERFORM jobstate.queue_delay_check('retry_after', d) FROM unnest(retry_afters) d WHERE d < '0';
    FOR id, outcome IN
        SELECT e.id, e.outcome FROM jobstate.queue_end_attempts(ids, tokens, errors, retry_afters, retryables) e
    LOOP
        done := done || id;
        RETURN NEXT;
    END LOOP;
    IF cardinality(done) < cardinality(ids) THEN
        RETURN QUERY
            SELECT e.id, e.outcome FROM jobstate.queue_ended(ids, tokens, done) e WHERE e.outcome <> 'completed';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.fail(bigint[], bigint[], text[], interval[], boolean[])
    IS 'ends attempts with errors: each job is deferred, failed, dead or cancelled';

CREATE FUNCTION jobstate.fail(id bigint, token bigint, error text,
    retry_after interval DEFAULT NULL, retryable boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    SELECT f.outcome INTO said
      FROM jobstate.fail(ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5]) f;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN said;
END
$$;
COMMENT ON FUNCTION jobstate.fail(bigint, bigint, text, interval, boolean)
    IS 'ends an attempt with an error: deferred, failed, dead or cancelled; raises JS001, JS002 or JS003';

-- queue_delay_check: refuses to go back in time.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_delay_check(argument text, delay interval)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, delay);
    IF delay < '0' THEN
        RAISE EXCEPTION 'argument "%" must not be negative', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', delay),
                  HINT = 'Zero means at once.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_delay_check(text, interval)
    IS 'internal: raises 22004 or 22023 for a delay that is null or negative';

-- snooze: not now.  The attempt does not count.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.snooze(ids bigint[], tokens bigint[], delays interval[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.queue_require_pairs('delays', ids, delays);
    PERFORM jobstate.queue_delay_check('delay', d) FROM unnest(delays) d WHERE d < '0';
    RETURN QUERY
        SELECT e.id, e.outcome FROM jobstate.queue_end_attempts(ids, tokens, NULL, delays, NULL) e;
END
$$;
COMMENT ON FUNCTION jobstate.snooze(bigint[], bigint[], interval[])
    IS 'defers running jobs and gives the attempts back; one that is to be cancelled is cancelled';

CREATE FUNCTION jobstate.snooze(id bigint, token bigint, delay interval)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    SELECT s.outcome INTO said FROM jobstate.snooze(ARRAY[$1], ARRAY[$2], ARRAY[$3]) s;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN said;
END
$$;
COMMENT ON FUNCTION jobstate.snooze(bigint, bigint, interval)
    IS 'defers a running job and gives the attempt back; raises JS001, JS002 or JS003';
-- queue: attempts, from claim to their end ------------------------------------------
--
-- A token names one claim call.  Whoever comes with another token than the job's
-- has lost the lease: nothing is written.  Every verb finds its jobs first and
-- checks state and token again on the row that it locks.

-- claim: the most urgent lane first, in the order of positions; what others hold is
-- passed over.  A paused queue gives nothing.
-- Writes: job; queue_window now and then.  Locks: the jobs; the queue's row, where
-- the queue is limited, until commit.
CREATE FUNCTION jobstate.claim(queue text, worker text, n integer DEFAULT 1, lease interval DEFAULT NULL)
RETURNS TABLE (id bigint, token bigint, attempt smallint, kind text, payload jsonb,
               priority smallint, enqueued_at timestamptz, lease_until timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_claim';
COMMENT ON FUNCTION jobstate.claim(text, text, integer, interval)
    IS 'claims up to n jobs of a queue for a worker; the token is asked for by every later call about them';
-- queue: cancel -------------------------------------------------------------------
--
-- What waits is cancelled at once.  What runs is its worker's: it learns of the
-- wish at its next heartbeat, and ends the job under its token.

-- queue_cancel: cancels what waits, asks for it where a job runs, and tells so of
-- what was cancelled or asked before too.  A deferred job goes to the ring, as it
-- ends there.
-- Writes: job; the sequence.  Locks nothing more: the caller holds the jobs.
CREATE FUNCTION jobstate.queue_cancel(positions bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END FROM jobstate.job j
         WHERE j.position = ANY (positions)
           AND (j.state_id = 6 OR j.state_id = 2 AND j.cancel_requested);
    RETURN QUERY
        UPDATE jobstate.job j
           SET state_id = CASE j.state_id WHEN 1 THEN 6 ELSE 2 END,
               finished_at = CASE j.state_id WHEN 1 THEN clock_timestamp() END,
               cancel_requested = j.state_id = 2
         WHERE j.position = ANY (positions)
           AND (j.state_id = 1 OR j.state_id = 2 AND NOT j.cancel_requested)
        RETURNING j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END;
    RETURN QUERY
        WITH placed AS MATERIALIZED (
            SELECT j.position, jobstate.queue_tail(j.queue, j.priority, j.position) AS fresh
              FROM jobstate.job j
             WHERE j.position = ANY (positions) AND j.state_id = 3)
        UPDATE jobstate.job j
           SET state_id = 6, finished_at = clock_timestamp(),
               position = p.fresh, slot = jobstate.queue_slot(p.fresh)
          FROM placed p
         WHERE j.position = p.position AND j.slot = -1
        RETURNING j.id, 'cancelled';
END
$$;
COMMENT ON FUNCTION jobstate.queue_cancel(bigint[])
    IS 'internal: cancels jobs that the caller holds, or asks their workers to';

-- cancel: by the application or an operator.  Jobs that have ended otherwise, or
-- are not there, are left out of the answer; the form for one job refuses them.
-- Writes: job; the sequence.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel(ids bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    RETURN QUERY SELECT c.* FROM jobstate.queue_cancel(held) c ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint[])
    IS 'cancels jobs that wait ("cancelled") and asks the workers of those that run ("requested")';

CREATE FUNCTION jobstate.cancel(id bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    answer text;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    SELECT c.outcome INTO answer FROM jobstate.cancel(ARRAY[$1]) c;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1);
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint)
    IS 'cancels a job, or asks its worker to; raises JS002 or JS003 where neither can be';

-- cancel, by the worker: it has a running job, and ends it as cancelled, asked for
-- or not.  Saying it twice is saying it once.
-- Writes: job.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel(ids bigint[], tokens bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    held := jobstate.queue_hold(ids);
    UPDATE jobstate.job j
       SET state_id = 6, finished_at = clock_timestamp()
      FROM unnest(ids, tokens) AS g (id, token)
     WHERE j.position = ANY (held)
       AND j.id = g.id AND j.token = g.token AND j.state_id = 2;
    RETURN QUERY
        SELECT DISTINCT j.id FROM jobstate.job j
          JOIN unnest(ids, tokens) AS g (id, token) ON g.id = j.id AND g.token = j.token
         WHERE j.position = ANY (held)
           AND j.state_id = 6
         ORDER BY j.id;
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint[], bigint[])
    IS 'ends running jobs as cancelled, by those who have them; returns the ids for which that held';

CREATE FUNCTION jobstate.cancel(id bigint, token bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.cancel(ARRAY[$1], ARRAY[$2]);
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN 'cancelled';
END
$$;
COMMENT ON FUNCTION jobstate.cancel(bigint, bigint)
    IS 'ends a running job as cancelled, by the worker who has it; raises JS001, JS002 or JS003';

-- cancel_unique: the job that a unique key stands for.
-- Writes: job.  Locks: the job.
CREATE FUNCTION jobstate.cancel_unique(queue text, unique_key text, OUT id bigint, OUT outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('queue', $1);
    PERFORM jobstate.require_argument('unique_key', $2);
    SELECT u.id INTO cancel_unique.id FROM jobstate.unique_job u
     WHERE u.queue = $1 AND u.unique_key = $2;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no job of queue "%" has the unique key "%"', $1, $2
            USING ERRCODE = 'JS002',
                  DETAIL = 'It was never enqueued, or has ended and was forgotten.',
                  HINT = 'See the view jobstate.jobs.';
    END IF;
    cancel_unique.outcome := jobstate.cancel(cancel_unique.id);
END
$$;
COMMENT ON FUNCTION jobstate.cancel_unique(text, text)
    IS 'cancels the job that has a unique key, or asks its worker to; raises JS002 or JS003';

-- cancel_all: every job of a queue, of a kind, or of both that has not ended.
-- Jobs that come while it works are not meant.
-- Writes: job.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.cancel_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false, OUT cancelled bigint, OUT requested bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    meant bigint[];
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL, $3);
    meant := ARRAY(SELECT j.id FROM jobstate.job j
                    WHERE j.state_id IN (1, 2, 3)
                      AND ($1 IS NULL OR j.queue = $1) AND ($2 IS NULL OR j.kind = $2));
    SELECT count(*) FILTER (WHERE c.outcome = 'cancelled'), count(*) FILTER (WHERE c.outcome = 'requested')
      INTO cancel_all.cancelled, cancel_all.requested
      FROM jobstate.cancel(meant) c;
END
$$;
COMMENT ON FUNCTION jobstate.cancel_all(text, text, boolean)
    IS 'cancels all jobs of a queue or kind that wait, asks the workers of those that run, and tells how many of each';
-- queue: dead letters ---------------------------------------------------------------

-- queue_bury: jobs leave the table of jobs and become dead letters.  Whoever has
-- something to add to a job's errors gives them all, in the order of the ids.
-- Writes: job, dead_letter.  Locks nothing more: the caller holds the jobs.
CREATE FUNCTION jobstate.queue_bury(ids bigint[], errors jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR errors;
    held CONSTANT bigint[] := jobstate.queue_positions(ids);
BEGIN
    RETURN QUERY
        WITH gone AS (
            DELETE FROM jobstate.job j WHERE j.position = ANY (held) RETURNING j.*)
        INSERT INTO jobstate.dead_letter AS d (queue, id, kind, priority, payload, attempt, max_attempts,
                                               timeout, unique_key, limit_key, errors, enqueued_at)
        SELECT g.queue, g.id, g.kind, g.priority, g.payload, g.attempt, g.max_attempts,
               g.timeout, g.unique_key, g.limit_key, coalesce(n.errors, g.errors), g.enqueued_at
          FROM gone g
          LEFT JOIN unnest(ids, given) AS n (id, errors) ON n.id = g.id
         ORDER BY g.id
        RETURNING d.id;
END
$$;
COMMENT ON FUNCTION jobstate.queue_bury(bigint[], jsonb[])
    IS 'internal: makes dead letters of jobs that the caller holds, and returns their ids';

-- queue_failed: the failed jobs that a filter means.  Whoever goes on with them
-- locks them and looks at their state again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_failed(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT j.id FROM jobstate.job j
                  WHERE j.state_id = 5
                    AND ($1 IS NULL OR j.queue = $1) AND ($2 IS NULL OR j.kind = $2)
                    AND ($3 IS NULL OR j.finished_at <= clock_timestamp() - $3));
END
$$;
COMMENT ON FUNCTION jobstate.queue_failed(text, text, interval, boolean)
    IS 'internal: the ids of failed jobs by queue, kind and age';

-- queue_dead: the same for dead letters.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_dead(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT d.id FROM jobstate.dead_letter d
                  WHERE ($1 IS NULL OR d.queue = $1) AND ($2 IS NULL OR d.kind = $2)
                    AND ($3 IS NULL OR d.died_at <= clock_timestamp() - $3));
END
$$;
COMMENT ON FUNCTION jobstate.queue_dead(text, text, interval, boolean)
    IS 'internal: the ids of dead letters by queue, kind and age';

-- dlq_move: failed jobs become dead letters.
-- Writes: job, dead_letter.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.dlq_move(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    RETURN QUERY SELECT * FROM jobstate.queue_bury(ARRAY(
        SELECT j.id FROM jobstate.job j
         WHERE j.position = ANY (held) AND j.state_id = 5));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_move(bigint[])
    IS 'makes dead letters of failed jobs and returns their ids';

CREATE FUNCTION jobstate.dlq_move_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_move(jobstate.queue_failed(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_move_all(text, text, boolean)
    IS 'makes dead letters of all failed jobs of a queue or kind, and tells how many';

-- queue_dead_lock: locks dead letters; those that somebody took meanwhile are gone.
-- Writes nothing.  Locks: the dead letters, by id.
CREATE FUNCTION jobstate.queue_dead_lock(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT d.id FROM jobstate.dead_letter d
                  WHERE d.id = ANY (ids) ORDER BY d.id FOR UPDATE);
END
$$;
COMMENT ON FUNCTION jobstate.queue_dead_lock(bigint[])
    IS 'internal: locks dead letters and returns the ids of those that exist';

-- queue_revive: dead letters become available jobs, with the ids that they had.
-- Writes: job, dead_letter; the sequence; queue and queue_lane where there is none.
-- Locks nothing more: the caller holds the dead letters and their unique keys.
CREATE FUNCTION jobstate.queue_revive(ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_wake(w.queue)
       FROM (SELECT DISTINCT d.queue FROM jobstate.dead_letter d WHERE d.id = ANY (ids)) w;
    WITH gone AS (
        DELETE FROM jobstate.dead_letter d WHERE d.id = ANY (ids) RETURNING d.*),
    placed AS MATERIALIZED (
        SELECT g.*, jobstate.queue_tail(g.queue, g.priority, g.id) AS fresh
          FROM (SELECT * FROM gone ORDER BY id) g)
    INSERT INTO jobstate.job (id, position, slot, queue, priority, state_id, enqueued_at, max_attempts,
                              kind, timeout, unique_key, limit_key, payload, errors)
    SELECT p.id, p.fresh, jobstate.queue_slot(p.fresh), p.queue, p.priority, 1, p.enqueued_at, p.max_attempts,
           p.kind, p.timeout, p.unique_key, p.limit_key, p.payload, p.errors
      FROM placed p;
END
$$;
COMMENT ON FUNCTION jobstate.queue_revive(bigint[])
    IS 'internal: makes jobs of dead letters that the caller holds';

-- dlq_retry: dead letters start again, with all their attempts.  Those whose unique
-- key another job has by now are left out; the form for one refuses them.
-- Writes: job, dead_letter, unique_job; the sequence; queue and queue_lane where
-- there is none.  Locks: the dead letters, by id, then their unique keys.
CREATE FUNCTION jobstate.dlq_retry(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint[];
    refused bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_dead_lock(ids);
    SELECT jobstate.queue_keys_take(array_agg(d.id), array_agg(d.queue), array_agg(d.unique_key))
      INTO refused
      FROM jobstate.dead_letter d WHERE d.id = ANY (held) AND d.unique_key IS NOT NULL;
    held := ARRAY(SELECT unnest(held) EXCEPT SELECT unnest(refused) ORDER BY 1);
    PERFORM jobstate.queue_revive(held);
    RETURN QUERY SELECT unnest(held);
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry(bigint[])
    IS 'makes jobs of dead letters again and returns their ids';

CREATE FUNCTION jobstate.dlq_retry(id bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    other bigint;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    IF EXISTS (SELECT FROM jobstate.dlq_retry(ARRAY[$1])) THEN
        RETURN $1;
    END IF;
    SELECT u.id INTO other
      FROM jobstate.dead_letter d JOIN jobstate.unique_job u USING (queue, unique_key)
     WHERE d.id = $1;
    IF FOUND THEN
        PERFORM jobstate.queue_refuse('key taken', $1, NULL, other);
    END IF;
    RAISE EXCEPTION 'dead letter % does not exist', $1
        USING ERRCODE = 'JS002',
              DETAIL = 'It was retried or purged, or never was one.',
              HINT = 'See jobstate.job_status().';
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry(bigint)
    IS 'makes a job of a dead letter again; raises JS002 or JS003';

CREATE FUNCTION jobstate.dlq_retry_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_retry(jobstate.queue_dead(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_retry_all(text, text, boolean)
    IS 'makes jobs of all dead letters of a queue or kind again, and tells how many';

-- dlq_purge: dead letters go for good.
-- Writes: dead_letter.  Locks: the dead letters, by id.
CREATE FUNCTION jobstate.dlq_purge(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_dead_lock(ids);
    RETURN QUERY DELETE FROM jobstate.dead_letter d WHERE d.id = ANY (held) RETURNING d.id;
END
$$;
COMMENT ON FUNCTION jobstate.dlq_purge(bigint[])
    IS 'deletes dead letters and returns their ids';

CREATE FUNCTION jobstate.dlq_purge_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    older_than interval DEFAULT NULL, everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.dlq_purge(jobstate.queue_dead(queue, kind, older_than, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.dlq_purge_all(text, text, interval, boolean)
    IS 'deletes all dead letters of a queue or kind, or those that died long enough ago, and tells how many';

-- discard: nobody wants to know of them any more: failed jobs and dead letters.
-- Writes: job, dead_letter.  Locks: the jobs, by id, then the dead letters.
CREATE FUNCTION jobstate.discard(queue text DEFAULT NULL, kind text DEFAULT NULL,
    older_than interval DEFAULT NULL, everything boolean DEFAULT false,
    OUT failed bigint, OUT dead_letters bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    held bigint[] := jobstate.queue_hold(jobstate.queue_failed(queue, kind, older_than, everything));
BEGIN
    DELETE FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id = 5;
    GET DIAGNOSTICS failed = ROW_COUNT;
    dead_letters := jobstate.dlq_purge_all(queue, kind, older_than, everything);
END
$$;
COMMENT ON FUNCTION jobstate.discard(text, text, interval, boolean)
    IS 'deletes the failed jobs and dead letters of a queue or kind, or those that ended long enough ago';
-- queue: what the verbs of management share ---------------------------------------
--
-- A job is looked up by its id in two ways: by its position, which is its id as
-- long as it was not moved, or by the partial index on the ids of those that were.
--
-- Lock order: jobs by id, then unique keys by queue and key.  Whoever scans for
-- jobs passes over the locked ones, so only those who were told ids wait.

-- queue_state_name: the name of a state of the machine "job".
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_state_name(state_id smallint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['available', 'running', 'deferred', 'completed', 'failed', 'cancelled'])[state_id];
COMMENT ON FUNCTION jobstate.queue_state_name(smallint)
    IS 'the name of a job''s state id';

-- queue_refuse: words every refusal of a single job.  What stands in the way is
-- another job's id, where a unique key is the reason.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_refuse(reason text, id bigint, state text DEFAULT NULL,
    in_the_way bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on job % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = format('The attempt of this token is over; the job''s state is "%s".', state),
                      HINT = 'Drop the result: the job is somebody else''s, or waits to be claimed again.';
        WHEN 'not found' THEN
            RAISE EXCEPTION 'job % does not exist', id
                USING ERRCODE = 'JS002',
                      DETAIL = CASE WHEN EXISTS (SELECT FROM jobstate.dead_letter d WHERE d.id = queue_refuse.id)
                                    THEN 'It is among the dead letters.'
                                    ELSE 'It was never committed, or was deleted, or has ended and was pruned.' END,
                      HINT = 'See jobstate.job_status().';
        WHEN 'wrong state' THEN
            RAISE EXCEPTION 'job % is not in a state for this', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'See jobstate.transitions for what can become of a job.';
        WHEN 'key taken' THEN
            RAISE EXCEPTION 'job % cannot come back', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Job %s has its unique key by now.', in_the_way),
                      HINT = 'Wait until that job has ended, or cancel it.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.queue_refuse(text, bigint, text, bigint)
    IS 'internal: raises JS001, JS002 or JS003 for a job';

-- queue_require_array: refuses NULL in the place of an array, and in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_array(argument text, elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing integer := array_position(elements, NULL);
BEGIN
    PERFORM jobstate.require_argument(argument, elements);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'argument "%" must not contain null', argument
            USING ERRCODE = 'null_value_not_allowed',
                  DETAIL = format('Element %s is null.', missing),
                  HINT = 'Leave out what is not known.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_array(text, anyarray)
    IS 'raises 22004 with the argument''s name if the array or one of its elements is null';

-- queue_require_pairs: refuses arrays that do not belong together.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_pairs(argument text, ids bigint[], elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.queue_require_array(argument, elements);
    IF cardinality(ids) <> cardinality(elements) THEN
        RAISE EXCEPTION 'arguments "ids" and "%" must have the same length', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(ids), cardinality(elements)),
                  HINT = 'Give one element for each id, in the same order.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_pairs(text, bigint[], anyarray)
    IS 'raises 22004 or 22023 unless there is one element for each id';

-- queue_require_filter: what works on many jobs must be told on which.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_filter(filtered boolean, everything boolean,
    older_than interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    PERFORM jobstate.require_argument('everything', everything);
    IF NOT filtered AND NOT everything THEN
        RAISE EXCEPTION 'no filter is given'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Without one, the jobs of every queue would be meant.',
                  HINT = 'Name a queue or a kind, or say so with everything => true.';
    ELSIF older_than < '0' THEN
        RAISE EXCEPTION 'argument "older_than" must not be negative'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', older_than),
                  HINT = 'Give an age, such as ''30 days''.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_filter(boolean, boolean, interval)
    IS 'internal: raises 22023 unless there is a filter or everything is meant, and the age is one';

-- queue_positions: where jobs are, as far as the statement's snapshot knows.  Two
-- scans of indexes: one condition for both would compare each row with every id.
-- A plan for just these ids would count on statistics that the ring does not have.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_positions(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    RETURN ARRAY(SELECT j.position FROM jobstate.job j
                  WHERE j.position = ANY (ids) AND j.id = j.position
                 UNION ALL
                 SELECT j.position FROM jobstate.job j
                  WHERE j.id = ANY (ids) AND j.id <> j.position);
END
$$;
COMMENT ON FUNCTION jobstate.queue_positions(bigint[])
    IS 'internal: the positions of the jobs that exist';

-- queue_hold: locks jobs and returns the positions of those that are there, by
-- which the holder finds them: nobody else moves them now.
-- Problem: while we wait for a job somebody moves it to another partition, and the
-- wait ends in an error or, where it was moved by a deletion, without the job.
-- Non-problems: a job that stays in its partition, wherever there; REPEATABLE READ
-- and above, where 40001 is the answer.
-- Solution: under READ COMMITTED each look has a new snapshot, so look again until
-- what is there is what is locked.
-- Writes nothing.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.queue_hold(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    seen bigint[] := jobstate.queue_positions(ids);
    held bigint[];
BEGIN
    LOOP
        BEGIN
            held := ARRAY(SELECT j.position FROM jobstate.job j
                           WHERE j.position = ANY (seen) ORDER BY j.id FOR UPDATE);
            EXIT WHEN cardinality(held) = cardinality(ids);
            seen := jobstate.queue_positions(ids);
            EXIT WHEN cardinality(held) = cardinality(seen);
        EXCEPTION WHEN serialization_failure THEN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE;
            END IF;
            seen := jobstate.queue_positions(ids);
        END;
    END LOOP;
    IF cardinality(held) < cardinality(ids) THEN
        PERFORM jobstate.queue_whole()
          WHERE cardinality(held) < (SELECT count(DISTINCT i) FROM unnest(ids) i);
    END IF;
    RETURN held;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold(bigint[])
    IS 'internal: locks jobs, wherever they are moved to, and returns the positions of those that exist';
-- queue: jobs that go to the tail of a lane -------------------------------------------

-- queue_tail: a place at the tail of a queue's lane, in the shard of an earlier
-- place; where the queue has fewer shards, they share.
-- Writes: the sequence; queue and queue_lane where there is none yet.
-- Locks nothing more.
CREATE FUNCTION jobstate.queue_tail(queue text, priority smallint, earlier bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    shard smallint := coalesce((SELECT l.shard FROM jobstate.queue_lane l WHERE l.lane = earlier >> 48), 0)
                      % coalesce((SELECT q.shards FROM jobstate.queue q WHERE q.queue = $1), 1);
BEGIN
    RETURN jobstate.queue_position(jobstate.queue_lane_of($1, $2, shard));
END
$$;
COMMENT ON FUNCTION jobstate.queue_tail(text, smallint, bigint)
    IS 'internal: the next position of the lane that an earlier one leads to';

-- queue_keys_take: jobs that come back, or go to another queue, take their unique
-- keys.  Of several jobs with one key the first one gets it.
-- Writes: unique_job.  Locks: the keys' rows, by queue and key.  The caller holds
-- the jobs.
CREATE FUNCTION jobstate.queue_keys_take(ids bigint[], queues text[], keys text[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wish record;
    refused bigint[] := '{}';
BEGIN
    FOR wish IN
        SELECT w.queue, array_agg(w.key ORDER BY w.id) AS keys, array_agg(w.id ORDER BY w.id) AS ids
          FROM unnest(ids, queues, keys) AS w (id, queue, key)
         GROUP BY w.queue ORDER BY w.queue COLLATE "C"
    LOOP
        refused := refused || ARRAY(
            SELECT t.id FROM jobstate.queue_take_keys(wish.queue, wish.keys, wish.ids, NULL) t
             WHERE t.holder <> t.id);
    END LOOP;
    RETURN refused;
END
$$;
COMMENT ON FUNCTION jobstate.queue_keys_take(bigint[], text[], text[])
    IS 'internal: gives unique keys to jobs, and returns the ids of those that other jobs keep out';

-- queue_restart: ended jobs become available at the tail of their lanes.  What can
-- become available comes from job_waiting, so they go there and leave it at once.
-- Writes: job; the sequence.  Locks nothing more: the caller holds the jobs, which
-- have failed or been cancelled, and their unique keys.
CREATE FUNCTION jobstate.queue_restart(positions bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    woken CONSTANT text[] := ARRAY(SELECT j.queue FROM jobstate.job j WHERE j.position = ANY (positions));
BEGIN
    UPDATE jobstate.job j
       SET state_id = 3, slot = -1, attempt = 0, run_at = clock_timestamp(), cancel_requested = false,
           token = NULL, claimed_at = NULL, lease_until = NULL, finished_at = NULL, worker = NULL,
           result = NULL
     WHERE j.position = ANY (positions);
    WITH placed AS MATERIALIZED (
        SELECT w.position, jobstate.queue_tail(w.queue, w.priority, w.position) AS fresh
          FROM (SELECT j.queue, j.priority, j.position FROM jobstate.job j
                 WHERE j.position = ANY (positions) AND j.slot = -1
                 ORDER BY j.position) w)
    UPDATE jobstate.job j
       SET state_id = 1, position = p.fresh, slot = jobstate.queue_slot(p.fresh)
      FROM placed p
     WHERE j.position = p.position AND j.slot = -1;
    PERFORM jobstate.queue_wake(w.queue) FROM (SELECT DISTINCT unnest(woken) AS queue) w;
END
$$;
COMMENT ON FUNCTION jobstate.queue_restart(bigint[])
    IS 'internal: makes ended jobs that the caller holds available again';

-- retry: what has failed or was cancelled starts again, with all its attempts and
-- with the errors that it has had.  Jobs in other states, and those whose unique
-- key another job has by now, are left out; the form for one job refuses them.
-- Writes: job, unique_job; the sequence; queue and queue_lane where there is none.
-- Locks: the jobs, by id, then their unique keys.
CREATE FUNCTION jobstate.retry(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    ended record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(j.queue), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.unique_key IS NOT NULL;
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO ended
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_restart(ended.positions);
    RETURN QUERY SELECT unnest(ended.ids);
END
$$;
COMMENT ON FUNCTION jobstate.retry(bigint[])
    IS 'makes failed and cancelled jobs available again and returns their ids';

CREATE FUNCTION jobstate.retry(id bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    other bigint;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    IF EXISTS (SELECT FROM jobstate.retry(ARRAY[$1])) THEN
        RETURN $1;
    END IF;
    SELECT u.id INTO other
      FROM jobstate.queue_find(ARRAY[$1]) f
      JOIN jobstate.job j ON j.slot = f.slot AND j."position" = f."position"
      JOIN jobstate.unique_job u ON u.queue = j.queue AND u.unique_key = j.unique_key
     WHERE f.state_id IN (5, 6);
    IF FOUND THEN
        PERFORM jobstate.queue_refuse('key taken', $1, NULL, other);
    END IF;
    PERFORM jobstate.queue_refuse($1);
END
$$;
COMMENT ON FUNCTION jobstate.retry(bigint)
    IS 'makes a failed or cancelled job available again; raises JS002 or JS003';

-- retry_all: every failed job of a queue, of a kind, or of both.
-- Writes and locks what retry() says.
CREATE FUNCTION jobstate.retry_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM jobstate.retry(jobstate.queue_failed(queue, kind, NULL, everything)));
END
$$;
COMMENT ON FUNCTION jobstate.retry_all(text, text, boolean)
    IS 'makes all failed jobs of a queue or kind available again, and tells how many';

-- queue_relocate: jobs that wait go to the tail of other lanes.  They are deleted
-- and inserted rather than updated: who meets one on its way to another partition
-- passes over it, where the update of a row would fail it.
-- Writes: job; the sequence; queue and queue_lane where there is none yet.
-- Locks nothing more: the caller holds the jobs, which are available or deferred.
CREATE FUNCTION jobstate.queue_relocate(positions bigint[], queue text, priority smallint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    WITH gone AS (
        DELETE FROM jobstate.job j WHERE j.position = ANY (positions) RETURNING j.*),
    placed AS MATERIALIZED (
        SELECT g.*, t.queue AS new_queue, t.priority AS new_priority,
               jobstate.queue_tail(t.queue, t.priority, g.position) AS fresh
          FROM (SELECT * FROM gone ORDER BY position) g,
               LATERAL (SELECT coalesce($2, g.queue) AS queue, coalesce($3, g.priority) AS priority) t)
    INSERT INTO jobstate.job (id, position, slot, queue, priority, state_id, enqueued_at, run_at,
        max_attempts, attempt, cancel_requested, token, claimed_at, lease_until, finished_at, worker,
        kind, timeout, unique_key, limit_key, payload, errors, result)
    SELECT p.id, p.fresh, CASE p.state_id WHEN 1 THEN jobstate.queue_slot(p.fresh) ELSE p.slot END,
           p.new_queue, p.new_priority, p.state_id, p.enqueued_at, p.run_at,
           p.max_attempts, p.attempt, p.cancel_requested, p.token, p.claimed_at, p.lease_until,
           p.finished_at, p.worker, p.kind, p.timeout, p.unique_key, p.limit_key, p.payload, p.errors, p.result
      FROM placed p;
END
$$;
COMMENT ON FUNCTION jobstate.queue_relocate(bigint[], text, smallint)
    IS 'internal: moves jobs that the caller holds to the tail of other lanes';

-- set_priority: jobs that wait go to the tail of another priority's lane.  Those
-- that have it already stay where they are.
-- Writes: job; the sequence; queue_lane where there is none yet.
-- Locks: the jobs, by id.
CREATE FUNCTION jobstate.set_priority(ids bigint[], priority integer)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('priority', $2);
    IF $2 NOT BETWEEN 1 AND 4 THEN
        RAISE EXCEPTION 'priority % does not exist', $2
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'There are the priorities 1 to 4.',
                  HINT = '1 is the most urgent, 2 the usual one.';
    END IF;
    held := jobstate.queue_hold(ids);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.priority <> $2;
    PERFORM jobstate.queue_relocate(mover.positions, NULL, $2::smallint);
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;
COMMENT ON FUNCTION jobstate.set_priority(bigint[], integer)
    IS 'gives another priority to jobs that are available or deferred, and returns the ids of those that moved';

-- queue_keys_move: unique keys go with their jobs to another queue, unless another
-- job has the key there; returns the ids of the jobs for which that is so.
-- Writes: unique_job.  Locks: the keys' rows in the new queue, then in the old
-- ones, each by queue and key.  The caller holds the jobs.
CREATE FUNCTION jobstate.queue_keys_move(positions bigint[], target text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    refused bigint[];
BEGIN
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(target), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j WHERE j.position = ANY (positions) AND j.unique_key IS NOT NULL;
    PERFORM FROM jobstate.unique_job u
       JOIN jobstate.job j ON j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
      WHERE j.position = ANY (positions) AND j.id <> ALL (refused)
      ORDER BY u.queue COLLATE "C", u.unique_key COLLATE "C" FOR UPDATE OF u;
    DELETE FROM jobstate.unique_job u
     USING jobstate.job j
     WHERE j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
       AND j.position = ANY (positions) AND j.id <> ALL (refused);
    RETURN coalesce(refused, '{}');
END
$$;
COMMENT ON FUNCTION jobstate.queue_keys_move(bigint[], text)
    IS 'internal: moves unique keys to another queue, and returns the ids of jobs that others keep out of it';

-- move_queue: jobs that wait go to the tail of a lane of another queue.  A job whose
-- unique key somebody has there stays where it is.
-- Writes: job, unique_job; the sequence; queue and queue_lane where there is none.
-- Locks: the jobs, by id, then their keys.
CREATE FUNCTION jobstate.move_queue(ids bigint[], queue text)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('queue', $2);
    held := jobstate.queue_hold(ids);
    held := ARRAY(SELECT j.position FROM jobstate.job j
                   WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.queue <> $2);
    refused := jobstate.queue_keys_move(held, $2);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j WHERE j.position = ANY (held) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_relocate(mover.positions, $2, NULL);
    PERFORM jobstate.queue_wake($2) WHERE mover.ids IS NOT NULL;
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;
COMMENT ON FUNCTION jobstate.move_queue(bigint[], text)
    IS 'moves jobs that are available or deferred to another queue, and returns the ids of those that moved';
-- queue: what is due, and what is overdue -----------------------------------------
--
-- Anybody may call these at any time, as often as they like: they pass over what
-- others have locked, and find nothing to do where others were faster.
--
-- A plan without sequential scans looks so expensive where a small table has to be
-- read that the server would compile it, which takes longer than all the rest.

-- queue_look_again: is an error that a job was moved to another partition while we
-- waited for it, and is looking again worth it?  Under READ COMMITTED each look has
-- a new snapshot; above, 40001 is the answer.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_look_again()
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN current_setting('transaction_isolation') = 'read committed';
COMMENT ON FUNCTION jobstate.queue_look_again()
    IS 'internal: whether a job that was moved while we looked for it is worth another look';

-- queue_hold_due: locks deferred jobs that are due.
-- Writes nothing.  Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_hold_due(queue text, n integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    LOOP
        BEGIN
            RETURN ARRAY(SELECT w.position
                           FROM jobstate.queue q
                          CROSS JOIN LATERAL (
                                SELECT d.position FROM jobstate.job_waiting d
                                 WHERE d.queue = q.queue AND d.run_at <= clock_timestamp()
                                 ORDER BY d.run_at LIMIT $2 FOR UPDATE SKIP LOCKED) w
                          WHERE $1 IS NULL OR q.queue = $1
                          LIMIT $2);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold_due(text, integer)
    IS 'internal: locks deferred jobs that are due, and returns their positions';

-- promote: jobs whose time has come go to the tails of their lanes, in the order
-- in which they became due.  Rows are locked before numbers are drawn, so a
-- transaction id is there by then, see queue_position().
-- Writes: job, the sequence; queue_lane where a lane is missing.
-- Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.promote(queue text DEFAULT NULL, n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    due bigint[];
    awake text[];
BEGIN
    PERFORM jobstate.require_positive('n', $2 > 0);
    due := jobstate.queue_hold_due($1, $2);
    IF due = '{}' THEN
        RETURN 0;
    END IF;
    WITH ready AS MATERIALIZED (
        SELECT w.position, nextval('jobstate.job_number') AS number,
               CASE WHEN l.queue = w.queue AND l.priority = w.priority AND l.shard < q.shards THEN l.lane
                    ELSE jobstate.queue_lane_of(w.queue, w.priority, coalesce(l.shard, 0))
               END AS lane
          FROM (SELECT d.position, d.queue, d.priority FROM jobstate.job_waiting d
                 WHERE d.position = ANY (due) ORDER BY d.run_at, d.position OFFSET 0) w
          JOIN jobstate.queue q ON q.queue = w.queue
          LEFT JOIN jobstate.queue_lane l ON l.lane = w.position >> 48),
    gone AS (
        UPDATE jobstate.job j
           SET state_id = 1, position = r.lane::bigint << 48 | r.number,
               slot = (r.number / g.slot_jobs) % g.slots
          FROM ready r CROSS JOIN jobstate.queue_ring g
         WHERE j.slot = -1 AND j.position = r.position
        RETURNING j.queue)
    SELECT array_agg(DISTINCT g.queue) INTO awake FROM gone g;
    PERFORM jobstate.queue_wake(a) FROM unnest(awake) a;
    RETURN cardinality(due);
END
$$;
COMMENT ON FUNCTION jobstate.promote(text, integer)
    IS 'makes deferred jobs that are due available, at the tails of their lanes; returns how many';

-- rescue --------------------------------------------------------------------------
--
-- Leases have no index: heartbeats change them.  But what runs lies between a
-- lane's lower bound (settled) and the newest place that was ever claimed
-- (ceiling), or was carried over to job_kept, which is small.

-- queue_lanes_running: the lanes in which jobs run, and where to look for them.  By
-- the counters a job runs in a lane of its queue and priority.  Where somebody changed
-- these by hand it lies in another one, in which something was claimed once.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_lanes_running(all_claimed boolean)
RETURNS TABLE (lane smallint, floor bigint, ceiling bigint, settled bigint, hinted boolean)
LANGUAGE sql VOLATILE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
    WITH running AS MATERIALIZED (
        SELECT DISTINCT c.group_key ->> 'queue' AS queue, (c.group_key ->> 'priority')::smallint AS priority
          FROM jobstate.counts_now('jobstate.job') c
         WHERE c.state = 'running' AND c.n > 0)
    SELECT l.lane, w.floor, coalesce(w.ceiling, (l.lane::bigint + 1) << 48),
           coalesce(w.settled, l.lane::bigint << 48), w.ceiling IS NOT NULL
      FROM (SELECT l.lane FROM running r JOIN jobstate.queue_lane l ON l.queue = r.queue AND l.priority = r.priority
             UNION
            SELECT l.lane FROM jobstate.queue_lane l
             WHERE $1 AND EXISTS (SELECT FROM running)
               AND EXISTS (SELECT FROM jobstate.queue_window w WHERE w.lane = l.lane)) l
     CROSS JOIN LATERAL (
            SELECT max(w.floor) AS floor, max(w.ceiling) AS ceiling, max(w.settled) AS settled
              FROM jobstate.queue_window w WHERE w.lane = l.lane) w
$$;
COMMENT ON FUNCTION jobstate.queue_lanes_running(boolean)
    IS 'internal: the lanes that have running jobs, or may have them, and between which positions these are';

-- queue_overdue: has an attempt had its time?  A running job without a lease was
-- made so by hand, and nobody would ever end it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_overdue(lease_until timestamptz, claimed_at timestamptz,
    timeout interval, at timestamptz)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(lease_until, '-infinity') <= at OR coalesce(claimed_at + timeout <= at, false);
COMMENT ON FUNCTION jobstate.queue_overdue(timestamptz, timestamptz, interval, timestamptz)
    IS 'internal: whether a running job''s lease or timeout is over';

-- queue_settle: remembers that nothing runs in a lane below a position, if that
-- saves somebody much looking.
-- Writes: queue_window.  Locks nothing.
CREATE FUNCTION jobstate.queue_settle(lane smallint, floor bigint, ceiling bigint, before bigint, now_settled bigint)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO jobstate.queue_window (lane, floor, ceiling, settled)
    SELECT $1, $2, $3, least($2, $5)
     WHERE least($2, $5) >= $4 + 1000
$$;
COMMENT ON FUNCTION jobstate.queue_settle(smallint, bigint, bigint, bigint, bigint)
    IS 'internal: raises a lane''s lower bound for running jobs';

-- queue_hold_running: locks those of these jobs that still run, or whose attempt
-- still has to be ended.
-- Writes nothing.  Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_hold_running(positions bigint[], overdue boolean, n integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    LOOP
        BEGIN
            RETURN ARRAY(SELECT j.position FROM jobstate.job j
                          WHERE j.position = ANY (positions) AND j.state_id = 2
                            AND jobstate.queue_overdue(j.lease_until, j.claimed_at, j.timeout, clock_timestamp()) = overdue
                          LIMIT n FOR UPDATE SKIP LOCKED);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold_running(bigint[], boolean, integer)
    IS 'internal: locks running jobs that are overdue, or that are not, and returns their positions';

-- queue_rescue_lane: looks through a lane's running jobs once.  Returns the
-- positions of those that are overdue.  What runs far behind the newest claim is
-- carried over to job_kept, where it keeps its place: one job that takes an hour
-- must not make everybody look at an hour's jobs.
-- Problem: whoever raises the lower bound must have seen every job below it.  A
-- slot may be emptied while we wait for it, and what it still held was carried
-- over behind our snapshot's back.  Solution: all partitions are locked before the
-- snapshot is taken, and a transaction that keeps an older one leaves the bound.
-- Non-problem: jobs that are not committed yet lie above floor.
-- Writes: queue_window, job.  Locks: job against TRUNCATE; long runners, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_rescue_lane(lane smallint, floor bigint, ceiling bigint,
    settled bigint, hinted boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    far CONSTANT bigint := 100000;
    seen record;
    held bigint[];
BEGIN
    LOCK TABLE jobstate.job IN ACCESS SHARE MODE;
    SELECT min(j.position) AS first,
           array_agg(j.position) FILTER (WHERE j.overdue) AS overdue,
           (array_agg(j.position) FILTER (WHERE j.state_id = 2 AND NOT j.overdue AND j.position < j.newest - far))[:1000]
               AS long
      INTO seen
      FROM (SELECT j.position, j.state_id,
                   j.state_id = 2 AND jobstate.queue_overdue(j.lease_until, j.claimed_at, j.timeout, at) AS overdue,
                   CASE WHEN $5 THEN $3 ELSE max(j.position) FILTER (WHERE j.state_id = 2) OVER () END AS newest
              FROM jobstate.job j
             WHERE j.position >= $4 AND j.position < $3 AND j.slot >= 0 AND j.state_id IN (1, 2)) j;
    IF $5 AND jobstate.queue_look_again() THEN
        PERFORM jobstate.queue_settle($1, $2, $3, $4, coalesce(seen.first, $3));
    END IF;
    IF seen.long IS NOT NULL THEN
        held := jobstate.queue_hold_running(seen.long, false, 1000);
        UPDATE jobstate.job j SET slot = -2 WHERE j.slot >= 0 AND j.position = ANY (held);
    END IF;
    RETURN seen.overdue;
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue_lane(smallint, bigint, bigint, bigint, boolean)
    IS 'internal: the overdue jobs of a lane, by position; raises its lower bound';

-- queue_rescue: ends the attempts of jobs that the caller holds, as fail() would,
-- and says why.
-- Writes: job, dead_letter.  Locks nothing more.
CREATE FUNCTION jobstate.queue_rescue(positions bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    lost record;
BEGIN
    -- without a token it was made to run by hand
    UPDATE jobstate.job j SET token = 0
     WHERE j.position = ANY (positions) AND j.token IS NULL;
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.token ORDER BY j.id) AS tokens,
           array_agg(CASE WHEN j.claimed_at + j.timeout <= clock_timestamp() THEN 'timed out' ELSE 'lease expired' END
                     || coalesce(format(', worker "%s"', j.worker), '') ORDER BY j.id) AS errors
      INTO lost
      FROM jobstate.job j WHERE j.position = ANY (positions);
    RETURN QUERY SELECT * FROM jobstate.queue_end_attempts(lost.ids, lost.tokens, lost.errors, NULL, NULL);
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue(bigint[])
    IS 'internal: ends the attempts of running jobs that the caller holds';

-- queue_rescue_lanes: looks for overdue jobs and ends their attempts.  An idle worker,
-- who does it each second, spares himself the lanes in which nothing runs by the
-- counters; who maintains the queue looks at all.
-- Writes: job, dead_letter, queue_window.
-- Locks: job against TRUNCATE; the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.queue_rescue_lanes(n integer, all_claimed boolean)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    overdue bigint[];
BEGIN
    PERFORM jobstate.require_positive('n', $1 > 0);
    SELECT array_agg(o.position) INTO overdue
      FROM (SELECT unnest(jobstate.queue_rescue_lane(l.lane, l.floor, l.ceiling, l.settled, l.hinted)) AS position
              FROM jobstate.queue_lanes_running($2) l
             UNION ALL
            SELECT k.position FROM jobstate.job_kept k
             WHERE k.state_id = 2 AND jobstate.queue_overdue(k.lease_until, k.claimed_at, k.timeout, at)) o;
    IF overdue IS NOT NULL THEN
        overdue := jobstate.queue_hold_running(overdue, true, $1);
    END IF;
    IF overdue <> '{}' THEN
        RETURN QUERY SELECT * FROM jobstate.queue_rescue(overdue);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_rescue_lanes(integer, boolean)
    IS 'internal: ends overdue attempts, as rescue() does, in the lanes where jobs run or in all';

-- rescue: takes jobs from workers that are gone, or that took longer than the job
-- allows.  Their tokens are worth nothing from then on.
-- Writes: job, dead_letter, queue_window.
-- Locks: job against TRUNCATE; the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.rescue(n integer DEFAULT 1000)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS 'SELECT * FROM jobstate.queue_rescue_lanes($1, true)';
COMMENT ON FUNCTION jobstate.rescue(integer)
    IS 'ends the attempts of jobs whose lease or timeout is over: "deferred" for the next one, "failed", "dead" or "cancelled"';
-- queue: the ring -----------------------------------------------------------------
--
-- Slots are emptied oldest first, and one at a time.  Whoever moves the ring along
-- or empties slots holds queue_ring against others who do.  Nothing waits for long:
-- what is in use now is left for the next time.

-- queue_ring_take: are we the one who moves the ring now?
-- Writes nothing.  Locks: queue_ring, against other maintainers, until the
-- transaction's end.
CREATE FUNCTION jobstate.queue_ring_take()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE jobstate.queue_ring IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION jobstate.queue_ring_take()
    IS 'internal: elects the one who moves the ring along';

-- queue_ring_now: the number that was drawn last, and the slot that it fell into.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_ring_now(OUT number bigint, OUT slot smallint, OUT slots smallint, OUT slot_jobs bigint)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n.last_value, ((n.last_value / r.slot_jobs) % r.slots)::smallint, r.slots, r.slot_jobs
      FROM jobstate.job_number n, jobstate.queue_ring r
$$;
COMMENT ON FUNCTION jobstate.queue_ring_now()
    IS 'internal: where the ring stands';

-- queue_ring_define: changes settings of the ring.  Its size says where each job
-- lies, so that can change only while the ring is empty.
-- Writes: queue_ring.  Locks: job against everybody where its size changes.
CREATE FUNCTION jobstate.queue_ring_define(settings jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{slots,slot_jobs,slot_length,retention,failed_retention,dead_letter_retention}';
    unknown text;
    ring record;
    fresh record;
BEGIN
    PERFORM jobstate.require_argument('settings', settings);
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It was given for the ring.',
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    SELECT r.* INTO ring FROM jobstate.queue_ring r;
    SELECT n.* INTO fresh FROM jobstate.queue_ring r, jsonb_populate_record(r, settings) n;
    IF (fresh.slots, fresh.slot_jobs) IS DISTINCT FROM (ring.slots, ring.slot_jobs) THEN
        LOCK TABLE jobstate.job IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (SELECT FROM jobstate.job j WHERE j.slot >= 0) THEN
            RAISE EXCEPTION 'the ring cannot change its size while it holds jobs'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'Where a job lies follows from the number of slots and the jobs in a slot.',
                      HINT = 'Wait until all jobs have ended, and prune them: retention 0, then jobstate.prune_slots().';
        END IF;
    END IF;
    UPDATE jobstate.queue_ring r
       SET (slots, slot_jobs, slot_length, retention, failed_retention, dead_letter_retention) =
           (SELECT fresh.slots, fresh.slot_jobs, fresh.slot_length,
                   fresh.retention, fresh.failed_retention, fresh.dead_letter_retention);
    PERFORM jobstate.queue_add_slots();
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for the ring are not valid'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'There are 3 to 1024 slots; sizes and the slot''s length are above zero, retentions are not negative.';
END
$$;
COMMENT ON FUNCTION jobstate.queue_ring_define(jsonb)
    IS 'changes settings of the ring: {"retention": "1 day", "slots": 32, ...}';

-- rotate: goes on to the next slot when the current one is old enough, so that
-- what it holds can be pruned though few jobs come.  Only if the next one is empty;
-- and a ring that stands still is left alone.  The numbers in between are drawn,
-- not skipped by setval(): somebody else may be further by then, and no number may
-- come twice.
-- Writes: the sequence.  Locks: queue_ring, against other maintainers.
CREATE FUNCTION jobstate.rotate()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET synchronize_seqscans = off
AS $$
DECLARE
    ring record;
    began timestamptz;
    occupied boolean;
BEGIN
    IF NOT jobstate.queue_ring_take() THEN
        RETURN false;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_ring_now();
    EXECUTE format('SELECT EXISTS (SELECT FROM jobstate.job_%s)', (ring.slot + 1) % ring.slots) INTO occupied;
    IF occupied THEN
        RETURN false;
    END IF;
    -- the rows lie in the order in which they came
    EXECUTE format('SELECT greatest(j.enqueued_at, j.run_at) FROM jobstate.job_%s j LIMIT 1', ring.slot) INTO began;
    IF began IS NULL OR began > clock_timestamp() - (SELECT r.slot_length FROM jobstate.queue_ring r) THEN
        RETURN false;
    END IF;
    PERFORM nextval('jobstate.job_number')
       FROM generate_series(ring.number + 1, (ring.number / ring.slot_jobs + 1) * ring.slot_jobs);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.rotate()
    IS 'moves the ring on to its next slot if the current one is old enough and the next one is free; true if it did';

-- pruning ---------------------------------------------------------------------------
--
-- Problem: a slot must go as a whole, and workers must not wait for that.
-- Solution: failed jobs that have to stay are carried over to job_kept beforehand,
-- under locks on these rows.  Then the slot is locked, if that takes no longer than
-- a moment, looked at again, rolled up from its rows and truncated.

-- queue_slot_free: may a slot go, but for failed jobs?  Where the ring needs it, what
-- has ended may go early, and a few jobs that have not are carried over; a slot full
-- of these is left, and used a second time.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_slot_free(slot integer, needed boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 1000;
    part CONSTANT text := format('jobstate.job_%s', slot);
    pages CONSTANT bigint := pg_relation_size(part::regclass) / current_setting('block_size')::bigint;
    old timestamptz;
    stays boolean;
BEGIN
    IF needed THEN
        EXECUTE format('SELECT count(*) > %s FROM (SELECT FROM %s j WHERE j.state_id IN (1, 2) LIMIT %s) s',
                       few, part, few + 1) INTO stays;
        RETURN NOT stays;
    END IF;
    SELECT clock_timestamp() - r.retention INTO old FROM jobstate.queue_ring r;
    -- what came last lies at the end: most slots that cannot go are known by that
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j WHERE j.ctid >= ''(%s,0)'' AND j.enqueued_at > $1)',
                   part, greatest(pages - 1, 0)) INTO stays USING old;
    IF stays THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j
                                    WHERE j.state_id IN (1, 2) OR j.state_id <> 5 AND j.finished_at > $1)',
                   part) INTO stays USING old;
    RETURN NOT stays;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_free(integer, boolean)
    IS 'internal: whether a slot of the ring can be emptied';

-- queue_slot_carry: carries jobs over from a slot to job_kept that failed not long
-- ago.  They keep their places.  One that is retried while we look has left.
-- Writes: job.  Locks: the jobs, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_slot_carry(slot integer, n integer)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    young timestamptz;
    stay bigint[];
BEGIN
    SELECT clock_timestamp() - r.failed_retention INTO young FROM jobstate.queue_ring r;
    WHILE stay IS NULL LOOP
        BEGIN
            EXECUTE format('SELECT array(SELECT j.position FROM jobstate.job_%s j
                                          WHERE j.state_id = 5 AND j.finished_at > $1
                                          LIMIT $2 FOR UPDATE SKIP LOCKED)', slot)
               INTO stay USING young, n;
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF stay <> '{}' THEN
        UPDATE jobstate.job j SET slot = -2
         WHERE j.slot = queue_slot_carry.slot AND j.position = ANY (stay);
    END IF;
    RETURN cardinality(stay);
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_carry(integer, integer)
    IS 'internal: carries failed jobs over to job_kept, and tells how many';

-- queue_slot_rest: what is left in a slot that has to stay, looked up once.  NULL
-- where it is too much, or something that ended a moment ago and is to be seen in
-- its place for a while.
-- Writes nothing, locks nothing: the caller has the slot.
CREATE FUNCTION jobstate.queue_slot_rest(slot integer, needed boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 2000;
    old timestamptz;
    young timestamptz;
    rest record;
BEGIN
    SELECT clock_timestamp() - r.retention, clock_timestamp() - r.failed_retention
      INTO old, young FROM jobstate.queue_ring r;
    EXECUTE format('SELECT coalesce(array_agg(s.position), ''{}'') AS positions,
                           count(*) <= %s AND bool_and($1 OR s.state_id = 5) IS NOT FALSE AS can_move
                      FROM (SELECT j.position, j.state_id FROM jobstate.job_%s j
                             WHERE j.state_id IN (1, 2) OR j.state_id = 5 AND j.finished_at > $2
                                   OR NOT $1 AND j.state_id <> 5 AND j.finished_at > $3
                             LIMIT %s) s', few, slot, few + 1)
       INTO rest USING needed, young, old;
    RETURN CASE WHEN rest.can_move THEN rest.positions END;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_rest(integer, boolean)
    IS 'internal: the jobs that have to leave a slot before it is emptied';

-- queue_slot_empty: rolls a slot up and truncates it.  NULL where it is in use, or
-- something came up that has to stay.
-- Writes: job, rollup.  Locks: the slot against everybody, if it can be had at once.
CREATE FUNCTION jobstate.queue_slot_empty(slot integer, needed boolean, OUT carried bigint, OUT rolled_up bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10ms'
AS $$
DECLARE
    rest bigint[];
BEGIN
    EXECUTE format('LOCK TABLE jobstate.job_%s IN ACCESS EXCLUSIVE MODE', slot);
    rest := jobstate.queue_slot_rest(slot, needed);
    IF rest IS NULL THEN
        RAISE lock_not_available;
    END IF;
    UPDATE jobstate.job j SET slot = -2
     WHERE j.slot = queue_slot_empty.slot AND j.position = ANY (rest);
    carried := cardinality(rest);
    rolled_up := jobstate.prune_partition(format('jobstate.job_%s', slot)::regclass, 'finished_at');
EXCEPTION
    -- this also gives the lock back
    WHEN lock_not_available OR object_not_in_prerequisite_state THEN
        carried := NULL;
        rolled_up := NULL;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_empty(integer, boolean)
    IS 'internal: rolls a slot of the ring up and truncates it, unless it is in use';

-- prune_slots: empties slots of the ring, the oldest first: those in which all jobs
-- have ended longer ago than the retention, and the two that come next.  A row for
-- each slot that was emptied; without a number of jobs rolled up, for one of which
-- more have to be carried over first.
-- Writes: job, rollup.  Locks: queue_ring, against other maintainers; jobs, with SKIP
-- LOCKED; a slot against everybody, waiting for that at most 10 ms.
CREATE FUNCTION jobstate.prune_slots(max_slots integer DEFAULT 1)
RETURNS TABLE (slot smallint, carried bigint, rolled_up bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    batch CONSTANT integer := 5000;
    ring record;
    needed boolean := true;
BEGIN
    PERFORM jobstate.require_positive('max_slots', max_slots > 0);
    IF NOT jobstate.queue_ring_take() THEN
        RETURN;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_ring_now();
    FOR ahead IN 1 .. ring.slots - 1 LOOP
        slot := (ring.slot + ahead) % ring.slots;
        CONTINUE WHEN pg_relation_size(format('jobstate.job_%s', slot)::regclass) = 0;
        carried := NULL;
        IF jobstate.queue_slot_free(slot, needed AND ahead <= 2) THEN
            carried := jobstate.queue_slot_carry(slot, batch);
            rolled_up := NULL;
            IF carried < batch THEN
                SELECT carried + e.carried, e.rolled_up INTO carried, rolled_up
                  FROM jobstate.queue_slot_empty(slot, needed AND ahead <= 2) e;
            END IF;
        END IF;
        -- what is carried over is claimed first, so it must be the oldest there is
        needed := needed AND carried IS NOT NULL;
        CONTINUE WHEN carried IS NULL;
        RETURN NEXT;
        max_slots := max_slots - 1;
        EXIT WHEN max_slots = 0;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.prune_slots(integer)
    IS 'rolls up and empties slots of the ring that are through; a row for each slot that was worked on';

-- queue_prune_kept: what was carried over goes when its own time has come, unless
-- somebody retries it.
-- Writes: job, rollup.  Locks: the jobs, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_prune_kept(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOOP
        BEGIN
            RETURN (SELECT jobstate.prune('jobstate.job_kept', r.failed_retention, 'finished_at', $1, '{failed}')
                         + jobstate.prune('jobstate.job_kept', r.retention, 'finished_at', $1, '{completed,cancelled}')
                      FROM jobstate.queue_ring r);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_prune_kept(integer)
    IS 'internal: rolls up jobs that were carried over and have ended long enough ago; returns how many';
-- queue: sweeping, and all of its maintenance ---------------------------------------

-- queue_sweep_keys: drops unique keys whose job is gone, or is in none of the states
-- in which it keeps others out.  It looks at a few pages, anywhere, so that the cost
-- does not grow with the number of keys.  The job is looked at after the key's row
-- is locked, by a statement that sees what was committed until then.
-- Writes: unique_job.  Locks: the keys' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_sweep_keys()
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    few CONSTANT integer := 16;
    pages CONSTANT bigint := pg_relation_size('jobstate.unique_job') / current_setting('block_size')::bigint;
    first CONSTANT bigint := floor(random() * greatest(pages - few + 1, 1));
    ids bigint[];
    dropped bigint;
BEGIN
    IF pages = 0 THEN
        RETURN 0;
    END IF;
    ids := ARRAY(SELECT u.id FROM jobstate.unique_job u
                  WHERE u.ctid >= format('(%s,0)', first)::tid
                    AND u.ctid < format('(%s,0)', first + few)::tid
                    FOR UPDATE SKIP LOCKED);
    DELETE FROM jobstate.unique_job u
     WHERE u.ctid >= format('(%s,0)', first)::tid AND u.ctid < format('(%s,0)', first + few)::tid
       AND u.id = ANY (ids)
       AND NOT EXISTS (SELECT FROM jobstate.queue_find(ARRAY[u.id]) f
                        WHERE jobstate.queue_state_name(f.state_id) = ANY (u.states));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_keys()
    IS 'internal: drops some of the unique keys that no job holds any more, and tells how many';

-- queue_sweep_dead: drops dead letters about which nobody decided in time.
-- Writes: dead_letter.  Locks: the rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_sweep_dead(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM jobstate.dead_letter d
     WHERE d.id = ANY (ARRAY(
           SELECT o.id FROM jobstate.dead_letter o
            WHERE o.died_at < clock_timestamp() - (SELECT r.dead_letter_retention FROM jobstate.queue_ring r)
            ORDER BY o.died_at LIMIT n FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_dead(integer)
    IS 'internal: drops dead letters older than the retention, and tells how many';

-- queue_sweep_windows: leaves one row per lane of what is only ever appended to.
-- Who has it locked has seen every row's transaction end, and keeps them all in
-- mind by the greatest.  A transaction that keeps an older snapshot finds nothing,
-- and looks everywhere.
-- Writes: queue_window.  Locks: queue_window against everybody, if it can be had at once.
CREATE FUNCTION jobstate.queue_sweep_windows()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    large CONSTANT bigint := 65536;
    lanes smallint[];
    floors bigint[];
    ceilings bigint[];
    settleds bigint[];
BEGIN
    IF pg_relation_size('jobstate.queue_window') < large
       OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN false;
    END IF;
    LOCK TABLE jobstate.queue_window IN ACCESS EXCLUSIVE MODE NOWAIT;
    SELECT array_agg(w.lane), array_agg(w.floor), array_agg(w.ceiling), array_agg(w.settled)
      INTO lanes, floors, ceilings, settleds
      FROM (SELECT w.lane, max(w.floor) AS floor, max(w.ceiling) AS ceiling, max(w.settled) AS settled
              FROM jobstate.queue_window w GROUP BY w.lane) w;
    TRUNCATE jobstate.queue_window;
    INSERT INTO jobstate.queue_window (lane, floor, ceiling, settled)
    SELECT * FROM unnest(lanes, floors, ceilings, settleds);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_windows()
    IS 'internal: condenses what is known of each lane to one row; true if it did';

-- maintain_queue: a step of the queue's maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the queue is not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_queue(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.job')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            RETURN (SELECT count(*) >= many FROM jobstate.rescue(many));
        WHEN 1 THEN
            RETURN jobstate.promote(NULL, many) >= many;
        WHEN 2 THEN
            PERFORM jobstate.rotate();
            RETURN false;
        WHEN 3 THEN
            RETURN EXISTS (SELECT FROM jobstate.prune_slots(1));
        WHEN 4 THEN
            RETURN jobstate.queue_prune_kept(many) >= many;
        WHEN 5 THEN
            RETURN jobstate.queue_sweep_dead(many) >= many;
        WHEN 6 THEN
            PERFORM jobstate.queue_sweep_keys();
            PERFORM jobstate.queue_sweep_windows();
            RETURN false;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_queue(integer)
    IS 'internal: a step of the queue''s maintenance, called by maintain(): rescue, promote, rotate, prune, sweep';
-- queue: health and metrics --------------------------------------------------------

-- health_queue_due: jobs that are due, and that nobody made available.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_due(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'queue due', q.queue, 'warning',
           format('%s jobs are due, the first since %s, and nobody promotes them',
                  CASE WHEN d.n > 1000 THEN 'over 1000' ELSE d.n::text END, date_trunc('second', d.first)),
           format('SELECT jobstate.promote(%L, 100000)', q.queue)
      FROM jobstate.queue q
     CROSS JOIN LATERAL (
            SELECT count(*) AS n, min(w.run_at) AS first
              FROM (SELECT j.run_at FROM jobstate.job j
                     WHERE j.slot = -1 AND j.queue = q.queue AND j.run_at < clock_timestamp() - patience
                     ORDER BY j.run_at LIMIT 1001) w) d
     WHERE d.n > 0
    UNION ALL
    SELECT 'queue due', NULL, 'ok', 'jobs become available when they are due', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_due(boolean, interval)
    IS 'internal: what health() says of jobs that are due';

-- health_queue_leases: running jobs whose worker is gone and that nobody rescues.
-- Looks where rescue() does, and unless asked to look deep at the first jobs of each
-- lane only.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_leases(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue_lane', 'jobstate.queue_window') THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH lane AS (
        SELECT l.lane, coalesce(w.ceiling, (l.lane::bigint + 1) << 48) AS ceiling,
               coalesce(w.settled, l.lane::bigint << 48) AS settled
          FROM (SELECT DISTINCT c.group_key ->> 'queue' AS queue, (c.group_key ->> 'priority')::smallint AS priority
                  FROM jobstate.counts('jobstate.job') c WHERE c.state = 'running' AND c.n > 0) c
          JOIN jobstate.queue_lane l ON l.queue = c.queue AND l.priority = c.priority
         CROSS JOIN LATERAL (SELECT max(w.ceiling) AS ceiling, max(w.settled) AS settled
                               FROM jobstate.queue_window w WHERE w.lane = l.lane) w),
    running AS (
        SELECT j.* FROM lane
         CROSS JOIN LATERAL (SELECT j.queue, j.state_id, j.lease_until, j.claimed_at, j.timeout FROM jobstate.job j
                              WHERE j.position >= lane.settled AND j.position < lane.ceiling AND j.slot >= 0
                              ORDER BY j.position LIMIT CASE WHEN NOT deep THEN 20000 END) j
        UNION ALL
        SELECT j.queue, j.state_id, j.lease_until, j.claimed_at, j.timeout FROM jobstate.job j
         WHERE j.slot = -2 AND j.state_id = 2)
    SELECT 'queue expired', r.queue, 'warning',
           format('%s running jobs have outlived their lease or timeout, the first at %s, and nobody rescues them',
                  count(*), date_trunc('second', min(least(r.lease_until, r.claimed_at + r.timeout)))),
           'SELECT * FROM jobstate.rescue(100000)'
      FROM running r
     WHERE r.state_id = 2 AND jobstate.queue_overdue(r.lease_until, r.claimed_at, r.timeout, at)
     GROUP BY r.queue
    UNION ALL
    SELECT 'queue expired', NULL, 'ok', 'jobs of workers that are gone are rescued', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_leases(boolean, interval)
    IS 'internal: what health() says of leases that ran out';

-- queue_load: per queue, what is there to be claimed and what stands in the way.
-- Keys that are at their limit count where they have jobs that could run.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_load()
RETURNS TABLE (queue text, available bigint, running bigint, keys_at_limit bigint, oldest timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT q.queue, coalesce(c.available, 0)::bigint, coalesce(c.running, 0)::bigint, coalesce(c.keys_at_limit, 0),
           CASE WHEN c.available > 0 THEN jobstate.queue_oldest(q.queue) END
      FROM jobstate.queue q
      LEFT JOIN (SELECT k.queue, sum(k.available) AS available, sum(k.running) AS running,
                        count(*) FILTER (WHERE k.limit_key IS NOT NULL AND k.available > 0 AND k.running >= l.max_running_per_key)
                            AS keys_at_limit
                   FROM (SELECT n.group_key ->> 'queue' AS queue, n.group_key ->> 'limit_key' AS limit_key,
                                sum(n.n) FILTER (WHERE n.state = 'available') AS available,
                                sum(n.n) FILTER (WHERE n.state = 'running') AS running
                           FROM jobstate.counts('jobstate.job') n
                          WHERE n.n > 0 AND n.state IN ('available', 'running') GROUP BY 1, 2) k
                   JOIN jobstate.queue l ON l.queue = k.queue
                  GROUP BY k.queue) c ON c.queue = q.queue;
END
$$;
COMMENT ON FUNCTION jobstate.queue_load()
    IS 'internal: per queue, jobs available and running, keys at their limit, and when the oldest available job became due';

-- health_queue_backlog: queues that have jobs and do not get on: paused, at a limit,
-- or without workers.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_backlog(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue', 'jobstate.queue_lane', 'jobstate.queue_window') THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH load AS MATERIALIZED (
        SELECT q.*, l.available, l.running, l.keys_at_limit,
               l.running >= q.max_running IS TRUE AS is_full,
               date_trunc('second', l.oldest) AS since, l.oldest < long_ago AS late
          FROM jobstate.queue q JOIN jobstate.queue_load() l ON l.queue = q.queue
         WHERE l.available > 0)
    SELECT 'queue paused', l.queue, CASE WHEN l.paused_at < long_ago THEN 'warning' ELSE 'info' END,
           format('paused since %s with %s jobs available', date_trunc('second', l.paused_at), l.available),
           format('SELECT jobstate.resume(%L)', l.queue)
      FROM load l WHERE l.paused_at IS NOT NULL
    UNION ALL
    SELECT 'queue limit', l.queue, CASE WHEN l.late THEN 'warning' ELSE 'info' END,
           CASE WHEN l.is_full THEN format('%s jobs run, which is the limit, and %s wait, the first since %s',
                                           l.running, l.available, l.since)
                ELSE format('%s keys are at their limit of %s; %s jobs wait, the first since %s',
                            l.keys_at_limit, l.max_running_per_key, l.available, l.since) END,
           format('SELECT jobstate.queue_define(%L, %L)', l.queue,
                  CASE WHEN l.is_full THEN jsonb_build_object('max_running', 2 * l.max_running)
                       ELSE jsonb_build_object('max_running_per_key', 2 * l.max_running_per_key) END)
      FROM load l WHERE l.paused_at IS NULL AND (l.is_full OR l.keys_at_limit > 0)
    UNION ALL
    SELECT 'queue lagging', l.queue, 'warning',
           format('%s jobs wait, the first since %s, while %s run: %s', l.available, l.since, l.running,
                  CASE WHEN l.running = 0 THEN 'start workers' ELSE 'start more workers' END), NULL
      FROM load l WHERE l.late AND l.paused_at IS NULL AND NOT l.is_full AND l.keys_at_limit = 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('queue paused', 'no queue with jobs is paused'), ('queue limit', 'no queue is at its limit'),
                   ('queue lagging', 'jobs are claimed in time')) o (c, d);
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_backlog(boolean, interval)
    IS 'internal: what health() says of queues that do not get on';

-- health_queue_dead: dead letters want somebody's decision; where new ones come,
-- soon.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_dead(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.dead_letter') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'queue dead letters', d.queue, CASE WHEN d.fresh > 0 THEN 'warning' ELSE 'info' END,
           format('%s dead letters wait for a decision, %s came in the last hour; dlq_purge_all() would delete them', d.n, d.fresh),
           format('SELECT jobstate.dlq_retry_all(%L)', d.queue)
      FROM (SELECT d.queue, count(*) AS n,
                   count(*) FILTER (WHERE d.died_at > clock_timestamp() - interval '1 hour') AS fresh
              FROM jobstate.dead_letter d GROUP BY d.queue) d
    UNION ALL
    SELECT 'queue dead letters', NULL, 'ok', 'there are no dead letters', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_dead(boolean, interval)
    IS 'internal: what health() says of dead letters';

-- queue_room: how many slots ahead of the current one are empty, and which one
-- is the first that is not.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_room(OUT slots integer, OUT used integer, OUT free integer, OUT next_used integer)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.slots, count(*) FILTER (WHERE s.size > 0), coalesce(min(s.ahead) FILTER (WHERE s.size > 0), r.slots) - 1,
           (array_agg(s.slot ORDER BY s.ahead) FILTER (WHERE s.size > 0 AND s.ahead > 0))[1]
      FROM (SELECT r.slots::integer AS slots, coalesce(pg_sequence_last_value('jobstate.job_number'), 0) / r.slot_jobs AS current
              FROM jobstate.queue_ring r) r
     CROSS JOIN LATERAL (
            SELECT a.ahead, ((r.current + a.ahead) % r.slots)::integer AS slot,
                   pg_relation_size(to_regclass(format('jobstate.job_%s', (r.current + a.ahead) % r.slots))) AS size
              FROM generate_series(1, r.slots) a (ahead)) s
     GROUP BY r.slots
$$;
COMMENT ON FUNCTION jobstate.queue_room()
    IS 'internal: how many slots of the ring hold jobs, how many ahead are empty, and which one comes after these';

-- health_queue_ring: has the ring room, and if not, why?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_queue_ring(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ring record;
    unfinished bigint;
BEGIN
    IF NOT (jobstate.can_read('jobstate.job', 'jobstate.queue_ring')
            AND has_sequence_privilege('jobstate.job_number', 'USAGE, SELECT')) THEN
        RETURN;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_room();
    IF ring.free = 0 THEN
        SELECT count(*) INTO unfinished
          FROM (SELECT FROM jobstate.job j WHERE j.slot = ring.next_used AND j.state_id IN (1, 2) LIMIT 1001) j;
        RETURN QUERY
        SELECT 'queue ring', h.who, 'warning', format('has held slot %s for long, which is the next to be emptied', ring.next_used), h.ending
          FROM (SELECT DISTINCT h.who, h.ending FROM jobstate.health_holders(patience) h
                 WHERE h.relation = to_regclass(format('jobstate.job_%s', ring.next_used))) h
        UNION ALL
        SELECT 'queue ring', format('slot %s', ring.next_used), 'warning',
               CASE WHEN unfinished > 1000
                    THEN format('the ring is full: slot %s of %s is next and holds over 1000 jobs that have not ended; start workers, jobs go there a second time meanwhile',
                                ring.next_used, ring.slots)
                    ELSE format('the ring is full: slot %s of %s is next and was not emptied', ring.next_used, ring.slots) END,
               CASE WHEN unfinished <= 1000 THEN 'SELECT * FROM jobstate.prune_slots(2)' END;
    END IF;
    RETURN QUERY
    SELECT 'queue ring', NULL, 'ok', format('%s of %s slots hold jobs, the next %s are empty', ring.used, ring.slots, ring.free), NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_queue_ring(boolean, interval)
    IS 'internal: what health() says of the ring';

-- metrics_queue: per queue, and of the ring.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_queue()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.job', 'jobstate.queue', 'jobstate.queue_lane', 'jobstate.queue_window',
                             'jobstate.queue_ring', 'jobstate.dead_letter') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, jsonb_build_object('queue', q.queue), m.value::double precision, 'gauge', m.unit, m.help
      FROM jobstate.queue q
      JOIN jobstate.queue_load() l ON l.queue = q.queue
     CROSS JOIN LATERAL (VALUES
            ('jobstate_queue_available', l.available, '', 'jobs that can be claimed'),
            ('jobstate_queue_running', l.running, '', 'jobs that are claimed'),
            ('jobstate_queue_oldest_available_seconds', coalesce(extract(epoch FROM clock_timestamp() - l.oldest), 0), 'seconds',
             'for how long the oldest available job has been due'),
            ('jobstate_queue_overdue_seconds',
             coalesce(greatest(extract(epoch FROM clock_timestamp() - (SELECT min(j.run_at) FROM jobstate.job j WHERE j.slot = -1 AND j.queue = q.queue)), 0), 0),
             'seconds', 'for how long the first deferred job has been due and not promoted'),
            ('jobstate_queue_dead_letters', (SELECT count(*) FROM jobstate.dead_letter d WHERE d.queue = q.queue), '', 'dead letters'),
            ('jobstate_queue_paused', (q.paused_at IS NOT NULL)::integer, '', '1 while the queue is paused'),
            ('jobstate_queue_limit', q.max_running, '', 'how many jobs may run at a time, where there is a limit'),
            ('jobstate_queue_keys_at_limit', l.keys_at_limit, '', 'limit keys that have as many running jobs as they may, and more available'),
            ('jobstate_queue_lanes', (SELECT count(*) FROM jobstate.queue_lane n WHERE n.queue = q.queue), '', 'lanes: priorities times shards'))
           AS m (name, value, unit, help)
     WHERE m.value IS NOT NULL;
    IF has_sequence_privilege('jobstate.job_number', 'USAGE, SELECT') THEN
        RETURN QUERY
        SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', '', m.help
          FROM jobstate.queue_room() r
         CROSS JOIN LATERAL (VALUES
                ('jobstate_queue_ring_slots', r.slots, 'slots of the ring'),
                ('jobstate_queue_ring_used', r.used, 'slots of the ring that hold jobs'),
                ('jobstate_queue_ring_free', r.free, 'empty slots between the current one and the next that holds jobs'))
               AS m (name, value, help);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.metrics_queue()
    IS 'internal: the queue''s part of the view metrics';
-- queue: what can be asked -------------------------------------------------------

-- queue_counts: from the kernel's counters, so it takes as long for ten million
-- jobs as for ten.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_counts(INOUT queue text DEFAULT NULL, OUT priority smallint,
    OUT state text, OUT n bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT c.group_key ->> 'queue', (c.group_key ->> 'priority')::smallint, c.state, sum(c.n)::bigint
          FROM jobstate.counts('jobstate.job',
                   CASE WHEN $1 IS NOT NULL THEN jsonb_build_object('queue', $1) END) c
         GROUP BY 1, 2, 3
        HAVING sum(c.n) <> 0
         ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION jobstate.queue_counts(text)
    IS 'how many jobs of a queue, or of every one, are in each state, by priority';

-- queue_totals: what is there, and what has been there and was pruned.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_totals(INOUT queue text DEFAULT NULL, OUT priority smallint,
    OUT state text, OUT live bigint, OUT rolled_up bigint, OUT total bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT t.group_key ->> 'queue', (t.group_key ->> 'priority')::smallint, t.state,
               sum(t.live)::bigint, sum(t.rolled_up)::bigint, sum(t.total)::bigint
          FROM jobstate.totals('jobstate.job',
                   CASE WHEN $1 IS NOT NULL THEN jsonb_build_object('queue', $1) END) t
         GROUP BY 1, 2, 3
        HAVING sum(t.total) <> 0
         ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION jobstate.queue_totals(text)
    IS 'jobs of a queue, or of every one, by priority and state: there now, pruned, and both together';

-- queue_oldest: when the first available job of a queue became due.  Looks at the
-- heads of its lanes, from their lower bounds on.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_oldest(queue text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT min(head.run_at)
          FROM (SELECT l.lane::bigint << 48 AS lane_start,
                       coalesce((SELECT max(w.floor) FROM jobstate.queue_window w WHERE w.lane = l.lane), 0) AS floor
                  FROM jobstate.queue_lane l WHERE l.queue = $1) b,
               LATERAL (SELECT j.run_at FROM jobstate.job j
                         WHERE j.position >= greatest(b.lane_start, b.floor)
                           AND j.position < b.lane_start + (1::bigint << 48)
                           AND j.state_id = 1
                         ORDER BY j.position LIMIT 1) head);
END
$$;
COMMENT ON FUNCTION jobstate.queue_oldest(text)
    IS 'when the job of the queue that has waited longest became due; null where none is available';

-- queue_install_views: views over the tables of the family, owned like them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_install_views()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('jobstate.queues') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE VIEW jobstate.jobs AS
        SELECT j.id, j.queue, j.kind, jobstate.queue_state_name(j.state_id) AS state, j.priority,
               j.attempt, j.max_attempts, j.run_at, j.enqueued_at, j.claimed_at, j.lease_until,
               j.finished_at, j.worker, j.cancel_requested, j.timeout, j.unique_key, j.limit_key,
               j.payload, j.errors, j.result
          FROM jobstate.job j;
    COMMENT ON VIEW jobstate.jobs IS 'the jobs, with their states by name; dead letters are not among them';

    CREATE VIEW jobstate.queues AS
        SELECT q.queue, q.paused_at IS NOT NULL AS paused, q.paused_at, q.shards,
               q.max_running, q.max_running_per_key,
               coalesce(c.available, 0) AS available, coalesce(c.running, 0) AS running,
               coalesce(c.deferred, 0) AS deferred, coalesce(c.completed, 0) AS completed,
               coalesce(c.failed, 0) AS failed, coalesce(c.cancelled, 0) AS cancelled,
               (SELECT count(*) FROM jobstate.dead_letter d WHERE d.queue = q.queue) AS dead_letters,
               CASE WHEN c.available > 0 THEN clock_timestamp() - jobstate.queue_oldest(q.queue) END
                   AS oldest_available
          FROM jobstate.queue q
          LEFT JOIN (SELECT n.queue,
                            sum(n.n) FILTER (WHERE n.state = 'available')::bigint AS available,
                            sum(n.n) FILTER (WHERE n.state = 'running')::bigint AS running,
                            sum(n.n) FILTER (WHERE n.state = 'deferred')::bigint AS deferred,
                            sum(n.n) FILTER (WHERE n.state = 'completed')::bigint AS completed,
                            sum(n.n) FILTER (WHERE n.state = 'failed')::bigint AS failed,
                            sum(n.n) FILTER (WHERE n.state = 'cancelled')::bigint AS cancelled
                       FROM jobstate.queue_counts() n GROUP BY n.queue) c USING (queue);
    COMMENT ON VIEW jobstate.queues IS 'the queues: paused or not, limits, jobs per state, and for how long the oldest available job has been due';
END
$$;
COMMENT ON FUNCTION jobstate.queue_install_views()
    IS 'internal: creates the views of the family';

-- job_status: all that is known of a job: a row of jobs, or a dead letter in the
-- state "dead".  The state is null where nothing is known: it ended and was pruned,
-- was deleted, or never was.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.job_status(id bigint,
    OUT state text, OUT queue text, OUT kind text, OUT priority smallint,
    OUT attempt smallint, OUT max_attempts smallint, OUT run_at timestamptz, OUT enqueued_at timestamptz,
    OUT claimed_at timestamptz, OUT lease_until timestamptz, OUT finished_at timestamptz, OUT worker text,
    OUT cancel_requested boolean, OUT payload jsonb, OUT errors jsonb, OUT result jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    job record;
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    SELECT j.* INTO job FROM jobstate.job j
     WHERE j.position = $1 AND j.id = $1 OR j.id = $1 AND j.id <> j.position;
    IF FOUND THEN
        state := jobstate.queue_state_name(job.state_id);
        run_at := job.run_at;
        claimed_at := job.claimed_at;
        lease_until := job.lease_until;
        finished_at := job.finished_at;
        worker := job.worker;
        cancel_requested := job.cancel_requested;
        result := job.result;
    ELSE
        SELECT d.* INTO job FROM jobstate.dead_letter d WHERE d.id = $1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        state := 'dead';
        finished_at := job.died_at;
    END IF;
    queue := job.queue;
    kind := job.kind;
    priority := job.priority;
    attempt := job.attempt;
    max_attempts := job.max_attempts;
    enqueued_at := job.enqueued_at;
    payload := job.payload;
    errors := job.errors;
END
$$;
COMMENT ON FUNCTION jobstate.job_status(bigint)
    IS 'what is known of a job; its state is "dead" for a dead letter and null where nothing is known';
-- queue: rights --------------------------------------------------------------------

-- queue_functions: what of the family writes, and whether a worker needs it.  What
-- makes queues, changes their settings or keeps the ring is the owner's.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure,
           p.proname !~ '^(queue_(install_.*|grant|define|pause|add_slots|(ring|slot|sweep)_.*|prune_kept)|pause|resume|rotate|prune_slots|maintain_queue)$'
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
       AND (p.proname ~ '^(queue|enqueue|claim|dlq)_'
            OR p.proname = ANY ('{enqueue,claim,complete,heartbeat,fail,snooze,cancel,cancel_unique,cancel_all,
                                  retry,retry_all,discard,set_priority,move_queue,next_due,promote,rescue,
                                  pause,resume,rotate,prune_slots,maintain_queue}'::name[]))
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.queue_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- queue_grant: what a worker's role needs: to call the verbs, and to read and write
-- jobs.  It cannot change a queue's settings: who locks a row has to be allowed to
-- update some column of it, and gets the one that means nothing.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.queue_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_argument('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.queue_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.job, jobstate.job_waiting, jobstate.job_kept,
                    jobstate.dead_letter, jobstate.unique_job TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT ON jobstate.queue, jobstate.queue_lane, jobstate.queue_window TO %s', worker);
    EXECUTE format('GRANT UPDATE (created_at) ON jobstate.queue TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.queue_ring, jobstate.jobs, jobstate.queues TO %s', worker);
    EXECUTE format('GRANT USAGE ON SEQUENCE jobstate.job_number TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.queue_grant(regrole)
    IS 'lets a role enqueue, claim, end and manage jobs, but not change the settings of queues';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.queue_functions() f
                UNION ALL SELECT 'jobstate.install_queue()'::regprocedure LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
-- store: machine and tables -----------------------------------------------------
--
-- A record is a row: its status is state_id, and nowhere else; everything else that
-- was put into it is in fields.  No index holds what an update changes, so updates are
-- HOT: check_at follows expires_at lazily, and moves at most once per time to live.
--
-- Checks stand on domains, not on the table: a table's are made ready anew by every
-- statement, whichever column it sets, and cost more than the update itself.

CREATE FUNCTION jobstate.store_sound(fields jsonb)
    RETURNS boolean LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'jobstate_store_sound';
COMMENT ON FUNCTION jobstate.store_sound(jsonb) IS
    'internal: true, or an error that names the field of a record that has not the shape it must have';

CREATE DOMAIN jobstate.store_fields AS jsonb CHECK (jobstate.store_sound(VALUE));
COMMENT ON DOMAIN jobstate.store_fields IS
    'the fields of a record of the store, without its status';

CREATE DOMAIN jobstate.store_ttl AS interval CHECK (VALUE > '0');
COMMENT ON DOMAIN jobstate.store_ttl IS 'a time to live, which is above zero';

-- store_install_machine: what is not over may go anywhere, back included, because a
-- worker that is restarted begins again; what is over stays as it is.  A new attempt at
-- it, and a record that replaces it, are new rows.  A record may expire in any state, so
-- all of them are terminal.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.store_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    open CONSTANT text[] := '{pending,queued,preprocessing,transcribing,postprocessing}';
    over CONSTANT text[] := '{completed,failed}';
BEGIN
    PERFORM jobstate.define_machine('store',
        '{"pending": 1, "queued": 2, "preprocessing": 3, "transcribing": 4,
          "postprocessing": 5, "completed": 6, "failed": 7}',
        ARRAY(SELECT f || ' -> ' || t FROM unnest(open) f, unnest(open || over) t WHERE f <> t),
        terminal => open || over);
END
$$;
COMMENT ON FUNCTION jobstate.store_install_machine()
    IS 'internal: defines the machine "store"';

-- store_install_records: the records themselves.  percent is the most that this attempt
-- has told, which the present progress need not tell.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.store_install_records()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.store (
        id         text PRIMARY KEY,
        state_id   smallint NOT NULL DEFAULT 1,
        attempt    integer NOT NULL DEFAULT 0,
        token      uuid,
        percent    numeric NOT NULL DEFAULT 0,
        ttl        jobstate.store_ttl NOT NULL DEFAULT '86400 s',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at timestamptz NOT NULL DEFAULT clock_timestamp() + '86400 s',
        check_at   timestamptz DEFAULT '-infinity',
        expired_at timestamptz,
        fields     jobstate.store_fields NOT NULL DEFAULT '{}'
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS store_check_at ON jobstate.store (check_at) WHERE check_at IS NOT NULL;
    CREATE INDEX IF NOT EXISTS store_expired ON jobstate.store (id) WHERE expired_at IS NOT NULL;
    COMMENT ON TABLE jobstate.store IS 'one row per record, those that expired and are not removed yet among them';
    COMMENT ON COLUMN jobstate.store.state_id IS 'the status, by its id in the machine "store"';
    COMMENT ON COLUMN jobstate.store.attempt IS 'how often store_begin() was called';
    COMMENT ON COLUMN jobstate.store.token IS 'of the attempt that began last';
    COMMENT ON COLUMN jobstate.store.percent IS 'the greatest percent_complete of this attempt';
    COMMENT ON COLUMN jobstate.store.ttl IS 'how long after its last write the record is there';
    COMMENT ON COLUMN jobstate.store.expires_at IS 'from then on the record does not exist';
    COMMENT ON COLUMN jobstate.store.check_at IS 'when maintenance looks whether the record expired; never after expires_at';
    COMMENT ON COLUMN jobstate.store.expired_at IS 'set once maintenance found it expired: the next prune takes it';
    COMMENT ON COLUMN jobstate.store.fields IS 'everything but the status';
    COMMENT ON INDEX jobstate.store_check_at IS 'the records that maintenance has to look at';
    COMMENT ON INDEX jobstate.store_expired IS 'the records that are to be removed';
END
$$;
COMMENT ON FUNCTION jobstate.store_install_records()
    IS 'internal: creates store';

-- store_install_policy: the default time to live and the names of artifacts, as data.
-- Rows that exist stay as they are: they may have been tuned.
-- Writes: store_setting, store_artifact_name.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.store_install_policy()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.store_setting (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        ttl       jobstate.store_ttl NOT NULL DEFAULT '86400 s'
    );
    COMMENT ON TABLE jobstate.store_setting IS 'one row: how long records live for which nothing else is said';
    INSERT INTO jobstate.store_setting DEFAULT VALUES ON CONFLICT DO NOTHING;

    CREATE TABLE IF NOT EXISTS jobstate.store_artifact_name (
        name text PRIMARY KEY
    );
    COMMENT ON TABLE jobstate.store_artifact_name IS 'the artifacts that store_artifact() may be asked for';
    INSERT INTO jobstate.store_artifact_name (name)
    VALUES ('docling_dom.json'), ('transcript.txt'), ('transcript_simple.txt'),
           ('transcript.srt'), ('transcript.vtt')
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.store_install_policy()
    IS 'internal: creates and fills store_setting and store_artifact_name';

-- store_install_view: the records as their users know them.  It shows what the owner of
-- the view may see: who may read it is said by a grant on it.
-- Writes nothing.  Locks: the view.
CREATE FUNCTION jobstate.store_install_view()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('jobstate.store_records') IS NULL THEN
        CREATE VIEW jobstate.store_records AS
            SELECT s.id, jobstate.store_status_name(s.state_id) AS status,
                   jobstate.store_record(s.fields, s.state_id) AS record,
                   s.attempt, s.percent, s.created_at, s.expires_at - s.ttl AS updated_at, s.expires_at
              FROM jobstate.store s
             WHERE s.expires_at > clock_timestamp();
        COMMENT ON VIEW jobstate.store_records IS 'the records that are not expired';
        COMMENT ON COLUMN jobstate.store_records.updated_at IS 'when the record was written last';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_install_view()
    IS 'internal: creates store_records';

-- install_store: the family's machine and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment and the policy tables.
-- Locks: store against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_store()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.store_install_machine();
    PERFORM jobstate.store_install_records();
    PERFORM jobstate.store_install_policy();
    PERFORM jobstate.store_install_view();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a
                    WHERE a.target = 'jobstate.store'::regclass) THEN
        PERFORM jobstate.attach('jobstate.store', 'store', 'state_id');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_store()
    IS 'internal: what install(''store'') runs';
-- store: reading ----------------------------------------------------------------------
--
-- Every read compares expires_at with clock_timestamp(): an expired record does not
-- exist, whether maintenance came by or not, and however long ago the transaction began.

-- store_status_name, store_status_id: the statuses by id and by name; NULL for none.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.store_status_name(state_id smallint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE state_id
    WHEN 1 THEN 'pending' WHEN 2 THEN 'queued' WHEN 3 THEN 'preprocessing' WHEN 4 THEN 'transcribing'
    WHEN 5 THEN 'postprocessing' WHEN 6 THEN 'completed' WHEN 7 THEN 'failed' END;
COMMENT ON FUNCTION jobstate.store_status_name(smallint)
    IS 'internal: the status of a state id';

CREATE FUNCTION jobstate.store_status_id(status text)
RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE status
    WHEN 'pending' THEN 1 WHEN 'queued' THEN 2 WHEN 'preprocessing' THEN 3 WHEN 'transcribing' THEN 4
    WHEN 'postprocessing' THEN 5 WHEN 'completed' THEN 6 WHEN 'failed' THEN 7 END::smallint;
COMMENT ON FUNCTION jobstate.store_status_id(text)
    IS 'internal: the state id of a status';

-- store_record: a record as its users know it: its fields, and the status that follows
-- from its state.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_record(fields jsonb, state_id smallint)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN fields || CASE state_id
    WHEN 1 THEN '{"status": "pending"}'::jsonb WHEN 2 THEN '{"status": "queued"}'::jsonb
    WHEN 3 THEN '{"status": "preprocessing"}'::jsonb WHEN 4 THEN '{"status": "transcribing"}'::jsonb
    WHEN 5 THEN '{"status": "postprocessing"}'::jsonb WHEN 6 THEN '{"status": "completed"}'::jsonb
    WHEN 7 THEN '{"status": "failed"}'::jsonb END;
COMMENT ON FUNCTION jobstate.store_record(jsonb, smallint)
    IS 'internal: fields and status together';

-- store_percent: what progress tells, or NULL.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_percent(fields jsonb)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(fields #> '{progress,percent_complete}')
    WHEN 'number' THEN (fields #> '{progress,percent_complete}')::numeric END;
COMMENT ON FUNCTION jobstate.store_percent(jsonb)
    IS 'internal: the percent_complete of the progress of a record';

-- store_ttl: how long records live for which nothing else is said.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_ttl()
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT s.ttl FROM jobstate.store_setting s), interval '86400 s');
END
$$;
COMMENT ON FUNCTION jobstate.store_ttl()
    IS 'the default time to live, from store_setting';

-- store_missing: a record is not there, or not any more.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_missing(id text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'job "%" does not exist', id
        USING ERRCODE = 'JS002',
              DETAIL = 'There is no such record, or it expired.';
END
$$;
COMMENT ON FUNCTION jobstate.store_missing(text)
    IS 'internal: raises JS002 for a record';

-- store_get: the record as it was created and updated, or NULL.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_get(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s
             WHERE s.id = $1 AND s.expires_at > clock_timestamp());
END
$$;
COMMENT ON FUNCTION jobstate.store_get(text)
    IS 'a record, or NULL if there is none or it expired';

-- store_time: a timestamp of a record; one without a zone is in UTC.  NULL where it is
-- none, which is only so for what is no member of a record.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_time(value text)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (CASE WHEN value ~ '[Tt ].*([Zz]|[+-]\d\d(:?\d\d)?)$' THEN value ELSE value || 'Z' END)::timestamptz
$$;
COMMENT ON FUNCTION jobstate.store_time(text)
    IS 'internal: a timestamp of a record';

-- store_status: what a client that waits wants to know; no row where there is no record.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_status(id text,
    OUT status text, OUT progress jsonb, OUT error text, OUT has_result boolean,
    OUT created_at timestamptz, OUT completed_at timestamptz, OUT attempt integer, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    RETURN QUERY
        SELECT jobstate.store_status_name(s.state_id), nullif(s.fields -> 'progress', 'null'), s.fields ->> 'error',
               s.state_id = 6 AND jsonb_typeof(s.fields -> 'result') = 'object' IS TRUE,
               coalesce(jobstate.store_time(s.fields ->> 'created_at'), s.created_at),
               jobstate.store_time(s.fields ->> 'completed_at'), s.attempt, s.expires_at
          FROM jobstate.store s
         WHERE s.id = $1 AND s.expires_at > clock_timestamp();
END
$$;
COMMENT ON FUNCTION jobstate.store_status(text)
    IS 'what a client that waits for a job wants to know: one row, or none';

-- store_completed: the record of a job that must be completed.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_completed(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found jsonb := jobstate.store_get(id);
BEGIN
    IF found IS NULL THEN
        PERFORM jobstate.store_missing(id);
    ELSIF found ->> 'status' <> 'completed' THEN
        RAISE EXCEPTION 'Job not completed. Current status: %', found ->> 'status'
            USING ERRCODE = 'JS003';
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION jobstate.store_completed(text)
    IS 'internal: the record of a completed job, or an error';

-- store_results: the result of a completed job.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_results(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb := jobstate.store_completed(id) -> 'result';
BEGIN
    IF coalesce(result, 'null') = 'null' THEN
        RAISE EXCEPTION 'Results not available'
            USING ERRCODE = 'no_data_found',
                  DETAIL = format('Job "%s" is completed, but has no result.', id);
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION jobstate.store_results(text)
    IS 'the result of a completed job; JS002 if there is no such record, JS003 if it is not completed, P0002 if it has none';

-- store_artifact: one artifact of a completed job.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_artifact(id text, name text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    artifacts jsonb := jobstate.store_completed(id) -> 'artifacts';
BEGIN
    PERFORM jobstate.require_argument('name', name);
    IF NOT EXISTS (SELECT FROM jobstate.store_artifact_name n WHERE n.name = $2) THEN
        RAISE EXCEPTION 'Invalid artifact name: %', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = (SELECT format('Artifacts: %s.', string_agg(n.name, ', ' ORDER BY n.name COLLATE "C"))
                            FROM jobstate.store_artifact_name n);
    ELSIF artifacts ->> name IS NULL THEN
        RAISE EXCEPTION 'Artifact not found: %', name
            USING ERRCODE = 'no_data_found';
    END IF;
    RETURN artifacts ->> name;
END
$$;
COMMENT ON FUNCTION jobstate.store_artifact(text, text)
    IS 'an artifact of a completed job; JS002 if there is no such record, JS003 if it is not completed, 22023 if there is no such name, P0002 if the job has none';
-- store: writing ----------------------------------------------------------------------
--
-- Problem: two workers update one record.  What either read before may be old.
-- Solution: every write is one UPDATE that computes the new fields from the row as it is
-- when it is locked, so fields that differ are both kept, of the same field the last
-- committer's stays, and at REPEATABLE READ the second one fails with 40001.
--
-- A record that is replaced, or begins anew, is a new row.  Who waited for the old one
-- finds it gone, and looks again before saying so.

-- store_given: the fields of an update that are not null, which leaves a field as it is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_given(argument text, fields jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, fields);
    IF jsonb_typeof(fields) <> 'object' THEN
        RAISE EXCEPTION 'argument "%" must be a JSON object', argument
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN coalesce((SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(fields) f WHERE f.value <> 'null'), '{}');
END
$$;
COMMENT ON FUNCTION jobstate.store_given(text, jsonb)
    IS 'internal: the members of an object that are not null';

-- store_state: the state that a status means.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_state(status jsonb)
RETURNS smallint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_id smallint := CASE jsonb_typeof(status) WHEN 'string' THEN jobstate.store_status_id(status #>> '{}') END;
BEGIN
    IF state_id IS NULL THEN
        RAISE EXCEPTION 'unknown status %', status
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Statuses: %s.', (SELECT string_agg(jobstate.store_status_name(i::smallint), ', ' ORDER BY i)
                                                    FROM generate_series(1, 7) i));
    END IF;
    RETURN state_id;
END
$$;
COMMENT ON FUNCTION jobstate.store_state(jsonb)
    IS 'internal: the state id of a status, or an error that lists the statuses';

-- store_check_id: the member "id" of a record is the record's own, if it is there.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_check_id(id text, fields jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF fields ? 'id' AND fields -> 'id' IS DISTINCT FROM to_jsonb(id) THEN
        RAISE EXCEPTION 'a record cannot have another''s id'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('The record is "%s", its member "id" is %s.', id, fields -> 'id');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_check_id(text, jsonb)
    IS 'internal: refuses a member "id" that is not the record''s';

-- store_put_aside: a record that expired makes room, and waits under another name for
-- the prune that counts it.
-- Writes: store.  Locks: the record, if it expired.
CREATE FUNCTION jobstate.store_put_aside(id text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.store s
       SET id = 'expired ' || gen_random_uuid(), expired_at = s.expires_at, check_at = NULL
     WHERE s.id = $1 AND s.expires_at <= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.store_put_aside(text)
    IS 'internal: takes an expired record out of the way; true if it did';

-- store_lifetime: a time to live as it is kept: of seconds, because a day is 24 hours
-- whatever the session's zone is, and no longer than a point in time can tell.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_lifetime(ttl interval)
RETURNS interval
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    longest CONSTANT numeric := 10000 * 31557600.0;
BEGIN
    PERFORM jobstate.require_positive('ttl', ttl > '0');
    IF extract(epoch FROM ttl) > longest THEN
        RAISE EXCEPTION 'argument "ttl" is too long'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', ttl),
                  HINT = 'A record lives for at most 10000 years.';
    END IF;
    RETURN make_interval(secs => extract(epoch FROM ttl)::float8);
END
$$;
COMMENT ON FUNCTION jobstate.store_lifetime(interval)
    IS 'internal: a time to live in seconds; raises 22004 or 22023 for one that makes no sense';

-- store_insert: a new record, unless there is one with this id.  40001 if the snapshot
-- is older than the end of the one before.
-- Writes: store.  Locks nothing else.
CREATE FUNCTION jobstate.store_insert(id text, record jsonb, ttl interval)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    state CONSTANT smallint := CASE WHEN coalesce(record -> 'status', 'null') = 'null' THEN 1
                                    ELSE jobstate.store_state(record -> 'status') END;
BEGIN
    INSERT INTO jobstate.store (id, state_id, fields, percent, ttl, created_at, expires_at, check_at)
    VALUES (id, state, record - 'status', coalesce(jobstate.store_percent(record), 0), ttl, now, now + ttl, now + ttl)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- a snapshot that is kept still sees a record that was removed since
    IF (SELECT count(*) FROM jobstate.store s WHERE s.id = $1) > 1 THEN
        RAISE EXCEPTION 'could not serialize access due to concurrent delete'
            USING ERRCODE = 'serialization_failure', HINT = 'The transaction might succeed if retried.';
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.store_insert(text, jsonb, interval)
    IS 'internal: inserts a record, or tells that there is one';

-- store_create: a record, instead of whatever had its id: nothing of that is left.
-- Writes: store.  Locks: the record that is replaced.
CREATE FUNCTION jobstate.store_create(id text, record jsonb, ttl interval DEFAULT jobstate.store_ttl())
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lives interval;
BEGIN
    PERFORM jobstate.require_argument('id', id);
    PERFORM jobstate.store_given('record', record);
    lives := jobstate.store_lifetime(ttl);
    PERFORM jobstate.store_check_id(id, record);
    WHILE NOT jobstate.store_insert(id, record, lives) LOOP
        IF NOT jobstate.store_put_aside(id) THEN
            DELETE FROM jobstate.store s WHERE s.id = $1;
        END IF;
    END LOOP;
    RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s WHERE s.id = $1);
END
$$;
COMMENT ON FUNCTION jobstate.store_create(text, jsonb, interval)
    IS 'puts a record, in place of one with the same id; returns it';

-- store_look: a write found nothing: raises why, or returns if it should look again,
-- because the record was replaced meanwhile.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_look(id text, token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
BEGIN
    SELECT s.token, s.attempt INTO present FROM jobstate.store s
     WHERE s.id = $1 AND s.expires_at > clock_timestamp();
    IF NOT FOUND THEN
        PERFORM jobstate.require_argument('id', id);
        PERFORM jobstate.store_missing(id);
    ELSIF present.token IS DISTINCT FROM coalesce(token, present.token) THEN
        RAISE EXCEPTION 'attempt at job "%" is over', id
            USING ERRCODE = 'JS001',
                  DETAIL = CASE WHEN present.token IS NULL THEN 'The record was created anew since.'
                                ELSE format('Attempt %s has begun since.', present.attempt) END,
                  HINT = 'Drop the result: the job is somebody else''s.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_look(text, uuid)
    IS 'internal: raises JS001 or JS002 for a record, or returns';

-- store_lock: locks a record for a write that depends on what is in it.
-- Writes nothing.  Locks: the record.
CREATE FUNCTION jobstate.store_lock(INOUT id text, INOUT token uuid, OUT state_id smallint, OUT fields jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expires timestamptz;
BEGIN
    LOOP
        SELECT s.state_id, s.fields, s.expires_at INTO state_id, fields, expires FROM jobstate.store s
         WHERE s.id = $1 AND s.expires_at > clock_timestamp() AND ($2 IS NULL OR s.token = $2)
           FOR NO KEY UPDATE;
        -- it may have waited, for one who wrote nothing in the end
        IF FOUND AND expires > clock_timestamp() THEN
            RETURN;
        END IF;
        PERFORM jobstate.store_look($1, $2);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.store_lock(text, uuid)
    IS 'internal: locks a record and returns it, or raises JS001 or JS002';

-- store_write: writes fields as they are given, null included, of a record that the
-- caller has locked.  What tells less than the attempt told before comes late, and
-- is left out.
-- Writes: store.  Locks nothing more.
CREATE FUNCTION jobstate.store_write(id text, changes jsonb, state_id smallint DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    told CONSTANT numeric := jobstate.store_percent(changes);
    written jsonb;
BEGIN
    UPDATE jobstate.store s
       SET fields = s.fields || CASE WHEN told < s.percent THEN changes - 'progress' ELSE changes END,
           state_id = coalesce($3, s.state_id),
           percent = greatest(s.percent, told),
           expires_at = clock_timestamp() + s.ttl
     WHERE s.id = $1
    RETURNING jobstate.store_record(s.fields, s.state_id) INTO written;
    RETURN written;
END
$$;
COMMENT ON FUNCTION jobstate.store_write(text, jsonb, smallint)
    IS 'internal: writes fields of a record that is locked, and returns it';

-- store_leave: the answer of an update that has nothing to write.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_leave(id text, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    LOOP
        present := (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s
                     WHERE s.id = $1 AND s.expires_at > clock_timestamp() AND ($2 IS NULL OR s.token = $2));
        IF present IS NOT NULL OR (upsert AND jobstate.store_get(id) IS NULL) THEN
            RETURN coalesce(present, '{}');
        END IF;
        PERFORM jobstate.store_look(id, token);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.store_leave(text, uuid, boolean)
    IS 'internal: the record as it is, or {} where an upsert finds none';

-- store_miss: what an update does that found no record: nothing but to say why, or, if
-- it is told to, a record of only these fields.  NULL: the update should look again.
-- Writes: store.  Locks nothing else.
CREATE FUNCTION jobstate.store_miss(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    PERFORM jobstate.require_argument('upsert', upsert);
    IF NOT upsert OR jobstate.store_get(id) IS NOT NULL THEN
        PERFORM jobstate.store_look(id, token);
    ELSIF jobstate.store_insert(id, jobstate.store_given('fields', fields),
                                jobstate.store_lifetime(jobstate.store_ttl())) THEN
        RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s WHERE s.id = $1);
    ELSE
        PERFORM jobstate.store_put_aside(id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_miss(text, jsonb, uuid, boolean)
    IS 'internal: what an update does that found no record';

-- store_unusual: what an update does that has nothing to write, or is given what makes no
-- sense: the record as it is, or an error.  NULL: nothing speaks against it after all.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_unusual(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given CONSTANT jsonb := jobstate.store_given('fields', fields);
BEGIN
    PERFORM jobstate.require_argument('id', id);
    IF given = '{}' THEN
        RETURN jobstate.store_leave(id, token, upsert);
    END IF;
    IF given ? 'status' THEN
        PERFORM jobstate.store_state(given -> 'status');
    END IF;
    PERFORM jobstate.store_check_id(id, given);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_unusual(text, jsonb, uuid, boolean)
    IS 'internal: what an update does that has nothing to write';

-- store_gone: a record expired while an update waited for it: the update is undone.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_gone(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.store_missing(id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_gone(text, jsonb, uuid, boolean)
    IS 'internal: raises JS002 for a record that expired while an update waited';

-- store_update: the fields that are given and not null, and nothing else.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_update(id text, fields jsonb, token uuid DEFAULT NULL, upsert boolean DEFAULT false)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_store_update';
COMMENT ON FUNCTION jobstate.store_update(text, jsonb, uuid, boolean)
    IS 'writes the given fields that are not null and returns the record as of this write; upsert: makes a record where there is none';
-- store: single fields, and attempts --------------------------------------------------
--
-- What depends on what is in a record locks it first, and computes in a statement after
-- that; at REPEATABLE READ the lock fails with 40001 if somebody wrote meanwhile.

-- store_refuse_field: the members that are not written one by one.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_refuse_field(field text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('field', field);
    IF field IN ('id', 'status') THEN
        RAISE EXCEPTION 'field "%" of a record cannot be written so', field
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE field WHEN 'status' THEN 'Use store_update() or store_cas().'
                                    ELSE 'A record keeps its id.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_refuse_field(text)
    IS 'internal: refuses the names "id" and "status"';

-- store_put: one member of a field that is an object, beside others who write other
-- members.  A field that is absent or null becomes an object.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_put(id text, field text, key text, value jsonb, token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('key', key);
    PERFORM jobstate.require_argument('value', value);
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '{}') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'object' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no object', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object(field, present || jsonb_build_object(key, value)));
END
$$;
COMMENT ON FUNCTION jobstate.store_put(text, text, text, jsonb, uuid)
    IS 'writes one member of a field, which stays as it is otherwise; returns the record as of this write';

-- store_incr: adds to a number; one that is absent or null counts as 0.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_incr(id text, field text, by numeric DEFAULT 1, token uuid DEFAULT NULL)
RETURNS numeric
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
    sum numeric;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('by', by);
    IF by IN ('NaN', 'Infinity', '-Infinity') THEN
        RAISE EXCEPTION 'argument "by" must be a finite number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '0') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'number' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no number', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    sum := present::numeric + by;
    PERFORM jobstate.store_write(id, jsonb_build_object(field, sum));
    RETURN sum;
END
$$;
COMMENT ON FUNCTION jobstate.store_incr(text, text, numeric, uuid)
    IS 'adds to a number and returns the sum';

-- store_append: adds an element to an array; one that is absent or null counts as empty.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_append(id text, field text, value jsonb, token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('value', value);
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '[]') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'array' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no array', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object(field, present || jsonb_build_array(value)));
END
$$;
COMMENT ON FUNCTION jobstate.store_append(text, text, jsonb, uuid)
    IS 'adds an element at the end of an array; returns the record as of this write';

-- store_cas: compare and set: writes a field only if it is still what the caller saw.
-- NULL, null and absent are the same.  A progress that tells less than the attempt told
-- comes late, and is not written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_cas(id text, field text, expected jsonb, value jsonb, token uuid DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    IF field IS DISTINCT FROM 'status' THEN
        PERFORM jobstate.store_refuse_field(field);
    END IF;
    present := (SELECT jobstate.store_record(l.fields, l.state_id) -> field FROM jobstate.store_lock(id, token) l);
    IF nullif(present, 'null') IS DISTINCT FROM nullif(expected, 'null') THEN
        RETURN false;
    ELSIF field = 'progress' AND jobstate.store_percent(jsonb_build_object(field, value))
                                 < (SELECT s.percent FROM jobstate.store s WHERE s.id = $1) THEN
        RETURN false;
    ELSIF field = 'status' THEN
        PERFORM jobstate.store_write(id, '{}', jobstate.store_state(coalesce(value, 'null')));
    ELSE
        PERFORM jobstate.store_write(id, jsonb_build_object(field, value));
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.store_cas(text, text, jsonb, jsonb, uuid)
    IS 'writes a field if its value is the expected one; false: it is another, or comes late, and nothing was written';

-- store_clear: what an update cannot: sets fields to null.  Those that the record does
-- not have are passed over; if none is left, nothing is written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_clear(id text, names text[], token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
    nulls jsonb;
BEGIN
    PERFORM jobstate.require_argument('names', names);
    PERFORM jobstate.store_refuse_field(coalesce(n, '')) FROM unnest(names) n;
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, token) l;
    nulls := (SELECT jsonb_object_agg(n, NULL) FROM unnest(names) n WHERE present.fields ? n);
    IF nulls IS NULL OR present.fields @> nulls THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    END IF;
    RETURN jobstate.store_write(id, nulls);
END
$$;
COMMENT ON FUNCTION jobstate.store_clear(text, text[], uuid)
    IS 'sets fields to null; returns the record as of this write';

-- store_delete: a record goes on purpose: nothing counts it any more.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_delete(id text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    DELETE FROM jobstate.store s WHERE s.id = $1 AND s.expires_at > clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.store_delete(text)
    IS 'deletes a record; false if there was none';

-- store_afresh: the fields of a record for a new attempt: what an earlier one left is null.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_afresh(fields jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN fields || coalesce((
    SELECT jsonb_object_agg(n, NULL)
      FROM unnest('{progress,result,error,artifacts,artifacts_error,quality,completed_at}'::text[]) n
     WHERE fields ? n), '{}');
COMMENT ON FUNCTION jobstate.store_afresh(jsonb)
    IS 'internal: the fields of a record for a new attempt';

-- store_restart: a new attempt at what is over: a new row, because nothing leads out of
-- its state.  NULL if the record is not over.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_restart(id text, state_id smallint, restart boolean)
RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    earlier record;
    fresh CONSTANT uuid := gen_random_uuid();
    now CONSTANT timestamptz := clock_timestamp();
BEGIN
    DELETE FROM jobstate.store s
     WHERE s.id = $1 AND s.expires_at > clock_timestamp() AND s.state_id IN (6, 7)
    RETURNING * INTO earlier;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF earlier.state_id = 6 AND NOT restart THEN
        RAISE EXCEPTION 'job "%" is completed', id
            USING ERRCODE = 'JS003',
                  HINT = 'Its results stand; with "restart" a new attempt would drop them.';
    END IF;
    INSERT INTO jobstate.store (id, state_id, attempt, token, ttl, created_at, expires_at, check_at, fields)
    VALUES (id, $2, earlier.attempt + 1, fresh, earlier.ttl, earlier.created_at, now + earlier.ttl, now + earlier.ttl,
            jobstate.store_afresh(earlier.fields));
    RETURN fresh;
END
$$;
COMMENT ON FUNCTION jobstate.store_restart(text, smallint, boolean)
    IS 'internal: begins a new attempt at a record that is over; its token, or NULL';

-- store_begin: a new attempt: a fresh token, nothing told yet, nothing left of the
-- attempt before, whose token is worth nothing from here on.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_begin(id text, status text DEFAULT 'preprocessing', restart boolean DEFAULT true,
    OUT token uuid, OUT attempt integer, OUT record jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    state smallint := jobstate.store_state(coalesce(to_jsonb(status), 'null'));
BEGIN
    PERFORM jobstate.require_argument('restart', restart);
    IF state IN (6, 7) THEN
        RAISE EXCEPTION 'an attempt cannot begin as "%"', status USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        -- an update that waits in vain would bring back what expired meanwhile
        PERFORM FROM jobstate.store_lock($1, NULL);
        UPDATE jobstate.store s
           SET state_id = state, attempt = s.attempt + 1, token = gen_random_uuid(), percent = 0,
               fields = jobstate.store_afresh(s.fields), expires_at = clock_timestamp() + s.ttl
         WHERE s.id = $1 AND s.expires_at > clock_timestamp() AND s.state_id NOT IN (6, 7);
        EXIT WHEN FOUND OR jobstate.store_restart($1, state, restart) IS NOT NULL;
    END LOOP;
    SELECT s.token, s.attempt, jobstate.store_record(s.fields, s.state_id)
      INTO store_begin.token, store_begin.attempt, store_begin.record
      FROM jobstate.store s WHERE s.id = $1;
END
$$;
COMMENT ON FUNCTION jobstate.store_begin(text, text, boolean)
    IS 'begins a new attempt at a job and returns its token; that of the attempt before is refused from here on';

-- store_end: the one way by which an attempt ends.  The same attempt may say so again;
-- the answer is the record as it is.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_end(id text, state_id smallint, changes jsonb, fields jsonb, token uuid)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
    also jsonb := jobstate.store_given('fields', fields);
    stamp CONSTANT text := to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
BEGIN
    PERFORM jobstate.store_check_id(id, also);
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, token) l;
    IF present.state_id = $2 AND token IS NOT NULL THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    ELSIF present.state_id IN (6, 7) THEN
        RAISE EXCEPTION 'job "%" is over', id
            USING ERRCODE = 'JS003',
                  DETAIL = format('Its status is "%s".', jobstate.store_status_name(present.state_id)),
                  HINT = 'A new attempt begins with store_begin().';
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object('completed_at', stamp) || also - 'status' || changes, $2);
END
$$;
COMMENT ON FUNCTION jobstate.store_end(text, smallint, jsonb, jsonb, uuid)
    IS 'internal: ends an attempt, as completed or failed';

-- store_complete: the result and all that comes with it, in one write.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_complete(id text, result jsonb, artifacts jsonb DEFAULT NULL,
                                        fields jsonb DEFAULT '{}', token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN jobstate.store_end(id, 6::smallint,
        jobstate.store_given('result', jsonb_build_object('result', result, 'artifacts', artifacts)),
        '{"progress": {"stage": "completed", "percent_complete": 100}}' || fields, token);
END
$$;
COMMENT ON FUNCTION jobstate.store_complete(text, jsonb, jsonb, jsonb, uuid)
    IS 'completes a job: status, progress, result, artifacts, completed_at and further fields in one write; returns the record';

-- store_fail: the job failed, and why.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_fail(id text, error text, fields jsonb DEFAULT '{}', token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('error', error);
    RETURN jobstate.store_end(id, 7::smallint, jsonb_build_object('error', error), fields, token);
END
$$;
COMMENT ON FUNCTION jobstate.store_fail(text, text, jsonb, uuid)
    IS 'fails a job: status, error, completed_at and further fields in one write; returns the record';

-- store_enqueue_failed: the queue did not take the job, as far as its sender knows.  If
-- it did take it, and a worker has begun or ended it, nothing is written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_enqueue_failed(id text, error text DEFAULT 'Failed to enqueue job for processing')
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
BEGIN
    PERFORM jobstate.require_argument('error', error);
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, NULL) l;
    IF present.state_id NOT IN (1, 2) THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object('error', error), 7::smallint);
END
$$;
COMMENT ON FUNCTION jobstate.store_enqueue_failed(text, text)
    IS 'fails a job that never reached a worker, without completed_at; returns the record';
-- store: health and metrics ----------------------------------------------------------

-- health_store: records that expired and that nobody removes.  Their readers do not
-- see them, but they are counted and take room.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_store(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.store') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'store expired', 'jobstate.store', 'warning',
           format('%s records expired, the first at %s, and nobody removes them',
                  CASE WHEN e.n > 1000 THEN 'over 1000' ELSE e.n::text END, date_trunc('second', e.first)),
           'SELECT jobstate.store_prune(100000)'
      FROM (SELECT count(*) AS n, min(x.expires_at) AS first
              FROM ((SELECT s.expires_at FROM jobstate.store s
                      WHERE s.check_at < clock_timestamp() - patience AND s.expires_at < clock_timestamp() - patience LIMIT 1001)
                    UNION ALL
                    (SELECT s.expires_at FROM jobstate.store s
                      WHERE s.expired_at IS NOT NULL AND s.expires_at < clock_timestamp() - patience LIMIT 1001)) x) e
     WHERE e.n > 0
    UNION ALL
    SELECT 'store expired', NULL, 'ok', 'records that expired are removed', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_store(boolean, interval)
    IS 'internal: what health() says of the store';

-- metrics_store: what maintenance still has to do.  Records by status are among the
-- metrics of tables.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_store()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.store') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'jobstate_store_unremoved', '{}'::jsonb,
           ((SELECT count(*) FROM jobstate.store s WHERE s.check_at <= clock_timestamp())
            + (SELECT count(*) FROM jobstate.store s WHERE s.expired_at IS NOT NULL))::double precision,
           'gauge', '', 'records that maintenance has to look at or to remove';
END
$$;
COMMENT ON FUNCTION jobstate.metrics_store()
    IS 'internal: the store''s part of the view metrics';
-- store: maintenance and rights ---------------------------------------------------------

-- store_sweep: looks at the records that may have expired.  Those that did are marked
-- for the prune, and nobody can bring them back: no write finds them.  The others are
-- looked at again when they would expire now.
-- Writes: store.  Locks: the records, with SKIP LOCKED.
CREATE FUNCTION jobstate.store_sweep(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    looked bigint;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    UPDATE jobstate.store s
       SET check_at = CASE WHEN s.expires_at > now THEN s.expires_at END,
           expired_at = CASE WHEN s.expires_at <= now THEN s.expires_at END
     WHERE s.id = ANY (ARRAY(
           SELECT d.id FROM jobstate.store d WHERE d.check_at <= now
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
    PERFORM jobstate.require_argument('worker', worker);
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
    PERFORM jobstate.require_argument('settings', settings);
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
     WHERE p.processor = name;
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
                      WHERE p.processor = ledger_max_failures.processor), 5);
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
                      WHERE p.processor = ledger_lease.processor), interval '900 s');
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
     WHERE l.processor = $1 AND l.item = $2;
    IF EXISTS (SELECT FROM jobstate.ledger_run r WHERE r.processor = $1 AND r.token = $3) THEN
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
-- ledger: machines and tables ---------------------------------------------------
--
-- Which processor has seen which item, and when.  (processor, item) is the key of
-- everything; a row is a processor's last word about an item.  A run is one pass of
-- a processor over its items; its row is there from the moment it begins, so that
-- a run that dies is in the records too.
--
-- The ledger is written once per piece of real work and read by whoever asks how
-- far a processor is.  So its rows have indexes on the time of the last success and
-- on leases, which the queue's jobs must not have.

-- ledger_install_machines: whatever became of an item, it may be marked by hand.
-- "dead" is only left by a reset or a mark.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.ledger_install_machines()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('ledger',
        '{"pending": 1, "claimed": 2, "processed": 3, "failing": 4, "dead": 5}',
        ARRAY['pending -> claimed: claim',
              'pending -> processed: mark',
              'pending -> failing: fail',
              'pending -> dead: fail',
              'claimed -> processed: mark',
              'claimed -> failing: fail',
              'claimed -> dead: fail',
              'claimed -> pending: release',
              'processed -> claimed: claim',
              'processed -> pending: reset',
              'processed -> failing: fail',
              'processed -> dead: fail',
              'failing -> claimed: claim',
              'failing -> processed: mark',
              'failing -> dead: fail',
              'failing -> pending: reset',
              'dead -> processed: mark',
              'dead -> pending: reset'],
        terminal => ARRAY['processed', 'dead']);
    PERFORM jobstate.define_machine('ledger_run',
        '{"running": 1, "succeeded": 2, "failed": 3, "lost": 4}',
        ARRAY['running -> succeeded: end',
              'running -> failed: end',
              'running -> lost: abandoned'],
        terminal => ARRAY['succeeded', 'failed', 'lost']);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_machines()
    IS 'internal: defines the machines "ledger" and "ledger_run"';

-- ledger_install_items: what each processor knows of each item.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.ledger_install_items()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.ledger (
        processor    text COLLATE "C" NOT NULL CHECK (processor <> ''),
        item         text COLLATE "C" NOT NULL,
        state        text NOT NULL DEFAULT 'pending',
        username     text NOT NULL DEFAULT '',
        processed_at timestamptz,
        items        integer NOT NULL DEFAULT 0 CHECK (items >= 0),
        fingerprint  text,
        failures     integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
        error        text,
        retry_at     timestamptz,
        attempt      integer NOT NULL DEFAULT 0,
        claimed_by   text,
        token        uuid,
        lease_until  timestamptz,
        run_id       bigint,
        PRIMARY KEY (processor, item),
        CONSTRAINT ledger_held_check CHECK ((state = 'claimed') = (lease_until IS NOT NULL)
                                             AND (state <> 'claimed' OR token IS NOT NULL)),
        CONSTRAINT ledger_processed_check CHECK (state <> 'processed' OR processed_at IS NOT NULL)
    );
    CREATE INDEX IF NOT EXISTS ledger_processed_at ON jobstate.ledger (processor, processed_at);
    CREATE INDEX IF NOT EXISTS ledger_lease ON jobstate.ledger (lease_until) WHERE lease_until IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_items()
    IS 'internal: creates ledger';

-- ledger_install_runs: settings of processors, which also hold the run lock, and
-- the runs.  No foreign key refers to a processor: the lock is told from the row's
-- own lock, which a key share of others would blur.
-- Writes: ledger_policy.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.ledger_install_runs()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.ledger_processor (
        processor     text COLLATE "C" PRIMARY KEY CHECK (processor <> ''),
        "interval"    interval NOT NULL DEFAULT '900 s' CHECK ("interval" > '0'),
        lease         interval NOT NULL DEFAULT '900 s' CHECK (lease > '0'),
        max_failures  integer NOT NULL DEFAULT 5 CHECK (max_failures > 0),
        cap           integer DEFAULT 50 CHECK (cap > 0),
        budget        interval DEFAULT '150 s' CHECK (budget > '0'),
        run_id        bigint,
        run_token     uuid,
        run_owner     text,
        run_since     timestamptz,
        run_until     timestamptz,
        run_hold      text CHECK (run_hold IN ('lease', 'session', 'transaction')),
        run_pid       integer,
        run_backend   timestamptz
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.ledger_run (
        processor       text COLLATE "C" NOT NULL,
        id              bigint GENERATED BY DEFAULT AS IDENTITY,
        state           text NOT NULL DEFAULT 'running',
        owner           text NOT NULL DEFAULT '',
        token           uuid NOT NULL DEFAULT gen_random_uuid(),
        started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at        timestamptz CHECK ((ended_at IS NULL) = (state = 'running')),
        stop_at         timestamptz,
        cap             integer,
        scanned         bigint NOT NULL DEFAULT 0,
        processed       bigint NOT NULL DEFAULT 0,
        skipped         bigint NOT NULL DEFAULT 0,
        capped          bigint NOT NULL DEFAULT 0,
        errors          bigint NOT NULL DEFAULT 0,
        items_extracted bigint NOT NULL DEFAULT 0,
        errors_detail   jsonb NOT NULL DEFAULT '[]',
        error           text,
        PRIMARY KEY (processor, id)
    );

    CREATE TABLE IF NOT EXISTS jobstate.ledger_outcome (
        processor text COLLATE "C" NOT NULL,
        run_id    bigint NOT NULL,
        id        bigint GENERATED BY DEFAULT AS IDENTITY,
        kind      text NOT NULL
                  CHECK (kind IN ('scanned', 'taken', 'capped', 'processed', 'skipped', 'released', 'error')),
        item      text,
        n         bigint NOT NULL DEFAULT 0,
        error     text,
        at        timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (processor, run_id, id),
        FOREIGN KEY (processor, run_id) REFERENCES jobstate.ledger_run (processor, id)
            ON UPDATE CASCADE ON DELETE CASCADE
    );

    CREATE TABLE IF NOT EXISTS jobstate.ledger_policy (
        kind  text PRIMARY KEY CHECK (kind IN ('run_retention')),
        delay interval NOT NULL CHECK (delay >= interval '0')
    );
    INSERT INTO jobstate.ledger_policy (kind, delay) VALUES ('run_retention', '30 days')
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_runs()
    IS 'internal: creates ledger_processor, ledger_run, ledger_outcome and ledger_policy';

-- ledger_install_comments: says in the database what each table is for.
-- Writes nothing.  Locks: the tables, SHARE UPDATE EXCLUSIVE.
CREATE FUNCTION jobstate.ledger_install_comments()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMENT ON TABLE jobstate.ledger IS 'one row per processor and item: what became of the item there';
    COMMENT ON COLUMN jobstate.ledger.username IS 'whose item it is';
    COMMENT ON COLUMN jobstate.ledger.processed_at IS 'when the item was read for the last success; NULL if there is none';
    COMMENT ON COLUMN jobstate.ledger.items IS 'what the last success extracted';
    COMMENT ON COLUMN jobstate.ledger.fingerprint IS 'of the content that was processed: a hash, or size and time';
    COMMENT ON COLUMN jobstate.ledger.failures IS 'failures since the last success or reset';
    COMMENT ON COLUMN jobstate.ledger.error IS 'the last failure''s message';
    COMMENT ON COLUMN jobstate.ledger.retry_at IS 'a failing item is not offered before; NULL means at once';
    COMMENT ON COLUMN jobstate.ledger.attempt IS 'how often the item was claimed';
    COMMENT ON COLUMN jobstate.ledger.token IS 'of the last claim';
    COMMENT ON COLUMN jobstate.ledger.lease_until IS 'until when the claimer may be silent';
    COMMENT ON COLUMN jobstate.ledger.run_id IS 'the run that claimed the item last';
    COMMENT ON INDEX jobstate.ledger_processed_at IS 'how far a processor is, and what it did lately';
    COMMENT ON INDEX jobstate.ledger_lease IS 'claims by the end of their leases';

    COMMENT ON TABLE jobstate.ledger_processor IS 'settings of a processor, and who runs it now';
    COMMENT ON COLUMN jobstate.ledger_processor."interval" IS 'how often it is to run; health goes by it';
    COMMENT ON COLUMN jobstate.ledger_processor.lease IS 'until when a claim or a run may be silent, where the call does not say';
    COMMENT ON COLUMN jobstate.ledger_processor.max_failures IS 'after so many failures an item is dead';
    COMMENT ON COLUMN jobstate.ledger_processor.cap IS 'how many items a run takes at most; NULL means all';
    COMMENT ON COLUMN jobstate.ledger_processor.budget IS 'how long a run takes items at most; NULL means no limit';
    COMMENT ON COLUMN jobstate.ledger_processor.run_id IS 'the run that holds the processor; NULL if none does';
    COMMENT ON COLUMN jobstate.ledger_processor.run_hold IS 'what ends the hold besides ledger_end_run()';
    COMMENT ON COLUMN jobstate.ledger_processor.run_pid IS 'the backend that began the run';
    COMMENT ON COLUMN jobstate.ledger_processor.run_backend IS 'when that backend started';

    COMMENT ON TABLE jobstate.ledger_run IS 'every run of a processor, also those that died';
    COMMENT ON COLUMN jobstate.ledger_run.stop_at IS 'no item is taken after it; NULL means no limit';
    COMMENT ON COLUMN jobstate.ledger_run.capped IS 'items that were left for the next run';
    COMMENT ON COLUMN jobstate.ledger_run.errors_detail IS 'the first hundred errors: [{"item": ..., "error": ...}]';
    COMMENT ON COLUMN jobstate.ledger_run.error IS 'why the run as a whole failed';

    COMMENT ON TABLE jobstate.ledger_outcome IS 'what happened in a run, appended to; the run''s statistics are its sums';
    COMMENT ON COLUMN jobstate.ledger_outcome.n IS 'items extracted, or how many were scanned, taken or capped';
    COMMENT ON TABLE jobstate.ledger_policy IS 'how long ended runs are kept';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_install_comments()
    IS 'internal: comments on the ledger''s tables';

-- install_ledger: the family's machines and tables, and the kernel on them.
-- Writes: machine, state, transition, attachment, ledger_policy.
-- Locks: ledger and ledger_run against writers while they are attached for the first time.
CREATE FUNCTION jobstate.install_ledger()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.ledger_install_machines();
    PERFORM jobstate.ledger_install_items();
    PERFORM jobstate.ledger_install_runs();
    PERFORM jobstate.ledger_install_comments();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.ledger'::regclass) THEN
        PERFORM jobstate.attach('jobstate.ledger', 'ledger', 'state', '{processor}');
    END IF;
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.ledger_run'::regclass) THEN
        PERFORM jobstate.attach('jobstate.ledger_run', 'ledger_run', 'state', '{processor}');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_ledger()
    IS 'internal: what install(''ledger'') runs';
-- ledger: claiming -----------------------------------------------------------------
--
-- A claim is a row that others can see, so it is committed before the work begins.
-- The mark carries its token and goes with the results: either both are there, or
-- neither, and the item is offered again once the lease has ended.

-- ledger_expire: a claim whose lease has ended is a failure, so that an item that
-- kills its workers ends dead.  Tells how many claims had ended.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_expire(processor text DEFAULT NULL, items text[] DEFAULT NULL, n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ended record;
    expired bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    FOR ended IN
        SELECT l.processor, l.item, l.run_id FROM jobstate.ledger l
         WHERE l.lease_until <= clock_timestamp()
           AND ($1 IS NULL OR l.processor = $1) AND ($2 IS NULL OR l.item = ANY ($2))
         ORDER BY l.processor, l.item LIMIT $3
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        UPDATE jobstate.ledger l
           SET state = CASE WHEN l.failures + 1 >= jobstate.ledger_max_failures(l.processor)
                            THEN 'dead' ELSE 'failing' END,
               failures = l.failures + 1, error = 'the lease ended', retry_at = NULL, lease_until = NULL
         WHERE l.processor = ended.processor AND l.item = ended.item;
        PERFORM jobstate.ledger_record(ended.processor, ended.run_id, 'error', ended.item, 0, 'the lease ended');
        expired := expired + 1;
    END LOOP;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_expire(text, text[], integer)
    IS 'internal: counts claims whose lease has ended as failures, and tells how many';

-- ledger_claim_rows: claims those candidates that can be had, and returns their
-- items.  What another transaction has locked is passed over; only one that is
-- inserting the first row of an item is waited for.  (So rows that are there are kept
-- out of the insert: it would wait for whoever is writing a newer version of one.)  Rows that were there are judged
-- again once they are locked, because somebody may have marked them meanwhile.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows.
CREATE FUNCTION jobstate.ledger_claim_rows(processor text, items text[], modified_at timestamptz[],
    fingerprints text[], rule text, worker text, token uuid, lease_until timestamptz, run_id bigint)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fresh text[];
    locked text[];
    again text[];
BEGIN
    WITH born AS (
        INSERT INTO jobstate.ledger (processor, item, state, attempt, claimed_by, token, lease_until, run_id)
        SELECT $1, i, 'claimed', 1, $6, $7, $8, $9 FROM unnest($2) i
         WHERE NOT EXISTS (SELECT FROM jobstate.ledger l WHERE l.processor = (SELECT $1) AND l.item = i)
         ORDER BY i COLLATE "C"
            ON CONFLICT DO NOTHING RETURNING item)
    SELECT coalesce(array_agg(b.item), '{}') INTO fresh FROM born b;
    PERFORM jobstate.ledger_expire($1, $2);
    locked := ARRAY(SELECT l.item FROM jobstate.ledger l
                     WHERE l.processor = (SELECT $1) AND l.item = ANY ($2) AND l.item <> ALL (fresh)
                     ORDER BY l.item FOR NO KEY UPDATE SKIP LOCKED);
    WITH taken AS (
        UPDATE jobstate.ledger l
           SET state = 'claimed', attempt = l.attempt + 1, claimed_by = $6, token = $7,
               lease_until = $8, run_id = $9
         WHERE l.processor = (SELECT $1)
           AND l.item IN (SELECT u.item FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
                           WHERE u.item = ANY (locked))
        RETURNING l.item)
    SELECT coalesce(array_agg(t.item), '{}') INTO again FROM taken t;
    RETURN fresh || again;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_claim_rows(text, text[], timestamptz[], text[], text, text, uuid, timestamptz, bigint)
    IS 'internal: claims candidates, and returns those that it got';

-- ledger_allowance: how many items may still be taken: NULL is any number.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_allowance(processor text, n integer, run_id bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run record;
    used bigint;
BEGIN
    IF $3 IS NULL THEN
        SELECT p.cap INTO run FROM jobstate.ledger_processor p WHERE p.processor = $1;
        RETURN CASE WHEN n > 0 THEN n WHEN n IS NOT NULL THEN NULL WHEN FOUND THEN run.cap ELSE 50 END;
    END IF;
    SELECT r.cap, r.stop_at INTO run FROM jobstate.ledger_run r WHERE r.processor = $1 AND r.id = $3;
    SELECT coalesce(sum(CASE o.kind WHEN 'taken' THEN o.n ELSE -1 END), 0) INTO used
      FROM jobstate.ledger_outcome o
     WHERE o.processor = $1 AND o.run_id = $3 AND o.kind IN ('taken', 'skipped', 'released');
    RETURN CASE WHEN run.stop_at <= clock_timestamp() THEN 0
                ELSE least(CASE WHEN n > 0 THEN n END,
                           CASE WHEN run.cap IS NOT NULL THEN greatest(run.cap - used, 0) END) END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_allowance(text, integer, bigint)
    IS 'internal: how many items a call may take, by its own limit and the run''s cap and time';

-- ledger_take: claims candidates that are to be processed, in their order, as many as
-- cap and time allow.  A run looks at an item once.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, with SKIP LOCKED; with a
-- run first the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_take(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', n integer DEFAULT NULL, worker text DEFAULT '',
    lease interval DEFAULT NULL, run uuid DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, token uuid, attempt integer, read_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    until CONSTANT timestamptz := at + jobstate.ledger_lease($1, $8);
    secret CONSTANT uuid := gen_random_uuid();
    in_run bigint;
    allowed bigint;
    looked integer := 0;
    upto integer;
    found_items text[];
    nths bigint[];
    times timestamptz[];
    prints text[];
    got text[] := '{}';
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    PERFORM jobstate.require_argument('worker', worker);
    IF run IS NOT NULL THEN
        in_run := jobstate.ledger_require_run($1, run);
    END IF;
    allowed := jobstate.ledger_allowance($1, n, in_run);
    SELECT array_agg(u.item), array_agg(u.nth), array_agg(u.modified), array_agg(u.given_fingerprint)
      INTO found_items, nths, times, prints
      FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
     WHERE in_run IS NULL
        OR NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor = (SELECT $1) AND l.item = u.item AND l.run_id = in_run);
    WHILE looked < cardinality(found_items) AND (allowed IS NULL OR cardinality(got) < allowed) LOOP
        upto := least(looked + coalesce(allowed - cardinality(got), 1000), cardinality(found_items));
        got := got || jobstate.ledger_claim_rows($1, found_items[looked + 1:upto],
                          CASE WHEN $3 IS NOT NULL THEN times[looked + 1:upto] END,
                          CASE WHEN $4 IS NOT NULL THEN prints[looked + 1:upto] END,
                          $5, worker, secret, until, in_run);
        looked := upto;
    END LOOP;
    PERFORM jobstate.ledger_record($1, in_run, 'scanned', NULL, cardinality($2)),
            jobstate.ledger_record($1, in_run, 'taken', NULL, cardinality(got)),
            jobstate.ledger_record($1, in_run, 'capped', NULL, coalesce(cardinality(found_items), 0) - looked);
    RETURN QUERY
        SELECT l.item, min(c.nth), secret, l.attempt, at, until
          FROM unnest(found_items[:looked], nths[:looked]) c (item, nth)
          JOIN jobstate.ledger l ON l.processor = (SELECT $1) AND l.item = c.item AND l.token = secret
         GROUP BY l.item, l.attempt ORDER BY 2;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_take(text, text[], timestamptz[], text[], text, integer, text, interval, uuid)
    IS 'claims candidates that are to be processed: their items, the claim''s token, and read_at, from before they can be read';

-- ledger_claim: claims one item, unless it is held, dead, not due, or processed as it is.
-- Writes and locks as ledger_take() does.
CREATE FUNCTION jobstate.ledger_claim(processor text, item text, fingerprint text DEFAULT NULL,
    modified_at timestamptz DEFAULT NULL, worker text DEFAULT '', lease interval DEFAULT NULL,
    run uuid DEFAULT NULL)
RETURNS TABLE (token uuid, attempt integer, read_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('item', $2);
    RETURN QUERY
        SELECT t.token, t.attempt, t.read_at, t.lease_until
          FROM jobstate.ledger_take($1, ARRAY[$2], ARRAY[$4], ARRAY[$3], 'fingerprint', 1, worker, lease, run) t;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_claim(text, text, text, timestamptz, text, interval, uuid)
    IS 'claims an item: the token that its mark has to carry; no row if it is held, dead, not due, or processed as it is';

-- ledger_heartbeat: the claimer is still at it.  All of the items, or none.
-- Writes: ledger.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_heartbeat(processor text, items text[], token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $4);
    held text[];
    lost text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    PERFORM jobstate.require_argument('token', $3);
    held := ARRAY(SELECT l.item FROM jobstate.ledger l
                   WHERE l.processor = $1 AND l.item = ANY ($2) AND l.token = $3 AND l.state = 'claimed'
                   ORDER BY l.item FOR NO KEY UPDATE);
    SELECT min(i COLLATE "C") INTO lost FROM unnest($2) i WHERE i <> ALL (held);
    IF lost IS NOT NULL THEN
        PERFORM jobstate.ledger_refuse($1, lost);
    END IF;
    UPDATE jobstate.ledger l SET lease_until = until WHERE l.processor = $1 AND l.item = ANY (held);
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_heartbeat(text, text[], uuid, interval)
    IS 'extends the lease on claimed items, and tells until when; raises JS001 or JS002 if one is not the token''s';

-- ledger_release: gives a claimed item back that was not processed: it is as it was
-- before.  Skipped means that its content is that which was processed; then it is
-- no longer failing either.
-- Writes: ledger, ledger_outcome.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_release(processor text, item text, token uuid, skipped boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    becomes text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('token', $3);
    PERFORM jobstate.require_argument('skipped', $4);
    SELECT l.run_id, CASE WHEN l.processed_at IS NOT NULL AND (skipped OR l.failures = 0) THEN 'processed'
                          WHEN l.failures > 0 THEN 'failing' ELSE 'pending' END
      INTO run, becomes FROM jobstate.ledger l
     WHERE l.processor = $1 AND l.item = $2 AND l.token = $3 AND l.state = 'claimed'
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_refuse($1, $2, $3);
    END IF;
    UPDATE jobstate.ledger l
       SET state = becomes, lease_until = NULL, token = NULL,
           failures = CASE becomes WHEN 'failing' THEN l.failures ELSE 0 END,
           error = CASE becomes WHEN 'failing' THEN l.error END,
           run_id = CASE WHEN skipped THEN l.run_id END
     WHERE l.processor = $1 AND l.item = $2;
    PERFORM jobstate.ledger_record($1, run, CASE WHEN skipped THEN 'skipped' ELSE 'released' END, $2, 0);
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_release(text, text, uuid, boolean)
    IS 'gives a claimed item back unprocessed, or skipped because its content was processed before; returns its state';
-- ledger: failures, dead letters, and starting over ------------------------------------

-- ledger_fail_claimed: the failure of whoever claimed the item; NULL if the token is
-- not that of the item's claim.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_fail_claimed(processor text, item text, error text, token uuid,
    retry_at timestamptz, OUT state text, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    max_failures CONSTANT integer := jobstate.ledger_max_failures($1);
BEGIN
    UPDATE jobstate.ledger l
       SET state = CASE WHEN l.failures + 1 >= max_failures THEN 'dead' ELSE 'failing' END,
           failures = l.failures + 1, error = $3, retry_at = $5, lease_until = NULL
     WHERE l.processor = $1 AND l.item = $2 AND l.token = $4 AND l.state = 'claimed'
    RETURNING l.state, l.run_id INTO ledger_fail_claimed.state, ledger_fail_claimed.run_id;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail_claimed(text, text, text, uuid, timestamptz)
    IS 'internal: counts a failure of an item that the token claimed';

-- ledger_fail_freely: the failure of somebody who has not claimed the item; NULL if
-- somebody else has.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_fail_freely(processor text, item text, error text, retry_at timestamptz)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    max_failures CONSTANT integer := jobstate.ledger_max_failures($1);
    becomes text;
BEGIN
    INSERT INTO jobstate.ledger AS l (processor, item, state, failures, error, retry_at)
    VALUES ($1, $2, CASE WHEN max_failures = 1 THEN 'dead' ELSE 'failing' END, 1, $3, $4)
        ON CONFLICT (processor, item) DO UPDATE
       SET state = CASE WHEN l.failures + 1 >= max_failures OR l.state = 'dead' THEN 'dead' ELSE 'failing' END,
           failures = l.failures + 1, error = excluded.error, retry_at = excluded.retry_at,
           token = NULL, lease_until = NULL
     WHERE l.state <> 'claimed' OR l.lease_until <= clock_timestamp()
    RETURNING l.state INTO becomes;
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail_freely(text, text, text, timestamptz)
    IS 'internal: counts a failure of an item that nobody holds';

-- ledger_fail: an item could not be processed.  It is offered again, at once or
-- later, until it has failed as often as its processor's max_failures says; then it
-- is dead.  Called in a transaction of its own, because that of the work is over.
-- Writes: ledger, ledger_outcome.  Locks: as ledger_mark().
CREATE FUNCTION jobstate.ledger_fail(processor text, item text, error text, token uuid DEFAULT NULL,
    retry_after interval DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    retry_at CONSTANT timestamptz := clock_timestamp() + retry_after;
    becomes text;
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('error', $3);
    IF token IS NOT NULL THEN
        SELECT f.state, f.run_id INTO becomes, run
          FROM jobstate.ledger_fail_claimed($1, $2, $3, $4, retry_at) f;
        IF becomes IS NULL THEN
            run := jobstate.ledger_run_of($1, token);
        END IF;
    END IF;
    IF becomes IS NULL AND (token IS NULL OR run IS NOT NULL) THEN
        becomes := jobstate.ledger_fail_freely($1, $2, $3, retry_at);
    END IF;
    IF becomes IS NULL THEN
        PERFORM jobstate.ledger_refuse($1, $2, token);
    END IF;
    PERFORM jobstate.ledger_record($1, run, 'error', $2, 0, $3);
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail(text, text, text, uuid, interval)
    IS 'an item failed: "failing" if it is offered again, after retry_after if that is given, "dead" if it failed too often; raises JS001 or JS002';

-- ledger_reset: items are to be processed again, whatever became of them: all of a
-- processor, or some, or those in some states.  Who holds one of them loses it.
-- Writes: ledger.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_reset(processor text, items text[] DEFAULT NULL, states text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    WITH locked AS (
        SELECT l.item FROM jobstate.ledger l
         WHERE l.processor = (SELECT $1) AND ($2 IS NULL OR l.item = ANY ($2)) AND ($3 IS NULL OR l.state = ANY ($3))
           AND l.state <> 'pending'
         ORDER BY l.item FOR NO KEY UPDATE)
    UPDATE jobstate.ledger l
       SET state = 'pending', processed_at = NULL, items = 0, fingerprint = NULL, failures = 0, error = NULL,
           retry_at = NULL, token = NULL, lease_until = NULL, run_id = NULL
      FROM locked k
     WHERE l.processor = (SELECT $1) AND l.item = k.item;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_reset(text, text[], text[])
    IS 'has items processed again, dead ones too: of a processor all, some, or those in some states; tells how many';

-- ledger_forget: the ledger knows nothing of these processors' items any more.
-- Writes: ledger.  Locks: the items' rows.
CREATE FUNCTION jobstate.ledger_forget(processors text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processors', processors);
    DELETE FROM jobstate.ledger l WHERE l.processor = ANY (processors);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_forget(text[])
    IS 'deletes all items of these processors from the ledger, and tells how many there were';

-- ledger_retain: forgets the items that are no longer there; what is claimed stays
-- until its claim has ended.  Where none is named nothing is forgotten: a directory that
-- is not mounted looks the same as one that is empty.
-- Writes: ledger.  Locks: the items' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_retain(processor text, items text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    IF array_remove($2, NULL) = '{}' THEN
        RETURN 0;
    END IF;
    DELETE FROM jobstate.ledger d
     WHERE d.processor = (SELECT $1)
       AND d.item IN (SELECT l.item FROM jobstate.ledger l
                       WHERE l.processor = (SELECT $1) AND l.state <> 'claimed'
                         AND NOT EXISTS (SELECT FROM unnest($2) i WHERE i = l.item)
                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_retain(text, text[])
    IS 'deletes the items of a processor that are not among these from the ledger, and tells how many; none if none is named';

-- ledger_rename: an item has another name now, and need not be processed for it.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_rename(processor text, item text, new_item text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('new_item', $3);
    UPDATE jobstate.ledger l SET item = $3
     WHERE l.processor = $1 AND l.item = $2 AND l.state <> 'claimed'
       AND NOT EXISTS (SELECT FROM jobstate.ledger o WHERE o.processor = $1 AND o.item = $3);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_rename(text, text, text)
    IS 'an item goes by another name; false if it is not there, is claimed, or there is one of that name';
-- ledger: health --------------------------------------------------------------------

-- ledger_stuck: the oldest of the items that are to be processed and have not been
-- since before some time.  A row counts under the item's name and, with a root,
-- under its absolute one.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_stuck(processor text, items text[], modified_at timestamptz[], root text,
    before timestamptz, OUT item text, OUT modified timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    SELECT c.item, c.modified_at INTO item, modified
      FROM unnest($2, $3) c (item, modified_at)
     WHERE c.modified_at < $5
       AND NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor = (SELECT $1) AND l.item = c.item
                          AND (l.state = 'dead' OR l.processed_at > c.modified_at))
       AND ($4 IS NULL
            OR NOT EXISTS (SELECT FROM jobstate.ledger l
                            WHERE l.processor = (SELECT $1) AND l.item = rtrim($4, '/') || '/' || c.item
                              AND (l.state = 'dead' OR l.processed_at > c.modified_at)))
     ORDER BY c.modified_at, c.item COLLATE "C" LIMIT 1;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_stuck(text, text[], timestamptz[], text, timestamptz)
    IS 'internal: the oldest item that waits since before some time';

-- ledger_health: is a processor keeping up with its items?  The caller tells what
-- items there are; null says that it could not find out.
--   ok       it keeps up, or there is no item; before its first success it is behind
--            or well by the newest item alone
--   warning  the newest item is newer than the last success by more than grace
--   info     it keeps up, but has passed an item over for longer than stuck_grace,
--            or items are dead
--   unknown  nobody knows what items there are
-- grace is twice the processor's interval, stuck_grace four times grace, where
-- they are not given or not above zero.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_health(processor text, items text[], modified_at timestamptz[],
    root text DEFAULT NULL, grace interval DEFAULT NULL, stuck_grace interval DEFAULT NULL,
    OUT status text, OUT headline text, OUT lag_seconds bigint, OUT stuck_file text,
    OUT stuck_file_age_seconds bigint, OUT max_processed_at timestamptz, OUT failing bigint,
    OUT dead bigint, OUT claimed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    patience CONSTANT interval := jobstate.ledger_grace($1, $5);
    long CONSTANT interval := CASE WHEN $6 > interval '0' THEN $6 ELSE 4 * patience END;
    newest timestamptz;
    stuck_since timestamptz;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    max_processed_at := jobstate.ledger_max_processed_at($1);
    SELECT coalesce(sum(c.n) FILTER (WHERE c.state = 'failing'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'dead'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'claimed'), 0)
      INTO failing, dead, claimed
      FROM jobstate.counts('jobstate.ledger', jsonb_build_object('processor', $1)) c;
    SELECT max(m) INTO newest FROM unnest($3) m;
    IF $2 IS NULL OR cardinality($2) > 0 AND newest IS NULL THEN
        status := 'unknown';
        headline := 'nobody knows what there is to do';
        RETURN;
    END IF;
    PERFORM jobstate.ledger_check_candidates($1, $2, coalesce($3, '{}'), NULL, 'head');
    status := CASE WHEN newest - coalesce(max_processed_at, newest) > patience
                     OR max_processed_at IS NULL AND now - newest > patience THEN 'warning' ELSE 'ok' END;
    headline := CASE status WHEN 'warning' THEN 'the processor is behind' ELSE 'the processor keeps up' END;
    IF status = 'warning' THEN
        lag_seconds := extract(epoch FROM newest - max_processed_at);
        RETURN;
    ELSIF newest IS NULL OR max_processed_at IS NULL THEN
        RETURN;
    END IF;
    SELECT s.item, s.modified INTO stuck_file, stuck_since
      FROM jobstate.ledger_stuck($1, $2, $3, $4, now - long) s;
    stuck_file_age_seconds := extract(epoch FROM now - stuck_since);
    status := CASE WHEN stuck_file IS NOT NULL OR dead > 0 THEN 'info' ELSE 'ok' END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_health(text, text[], timestamptz[], text, interval, interval)
    IS 'whether a processor keeps up with these items: ok, warning, info or unknown, with its lag and the item that waits longest';

-- ledger_grace: how far a processor may be behind.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_grace(processor text, grace interval)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF grace > interval '0' THEN
        RETURN grace;
    END IF;
    RETURN 2 * coalesce((SELECT p."interval" FROM jobstate.ledger_processor p
                          WHERE p.processor = ledger_grace.processor), interval '900 s');
END
$$;
COMMENT ON FUNCTION jobstate.ledger_grace(text, interval)
    IS 'internal: the grace that a call gives, or twice the processor''s interval';
-- ledger: marking ------------------------------------------------------------------

-- ledger_record: a line in the records of a run, if there is one.
-- Writes: ledger_outcome.  Locks: the run's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_record(processor text, run_id bigint, kind text, item text, n bigint,
    error text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF run_id IS NOT NULL THEN
        INSERT INTO jobstate.ledger_outcome (processor, run_id, kind, item, n, error)
        VALUES (processor, run_id, kind, item, n, error);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_record(text, bigint, text, text, bigint, text)
    IS 'internal: notes what happened to an item in a run';

-- ledger_run_of: the run that a token stands for, if that still holds its processor;
-- nobody can take the processor over until this transaction ends.
-- Writes nothing.  Locks: the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_run_of(processor text, token uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
BEGIN
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor = ledger_run_of.processor AND p.run_token = token
       FOR KEY SHARE;
    RETURN run;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_of(text, uuid)
    IS 'internal: the run of a processor that a token stands for; NULL if it does not hold it';

-- ledger_is_processed: whether this very content was processed.  A content without
-- a fingerprint never was.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_is_processed(processor text, item text, fingerprint text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    RETURN EXISTS (SELECT FROM jobstate.ledger l
                    WHERE l.processor = $1 AND l.item = $2 AND l.fingerprint = $3
                      AND l.processed_at IS NOT NULL);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_is_processed(text, text, text)
    IS 'true if the item was processed with this fingerprint; a null on either side is not';

-- ledger_mark_claimed: the mark of whoever claimed the item.  Says in which run
-- that was, and when the item was read; nothing if the token is not that of the
-- item's claim.  A repeated call changes nothing, and says when the first one did.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_mark_claimed(processor text, item text, username text, items integer,
    fingerprint text, at timestamptz, token uuid, OUT marked_at timestamptz, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.ledger l
       SET state = 'processed', username = $3, items = $4, fingerprint = $5, processed_at = $6,
           failures = 0, error = NULL, retry_at = NULL, lease_until = NULL
     WHERE l.processor = $1 AND l.item = $2 AND l.token = $7 AND l.state = 'claimed'
    RETURNING l.processed_at, l.run_id INTO marked_at, run_id;
    IF NOT FOUND THEN
        SELECT l.processed_at INTO marked_at FROM jobstate.ledger l
         WHERE l.processor = $1 AND l.item = $2 AND l.token = $7 AND l.state = 'processed';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark_claimed(text, text, text, integer, text, timestamptz, uuid)
    IS 'internal: marks an item that the token claimed';

-- ledger_mark_freely: the mark of somebody who has not claimed the item.  Not done
-- if somebody else has.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_mark_freely(processor text, item text, username text, items integer,
    fingerprint text, at timestamptz)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO jobstate.ledger AS l (processor, item, state, username, items, fingerprint, processed_at)
    VALUES ($1, $2, 'processed', $3, $4, $5, $6)
        ON CONFLICT (processor, item) DO UPDATE
       SET state = excluded.state, username = excluded.username, items = excluded.items,
           fingerprint = excluded.fingerprint, processed_at = excluded.processed_at,
           failures = 0, error = NULL, retry_at = NULL, token = NULL, lease_until = NULL
     WHERE l.state <> 'claimed' OR l.lease_until <= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark_freely(text, text, text, integer, text, timestamptz)
    IS 'internal: marks an item that nobody holds';

-- ledger_mark: an item is processed, as of when it was read.  In the transaction
-- that writes the results, what was processed is exactly what has results.  The
-- token is that of the item's claim or of the processor's run.
-- Writes: ledger, ledger_outcome.  Locks: the item's row; with a run's token first
-- the processor's, KEY SHARE.
CREATE FUNCTION jobstate.ledger_mark(processor text, item text, username text DEFAULT '',
    items integer DEFAULT 0, fingerprint text DEFAULT NULL, read_at timestamptz DEFAULT NULL,
    token uuid DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := coalesce(read_at, clock_timestamp());
    marked timestamptz;
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('username', $3);
    PERFORM jobstate.require_argument('items', $4);
    IF NOT isfinite(at) THEN
        RAISE EXCEPTION 'argument "read_at" must be finite' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF token IS NOT NULL THEN
        SELECT m.marked_at, m.run_id INTO marked, run
          FROM jobstate.ledger_mark_claimed($1, $2, $3, $4, $5, at, token) m;
        IF marked IS NULL THEN
            run := jobstate.ledger_run_of($1, token);
        END IF;
    END IF;
    IF marked IS NULL AND (token IS NULL OR run IS NOT NULL)
       AND jobstate.ledger_mark_freely($1, $2, $3, $4, $5, at) THEN
        marked := at;
    END IF;
    IF marked IS NULL THEN
        PERFORM jobstate.ledger_refuse($1, $2, token);
    END IF;
    PERFORM jobstate.ledger_record($1, run, 'processed', $2, $4);
    RETURN marked;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark(text, text, text, integer, text, timestamptz, uuid)
    IS 'an item is processed as of read_at, which is returned and overwrites what an earlier mark said; raises JS001 or JS002 where the token does not hold it';
-- ledger: runs ---------------------------------------------------------------------
--
-- One run of a processor at a time.  The lock is the processor's row: it says who
-- runs it and until when, so it outlives the session that wrote it and works behind
-- a pooler.  What ends it besides ledger_end_run() is for the run to say:
--   lease        the end of the lease; nothing else can be known behind a pooler
--   session      that, or the end of the backend that began the run
--   transaction  the end of the transaction that called ledger_hold_run()
-- Whoever finds a run that has ended so writes it down as lost.
--
-- Whoever takes the row over has it FOR UPDATE; a mark under a run's token has it
-- KEY SHARE, and a run that holds it with its transaction NO KEY UPDATE.  So nobody
-- takes over while one of these is under way, and these do not hinder each other.

-- ledger_run_busy: says who runs the processor.  A transaction that began a run and
-- has not committed yet is known by its lock only; so is one that takes the processor
-- over from a run that is over, which the row still tells of.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_busy(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    told text;
    by_run boolean;
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT p.*, k.pid, a.application_name AS session, a.xact_start INTO held
      FROM jobstate.ledger_processor p
           LEFT JOIN pg_locks k ON k.locktype = 'transactionid' AND k.transactionid = p.xmax
                               AND k.mode = 'ExclusiveLock' AND k.granted
           LEFT JOIN pg_stat_activity a ON a.pid = k.pid
     WHERE p.processor = $1;
    by_run := held.run_id IS NOT NULL
        AND (NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
             OR held.run_hold = 'transaction' AND held.run_until > clock_timestamp()
                AND coalesce(held.pid = held.run_pid, true));
    told := CASE WHEN by_run
                 THEN format('Run %s of "%s", backend %s, holds it since %s, by its %s, until %s.', held.run_id,
                             held.run_owner, held.run_pid, held.run_since, held.run_hold, held.run_until)
                 WHEN held.pid IS NOT NULL
                 THEN format('Backend %s (%s) has it in a transaction that is open since %s.', held.pid,
                             coalesce(held.session, 'of another session'), coalesce(held.xact_start::text, 'an unknown time'))
                 ELSE 'A transaction that has not ended yet has it.' END;
    RAISE EXCEPTION 'processor "%" is already running', $1
        USING ERRCODE = 'lock_not_available', DETAIL = told,
              HINT = 'Try again later; a run that died is free when its hold has ended.';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_busy(text)
    IS 'internal: raises 55P03 with who runs a processor, and since when';

-- ledger_require_run: the run that a token stands for.
-- Writes nothing.  Locks: the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_require_run(processor text, token uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('token', token);
    run := jobstate.ledger_run_of(processor, token);
    IF run IS NULL THEN
        PERFORM jobstate.ledger_refuse_run(processor);
    END IF;
    RETURN run;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_require_run(text, uuid)
    IS 'internal: the run that a token stands for; raises JS001 if that holds its processor no longer';

-- ledger_run_over: true if the run that a processor's row tells of has ended without
-- saying so.  The caller has the row locked, so no transaction holds it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_over(run_hold text, run_until timestamptz, run_pid integer,
    run_backend timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT run_until <= clock_timestamp() OR run_hold = 'transaction'
        OR run_hold = 'session' AND jobstate.ledger_backend_gone(run_pid, run_backend)
$$;
COMMENT ON FUNCTION jobstate.ledger_run_over(text, timestamptz, integer, timestamptz)
    IS 'internal: true if a run''s hold on its processor has ended';

-- ledger_run_sums: the figures of a run, from what was noted in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_sums(processor text, run_id bigint)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT jsonb_build_object(
                   'scanned', coalesce(max(o.n) FILTER (WHERE o.kind = 'scanned'), 0),
                   'processed', count(*) FILTER (WHERE o.kind = 'processed'),
                   'skipped', count(*) FILTER (WHERE o.kind = 'skipped'),
                   'capped', coalesce((array_agg(o.n ORDER BY o.id DESC) FILTER (WHERE o.kind = 'capped'))[1], 0),
                   'errors', count(*) FILTER (WHERE o.kind = 'error'),
                   'items_extracted', coalesce(sum(o.n) FILTER (WHERE o.kind = 'processed'), 0),
                   'errors_detail', coalesce(jsonb_path_query_array(
                       jsonb_agg(jsonb_build_object('item', o.item, 'error', o.error) ORDER BY o.id)
                           FILTER (WHERE o.kind = 'error'), '$[0 to 99]'), '[]'))
          FROM jobstate.ledger_outcome o
         WHERE o.processor = $1 AND o.run_id = $2);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_sums(text, bigint)
    IS 'internal: the figures of a run';

-- ledger_end_claims: claims made in a run end with it.  Those of a run that was lost
-- are failures, like those whose lease has ended; others are given back.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_end_claims(processor text, run_id bigint, lost boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT l.item, l.token FROM jobstate.ledger l
         WHERE l.lease_until IS NOT NULL AND l.processor = $1 AND l.run_id = $2 AND l.state = 'claimed'
         ORDER BY l.item FOR NO KEY UPDATE
    LOOP
        IF lost THEN
            PERFORM jobstate.ledger_fail($1, held.item, 'the run was lost', held.token);
        ELSE
            PERFORM jobstate.ledger_release($1, held.item, held.token);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_end_claims(text, bigint, boolean)
    IS 'internal: ends the claims of a run that ends';

-- ledger_close_run: writes down how a run ended.  What the caller knows better
-- replaces the figures that were noted.
-- Writes: ledger_run, ledger_processor, ledger, ledger_outcome.  Locks: the run's row
-- and the items' that it still holds.
CREATE FUNCTION jobstate.ledger_close_run(processor text, run_id bigint, lost boolean, error text,
    stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    becomes text;
BEGIN
    PERFORM jobstate.ledger_end_claims($1, $2, $3);
    UPDATE jobstate.ledger_run r
       SET (scanned, processed, skipped, capped, errors, items_extracted, errors_detail) =
           (n.scanned, n.processed, n.skipped, n.capped, n.errors, n.items_extracted, n.errors_detail),
           error = $4, ended_at = clock_timestamp(),
           state = CASE WHEN $3 THEN 'lost' WHEN $4 IS NULL AND n.errors = 0 THEN 'succeeded' ELSE 'failed' END
      FROM jsonb_populate_record(NULL::jobstate.ledger_run, jobstate.ledger_run_sums($1, $2) || $5) n
     WHERE r.processor = $1 AND r.id = $2 AND r.state = 'running'
    RETURNING r.state INTO becomes;
    UPDATE jobstate.ledger_processor p
       SET run_id = NULL, run_token = NULL, run_owner = NULL, run_since = NULL, run_until = NULL,
           run_hold = NULL, run_pid = NULL, run_backend = NULL
     WHERE p.processor = $1 AND p.run_id = $2;
    RETURN becomes = 'succeeded';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_close_run(text, bigint, boolean, text, jsonb)
    IS 'internal: ends a run in the records, frees its processor, and tells whether it went well';

-- ledger_begin_run: makes the caller the one who runs a processor, or says at once
-- who is.  Commit it before the work begins: then the run is in the records whatever
-- becomes of it.
-- Writes: ledger_processor, ledger_run.  Locks: the processor's row, which it never
-- waits for.
CREATE FUNCTION jobstate.ledger_begin_run(processor text, owner text DEFAULT '', lease interval DEFAULT NULL,
    hold text DEFAULT 'lease', OUT run_id bigint, OUT token uuid, OUT lease_until timestamptz,
    OUT stop_at timestamptz, OUT cap integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    held jobstate.ledger_processor;
BEGIN
    PERFORM jobstate.ledger_check_run($1, $2, $4);
    SELECT p.* INTO held FROM jobstate.ledger_processor p WHERE p.processor = $1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_processor($1);
        PERFORM jobstate.ledger_run_busy($1);
    END IF;
    IF held.run_id IS NOT NULL THEN
        -- a run that this very transaction began is held by it, and its lock stops others only
        IF NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
           OR held.run_hold = 'transaction' AND held.run_pid = pg_backend_pid() AND held.run_since >= now() THEN
            PERFORM jobstate.ledger_run_busy($1);
        END IF;
        PERFORM jobstate.ledger_close_run($1, held.run_id, true, 'the run ended without saying so');
    END IF;
    INSERT INTO jobstate.ledger_run AS r (processor, owner, started_at, stop_at, cap)
    VALUES ($1, $2, at, at + held.budget, held.cap)
    RETURNING r.id, r.token, r.stop_at, r.cap INTO run_id, token, stop_at, cap;
    UPDATE jobstate.ledger_processor p
       SET run_id = ledger_begin_run.run_id, run_token = ledger_begin_run.token, run_owner = $2, run_since = at,
           run_until = at + jobstate.ledger_lease($1, $3), run_hold = $4, run_pid = pg_backend_pid(),
           run_backend = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
     WHERE p.processor = $1
    RETURNING p.run_until INTO lease_until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_begin_run(text, text, interval, text)
    IS 'begins a run of a processor: its token, its cap and until when it may take items; raises 55P03 with who runs it if somebody does';

-- ledger_check_run: refuses a run without an owner, or held by nothing.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_run(processor text, owner text, hold text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_argument('hold', hold);
    IF hold NOT IN ('lease', 'session', 'transaction') THEN
        RAISE EXCEPTION 'a run cannot be held by "%"', hold
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It is held by its lease, its session or its transaction.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_run(text, text, text)
    IS 'internal: raises 22004 or 22023 for arguments of ledger_begin_run()';

-- ledger_require_processor: refuses a processor that was never defined.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_require_processor(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.ledger_processor p WHERE p.processor = $1) THEN
        RAISE EXCEPTION 'processor "%" does not exist', $1
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Make it with jobstate.ledger_define().';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_require_processor(text)
    IS 'internal: raises 22023 if there is no such processor';

-- ledger_hold_run: the transaction that calls it holds the run, for as long as it is
-- open: nobody takes the processor over meanwhile, whatever the lease says.
-- Writes nothing.  Locks: the processor's row, NO KEY UPDATE.
CREATE FUNCTION jobstate.ledger_hold_run(processor text, token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM FROM jobstate.ledger_processor p
      WHERE p.processor = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_hold_run(text, uuid)
    IS 'holds a run with this transaction until it ends; raises JS001 if the run is lost';

-- ledger_heartbeat_run: the run is still at it.
-- Writes: ledger_processor.  Locks: the processor's row.
CREATE FUNCTION jobstate.ledger_heartbeat_run(processor text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $3);
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    UPDATE jobstate.ledger_processor p SET run_until = until WHERE p.processor = $1 AND p.run_token = $2;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_heartbeat_run(text, uuid, interval)
    IS 'extends the lease of a run, and tells until when; raises JS001 if the run is lost';

-- ledger_check_stats: refuses figures that a run does not have.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_stats(stats jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{scanned,processed,skipped,capped,errors,items_extracted,errors_detail}';
    unknown text;
BEGIN
    PERFORM jobstate.require_argument('stats', stats);
    SELECT min(s.key) INTO unknown FROM jsonb_each(stats) s
     WHERE s.key <> ALL (known)
        OR CASE s.key WHEN 'errors_detail' THEN jsonb_typeof(s.value) <> 'array'
                      ELSE s.value::text !~ '^\d{1,18}$' END;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'figure "%" of a run is not valid', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Figures are whole numbers, errors_detail an array: %s.', array_to_string(known, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_stats(jsonb)
    IS 'internal: raises 22004 or 22023 for figures that a run does not have';

-- ledger_end_run: the run has ended, well if it had no error.  Figures that are
-- given replace those that were noted in the run.  A repeated call changes nothing.
-- Writes: ledger_run, ledger_processor.  Locks: the processor's row and the run's.
CREATE FUNCTION jobstate.ledger_end_run(processor text, token uuid, error text DEFAULT NULL, stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    ended text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.ledger_check_stats($4);
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF FOUND THEN
        RETURN jobstate.ledger_close_run($1, run, false, $3, $4);
    END IF;
    SELECT r.state INTO ended FROM jobstate.ledger_run r
     WHERE r.processor = $1 AND r.token = $2 AND r.state <> 'lost';
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN ended = 'succeeded';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_end_run(text, uuid, text, jsonb)
    IS 'ends a run, and tells whether it had no error; raises JS001 if somebody else has taken the processor over';
-- ledger: maintenance -------------------------------------------------------------------

-- ledger_rescue: writes down as lost the runs whose hold has ended, and tells of
-- which processors.
-- Writes: ledger_run, ledger_processor.  Locks: processors' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_rescue()
RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT p.processor, p.run_id FROM jobstate.ledger_processor p
         WHERE p.run_id IS NOT NULL
           AND jobstate.ledger_run_over(p.run_hold, p.run_until, p.run_pid, p.run_backend)
           -- somebody who has just begun may be about to hold it
           AND (p.run_hold <> 'transaction' OR p.run_until <= clock_timestamp())
         ORDER BY p.processor FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM jobstate.ledger_close_run(held.processor, held.run_id, true, 'the run ended without saying so');
        RETURN NEXT held.processor;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_rescue()
    IS 'ends runs that died, as lost, and tells of which processors they were';

-- maintain_ledger: a step of the ledger's maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the ledger is not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_ledger(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.ledger_run')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            PERFORM FROM jobstate.ledger_rescue();
            RETURN false;
        WHEN 1 THEN
            RETURN jobstate.ledger_expire(n => many) >= many;
        WHEN 2 THEN
            RETURN jobstate.prune('jobstate.ledger_run',
                       (SELECT p.delay FROM jobstate.ledger_policy p WHERE p.kind = 'run_retention'),
                       'ended_at', many) >= many;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_ledger(integer)
    IS 'internal: a step of the ledger''s maintenance, called by maintain(): runs that died, leases that ended, old runs';
-- ledger: what is to be processed ------------------------------------------------------

-- ledger_check_candidates: parallel arrays have as many elements as there are items.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_candidates(processor text, items text[], modified_at timestamptz[],
    fingerprints text[], rule text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n CONSTANT integer := cardinality(items);
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('items', items);
    PERFORM jobstate.require_argument('rule', rule);
    IF rule NOT IN ('head', 'seed', 'fingerprint') THEN
        RAISE EXCEPTION 'rule "%" does not exist', rule
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Rules: head, seed, fingerprint.';
    ELSIF n <> cardinality(modified_at) OR n <> cardinality(fingerprints) THEN
        RAISE EXCEPTION 'arrays have different numbers of elements'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('There are %s items, %s times and %s fingerprints.', n,
                                  coalesce(cardinality(modified_at)::text, 'no'),
                                  coalesce(cardinality(fingerprints)::text, 'no')),
                  HINT = 'Give each item one element in every array, which may be null, or leave the array out.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_candidates(text, text[], timestamptz[], text[], text)
    IS 'internal: raises 22004 or 22023 for candidates that make no sense';

-- ledger_unprocessed: which of the candidates are to be processed, in their order.
-- One anti-join: a candidate is out if its row says that it is done with, held, not
-- due or dead.  The comparison of a processed item is one of three:
--   head         modified at or after it was read, or up to 50 ms before and with
--                another fingerprint, for clocks of coarse files
--   seed         modified after it was read
--   fingerprint  another fingerprint, where one is given, else as head
-- What is not known (no time, no fingerprint) never keeps an item out; but where no
-- times are given at all, only fingerprints are compared.
-- The processor stands in a subquery, here and wherever many items are asked for: of one
-- that the statistics do not know the planner would expect no row, and look at all for each.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_unprocessed(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', max_items integer DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, modified timestamptz, given_fingerprint text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    skew CONSTANT interval := '50 ms';
    now CONSTANT timestamptz := clock_timestamp();
    how CONSTANT text := CASE WHEN $3 IS NOT NULL THEN rule ELSE 'given' END;
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    RETURN QUERY
        SELECT c.item, c.nth, c.modified_at, c.fingerprint
          FROM unnest($2, $3, $4) WITH ORDINALITY c (item, modified_at, fingerprint, nth)
         WHERE c.item IS NOT NULL
           AND NOT EXISTS (
               SELECT FROM jobstate.ledger l
                WHERE l.processor = (SELECT $1) AND l.item = c.item
                  AND CASE l.state
                      WHEN 'processed' THEN
                          CASE WHEN how = 'seed' THEN c.modified_at <= l.processed_at
                               WHEN how <> 'head' AND c.fingerprint IS NOT NULL THEN c.fingerprint = l.fingerprint
                               WHEN how = 'given' THEN true
                               ELSE c.modified_at < l.processed_at - skew
                                    OR c.modified_at < l.processed_at AND c.fingerprint = l.fingerprint END
                      WHEN 'claimed' THEN l.lease_until > now
                      WHEN 'failing' THEN l.retry_at > now
                      ELSE l.state = 'dead' END)
         ORDER BY c.nth
         LIMIT CASE WHEN max_items > 0 THEN max_items END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_unprocessed(text, text[], timestamptz[], text[], text, integer)
    IS 'which of the candidates are to be processed, in their order, and the how manieth each is';

-- ledger_items: what is known of some items, or of all; what is not known is not there.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_items(processor text, items text[] DEFAULT NULL)
RETURNS TABLE (item text, status text, state text, username text, processed_at timestamptz, extracted integer,
               fingerprint text, failures integer, error text, claimed_by text, lease_until timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN QUERY
        SELECT l.item, CASE WHEN l.processed_at IS NULL THEN 'pending'
                            WHEN l.items > 0 THEN 'extracted' ELSE 'processed' END,
               l.state, l.username, l.processed_at, l.items, l.fingerprint, l.failures, l.error,
               CASE WHEN l.state = 'claimed' THEN l.claimed_by END, l.lease_until
          FROM jobstate.ledger l
         WHERE l.processor = $1 AND ($2 IS NULL OR l.item = ANY ($2))
         ORDER BY l.item;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_items(text, text[])
    IS 'what the ledger says of items of a processor; status is pending, extracted or processed, whatever happens to the item now';

-- ledger_activity: the last success, and what was extracted since some time, that
-- time included.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_activity(processor text, since timestamptz DEFAULT '-infinity',
    OUT max_processed_at timestamptz, OUT items bigint, OUT processed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('since', $2);
    SELECT max(l.processed_at), coalesce(sum(l.items), 0), count(*)
      INTO max_processed_at, items, processed
      FROM jobstate.ledger l
     WHERE l.processor = $1 AND l.processed_at >= $2;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_activity(text, timestamptz)
    IS 'when a processor last had success, and how many items it processed and extracted since some time';

-- ledger_max_processed_at: the last success, found without looking at all others.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_max_processed_at(processor text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN (SELECT max(l.processed_at) FROM jobstate.ledger l WHERE l.processor = $1);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_max_processed_at(text)
    IS 'when a processor last had success; null if never';
-- ledger: what health() and metrics say of it ----------------------------------------
--
-- Whether a processor keeps up can only be said by who knows its items: that is
-- ledger_health().

-- health_ledger: claims and runs whose holders are gone, and items that are dead.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_ledger(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.ledger', 'jobstate.ledger_processor') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'ledger expired', e.processor, 'warning',
           format('%s claimed items have outlived their lease, the first at %s, and nobody takes them back',
                  count(*), date_trunc('second', min(e.lease_until))),
           format('SELECT jobstate.ledger_expire(%L, n => 100000)', e.processor)
      FROM (SELECT l.processor, l.lease_until FROM jobstate.ledger l
             WHERE l.lease_until < long_ago ORDER BY l.lease_until LIMIT 10000) e
     GROUP BY e.processor
    UNION ALL
    SELECT 'ledger runs', p.processor, 'warning',
           format('run %s of "%s" has held the processor since %s, until %s, and did not end', p.run_id, p.run_owner,
                  date_trunc('second', p.run_since), date_trunc('second', p.run_until)),
           'SELECT jobstate.ledger_rescue()'
      FROM jobstate.ledger_processor p WHERE p.run_id IS NOT NULL AND p.run_until < long_ago
    UNION ALL
    SELECT 'ledger dead', c.group_key ->> 'processor', 'info', format('%s items failed for good', c.n),
           format('SELECT jobstate.ledger_reset(%L, states => ''{dead}'')', c.group_key ->> 'processor')
      FROM jobstate.counts('jobstate.ledger') c WHERE c.state = 'dead' AND c.n > 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('ledger expired', 'items of claimers that are gone are taken back'),
                   ('ledger runs', 'runs that died are ended'), ('ledger dead', 'no item failed for good')) o (c, d);
END
$$;
COMMENT ON FUNCTION jobstate.health_ledger(boolean, interval)
    IS 'internal: what health() says of the ledger';

-- metrics_ledger: per processor, how far it is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_ledger()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.ledger', 'jobstate.ledger_processor') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, jsonb_build_object('processor', c.processor), m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT n.group_key ->> 'processor' AS processor,
                   sum(n.n) FILTER (WHERE n.state = 'failing') AS failing, sum(n.n) FILTER (WHERE n.state = 'dead') AS dead
              FROM jobstate.counts('jobstate.ledger') n GROUP BY 1) c
     CROSS JOIN LATERAL (SELECT max(l.processed_at) AS latest FROM jobstate.ledger l WHERE l.processor = c.processor) d
      LEFT JOIN jobstate.ledger_processor p ON p.processor = c.processor
     CROSS JOIN LATERAL (VALUES
            ('jobstate_ledger_failing', c.failing, '', 'items that failed and come again'),
            ('jobstate_ledger_dead', c.dead, '', 'items that failed for good'),
            ('jobstate_ledger_running', (p.run_id IS NOT NULL)::integer, '', '1 while a run holds the processor'),
            ('jobstate_ledger_last_success_timestamp_seconds', extract(epoch FROM d.latest), 'seconds',
             'when the item was read that the processor processed last, as a Unix time'))
           AS m (name, value, unit, help)
     WHERE m.value IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.metrics_ledger()
    IS 'internal: the ledger''s part of the view metrics';
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
    PERFORM jobstate.require_argument('worker', worker);
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
-- schedule: settings -------------------------------------------------------------------

-- schedule_check: refuses a schedule that makes no sense.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_check(name text, spec text, queue text, kind text, catch_up interval)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('name', name);
    PERFORM jobstate.schedule_parse(spec);
    PERFORM jobstate.require_argument('catch_up', catch_up);
    IF name = '' OR catch_up < interval '0' THEN
        RAISE EXCEPTION 'argument "%" is not valid', CASE name WHEN '' THEN 'name' ELSE 'catch_up' END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A schedule has a name, and catches up with no less than nothing.';
    ELSIF (queue IS NULL) <> (kind IS NULL) OR queue = '' THEN
        RAISE EXCEPTION 'schedule "%" needs both a queue and a kind of job, or neither', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'With a queue, maintain() enqueues a job when it is due; without, schedule_due() hands it out.';
    ELSIF queue IS NOT NULL AND to_regclass('jobstate.job') IS NULL THEN
        RAISE EXCEPTION 'schedule "%" is for a queue, and there are none', name
            USING ERRCODE = 'undefined_table',
                  HINT = 'Run SELECT jobstate.install(''queue'') first.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_check(text, text, text, text, interval)
    IS 'internal: raises 22004, 22023 or 42P01 for a schedule that makes no sense';

-- schedule_define: makes a schedule or changes it; when it last ran stays, unless it
-- is given.  What never ran is due at once; last_run => now() has it wait for its time.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_define(name text, spec text, queue text DEFAULT NULL, kind text DEFAULT NULL,
    payload jsonb DEFAULT '{}', priority integer DEFAULT 2, catch_up interval DEFAULT '0',
    lease interval DEFAULT '900 s', last_run timestamptz DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
BEGIN
    PERFORM jobstate.schedule_check($1, $2, $3, $4, $7);
    PERFORM jobstate.require_argument('payload', $5);
    PERFORM jobstate.require_argument('priority', $6);
    PERFORM jobstate.require_positive('lease', $8 > interval '0');
    INSERT INTO jobstate.schedule AS s (name, spec, queue, kind, payload, priority, catch_up, lease, last_run)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (name) DO UPDATE
       SET spec = excluded.spec, queue = excluded.queue, kind = excluded.kind, payload = excluded.payload,
           priority = excluded.priority, catch_up = excluded.catch_up, lease = excluded.lease,
           last_run = coalesce(excluded.last_run, s.last_run)
    RETURNING s.next_at INTO due;
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_define(text, text, text, text, jsonb, integer, interval, interval, timestamptz)
    IS 'makes or changes a schedule: "every 15m", "daily 03:00, 15:30" or five fields of cron, in UTC; returns when it is due next';

-- schedule_drop: there is no such schedule any more.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_drop(name text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    DELETE FROM jobstate.schedule s WHERE s.name = $1;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_drop(text)
    IS 'drops a schedule; false if there is none';

-- schedule_pause: a schedule is not due, or is again.  Who has taken it goes on.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_pause(name text, paused boolean DEFAULT true)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('paused', $2);
    UPDATE jobstate.schedule s SET paused_at = CASE WHEN $2 THEN clock_timestamp() END
     WHERE s.name = $1 AND (s.paused_at IS NOT NULL) <> $2;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_pause(text, boolean)
    IS 'a schedule is not due from now on, or is again; true if that changed';
-- schedule: taking what is due ------------------------------------------------------

-- schedule_in_flight: whether somebody who may still be at it has the schedule.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_in_flight(state text, lease_until timestamptz, hold text, pid integer,
    backend timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT state = 'running' AND lease_until > clock_timestamp()
       AND NOT (hold = 'session' AND jobstate.ledger_backend_gone(pid, backend))
$$;
COMMENT ON FUNCTION jobstate.schedule_in_flight(text, timestamptz, text, integer, timestamptz)
    IS 'internal: whether a schedule is held';

-- schedule_ran: up to when a schedule has run once it is taken now.  Missed runs
-- become one, which has run up to now.  With catch_up each is taken by itself, and has run
-- up to its own time; those that were missed for longer become the last of them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_ran(spec text, last_run timestamptz, next_at timestamptz, catch_up interval,
    now timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    since timestamptz;
BEGIN
    IF last_run IS NULL OR NOT isfinite(last_run) OR catch_up = '0' THEN
        RETURN now;
    END IF;
    since := ((now AT TIME ZONE 'UTC') - catch_up) AT TIME ZONE 'UTC';
    RETURN CASE WHEN next_at < since THEN jobstate.schedule_last(spec, next_at, since) ELSE next_at END;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_ran(text, timestamptz, timestamptz, interval, timestamptz)
    IS 'internal: what last_run becomes when a schedule is taken';

-- schedule_last: the last of a schedule's times up to some moment, from one of its times
-- on.  Times of day and cron's are whole minutes, and are searched for by halving.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_last(spec text, first timestamptz, upto timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    every CONSTANT numeric := (SELECT p.every FROM jobstate.schedule_parse(spec) p);
    at timestamptz := first;
    none_after timestamptz := upto;
    middle timestamptz;
    found_at timestamptz;
BEGIN
    IF every IS NOT NULL THEN
        RETURN first + make_interval(secs => (floor(extract(epoch FROM upto - first) / every) * every)::float8);
    END IF;
    WHILE none_after - at >= interval '1 min' LOOP
        middle := at + make_interval(secs => (extract(epoch FROM none_after - at) / 2)::float8);
        found_at := jobstate.schedule_next(spec, middle);
        IF found_at <= upto THEN
            at := found_at;
        ELSE
            none_after := middle;
        END IF;
    END LOOP;
    RETURN at;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_last(text, timestamptz, timestamptz)
    IS 'internal: the last time of a schedule up to some moment';

-- schedule_became_due: when what is taken now became due: with catch_up the time that it
-- stands for, else the first that was missed.  What never ran is due when it is taken.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_became_due(next_at timestamptz, catch_up interval, ran timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN isfinite(next_at) AND catch_up = '0' THEN next_at ELSE ran END
$$;
COMMENT ON FUNCTION jobstate.schedule_became_due(timestamptz, interval, timestamptz)
    IS 'internal: when a schedule that is taken became due';

-- schedule_due: takes what is due and nobody has, and writes down that it has run,
-- whatever will become of it.  Commit it before the work begins.
-- due_at is when it became due; the run stands for the time after previous_run up to
-- last_run.
-- Writes: schedule.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_due(worker text DEFAULT '', n integer DEFAULT 100, names text[] DEFAULT NULL,
    lease interval DEFAULT NULL, hold text DEFAULT 'lease')
RETURNS TABLE (name text, token uuid, due_at timestamptz, previous_run timestamptz, last_run timestamptz,
               lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    me CONSTANT timestamptz := (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid());
BEGIN
    PERFORM jobstate.schedule_check_take($1, $2, $4, $5);
    RETURN QUERY
        UPDATE jobstate.schedule s
           SET state = 'running', token = gen_random_uuid(), taken_by = $1, lease_until = now + coalesce($4, s.lease),
               hold = $5, pid = pg_backend_pid(), backend = me, runs = s.runs + 1,
               last_run = jobstate.schedule_ran(s.spec, s.last_run, s.next_at, s.catch_up, now),
               failures = s.failures + (s.state = 'running')::integer,
               last_error = CASE WHEN s.state = 'running' THEN 'it was not finished' ELSE s.last_error END
          FROM (SELECT d.name, d.next_at, d.last_run FROM jobstate.schedule d
                 WHERE d.next_at <= now AND d.queue IS NULL AND d.paused_at IS NULL
                   AND ($3 IS NULL OR d.name = ANY ($3))
                   AND NOT jobstate.schedule_in_flight(d.state, d.lease_until, d.hold, d.pid, d.backend)
                 ORDER BY d.next_at, d.name LIMIT $2
                   FOR NO KEY UPDATE SKIP LOCKED) o
         WHERE s.name = o.name
        RETURNING s.name, s.token, jobstate.schedule_became_due(o.next_at, s.catch_up, s.last_run),
                  o.last_run, s.last_run, s.lease_until;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_due(text, integer, text[], interval, text)
    IS 'takes the schedules that are due and in nobody''s hands: the token that schedule_finish() has to carry';

-- schedule_check_take: refuses a take that makes no sense.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_check_take(worker text, n integer, lease interval, hold text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('worker', worker);
    PERFORM jobstate.require_positive('n', n > 0);
    PERFORM jobstate.require_positive('lease', lease IS NULL OR lease > interval '0');
    PERFORM jobstate.require_argument('hold', hold);
    IF hold NOT IN ('lease', 'session') THEN
        RAISE EXCEPTION 'a schedule cannot be held by "%"', hold
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is held by its lease or its session.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_check_take(text, integer, interval, text)
    IS 'internal: raises 22004 or 22023 for arguments of schedule_due()';

-- schedule_refuse: words the refusal of a token.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_refuse(name text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    SELECT s.state, s.taken_by, s.lease_until INTO known FROM jobstate.schedule s WHERE s.name = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'schedule "%" does not exist', $1
            USING ERRCODE = 'JS002', HINT = 'See jobstate.schedule for those that do.';
    END IF;
    RAISE EXCEPTION 'lease on schedule "%" is lost', $1
        USING ERRCODE = 'JS001',
              DETAIL = CASE known.state WHEN 'running'
                       THEN format('It was taken by "%s", until %s.', known.taken_by, known.lease_until)
                       ELSE format('Its state is "%s".', known.state) END,
              HINT = 'Roll back and stop: the lease ended, and others may take it.';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_refuse(text)
    IS 'internal: raises JS001 or JS002 for a schedule and a token';

-- schedule_finish: who took a schedule is through with it, and it may be taken again
-- once it is due.  A repeated call changes nothing.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_finish(name text, token uuid, success boolean DEFAULT true, error text DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_argument('success', $3);
    UPDATE jobstate.schedule s
       SET state = CASE WHEN $3 THEN 'scheduled' ELSE 'failed' END, lease_until = NULL,
           failures = CASE WHEN $3 THEN 0 ELSE s.failures + 1 END,
           last_error = CASE WHEN NOT $3 THEN coalesce($4, 'it failed') END,
           last_ended_at = clock_timestamp(),
           last_success_at = CASE WHEN $3 THEN clock_timestamp() ELSE s.last_success_at END
     WHERE s.name = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.next_at INTO due;
    IF NOT FOUND THEN
        SELECT s.next_at INTO due FROM jobstate.schedule s
         WHERE s.name = $1 AND s.token = $2;
    END IF;
    IF due IS NULL THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_finish(text, uuid, boolean, text)
    IS 'a run of a schedule is through, with success or an error; returns when it is due next; raises JS001 or JS002';

-- schedule_heartbeat: who took the schedule is still at it.
-- Writes: schedule.  Locks: the schedule's row.
CREATE FUNCTION jobstate.schedule_heartbeat(name text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 IS NULL OR $3 > interval '0');
    UPDATE jobstate.schedule s SET lease_until = clock_timestamp() + coalesce($3, s.lease)
     WHERE s.name = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.lease_until INTO until;
    IF NOT FOUND THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_heartbeat(text, uuid, interval)
    IS 'extends the lease on a schedule, and tells until when; raises JS001 or JS002';
-- schedule: when ---------------------------------------------------------------------
--
-- A specification is one of
--   every 15m               s, m, h, d or w, of fixed length
--   daily 03:00, 15:30      times of day
--   */15 6-18 * jan-jun mon-fri, or @hourly, @daily, @weekly, @monthly, @yearly
-- Everything is UTC, so a day has 24 hours and nothing depends on a session's
-- settings; that is why these functions are immutable.

-- schedule_bad_spec: words every refusal of a specification.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_bad_spec(spec text, problem text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'invalid schedule "%"', spec
        USING ERRCODE = 'invalid_parameter_value', DETAIL = problem,
              HINT = 'Write "every 15m", "daily 03:00, 15:30" or the five fields of cron: minute hour day month weekday.';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_bad_spec(text, text)
    IS 'internal: raises 22023 for a specification that cannot be read';

-- schedule_field_value: a number, or one of a field's names; NULL if it is neither,
-- or out of bounds.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_field_value(value text, low integer, high integer, names text[])
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v FROM (SELECT CASE WHEN value ~ '^\d{1,2}$' THEN value::integer
                               ELSE array_position(names, lower(value)) + low - 1 END) n (v)
     WHERE v BETWEEN low AND high
$$;
COMMENT ON FUNCTION jobstate.schedule_field_value(text, integer, integer, text[])
    IS 'internal: a value of a field of cron';

-- schedule_field: the values that a field stands for: lists of *, n, n-m, each with
-- a step if wanted; n/step goes on to the end.  An empty array if it is not valid.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_field(field text, low integer, high integer, names text[] DEFAULT '{}')
RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part text;
    piece text[];
    first integer;
    last integer;
    result integer[] := '{}';
BEGIN
    FOREACH part IN ARRAY string_to_array(field, ',') LOOP
        piece := regexp_match(part, '^(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d{1,2}))?$');
        first := CASE WHEN piece[1] IS NOT NULL THEN low
                      ELSE jobstate.schedule_field_value(piece[2], low, high, names) END;
        last := CASE WHEN piece[3] IS NOT NULL THEN jobstate.schedule_field_value(piece[3], low, high, names)
                     WHEN piece[1] IS NOT NULL OR piece[4] IS NOT NULL THEN greatest(first, high - (high = 7)::integer)
                     ELSE first END;
        IF last = 0 AND first > 0 AND high = 7 THEN
            last := 7;                  -- as in fri-sun
        END IF;
        IF first IS NULL OR last IS NULL OR first > last OR piece[4]::integer = 0 THEN
            RETURN '{}';
        END IF;
        result := result || ARRAY(SELECT generate_series(first, last, coalesce(piece[4]::integer, 1)));
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_field(text, integer, integer, text[])
    IS 'internal: the values of a field of cron, or none if it is not valid';

-- schedule_parse: a specification taken apart; raises 22023 if it cannot be read.
-- every is an interval in seconds, else the fields are what cron matches.
-- any_day says that days match if both fields do, as they do unless both are limited.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_parse(spec text, OUT every numeric, OUT times time[],
    OUT minutes integer[], OUT hours integer[], OUT days integer[], OUT months integer[],
    OUT weekdays integer[], OUT any_day boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plain CONSTANT text := lower(btrim(regexp_replace(spec, '\s+', ' ', 'g')));
    piece text[];
    problem text;
BEGIN
    PERFORM jobstate.require_argument('spec', spec);
    IF plain ~ '^every( |$)' THEN
        piece := regexp_match(plain, '^every (\d{1,9}) ?'
            '(?:(s)(?:ecs?|econds?)?|(m)(?:ins?|inutes?)?|(h)(?:ours?)?|(d)(?:ays?)?|(w)(?:eeks?)?)$');
        every := piece[1]::numeric * CASE coalesce(piece[2], piece[3], piece[4], piece[5], piece[6])
            WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 WHEN 'w' THEN 604800 END;
        IF every IS NULL OR every NOT BETWEEN 1 AND 3155760000 THEN
            problem := 'An interval is a number above zero of s, m, h, d or w, and at most a hundred years.';
        END IF;
    ELSIF plain ~ '^daily( |$)' THEN
        IF plain !~ '^daily ([01]?\d|2[0-3]):[0-5]\d( ?, ?([01]?\d|2[0-3]):[0-5]\d)*$' THEN
            problem := 'Times of day are written 03:00, with commas between them.';
        ELSE
            times := ARRAY(SELECT DISTINCT btrim(t)::time FROM unnest(string_to_array(substr(plain, 7), ',')) t ORDER BY 1);
        END IF;
    ELSE
        SELECT c.* INTO problem, minutes, hours, days, months, weekdays, any_day
          FROM jobstate.schedule_parse_cron(plain) c;
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM jobstate.schedule_bad_spec(spec, problem);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_parse(text)
    IS 'internal: a specification taken apart; raises 22023 if it cannot be read';

-- schedule_parse_cron: the five fields.  7 is Sunday too.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_parse_cron(plain text, OUT problem text, OUT minutes integer[],
    OUT hours integer[], OUT days integer[], OUT months integer[], OUT weekdays integer[], OUT any_day boolean)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    month_names CONSTANT text[] := '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}';
    day_names CONSTANT text[] := '{sun,mon,tue,wed,thu,fri,sat}';
    macros CONSTANT jsonb := '{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}';
    field CONSTANT text[] := string_to_array(coalesce(macros ->> plain, plain), ' ');
    longest CONSTANT integer[] := '{31,29,31,30,31,30,31,31,30,31,30,31}';
BEGIN
    IF cardinality(field) <> 5 THEN
        problem := format('There are %s fields instead of five.', cardinality(field));
        RETURN;
    END IF;
    minutes := jobstate.schedule_field(field[1], 0, 59);
    hours := jobstate.schedule_field(field[2], 0, 23);
    days := jobstate.schedule_field(field[3], 1, 31);
    months := jobstate.schedule_field(field[4], 1, 12, month_names);
    weekdays := ARRAY(SELECT DISTINCT d % 7 FROM unnest(jobstate.schedule_field(field[5], 0, 7, day_names)) d ORDER BY 1);
    any_day := NOT starts_with(field[3], '*') AND NOT starts_with(field[5], '*');
    SELECT format('"%s" is no %s.', field[n], name) INTO problem
      FROM (VALUES (1, 'minute', minutes), (2, 'hour', hours), (3, 'day of a month', days),
                   (4, 'month', months), (5, 'day of a week', weekdays)) f (n, name, meant)
     WHERE cardinality(meant) = 0 ORDER BY n LIMIT 1;
    IF problem IS NULL AND NOT any_day
       AND NOT EXISTS (SELECT FROM unnest(months) m, unnest(days) d WHERE d <= longest[m]) THEN
        problem := 'There is no such day in these months.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_parse_cron(text)
    IS 'internal: the five fields of cron, or what is wrong with them';

-- schedule_next_cron: the first minute at or after a UTC time that the fields match.
-- The longest way to a match is from one 29 February to the next that is the right
-- day of the week, 40 years.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_next_cron(start timestamp, minutes integer[], hours integer[], days integer[],
    months integer[], weekdays integer[], any_day boolean)
RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    day date := start::date;
    horizon CONSTANT date := day + 41 * 366;
    day_matches boolean;
    weekday_matches boolean;
    at time;
BEGIN
    WHILE day < horizon LOOP
        IF extract(month FROM day) <> ALL (months) THEN
            day := date_trunc('month', day::timestamp) + interval '1 month';
            CONTINUE;
        END IF;
        day_matches := extract(day FROM day) = ANY (days);
        weekday_matches := extract(dow FROM day) = ANY (weekdays);
        IF day_matches AND weekday_matches OR any_day AND (day_matches OR weekday_matches) THEN
            SELECT min(make_time(h, m, 0)) INTO at FROM unnest(hours) h, unnest(minutes) m
             WHERE day > start::date OR make_time(h, m, 0) >= start::time;
            IF at IS NOT NULL THEN
                RETURN day + at;
            END IF;
        END IF;
        day := day + 1;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_next_cron(timestamp, integer[], integer[], integer[], integer[], integer[], boolean)
    IS 'internal: the first minute at or after a time that a cron expression matches';

-- schedule_next: when a schedule is next due, if it last ran then.  What never ran
-- is due at once.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_next(spec text, after timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p record;
    start CONSTANT timestamp := after AT TIME ZONE 'UTC';
    found_at timestamp;
BEGIN
    SELECT s.* INTO p FROM jobstate.schedule_parse(spec) s;
    IF after IS NULL THEN
        RETURN '-infinity';
    ELSIF NOT isfinite(after) THEN
        RETURN after;
    ELSIF p.every IS NOT NULL THEN
        found_at := start + make_interval(secs => p.every::double precision);
    ELSIF p.times IS NOT NULL THEN
        SELECT min(d + t) INTO found_at FROM unnest(ARRAY[start::date, start::date + 1]) d, unnest(p.times) t
         WHERE d + t > start;
    ELSE
        found_at := jobstate.schedule_next_cron(date_trunc('minute', start) + interval '1 minute',
                        p.minutes, p.hours, p.days, p.months, p.weekdays, p.any_day);
    END IF;
    RETURN found_at AT TIME ZONE 'UTC';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_next(text, timestamptz)
    IS 'when a schedule is due that last ran at that time: the first moment after it; what never ran is due since ever';

-- schedule_is_due: the same as a question.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.schedule_is_due(spec text, last_run timestamptz, at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jobstate.schedule_next(spec, last_run) <= at, false)
$$;
COMMENT ON FUNCTION jobstate.schedule_is_due(text, timestamptz, timestamptz)
    IS 'whether a schedule that last ran then is due at some time, which is now';
-- schedule: periodic jobs, and maintenance ---------------------------------------------

-- schedule_enqueue_one: a job for a schedule that is due; NULL if there still is one
-- that has not ended, because missed runs become one.  Where they are made up for one
-- by one, each has a job of its own.
-- Writes: what enqueue() writes.  Locks: likewise.
CREATE FUNCTION jobstate.schedule_enqueue_one(name text, queue text, kind text, payload jsonb, priority integer,
    due_at timestamptz, one_by_one boolean)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    job record;
BEGIN
    SELECT e.id, e.duplicate INTO job
      FROM jobstate.enqueue(queue, kind,
               CASE jsonb_typeof(payload) WHEN 'object'
                    THEN payload || jsonb_build_object('schedule', name, 'due_at', due_at) ELSE payload END,
               priority,
               unique_key => 'schedule ' || name || CASE WHEN one_by_one THEN ' ' || due_at ELSE '' END) e;
    RETURN CASE WHEN NOT job.duplicate THEN job.id END;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_enqueue_one(text, text, text, jsonb, integer, timestamptz, boolean)
    IS 'internal: enqueues the job of a schedule, unless there still is one';

-- schedule_enqueue: enqueues a job for each schedule that has a queue and is due.
-- Row and job go together: however many call it, each run has one job.  A job that
-- is refused is a failure of its schedule, which comes again at its time.
-- Writes: schedule, and what enqueue() writes.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_enqueue(n integer DEFAULT 100)
RETURNS TABLE (name text, job_id bigint, due_at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    s jobstate.schedule;
    ran timestamptz;
    problem text;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    FOR s IN
        SELECT d.* FROM jobstate.schedule d
         WHERE d.next_at <= now AND d.queue IS NOT NULL AND d.paused_at IS NULL
         ORDER BY d.next_at, d.name LIMIT $1
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        name := s.name;
        ran := jobstate.schedule_ran(s.spec, s.last_run, s.next_at, s.catch_up, now);
        due_at := jobstate.schedule_became_due(s.next_at, s.catch_up, ran);
        BEGIN
            problem := NULL;
            job_id := jobstate.schedule_enqueue_one(s.name, s.queue, s.kind, s.payload, s.priority, due_at,
                                                    s.catch_up > interval '0');
        EXCEPTION
            WHEN transaction_rollback OR lock_not_available OR query_canceled THEN
                RAISE;
            WHEN OTHERS THEN
                job_id := NULL;
                problem := SQLERRM;
        END;
        UPDATE jobstate.schedule u
           SET last_run = ran, runs = u.runs + 1, last_error = problem, last_ended_at = now,
               state = CASE WHEN problem IS NULL THEN 'scheduled' ELSE 'failed' END, lease_until = NULL,
               failures = CASE WHEN problem IS NULL THEN 0 ELSE u.failures + 1 END,
               last_success_at = CASE WHEN problem IS NULL THEN now ELSE u.last_success_at END
         WHERE u.name = s.name;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_enqueue(integer)
    IS 'enqueues a job for each schedule that has a queue and is due; job_id is null if one that has not ended is there, or it was refused';

-- schedule_rescue: what was taken and not finished has failed.
-- Writes: schedule.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_rescue()
RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        UPDATE jobstate.schedule s
           SET state = 'failed', token = NULL, lease_until = NULL, failures = s.failures + 1,
               last_error = 'it was not finished', last_ended_at = clock_timestamp()
         WHERE s.name IN (SELECT d.name FROM jobstate.schedule d
                           WHERE d.state = 'running'
                             AND NOT jobstate.schedule_in_flight(d.state, d.lease_until, d.hold, d.pid, d.backend)
                           ORDER BY d.name FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING s.name;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_rescue()
    IS 'counts schedules that were taken and whose hold has ended as failed, and tells which';

-- maintain_schedule: a step of the schedules' maintenance, for jobstate.maintain().
-- True means that the same step has more to do, false that the next one may come,
-- null that there is none, or that the schedules are not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_schedule(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.schedule')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            IF to_regclass('jobstate.job') IS NULL THEN
                RETURN false;
            END IF;
            RETURN EXISTS (SELECT FROM jobstate.schedule_enqueue());
        WHEN 1 THEN
            PERFORM FROM jobstate.schedule_rescue();
            RETURN false;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_schedule(integer)
    IS 'internal: a step of the schedules'' maintenance, called by maintain(): periodic jobs, and what was taken and not finished';
-- schedule: machine and table --------------------------------------------------------
--
-- A schedule's row says when it last ran and who is at it.  Taking what is due
-- writes last_run in the same statement, so a run that fails, raises or dies comes
-- again when its schedule says so, and not at the next look.

-- schedule_install_machine: a schedule never ends.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.schedule_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.define_machine('schedule',
        '{"scheduled": 1, "running": 2, "failed": 3}',
        ARRAY['scheduled -> running: take',
              'failed -> running: take',
              'running -> scheduled: finish',
              'running -> failed: finish',
              'scheduled -> failed: enqueue',
              'failed -> scheduled: enqueue'],
        initial => ARRAY['scheduled']);
END
$$;
COMMENT ON FUNCTION jobstate.schedule_install_machine()
    IS 'internal: defines the machine "schedule"';

-- schedule_install_table: next_at follows from spec and last_run, whoever writes
-- them, so there is no other truth about what is due.  No index holds what changes.
-- Writes nothing.  Locks: the table that it creates.
CREATE FUNCTION jobstate.schedule_install_table()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.schedule (
        name            text COLLATE "C" PRIMARY KEY CHECK (name <> ''),
        spec            text NOT NULL,
        state           text NOT NULL DEFAULT 'scheduled',
        last_run        timestamptz,
        next_at         timestamptz GENERATED ALWAYS AS (jobstate.schedule_next(spec, last_run)) STORED,
        catch_up        interval NOT NULL DEFAULT '0' CHECK (catch_up >= '0'),
        lease           interval NOT NULL DEFAULT '900 s' CHECK (lease > '0'),
        paused_at       timestamptz,
        runs            bigint NOT NULL DEFAULT 0,
        failures        integer NOT NULL DEFAULT 0,
        last_error      text,
        last_success_at timestamptz,
        last_ended_at   timestamptz,
        taken_by        text,
        token           uuid,
        lease_until     timestamptz,
        hold            text CHECK (hold IN ('lease', 'session')),
        pid             integer,
        backend         timestamptz,
        queue           text CHECK (queue <> ''),
        kind            text CHECK ((kind IS NULL) = (queue IS NULL)),
        payload         jsonb NOT NULL DEFAULT '{}',
        priority        integer NOT NULL DEFAULT 2,
        CONSTRAINT schedule_held_check CHECK ((state = 'running') = (lease_until IS NOT NULL)
                                               AND (state <> 'running' OR token IS NOT NULL))
    ) WITH (fillfactor = 50);
    COMMENT ON TABLE jobstate.schedule IS 'what runs when, when it last did, and who is at it';
    COMMENT ON COLUMN jobstate.schedule.last_run IS 'up to when it has run: the moment at which it was last taken, whatever became of that';
    COMMENT ON COLUMN jobstate.schedule.next_at IS 'when it is due next; -infinity if it never ran';
    COMMENT ON COLUMN jobstate.schedule.catch_up IS 'runs missed for no longer than this are made up for one by one; others become one';
    COMMENT ON COLUMN jobstate.schedule.failures IS 'failures since the last success';
    COMMENT ON COLUMN jobstate.schedule.token IS 'of whoever took it last';
    COMMENT ON COLUMN jobstate.schedule.lease_until IS 'until when whoever has it may be silent';
    COMMENT ON COLUMN jobstate.schedule.hold IS 'what ends the hold besides schedule_finish()';
    COMMENT ON COLUMN jobstate.schedule.pid IS 'the backend that took it';
    COMMENT ON COLUMN jobstate.schedule.backend IS 'when that backend started';
    COMMENT ON COLUMN jobstate.schedule.queue IS 'where to enqueue a job of this kind when it is due; without a queue, schedule_due() hands it out';
END
$$;
COMMENT ON FUNCTION jobstate.schedule_install_table()
    IS 'internal: creates schedule';

-- install_schedule: the family's machine and table, and the kernel on it.
-- Writes: machine, state, transition, attachment.
-- Locks: schedule against writers while it is attached for the first time.
CREATE FUNCTION jobstate.install_schedule()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.schedule_install_machine();
    PERFORM jobstate.schedule_install_table();
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = 'jobstate.schedule'::regclass) THEN
        PERFORM jobstate.attach('jobstate.schedule', 'schedule', 'state');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.install_schedule()
    IS 'internal: what install(''schedule'') runs';
-- schedule: health and metrics ---------------------------------------------------------

-- health_schedule: schedules that are due and not taken, and those that were taken by
-- somebody who is gone.  One that never ran is due from the moment that it is made.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_schedule(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
BEGIN
    IF NOT jobstate.can_read('jobstate.schedule') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'schedule due', s.name, CASE WHEN isfinite(s.next_at) THEN 'warning' ELSE 'info' END,
           CASE WHEN NOT isfinite(s.next_at) THEN 'it has never run'
                ELSE format('due since %s', date_trunc('second', s.next_at)) END
           || CASE WHEN s.queue IS NOT NULL THEN format(', and nobody enqueues its job to "%s"', s.queue)
                   ELSE ', and nobody calls schedule_due() for it: start a worker that does' END,
           CASE WHEN s.queue IS NOT NULL THEN 'SELECT * FROM jobstate.schedule_enqueue(10000)' END
      FROM jobstate.schedule s
     WHERE s.next_at < long_ago AND s.paused_at IS NULL AND s.state <> 'running'
    UNION ALL
    SELECT 'schedule expired', s.name, 'warning',
           format('taken by "%s", whose lease ended at %s, and nobody counts it as failed', s.taken_by, date_trunc('second', s.lease_until)),
           'SELECT jobstate.schedule_rescue()'
      FROM jobstate.schedule s WHERE s.state = 'running' AND s.lease_until < long_ago
    UNION ALL
    SELECT 'schedule failing', s.name, 'info', format('failed %s times since its last success: %s', s.failures, s.last_error), NULL
      FROM jobstate.schedule s WHERE s.failures > 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('schedule due', 'what is due is taken'), ('schedule expired', 'what was taken is finished'),
                   ('schedule failing', 'no schedule fails')) o (c, d);
END
$$;
COMMENT ON FUNCTION jobstate.health_schedule(boolean, interval)
    IS 'internal: what health() says of schedules';

-- metrics_schedule: per schedule, whether it runs when it should, and with what success.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_schedule()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.schedule') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, jsonb_build_object('schedule', s.name), m.value::double precision,
           CASE WHEN m.name ~ '_total$' THEN 'counter' ELSE 'gauge' END, m.unit, m.help
      FROM jobstate.schedule s
     CROSS JOIN LATERAL (VALUES
            ('jobstate_schedule_runs_total', s.runs, '', 'how often the schedule was taken'),
            ('jobstate_schedule_failures', s.failures, '', 'failures since the last success'),
            ('jobstate_schedule_overdue_seconds',
             CASE WHEN s.paused_at IS NULL AND s.state <> 'running' AND isfinite(s.next_at)
                  THEN greatest(extract(epoch FROM clock_timestamp() - s.next_at), 0) ELSE 0 END,
             'seconds', 'for how long the schedule has been due and not taken'))
           AS m (name, value, unit, help);
END
$$;
COMMENT ON FUNCTION jobstate.metrics_schedule()
    IS 'internal: the schedules'' part of the view metrics';
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
    PERFORM jobstate.require_argument('worker', worker);
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
-- applies: machines and tables ------------------------------------------------------
--
-- An apply is one change of a schema that goes to several deployments.  It has an
-- operation for each of them (or for each step of one), and an operation has tasks.
-- Workers (drivers) claim operations, under a lease and a token.  The apply's state
-- is derived by the kernel from all its operations: nobody writes it.
--
-- Every key begins with the apply's id, so that an apply lives on one node.  No
-- index holds a state or a lease, so every change of either is a HOT update.  The
-- only indexed column that changes is apply.reaped_at, once in an apply's life.

-- apply_state_ids: the 26 states that applies and operations share.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_state_ids()
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{"pending": 1, "running": 2, "running_degraded": 3, "catching_up": 4, "checksumming": 5,
         "post_checksum": 6, "paused": 7, "resuming": 8, "waiting_for_deploy": 9, "waiting_for_cutover": 10,
         "recovering": 11, "cutting_over": 12, "revert_window": 13, "skipping_revert": 14, "reverting": 15,
         "completed": 16, "failed": 17, "failed_retryable": 18, "stopped": 19, "cancelled": 20, "reverted": 21,
         "preparing_branch": 22, "applying_branch_changes": 23, "validating_branch": 24,
         "creating_deploy_request": 25, "validating_deploy_request": 26}'::jsonb;
COMMENT ON FUNCTION jobstate.apply_state_ids()
    IS 'the states of applies and operations, with their ids';

-- apply_is_settled: the end of an apply, an operation or a task.  What is stopped
-- is not settled: it may be started again.
-- apply_is_active: somebody works on it, or ought to.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.apply_is_settled(state text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN state IN ('completed', 'failed', 'cancelled', 'reverted');
COMMENT ON FUNCTION jobstate.apply_is_settled(text)
    IS 'whether a state is an end: completed, failed, cancelled or reverted';

CREATE FUNCTION jobstate.apply_is_active(state text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN state NOT IN ('pending', 'stopped', 'failed_retryable', 'completed', 'failed', 'cancelled', 'reverted');
COMMENT ON FUNCTION jobstate.apply_is_active(text)
    IS 'whether a state means work in progress: neither waiting, nor stopped, nor settled';

-- apply_edges: the edges from each of some states to each of others.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_edges(from_states text[], to_states text[], event text DEFAULT NULL)
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(format('%s -> %s', f, t) || coalesce(': ' || event, '') ORDER BY i, j)
      FROM unnest(from_states) WITH ORDINALITY a (f, i), unnest(to_states) WITH ORDINALITY b (t, j)
     WHERE f <> t
$$;
COMMENT ON FUNCTION jobstate.apply_edges(text[], text[], text)
    IS 'internal: transitions from each state of one list to each of another';

-- apply_install_machine: an apply that is settled stays settled: it has given its
-- targets back, so what would open it again is refused.  Cancelled or reverted it may
-- be by one operation while others are at work: as long as they are it keeps its
-- targets, and how they end may open it again.  All else may follow on all else, for
-- it follows from the operations.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.apply_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    states CONSTANT text[] := ARRAY(SELECT key FROM jsonb_each_text(jobstate.apply_state_ids()) ORDER BY value::int);
    settled CONSTANT text[] := ARRAY(SELECT s FROM unnest(states) s WHERE jobstate.apply_is_settled(s));
    unsettled CONSTANT text[] := ARRAY(SELECT s FROM unnest(states) s WHERE NOT jobstate.apply_is_settled(s));
BEGIN
    PERFORM jobstate.define_machine('apply', jobstate.apply_state_ids(),
        jobstate.apply_edges(unsettled, states) || jobstate.apply_edges(settled, settled)
        || jobstate.apply_edges('{cancelled,reverted}', '{running_degraded,paused,failed_retryable}', 'still at work')
        || jobstate.apply_edges('{reverted}', '{reverting,stopped}', 'still at work'),
        initial => ARRAY['pending'], terminal => settled);
    PERFORM jobstate.define_machine('apply_request',
        '{"pending": 1, "completed": 2, "failed": 3}',
        ARRAY['pending -> completed: done', 'pending -> failed: not done',
              'completed -> pending: again', 'failed -> pending: again'],
        terminal => ARRAY['completed', 'failed']);
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_machine()
    IS 'internal: defines the machines "apply" and "apply_request"';

-- operation_install_machine: an operation begins when it is claimed, and what is
-- completed, failed, cancelled or reverted stays so.  A cutover that has begun is
-- not stopped in the middle.  The edges named "reap" are for what
-- was left behind under an apply that is settled.
-- Writes: machine, state, transition.  Locks: those rows.
CREATE FUNCTION jobstate.operation_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    setup CONSTANT text[] := '{preparing_branch,applying_branch_changes,validating_branch,creating_deploy_request,
                               validating_deploy_request,waiting_for_deploy}';
    work CONSTANT text[] := '{running,catching_up,checksumming,post_checksum}';
    again CONSTANT text[] := '{resuming,recovering}';
    parked CONSTANT text[] := '{waiting_for_cutover}';
    late CONSTANT text[] := '{cutting_over,revert_window,skipping_revert,reverting}';
    -- nothing leads to these; rows that were loaded in them have a way out
    projected CONSTANT text[] := '{running_degraded,paused}';
    early CONSTANT text[] := setup || work || again || parked || projected;
BEGIN
    PERFORM jobstate.define_machine('operation', jobstate.apply_state_ids(),
        ARRAY['pending -> running: claim', 'stopped -> resuming: start', 'stopped -> pending: start',
              'failed_retryable -> running: retry', 'waiting_for_cutover -> cutting_over: cutover',
              'cutting_over -> waiting_for_cutover: not yet', 'cutting_over -> revert_window: cut over',
              'cutting_over -> completed: complete', 'revert_window -> completed: complete',
              'revert_window -> skipping_revert: skip', 'skipping_revert -> completed: complete',
              'skipping_revert -> revert_window', 'revert_window -> reverting: revert',
              'reverting -> revert_window', 'reverting -> reverted: reverted']
        || jobstate.apply_edges(early, setup || work || parked)
        || jobstate.apply_edges(setup || work || again || projected, '{cutting_over}')
        || jobstate.apply_edges(again, '{revert_window,skipping_revert,reverting}')
        || jobstate.apply_edges(early || late, '{recovering}', 'recover')
        || jobstate.apply_edges(early || late, '{failed,failed_retryable}', 'fail')
        || jobstate.apply_edges(early, '{completed}', 'complete')
        || jobstate.apply_edges(early || '{pending,failed_retryable}', '{stopped}', 'stop')
        || jobstate.apply_edges(early || '{pending,failed_retryable,stopped}', '{cancelled}', 'cancel')
        || jobstate.apply_edges('{pending,stopped,failed_retryable}', '{failed}', 'reap')
        || jobstate.apply_edges(late, '{cancelled}', 'reap')
        || jobstate.apply_edges(early || '{pending,stopped,failed_retryable,cutting_over,revert_window,skipping_revert}',
                                '{reverted}', 'reap'),
        initial => ARRAY['pending', 'completed'],
        terminal => ARRAY['completed', 'failed', 'cancelled', 'reverted']);
END
$$;
COMMENT ON FUNCTION jobstate.operation_install_machine()
    IS 'internal: defines the machine "operation"';

-- task_install_machine: what the engine says about a table goes as it comes, until
-- the task is settled.
-- Writes: machine, state, transition.  Locks: those rows.
CREATE FUNCTION jobstate.task_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    active CONSTANT text[] := '{running,catching_up,checksumming,post_checksum,waiting_for_deploy,waiting_for_cutover,
                                recovering,cutting_over,revert_window,reverting}';
    settled CONSTANT text[] := '{completed,failed,cancelled,reverted}';
BEGIN
    PERFORM jobstate.define_machine('apply_task',
        (SELECT jsonb_object_agg(s, jobstate.apply_state_ids() -> s)
           FROM unnest('{pending,failed_retryable,stopped}' || active || settled) s),
        jobstate.apply_edges('{pending,stopped,failed_retryable}' || active, active || settled)
        || jobstate.apply_edges('{pending,failed_retryable}' || active, '{stopped}', 'stop')
        || jobstate.apply_edges(active, '{failed_retryable}', 'fail')
        || jobstate.apply_edges('{stopped,failed_retryable}', '{pending}', 'start'),
        initial => '{pending}' || active,
        terminal => settled);
END
$$;
COMMENT ON FUNCTION jobstate.task_install_machine()
    IS 'internal: defines the machine "apply_task"';

-- apply_install_applies: the applies, and what they keep others off.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.apply_install_applies()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.apply (
        id               bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        apply_identifier text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
        idempotency_key  text UNIQUE,
        database_name    text NOT NULL,
        database_type    text NOT NULL,
        environment      text NOT NULL,
        state            text NOT NULL DEFAULT 'pending',
        reason           text,
        error_message    text,
        version          bigint NOT NULL DEFAULT 1,
        max_drivers      smallint NOT NULL DEFAULT 2 CHECK (max_drivers > 0),
        options          jsonb NOT NULL DEFAULT '{}',
        created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at       timestamptz,
        completed_at     timestamptz,
        reaped_at        timestamptz
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS apply_open ON jobstate.apply (created_at, id) WHERE reaped_at IS NULL;

    CREATE TABLE IF NOT EXISTS jobstate.apply_target (
        database_name text NOT NULL,
        database_type text NOT NULL,
        environment   text NOT NULL,
        deployment    text NOT NULL,
        apply_id      bigint,
        version       bigint NOT NULL DEFAULT 1,
        PRIMARY KEY (database_name, database_type, environment, deployment)
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.apply_control_request (
        apply_id     bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        operation    text NOT NULL CHECK (operation IN
                         ('stop', 'start', 'cancel', 'release', 'cutover', 'revert', 'skip_revert')),
        status       text NOT NULL DEFAULT 'pending',
        note         text,
        requested_by text,
        requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at     timestamptz,
        PRIMARY KEY (apply_id, operation)
    );

    CREATE TABLE IF NOT EXISTS jobstate.apply_policy (
        singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        max_retries      integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
        retryable_for    interval NOT NULL DEFAULT '1 day' CHECK (retryable_for > '0'),
        task_grace       interval NOT NULL DEFAULT '5 minutes' CHECK (task_grace >= '0'),
        quiet            interval NOT NULL DEFAULT '10 minutes' CHECK (quiet >= '0')
    );
    INSERT INTO jobstate.apply_policy DEFAULT VALUES ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_applies()
    IS 'internal: creates apply, apply_target, apply_control_request and apply_policy';

-- apply_install_operations: the operations.  The variant says what a state alone
-- does not: how a failure bears on the others, and whether a row that waits can
-- ever run.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.apply_install_operations()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.operation (
        apply_id       bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        id             bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE,
        deployment     text NOT NULL,
        operation_key  text NOT NULL DEFAULT '',
        operation_kind text NOT NULL DEFAULT 'work' CHECK (operation_kind IN ('work', 'group_finalizer')),
        target         text,
        cutover_policy text NOT NULL DEFAULT 'rolling' CHECK (cutover_policy IN ('rolling', 'barrier', 'parallel')),
        on_failure     text NOT NULL DEFAULT 'halt',
        max_retries    integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
        already_converged boolean NOT NULL DEFAULT false,
        state          text NOT NULL DEFAULT 'pending',
        variant        text GENERATED ALWAYS AS (CASE
                           WHEN orphaned AND state IN ('pending', 'stopped') THEN 'orphaned'
                           WHEN state = 'pending' THEN 'waiting'
                           WHEN state = 'stopped' AND started_at IS NULL THEN 'never_started'
                           WHEN state = 'stopped' THEN 'started'
                           WHEN state = 'failed' AND on_failure = 'continue' THEN 'continue'
                           WHEN state = 'failed' AND on_failure = 'pause' AND released_at IS NULL THEN 'pause'
                           WHEN state = 'failed' AND on_failure = 'pause' THEN 'continue'
                           WHEN state = 'failed' THEN 'halt' END) STORED,
        orphaned       boolean NOT NULL DEFAULT false,
        released_at    timestamptz,
        error_message  text,
        failure        text GENERATED ALWAYS AS (CASE
                           WHEN state = 'failed' AND error_message <> ''
                           THEN 'deployment ' || deployment || ' failed: ' || error_message END) STORED,
        attempt        integer NOT NULL DEFAULT 0,
        retries        integer NOT NULL DEFAULT 0,
        retry_at       timestamptz,
        owner          text,
        token          uuid,
        lease_until    timestamptz,
        progress       jsonb NOT NULL DEFAULT '{}',
        resume_context jsonb,
        created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at     timestamptz,
        completed_at   timestamptz,
        updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (apply_id, id),
        UNIQUE (apply_id, deployment, operation_key)
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.task (
        apply_id         bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        id               bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE,
        operation_id     bigint,
        legacy_apply_id  bigint GENERATED ALWAYS AS (CASE WHEN operation_id IS NULL THEN apply_id END) STORED,
        task_identifier  text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
        name             text,
        state            text NOT NULL DEFAULT 'pending',
        attempt          integer NOT NULL DEFAULT 0,
        error_message    text,
        rows_copied      bigint,
        rows_total       bigint,
        progress_percent numeric(5, 2) CHECK (progress_percent BETWEEN 0 AND 100),
        created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at       timestamptz,
        completed_at     timestamptz,
        updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (apply_id, id),
        FOREIGN KEY (apply_id, operation_id)
            REFERENCES jobstate.operation (apply_id, id) ON UPDATE CASCADE ON DELETE CASCADE
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS task_operation ON jobstate.task (apply_id, operation_id);
    CREATE INDEX IF NOT EXISTS task_legacy ON jobstate.task (legacy_apply_id);
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_operations()
    IS 'internal: creates operation and task';

-- apply_install_comments: says in the database what each table is for.
-- Writes nothing.  Locks: the tables, SHARE UPDATE EXCLUSIVE.
CREATE FUNCTION jobstate.apply_install_comments()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMENT ON TABLE jobstate.apply IS 'one row per apply; its state, reason, error and end follow from its operations';
    COMMENT ON COLUMN jobstate.apply.state IS 'derived from the operations, or where there are none from the tasks; not to be written';
    COMMENT ON COLUMN jobstate.apply.reason IS 'the rule that gave the state';
    COMMENT ON COLUMN jobstate.apply.error_message IS 'of the first operation that failed with a message';
    COMMENT ON COLUMN jobstate.apply.version IS 'moves with every verb that decides about the apply';
    COMMENT ON COLUMN jobstate.apply.max_drivers IS 'how many operations may be leased at a time';
    COMMENT ON COLUMN jobstate.apply.completed_at IS 'when it was settled; NULL as long as it is not';
    COMMENT ON COLUMN jobstate.apply.reaped_at IS 'when maintenance found that nothing unsettled is left of it';
    COMMENT ON INDEX jobstate.apply_open IS 'the applies that claims and maintenance look at';

    COMMENT ON TABLE jobstate.apply_target IS 'one row per deployment of a database; locked by whoever creates an apply on it';
    COMMENT ON COLUMN jobstate.apply_target.apply_id IS 'the apply that was last created there';
    COMMENT ON TABLE jobstate.apply_control_request IS 'what people asked of an apply, one row per kind';
    COMMENT ON COLUMN jobstate.apply_control_request.note IS 'why it failed, or what came of it';
    COMMENT ON TABLE jobstate.apply_policy IS 'one row: retries, and after how long maintenance steps in';

    COMMENT ON TABLE jobstate.operation IS 'one row per deployment of an apply, or per step of one';
    COMMENT ON COLUMN jobstate.operation.operation_key IS 'tells operations of one deployment apart; "scope/step" makes steps in order, "scope/group_finalizer" comes after a scope';
    COMMENT ON COLUMN jobstate.operation.on_failure IS 'halt, continue or pause: what a failure means for the others; any other text is halt';
    COMMENT ON COLUMN jobstate.operation.variant IS 'what the rules know beside the state: of a failure halt, continue or pause; of what waits whether it ever will run';
    COMMENT ON COLUMN jobstate.operation.orphaned IS 'it waits for work that failed, so it never runs; kept by the functions';
    COMMENT ON COLUMN jobstate.operation.released_at IS 'when the pause after its failure was released';
    COMMENT ON COLUMN jobstate.operation.failure IS 'the error as the apply tells it';
    COMMENT ON COLUMN jobstate.operation.attempt IS 'how often it was claimed';
    COMMENT ON COLUMN jobstate.operation.retries IS 'how often it failed and was to be retried';
    COMMENT ON COLUMN jobstate.operation.retry_at IS 'when a retry is due';
    COMMENT ON COLUMN jobstate.operation.owner IS 'who claimed it last';
    COMMENT ON COLUMN jobstate.operation.token IS 'of the last claim; whoever has another one has lost the lease';
    COMMENT ON COLUMN jobstate.operation.lease_until IS 'until when the owner may be silent';
    COMMENT ON COLUMN jobstate.operation.progress IS 'what drivers tell about it';
    COMMENT ON COLUMN jobstate.operation.resume_context IS 'what the next driver needs to go on';
    COMMENT ON COLUMN jobstate.operation.updated_at IS 'the last move of state';

    COMMENT ON TABLE jobstate.task IS 'one row per table that an operation changes; without operation_id from before there were operations';
    COMMENT ON COLUMN jobstate.task.legacy_apply_id IS 'the apply, where the task belongs to no operation';
    COMMENT ON INDEX jobstate.task_operation IS 'the tasks of an operation';
    COMMENT ON INDEX jobstate.task_legacy IS 'the tasks of an apply without operations';
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_comments()
    IS 'internal: comments on the applies'' tables';

-- apply_attach: puts the kernel on one of the family's tables, once.
-- Writes: attachment.  Locks: the table against writers.
CREATE FUNCTION jobstate.apply_attach(target text, machine text, state_column name, group_by name[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = $1::regclass AND a.watched) THEN
        PERFORM jobstate.attach($1::regclass, machine, state_column, group_by);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_attach(text, text, name, name[])
    IS 'internal: attaches a table unless it is attached';

-- install_apply: the family's machines, rules and tables, and the kernel on them.
-- Writes: machine, state, transition, rule, attachment, derivation and apply_policy.
-- Locks: the tables against writers while they are attached for the first time.
CREATE FUNCTION jobstate.install_apply()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.apply_install_machine();
    PERFORM jobstate.operation_install_machine();
    PERFORM jobstate.task_install_machine();
    PERFORM jobstate.apply_install_rules();
    PERFORM jobstate.apply_install_applies();
    PERFORM jobstate.apply_install_operations();
    PERFORM jobstate.apply_install_comments();
    PERFORM jobstate.apply_attach('jobstate.apply', 'apply', 'state', '{database_name,environment}');
    PERFORM jobstate.apply_attach('jobstate.operation', 'operation', 'state', '{apply_id}');
    PERFORM jobstate.apply_attach('jobstate.task', 'apply_task', 'state', '{apply_id}');
    PERFORM jobstate.apply_attach('jobstate.apply_control_request', 'apply_request', 'status', '{operation}');
    PERFORM jobstate.apply_install_derivation();
END
$$;
COMMENT ON FUNCTION jobstate.install_apply()
    IS 'internal: what install(''apply'') does';
-- applies: from operations to the apply ---------------------------------------------
--
-- Four rule sets.  "head" and "seed" are the fold as it is and as it began; each
-- "..._rollout" puts the policies for failures before it.  The apply's state is
-- derived by "apply_head_rollout" unless apply_use_rules() says otherwise.

-- apply_fold_rules: the fold of a profile, in order.  The states that are listed
-- last count as nothing: a lone one is pending.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_fold_rules(profile text)
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(rule ORDER BY ord)
      FROM unnest(ARRAY[
        'empty -> pending',
        'any failed -> failed',
        'any failed_retryable -> failed_retryable',
        'any cancelled -> cancelled',
        'any stopped -> stopped',
        CASE profile WHEN 'head' THEN 'any reverting -> reverting' END,
        'any reverted -> reverted',
        'all completed -> completed',
        'any recovering -> recovering',
        CASE profile WHEN 'head'
             THEN 'any cutting_over and none pending, running, catching_up, checksumming, post_checksum -> cutting_over'
             ELSE 'any cutting_over -> cutting_over' END,
        'all waiting_for_cutover, completed -> waiting_for_cutover',
        'all waiting_for_deploy, completed -> waiting_for_deploy',
        'any revert_window -> revert_window',
        'any running -> running',
        CASE profile WHEN 'head'
             THEN 'any pending and any catching_up, checksumming, post_checksum, cutting_over -> running' END,
        CASE profile WHEN 'head' THEN 'any catching_up -> catching_up' END,
        CASE profile WHEN 'head' THEN 'any checksumming -> checksumming' END,
        CASE profile WHEN 'head' THEN 'any post_checksum -> post_checksum' END,
        'always -> pending']) WITH ORDINALITY r (rule, ord)
     WHERE rule IS NOT NULL
$$;
COMMENT ON FUNCTION jobstate.apply_fold_rules(text)
    IS 'internal: the rules of a profile, head or seed';

-- apply_rollout_rules: what a failure means, by the policy of who failed.  What is
-- not settled holds its deployment; but what only waits has begun nothing, and what
-- is orphaned never will.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_rollout_rules()
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    'any failed/halt and any not completed, failed, cancelled, reverted, pending/waiting, pending/orphaned, stopped/never_started, stopped/orphaned -> running_degraded',
    'any failed/halt -> failed',
    'any failed/pause and later not completed, failed, cancelled, reverted, pending/orphaned, stopped/orphaned -> paused',
    'any failed and all completed, failed, cancelled, reverted, pending/orphaned, stopped/orphaned -> failed',
    'any failed -> running_degraded'];
COMMENT ON FUNCTION jobstate.apply_rollout_rules()
    IS 'internal: the rules that stand before the fold, for failures under halt, continue and pause';

-- apply_define_rules: defines a rule set, unless it is that already: a definition
-- keeps writers of what is derived by it out.
-- Writes: rule_set, rule.  Locks: what define_rules() locks.
CREATE FUNCTION jobstate.apply_define_rules(rule_set text, rules text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rules IS DISTINCT FROM (SELECT array_agg(r.condition || ' -> ' || r.result ORDER BY r.ord)
                                 FROM jobstate.rules r WHERE r.rule_set = $1) THEN
        PERFORM jobstate.define_rules($1, $2, 'pending');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_define_rules(text, text[])
    IS 'internal: defines a rule set where it is not what it should be';

-- apply_install_rules: defines the rule sets.
-- Writes: rule_set, rule.  Locks: what define_rules() locks.
CREATE FUNCTION jobstate.apply_install_rules()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    profile text;
BEGIN
    FOREACH profile IN ARRAY ARRAY['head', 'seed'] LOOP
        PERFORM jobstate.apply_define_rules('apply_' || profile, jobstate.apply_fold_rules(profile));
        PERFORM jobstate.apply_define_rules('apply_' || profile || '_rollout', jobstate.apply_rollout_rules()
            || array_remove(jobstate.apply_fold_rules(profile), 'any failed -> failed'));
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_rules()
    IS 'internal: defines the rule sets apply_head, apply_seed and their _rollout';

-- apply_derive: the apply follows from its operations by a rule set.  Where it has
-- none, it is from before there were operations, and follows from its tasks.
-- Writes: derivation.  Locks: the tables against writers.
CREATE FUNCTION jobstate.apply_derive(rule_set text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.derive('jobstate.apply', 'jobstate.operation', 'apply_id', rule_set,
        completed_at => 'completed_at', error => 'error_message', reason => 'reason',
        child_error => 'failure', child_variant => 'variant', child_order => '{created_at,id}');
    PERFORM jobstate.derive('jobstate.apply', 'jobstate.task', 'legacy_apply_id',
        regexp_replace(rule_set, '_rollout$', ''),
        completed_at => 'completed_at', error => 'error_message', reason => 'reason',
        child_error => 'error_message', child_order => '{created_at,id}');
END
$$;
COMMENT ON FUNCTION jobstate.apply_derive(text)
    IS 'internal: derives applies from operations, else from tasks';

-- apply_install_derivation: by the rules as they are at HEAD, unless there are
-- others already.
-- Writes: derivation.  Locks: the tables against writers, the first time.
CREATE FUNCTION jobstate.apply_install_derivation()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.derivations d WHERE d.parent = 'jobstate.apply'::regclass) THEN
        PERFORM jobstate.apply_derive('apply_head_rollout');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_derivation()
    IS 'internal: derives applies by the default rules, the first time';

-- apply_use_rules: derives applies by another rule set: one of the four, or one of
-- your own.  Refused with 23514 as long as that would open an apply that is settled,
-- because of operations that were left waiting; maintenance ends these.
-- Writes: derivation, and apply where the new rules give another state.
-- Locks: the tables against writers.
CREATE FUNCTION jobstate.apply_use_rules(rule_set text DEFAULT 'apply_head_rollout')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('rule_set', rule_set);
    PERFORM jobstate.underive('jobstate.apply', 'jobstate.operation');
    PERFORM jobstate.underive('jobstate.apply', 'jobstate.task');
    PERFORM jobstate.apply_derive(rule_set);
END
$$;
COMMENT ON FUNCTION jobstate.apply_use_rules(text)
    IS 'derives applies by another rule set from here on';

-- apply_state_name: a state's name as the fold takes it: any case, old names too;
-- NULL for what is no state.  A prefix "STATE_" makes it something else.
-- task_state_name: the same for what an engine says, with the prefix taken off: what
-- nobody knows is running.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.apply_state_name(raw text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE lower(raw) WHEN 'complete' THEN 'completed'
                       WHEN 'recovering_cutover' THEN 'recovering'
                       ELSE CASE WHEN jobstate.apply_state_ids() ? lower(raw) THEN lower(raw) END END;
COMMENT ON FUNCTION jobstate.apply_state_name(text)
    IS 'a state by any of its names, in any case; NULL if it is none';

CREATE FUNCTION jobstate.task_state_name(raw text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(jobstate.apply_state_name(regexp_replace(raw, '^STATE_', '', 'i')), 'running');
COMMENT ON FUNCTION jobstate.task_state_name(text)
    IS 'an engine''s word for a state as a state: without STATE_, running if nobody knows it';

-- apply_require_profile: refuses what is neither head nor seed.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_require_profile(profile text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    PERFORM jobstate.require_argument('profile', profile);
    IF profile NOT IN ('head', 'seed') THEN
        RAISE EXCEPTION 'profile "%" does not exist', profile
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Profiles: head, seed.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_require_profile(text)
    IS 'internal: raises 22023 unless a profile is head or seed';

-- fold_states: the state that follows from these, policies aside.  What is NULL or
-- no state counts as pending.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_states(profile text, states text[])
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.apply_require_profile(profile);
    PERFORM jobstate.require_argument('states', states);
    RETURN jobstate.fold('apply_' || profile,
        ARRAY(SELECT jobstate.apply_state_name(s) FROM unnest(states) WITH ORDINALITY u (s, ord) ORDER BY ord));
END
$$;
COMMENT ON FUNCTION jobstate.fold_states(text, text[])
    IS 'the apply''s state for operations in these states, by profile head or seed';

-- fold_variant: what the rules know of an operation beside its state, from words: a
-- failure's policy (halt, continue, pause, released), "never_started" of one that was
-- stopped, "orphaned" of one that will never run.  What is no state is unsettled.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_variant(state text, policy text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN state IS NULL THEN 'unknown'
    WHEN state IN ('pending', 'stopped') AND policy = 'orphaned' THEN 'orphaned'
    WHEN state = 'pending' THEN 'waiting'
    WHEN state = 'stopped' THEN CASE WHEN policy = 'never_started' THEN policy ELSE 'started' END
    WHEN state = 'failed' THEN CASE WHEN policy IN ('continue', 'released') THEN 'continue'
                                    WHEN policy = 'pause' THEN 'pause' ELSE 'halt' END END;
COMMENT ON FUNCTION jobstate.fold_variant(text, text)
    IS 'internal: an operation''s variant, for fold_rollout()';

-- fold_rollout: the same with a policy for each operation, in their order.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_rollout(profile text, states text[], policies text[])
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    names text[];
    variants text[];
BEGIN
    PERFORM jobstate.apply_require_profile(profile);
    PERFORM jobstate.require_argument('states', states);
    PERFORM jobstate.require_argument('policies', policies);
    IF cardinality(states) <> cardinality(policies) THEN
        RAISE EXCEPTION 'arguments "states" and "policies" differ in length'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(states), cardinality(policies));
    END IF;
    SELECT coalesce(array_agg(coalesce(u.name, 'pending') ORDER BY u.ord), '{}'),
           coalesce(array_agg(jobstate.fold_variant(u.name, u.policy) ORDER BY u.ord), '{}')
      INTO names, variants
      FROM (SELECT jobstate.apply_state_name(s) AS name, p AS policy, ord
              FROM unnest(states, policies) WITH ORDINALITY a (s, p, ord)) u;
    RETURN jobstate.fold('apply_' || profile || '_rollout', names, variants);
END
$$;
COMMENT ON FUNCTION jobstate.fold_rollout(text, text[], text[])
    IS 'the apply''s state for operations in these states that fail under these policies';
-- applies: creation -----------------------------------------------------------------
--
-- Problem: two sessions create an apply for one deployment at the same time, and
-- neither sees the other's.
-- Solution: a row for each deployment of a database, which whoever creates UPDATES
-- before it looks for applies that are open there, in a later statement.  Under READ
-- COMMITTED the second one waits and then sees the first one's apply; under the
-- stricter levels it fails with 40001.
-- Why an apply that is settled, and has nobody at work, needs no look again: only
-- somebody at work could open it.

-- apply_refuse: words every refusal of an apply or an operation.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_refuse(reason text, id bigint, state text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on operation % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = 'The token is not that of the operation''s last claim.',
                      HINT = 'Drop the result: the operation is somebody else''s, or waits to be claimed again.';
        WHEN 'no operation' THEN
            RAISE EXCEPTION 'operation % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no task' THEN
            RAISE EXCEPTION 'task % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no apply' THEN
            RAISE EXCEPTION 'apply % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'not running' THEN
            RAISE EXCEPTION 'operation % is not running', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Claim it with operation_claim(), if it can be claimed.';
        WHEN 'settled' THEN
            RAISE EXCEPTION 'apply % is settled', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Create another one with apply_create().';
        WHEN 'no operations' THEN
            RAISE EXCEPTION 'apply % has no operations', id
                USING ERRCODE = 'JS003',
                      DETAIL = 'Its state follows from its tasks, and is pending without any.',
                      HINT = 'End its tasks with task_progress(), or delete the apply.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.apply_refuse(text, bigint, text)
    IS 'internal: raises JS001, JS002 or JS003 for an apply, an operation or a task';

-- apply_lock_targets: takes the deployments of a database, in the order of their
-- names.
-- Writes: apply_target.  Locks: the rows, until the end of the transaction.
CREATE FUNCTION jobstate.apply_lock_targets(database_name text, database_type text, environment text,
    deployments text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    one text;
BEGIN
    FOR one IN SELECT DISTINCT d COLLATE "C" FROM unnest(deployments) d ORDER BY 1 LOOP
        INSERT INTO jobstate.apply_target AS t (database_name, database_type, environment, deployment)
        VALUES ($1, $2, $3, one)
            ON CONFLICT (database_name, database_type, environment, deployment)
            DO UPDATE SET version = t.version + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_lock_targets(text, text, text, text[])
    IS 'internal: locks the targets of an apply that is being created';

-- apply_is_at_work: whether a driver has an operation of an apply, or ought to.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_is_at_work(apply_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1 AND jobstate.apply_is_active(o.state));
END
$$;
COMMENT ON FUNCTION jobstate.apply_is_at_work(bigint)
    IS 'internal: whether an operation of an apply is neither waiting, nor stopped, nor settled';

-- apply_holder: an apply that keeps others off one of these deployments: it is not
-- settled, or somebody is still at work on it, anywhere.
-- Writes nothing, locks nothing: the caller holds the targets.
CREATE FUNCTION jobstate.apply_holder(database_name text, database_type text, environment text,
    deployments text[], OUT apply_id bigint, OUT state text, OUT deployment text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    SELECT a.id, a.state, o.deployment INTO apply_id, state, deployment
      FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
     WHERE a.reaped_at IS NULL
       AND a.database_name = $1 AND a.database_type = $2 AND a.environment = $3
       AND o.deployment = ANY ($4)
       AND (a.completed_at IS NULL OR jobstate.apply_is_at_work(a.id))
     ORDER BY a.id, o.id LIMIT 1;
END
$$;
COMMENT ON FUNCTION jobstate.apply_holder(text, text, text, text[])
    IS 'the apply that keeps others off one of these deployments, and which one; NULLs if there is none';

-- apply_check_operations: refuses what cannot be an apply's operations.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_check_operations(operations jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('operations', operations);
    IF jsonb_typeof(operations) <> 'array' OR jsonb_array_length(operations) = 0
       OR EXISTS (SELECT FROM jsonb_array_elements(operations) o
                   WHERE jsonb_typeof(o) <> 'object' OR coalesce(o ->> 'deployment', '') = '') THEN
        RAISE EXCEPTION 'argument "operations" is not a list of operations'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It has to be an array of at least one object with a "deployment".',
                  HINT = 'For example: [{"deployment": "us-east"}, {"deployment": "us-west"}].';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_check_operations(jsonb)
    IS 'internal: raises 22023 unless it is a list of operations';

-- apply_add_operations: the operations of a new apply, and their tasks, in the order
-- in which they are listed.  All are created at the same time, so that their ids
-- are their order.  One that has nothing to do is born completed.
-- Writes: operation, task.  Locks nothing more.
CREATE FUNCTION jobstate.apply_add_operations(apply_id bigint, operations jsonb, cutover_policy text, on_failure text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    created CONSTANT timestamptz := clock_timestamp();
    retries CONSTANT integer := (SELECT p.max_retries FROM jobstate.apply_policy p);
    one record;
    operation_id bigint;
BEGIN
    FOR one IN
        SELECT o.*, coalesce(o.already_converged, false) AS converged
          FROM jsonb_array_elements(operations) WITH ORDINALITY e (operation, ord),
               jsonb_to_record(e.operation) AS o (deployment text, operation_key text, operation_kind text,
                   target text, cutover_policy text, on_failure text, max_retries integer,
                   already_converged boolean, tasks jsonb)
         ORDER BY e.ord
    LOOP
        INSERT INTO jobstate.operation (apply_id, deployment, operation_key, operation_kind, target,
                                        cutover_policy, on_failure, max_retries, already_converged,
                                        state, created_at, updated_at, completed_at)
        VALUES ($1, one.deployment, coalesce(one.operation_key, ''), coalesce(one.operation_kind, 'work'), one.target,
                coalesce(one.cutover_policy, $3), coalesce(one.on_failure, $4),
                coalesce(one.max_retries, retries), one.converged,
                CASE WHEN one.converged THEN 'completed' ELSE 'pending' END,
                created, created, CASE WHEN one.converged THEN created END)
        RETURNING id INTO operation_id;
        INSERT INTO jobstate.task (apply_id, operation_id, task_identifier, name, created_at, updated_at)
        SELECT $1, operation_id, coalesce(t.task ->> 'task_identifier', gen_random_uuid()::text),
               coalesce(t.task ->> 'name', t.task #>> '{}'), created, created
          FROM jsonb_array_elements(coalesce(one.tasks, '[]')) WITH ORDINALITY t (task, ord)
         ORDER BY t.ord;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_add_operations(bigint, jsonb, text, text)
    IS 'internal: adds operations and tasks to a new apply';

-- apply_by_key: the apply that was created under an idempotency key.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_by_key(idempotency_key text)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT a.id FROM jobstate.apply a WHERE a.idempotency_key = $1);
END
$$;
COMMENT ON FUNCTION jobstate.apply_by_key(text)
    IS 'the apply that was created under a key; NULL if there is none';

-- apply_create: an apply with all its operations and tasks, or none of it.  Whoever
-- asks again under the same key gets the one that is there.  One apply that is not
-- settled keeps others off all its deployments.
-- Writes: apply, operation, task, apply_target.
-- Locks: the targets, in the order of their names.
CREATE FUNCTION jobstate.apply_create(database_name text, database_type text, environment text, operations jsonb,
    idempotency_key text DEFAULT NULL, cutover_policy text DEFAULT 'rolling', on_failure text DEFAULT 'halt',
    max_drivers integer DEFAULT 2, apply_identifier text DEFAULT NULL, options jsonb DEFAULT '{}',
    OUT apply_id bigint, OUT created boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    deployments text[];
    holder record;
BEGIN
    PERFORM jobstate.require_argument('database_name', $1);
    PERFORM jobstate.require_argument('database_type', $2);
    PERFORM jobstate.require_argument('environment', $3);
    PERFORM jobstate.apply_check_operations($4);
    PERFORM jobstate.require_argument('cutover_policy', $6);
    PERFORM jobstate.require_argument('on_failure', $7);
    PERFORM jobstate.require_positive('max_drivers', $8 > 0);
    PERFORM jobstate.require_argument('options', $10);
    created := false;
    apply_id := jobstate.apply_by_key($5);
    IF apply_id IS NULL THEN
        deployments := ARRAY(SELECT o ->> 'deployment' FROM jsonb_array_elements($4) o);
        PERFORM jobstate.derive_now(), jobstate.apply_lock_targets($1, $2, $3, deployments);
        apply_id := jobstate.apply_by_key($5);
    END IF;
    IF apply_id IS NOT NULL THEN
        RETURN;
    END IF;
    holder := jobstate.apply_holder($1, $2, $3, deployments);
    IF holder.apply_id IS NOT NULL THEN
        RAISE EXCEPTION 'active apply exists: %', holder.apply_id
            USING ERRCODE = 'lock_not_available',
                  DETAIL = format('Apply %s is %s and has deployment "%s" of database "%s" (%s, %s).',
                                  holder.apply_id, holder.state, holder.deployment, $1, $2, $3),
                  HINT = 'Wait until it is settled, or end it with jobstate.apply_cancel().';
    END IF;
    INSERT INTO jobstate.apply (database_name, database_type, environment, idempotency_key,
                                max_drivers, apply_identifier, options)
    VALUES ($1, $2, $3, $5, $8, coalesce($9, gen_random_uuid()::text), $10)
        ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id INTO apply_id;
    IF apply_id IS NULL THEN
        -- of another database, or the targets would have made us wait
        apply_id := jobstate.apply_by_key($5);
        RETURN;
    END IF;
    created := true;
    PERFORM jobstate.apply_add_operations(apply_id, $4, $6, $7);
    UPDATE jobstate.apply_target t
       SET apply_id = apply_create.apply_id
     WHERE t.database_name = $1 AND t.database_type = $2 AND t.environment = $3 AND t.deployment = ANY (deployments);
END
$$;
COMMENT ON FUNCTION jobstate.apply_create(text, text, text, jsonb, text, text, text, integer, text, jsonb)
    IS 'creates an apply with its operations and tasks; a repeated key gives the one that is there, an active apply on a target is refused';
-- applies: who may claim what -------------------------------------------------------
--
-- A claim looks twice: without a lock, for something that can be claimed, and again
-- once it holds the apply and the operation.  Both times it asks operation_blocker().

-- operation_scope: the part of a key that makes operations of one deployment belong
-- together: "scope/step", "scope/group_finalizer".  A finalizer without a scope is
-- its whole deployment's.
-- operation_covers: whether a scope has a key in it, byte by byte.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.operation_scope(operation_kind text, operation_key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN operation_key LIKE '%/group_finalizer' AND operation_kind = 'group_finalizer'
    THEN left(operation_key, -length('/group_finalizer'))
    WHEN operation_kind = 'group_finalizer' THEN ''
    ELSE substring(operation_key FROM '^(.*)/[^/]*$') END;
COMMENT ON FUNCTION jobstate.operation_scope(text, text)
    IS 'the scope that an operation''s key names; NULL if it names none';

CREATE FUNCTION jobstate.operation_covers(scope text, operation_key text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN scope = '' OR operation_key = scope OR starts_with(operation_key, scope || '/');
COMMENT ON FUNCTION jobstate.operation_covers(text, text)
    IS 'whether a key is the scope or lies in it';

-- operation_follows: the operations that this one cannot do without: a finalizer's
-- whole scope, a step's earlier steps.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_follows(apply_id bigint, operation_id bigint)
RETURNS TABLE (id bigint, state text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT e.id, e.state
          FROM jobstate.operation o
          JOIN jobstate.operation e ON e.apply_id = o.apply_id AND e.deployment = o.deployment
         WHERE o.apply_id = $1 AND o.id = $2 AND e.id <> o.id AND e.operation_kind = 'work'
           AND CASE o.operation_kind
                   WHEN 'group_finalizer'
                   THEN jobstate.operation_covers(jobstate.operation_scope(o.operation_kind, o.operation_key), e.operation_key)
                   ELSE (e.created_at, e.id) < (o.created_at, o.id)
                        AND jobstate.operation_scope(e.operation_kind, e.operation_key)
                          = jobstate.operation_scope(o.operation_kind, o.operation_key) END
         ORDER BY e.created_at, e.id;
END
$$;
COMMENT ON FUNCTION jobstate.operation_follows(bigint, bigint)
    IS 'internal: the operations of the same deployment that have to be completed before one may begin';

-- operation_keeps_back: whether an earlier operation keeps a later one from
-- beginning, or, at a cutover, from cutting over.  A failure that is to be
-- continued, or was released, does not; nor does what will never run.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_keeps_back(state text, variant text, cutover_policy text, cutover boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN state = 'completed' OR variant IN ('continue', 'orphaned') THEN false
    WHEN state = 'failed' THEN true
    WHEN cutover_policy = 'parallel' THEN false
    WHEN cutover_policy = 'barrier' AND NOT cutover
    THEN state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window')
    ELSE true END;
COMMENT ON FUNCTION jobstate.operation_keeps_back(text, text, text, boolean)
    IS 'internal: whether an operation in this state keeps later ones of this policy back';

-- operation_sibling_blocker: the operation that this one has to wait for, as text.
-- A failure under halt stops all that has not begun, wherever it stands.  A finalizer
-- that is listed before its work does not keep that back, or both would wait for ever.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_sibling_blocker(apply_id bigint, operation_id bigint, cutover boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    own record;
BEGIN
    SELECT o.created_at, o.cutover_policy, o.deployment, o.operation_kind, o.operation_key INTO own
      FROM jobstate.operation o WHERE o.apply_id = $1 AND o.id = $2;
    RETURN (
        SELECT format('operation %s is %s', b.id, b.state)
          FROM (SELECT e.id, e.state, e.created_at FROM jobstate.operation e
                 WHERE e.apply_id = $1 AND e.id <> $2
                   AND NOT (e.operation_kind = 'group_finalizer' AND own.operation_kind = 'work'
                            AND e.state <> 'failed' AND e.deployment = own.deployment
                            AND jobstate.operation_covers(jobstate.operation_scope(e.operation_kind, e.operation_key), own.operation_key))
                   AND CASE WHEN (e.created_at, e.id) < (own.created_at, $2)
                            THEN jobstate.operation_keeps_back(e.state, e.variant, own.cutover_policy, cutover)
                            ELSE e.variant = 'halt' AND NOT cutover END
                UNION ALL
                SELECT f.id, f.state, NULL FROM jobstate.operation_follows($1, $2) f
                 WHERE f.state <> 'completed' AND NOT cutover) b
         ORDER BY b.created_at, b.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION jobstate.operation_sibling_blocker(bigint, bigint, boolean)
    IS 'internal: the sibling that an operation has to wait for, in words; NULL if there is none';

-- apply_requested: whether somebody asked this of an apply and it is still open.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_requested(apply_id bigint, VARIADIC operations text[])
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.apply_control_request r
                    WHERE r.apply_id = $1 AND r.operation = ANY ($2) AND r.status = 'pending');
END
$$;
COMMENT ON FUNCTION jobstate.apply_requested(bigint, text[])
    IS 'whether one of these requests to an apply is open';

-- operation_state_blocker: what keeps an operation from being claimed, as far as its
-- own state, its parent's and the requests go.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_state_blocker(apply_id bigint, operation_id bigint, cutover boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    stopping CONSTANT boolean := jobstate.apply_requested($1, 'stop', 'cancel');
    starting CONSTANT boolean := jobstate.apply_requested($1, 'start');
    o record;
BEGIN
    SELECT p.*, a.state AS parent,
           p.updated_at > clock_timestamp() - (SELECT y.retryable_for FROM jobstate.apply_policy y) AS fresh,
           (SELECT count(*) FROM jobstate.operation s WHERE s.apply_id = $1) AS siblings
      INTO o
      FROM jobstate.operation p JOIN jobstate.apply a ON a.id = p.apply_id
     WHERE p.apply_id = $1 AND p.id = $2;
    RETURN CASE
        WHEN NOT FOUND THEN 'it does not exist'
        WHEN jobstate.apply_is_settled(o.state) THEN 'it is ' || o.state
        WHEN jobstate.apply_is_settled(o.parent) THEN 'the apply is ' || o.parent
        WHEN o.lease_until > clock_timestamp() THEN 'it is leased to ' || coalesce(o.owner, 'somebody')
        WHEN cutover AND o.state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window')
        THEN 'it is ' || o.state
        WHEN cutover AND o.state = 'waiting_for_cutover' AND stopping THEN 'the apply is to stop'
        WHEN NOT cutover AND o.state = 'waiting_for_cutover' AND o.cutover_policy = 'barrier'
             AND o.siblings > 1 AND NOT stopping THEN 'it waits for its cutover'
        WHEN jobstate.apply_is_active(o.state) THEN NULL
        WHEN stopping THEN 'the apply is to stop'
        WHEN o.variant = 'orphaned' THEN 'what it follows did not succeed'
        WHEN o.state = 'failed_retryable' AND o.retry_at > clock_timestamp() THEN 'its retry is not due'
        WHEN o.state = 'failed_retryable' AND (NOT o.fresh OR o.retries > o.max_retries) THEN 'its retries are over'
        WHEN o.state = 'stopped' AND NOT starting THEN 'it is stopped'
        WHEN o.state = 'pending' AND o.parent = 'stopped' AND NOT starting THEN 'the apply is stopped'
        END;
END
$$;
COMMENT ON FUNCTION jobstate.operation_state_blocker(bigint, bigint, boolean)
    IS 'internal: why an operation''s state, or its apply''s, keeps it from being claimed';

-- operation_blocker: why an operation cannot be claimed now; NULL if it can.  What was
-- stopped at work is resumed whatever its siblings do: it had its turn when it began.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_blocker(operation_id bigint, cutover boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    o record;
    blocker text;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('cutover', $2);
    SELECT p.apply_id, p.state = 'pending' OR p.state = 'stopped' AND p.started_at IS NULL
                       OR $2 AND p.state = 'waiting_for_cutover' AS begins, a.max_drivers,
           (SELECT count(*) FROM jobstate.operation s
             WHERE s.apply_id = p.apply_id AND s.lease_until > clock_timestamp()) AS drivers
      INTO o
      FROM jobstate.operation p JOIN jobstate.apply a ON a.id = p.apply_id
     WHERE p.id = $1;
    blocker := jobstate.operation_state_blocker(o.apply_id, $1, $2);
    IF blocker IS NULL AND o.begins THEN
        blocker := jobstate.operation_sibling_blocker(o.apply_id, $1, $2);
    END IF;
    IF blocker IS NULL AND o.drivers >= o.max_drivers THEN
        blocker := format('%s drivers are at work', o.drivers);
    END IF;
    RETURN blocker;
END
$$;
COMMENT ON FUNCTION jobstate.operation_blocker(bigint, boolean)
    IS 'why an operation cannot be claimed now, or be cut over; NULL if it can';

-- operation_candidates: what a claim looks at, in the order in which it looks.  What
-- an earlier sibling keeps back is left out here already, for all siblings in one
-- pass, in which finalizers do not count: whom they keep back is looked at later.
-- Writes nothing, locks nothing: ask operation_blocker() about each.
CREATE FUNCTION jobstate.operation_candidates(cutover boolean, only_apply bigint, only_deployment text)
RETURNS TABLE (apply_id bigint, operation_id bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT c.apply_id, c.id
          FROM (SELECT o.*, a.created_at AS apply_created_at,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'rolling', $1)) OVER earlier AS rolling,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'barrier', $1)) OVER earlier AS barrier,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'parallel', $1)) OVER earlier AS parallel
                  FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
                 WHERE a.reaped_at IS NULL AND a.completed_at IS NULL AND ($2 IS NULL OR a.id = $2)
                WINDOW earlier AS (PARTITION BY o.apply_id ORDER BY o.created_at, o.id
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) c
         WHERE ($3 IS NULL OR c.deployment = $3)
           AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
           AND CASE WHEN jobstate.apply_is_settled(c.state) THEN false
                    WHEN $1 AND c.state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window') THEN false
                    WHEN c.state = 'pending' OR c.state = 'stopped' AND c.started_at IS NULL OR $1 AND c.state = 'waiting_for_cutover'
                    THEN CASE c.cutover_policy WHEN 'rolling' THEN c.rolling WHEN 'barrier' THEN c.barrier
                                               ELSE c.parallel END IS NOT TRUE
                    ELSE true END
         ORDER BY c.apply_created_at, c.apply_id, c.created_at, c.id;
END
$$;
COMMENT ON FUNCTION jobstate.operation_candidates(boolean, bigint, text)
    IS 'internal: the operations that nobody has, oldest first';
-- operations: claims ----------------------------------------------------------------
--
-- Lock order: operations by id, then the apply.  That is the kernel's order too:
-- whoever wrote an operation locks its apply when it commits.  Claims and sweeps
-- lock with SKIP LOCKED and wait for nobody.  What follows for siblings that nobody
-- has is written under the apply's lock: against the order, but only plain statements
-- hold such a row while they wait for the apply.
--
-- Whoever moves or claims an operation UPDATES the apply's row before it looks at the
-- others, so that at REPEATABLE READ nobody decides by an old snapshot: he fails with
-- 40001.

-- apply_hold: takes an apply, and tells its state.
-- Writes: apply.  Locks: its row.
CREATE FUNCTION jobstate.apply_hold(apply_id bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    its_state text;
BEGIN
    PERFORM jobstate.require_argument('apply_id', apply_id);
    UPDATE jobstate.apply a SET version = a.version + 1 WHERE a.id = apply_id
    RETURNING a.state INTO its_state;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no apply', apply_id);
    END IF;
    RETURN its_state;
END
$$;
COMMENT ON FUNCTION jobstate.apply_hold(bigint)
    IS 'internal: locks and updates an apply''s row, and tells its state';

-- operation_grab: takes an operation and its apply without waiting; false if
-- somebody else has one of them.
-- Writes: apply.  Locks: both rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.operation_grab(apply_id bigint, operation_id bigint)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM jobstate.operation o WHERE o.apply_id = $1 AND o.id = $2 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM jobstate.apply a WHERE a.id = $1 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM jobstate.apply_hold($1);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_grab(bigint, bigint)
    IS 'internal: locks an operation and its apply, unless that takes waiting';

-- operation_lease: gives an operation that is held, and may be claimed, to a driver.
-- What was at work goes on in its state; all else begins.
-- Writes: operation, apply.  Locks nothing more.
CREATE FUNCTION jobstate.operation_lease(apply_id bigint, operation_id bigint, owner text, lease interval, cutover boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
BEGIN
    UPDATE jobstate.operation o
       SET state = n.state, updated_at = CASE WHEN n.state = o.state THEN o.updated_at ELSE at END,
           owner = $3, token = gen_random_uuid(), lease_until = at + $4, attempt = o.attempt + 1,
           retry_at = NULL, started_at = coalesce(o.started_at, at)
      FROM (SELECT CASE WHEN p.state IN ('pending', 'failed_retryable') THEN 'running'
                        WHEN p.state = 'stopped' THEN 'resuming'
                        WHEN $5 AND p.state = 'waiting_for_cutover' THEN 'cutting_over'
                        ELSE p.state END AS state
              FROM jobstate.operation p WHERE p.apply_id = $1 AND p.id = $2) n
     WHERE o.apply_id = $1 AND o.id = $2;
    UPDATE jobstate.apply a SET started_at = at WHERE a.id = $1 AND a.started_at IS NULL;
END
$$;
COMMENT ON FUNCTION jobstate.operation_lease(bigint, bigint, text, interval, boolean)
    IS 'internal: leases a held operation under a fresh token';

-- operation_claim_one: the first candidate that can be claimed, once it is held.  What
-- this transaction has done to an apply counts already.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim_one(owner text, lease interval, cutover boolean,
    only_apply bigint, only_deployment text)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    was text;
BEGIN
    PERFORM jobstate.require_argument('owner', $1);
    IF $1 = '' THEN
        RAISE EXCEPTION 'argument "owner" must not be empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM jobstate.require_positive('lease', $2 > interval '0');
    PERFORM jobstate.derive_now();
    FOR candidate IN SELECT c.apply_id, c.operation_id FROM jobstate.operation_candidates($3, $4, $5) c LOOP
        CONTINUE WHEN jobstate.operation_blocker(candidate.operation_id, $3) IS NOT NULL;
        CONTINUE WHEN NOT jobstate.operation_grab(candidate.apply_id, candidate.operation_id);
        -- it may have gone another way before it was held
        CONTINUE WHEN jobstate.operation_blocker(candidate.operation_id, $3) IS NOT NULL;
        was := (SELECT o.state FROM jobstate.operation o WHERE o.id = candidate.operation_id);
        PERFORM jobstate.operation_lease(candidate.apply_id, candidate.operation_id, $1, $2, $3);
        PERFORM jobstate.apply_settle(candidate.apply_id);
        RETURN QUERY
            SELECT o.apply_id, o.id, o.token, o.attempt, o.lease_until, was, o.state, o.deployment,
                   o.operation_key, o.operation_kind, o.target, o.resume_context
              FROM jobstate.operation o WHERE o.id = candidate.operation_id;
        RETURN;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.operation_claim_one(text, interval, boolean, bigint, text)
    IS 'internal: what operation_claim() and operation_claim_cutover() have in common';

-- operation_claim: one operation for a driver to work on, or no row.  It may be one
-- that waits (it is running now), one whose driver is gone (it keeps its state), one
-- to be resumed after a stop, or one whose retry is due.  Commit before working: the
-- lease only protects what others can see.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim(owner text, lease interval DEFAULT '60 s',
    only_apply bigint DEFAULT NULL, only_deployment text DEFAULT NULL)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM jobstate.operation_claim_one($1, $2, false, $3, $4)
$$;
COMMENT ON FUNCTION jobstate.operation_claim(text, interval, bigint, text)
    IS 'leases an operation that may be worked on to the caller, or returns no row';

-- operation_claim_cutover: the same for one that waits for its cutover, once all
-- before it are completed, or that was left in the middle of it.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim_cutover(owner text, lease interval DEFAULT '60 s',
    only_apply bigint DEFAULT NULL, only_deployment text DEFAULT NULL)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM jobstate.operation_claim_one($1, $2, true, $3, $4)
$$;
COMMENT ON FUNCTION jobstate.operation_claim_cutover(text, interval, bigint, text)
    IS 'leases an operation whose cutover is due to the caller, or returns no row';
-- operations: a driver's verbs ------------------------------------------------------
--
-- Each takes the token of the claim and looks at it on the operation's own row, once
-- that is locked: a token that is looked up by a join may be stolen meanwhile.

-- operation_hold: an operation and its apply, for whoever has its token.
-- Writes: apply.  Locks: the operation, then the apply.
CREATE FUNCTION jobstate.operation_hold(operation_id bigint, token uuid,
    OUT apply_id bigint, OUT state text, OUT retries integer, OUT max_retries integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no operation', $1);
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    END IF;
    PERFORM jobstate.apply_hold(held.apply_id);
    apply_id := held.apply_id;
    state := held.state;
    retries := held.retries;
    max_retries := held.max_retries;
END
$$;
COMMENT ON FUNCTION jobstate.operation_hold(bigint, uuid)
    IS 'internal: locks an operation and its apply, if the token is the last claim''s';

-- operation_heartbeat: keeps a lease, and tells what people ask of the apply.  An
-- operation that is gone is told by NULLs.
-- Writes: operation.  Locks: its row.
CREATE FUNCTION jobstate.operation_heartbeat(operation_id bigint, token uuid, lease interval DEFAULT '60 s',
    OUT lease_until timestamptz, OUT requests text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 > interval '0');
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    ELSIF NOT jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    END IF;
    UPDATE jobstate.operation o
       SET lease_until = clock_timestamp() + $3
     WHERE o.apply_id = held.apply_id AND o.id = $1
    RETURNING o.lease_until INTO lease_until;
    requests := ARRAY(SELECT r.operation FROM jobstate.apply_control_request r
                       WHERE r.apply_id = held.apply_id AND r.status = 'pending' ORDER BY r.operation);
END
$$;
COMMENT ON FUNCTION jobstate.operation_heartbeat(bigint, uuid, interval)
    IS 'extends a lease, and tells until when and what is asked of the apply; raises JS001 or JS003';

-- operation_release: gives an operation back as it is, for the next driver to claim
-- at once.
-- Writes: operation.  Locks: its row.
CREATE FUNCTION jobstate.operation_release(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    UPDATE jobstate.operation o
       SET token = NULL, owner = NULL, lease_until = NULL
     WHERE o.id = $1 AND o.token = $2 AND jobstate.apply_is_active(o.state);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.operation_release(bigint, uuid)
    IS 'gives an operation back to be claimed at once; false if the token does not hold it';

-- operation_progress: what a driver tells of its work.  NULL leaves a thing as it is;
-- progress is merged key by key, the context is replaced.  A state that is expected
-- and is not there changes nothing.  How an operation ends is told by other verbs.
-- Writes: operation, apply.  Locks: the operation, then the apply.
CREATE FUNCTION jobstate.operation_progress(operation_id bigint, token uuid, state text DEFAULT NULL,
    progress jsonb DEFAULT NULL, resume_context jsonb DEFAULT NULL, expected text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    next_state CONSTANT text := jobstate.apply_state_name(regexp_replace($3, '^STATE_', '', 'i'));
    expected_state CONSTANT text := jobstate.apply_state_name(regexp_replace($6, '^STATE_', '', 'i'));
    held record;
BEGIN
    IF $3 IS NOT NULL AND NOT coalesce(jobstate.apply_is_active(next_state), false) THEN
        RAISE EXCEPTION 'state "%" is none of a driver at work', $3
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use operation_complete(), operation_fail(), operation_stop(), operation_cancel(), operation_revert().';
    END IF;
    held := jobstate.operation_hold($1, $2);
    IF NOT jobstate.apply_is_active(held.state) THEN
        IF $6 IS NOT NULL THEN
            RETURN false;
        END IF;
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    ELSIF $6 IS NOT NULL AND held.state IS DISTINCT FROM expected_state THEN
        RETURN false;
    END IF;
    UPDATE jobstate.operation o
       SET state = coalesce(next_state, o.state), progress = o.progress || coalesce($4, '{}'),
           resume_context = coalesce($5, o.resume_context),
           updated_at = CASE WHEN next_state <> o.state THEN clock_timestamp() ELSE o.updated_at END
     WHERE o.apply_id = held.apply_id AND o.id = $1
       AND (next_state <> o.state OR $4 IS NOT NULL OR $5 IS NOT NULL);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_progress(bigint, uuid, text, jsonb, jsonb, text)
    IS 'moves an operation on under its token, with progress; false if it is not in the state expected; raises JS001, JS002 or JS003';

-- operation_end: the end of an attempt.  What the same token brought about before is
-- told by false, and nothing is written.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation, then the apply, then what is stopped or cancelled with it.
CREATE FUNCTION jobstate.operation_end(operation_id bigint, token uuid, state text,
    error_message text DEFAULT NULL, retry_after interval DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    held record;
BEGIN
    held := jobstate.operation_hold($1, $2);
    IF held.state = $3 THEN
        RETURN false;
    ELSIF NOT jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    END IF;
    UPDATE jobstate.operation o
       SET state = $3, lease_until = NULL, updated_at = at,
           error_message = coalesce($4, o.error_message),
           retries = o.retries + ($3 = 'failed_retryable')::integer,
           retry_at = CASE WHEN $3 = 'failed_retryable' THEN at + coalesce($5, '0') END,
           completed_at = CASE WHEN jobstate.apply_is_settled($3) THEN at END
     WHERE o.apply_id = held.apply_id AND o.id = $1;
    PERFORM jobstate.apply_orphan(held.apply_id);
    PERFORM jobstate.apply_settle(held.apply_id);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_end(bigint, uuid, text, text, interval)
    IS 'internal: ends an attempt in a state';

-- operation_complete, operation_stop, operation_cancel, operation_revert: the ends
-- that need no more words.  Each raises JS001, JS002 or JS003.
-- Write and lock what operation_end() says.
CREATE FUNCTION jobstate.operation_complete(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'completed') $$;
COMMENT ON FUNCTION jobstate.operation_complete(bigint, uuid)
    IS 'completes an operation; false if this token completed it before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_stop(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'stopped') $$;
COMMENT ON FUNCTION jobstate.operation_stop(bigint, uuid)
    IS 'stops an operation, to be resumed after apply_start(); false if this token stopped it before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_cancel(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'cancelled') $$;
COMMENT ON FUNCTION jobstate.operation_cancel(bigint, uuid)
    IS 'tells that an operation was cancelled outside; false if this token did before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_revert(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'reverted') $$;
COMMENT ON FUNCTION jobstate.operation_revert(bigint, uuid)
    IS 'tells that an operation was reverted; false if this token did before; raises JS001, JS002 or JS003';

-- operation_fail: the attempt's bad end.  What may be retried and has retries left is
-- claimed again after a while.
-- Writes and locks what operation_end() says.
CREATE FUNCTION jobstate.operation_fail(operation_id bigint, token uuid, error_message text,
    retryable boolean DEFAULT false, retry_after interval DEFAULT '0')
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    outcome text;
BEGIN
    PERFORM jobstate.require_argument('retryable', $4);
    PERFORM jobstate.queue_delay_check('retry_after', $5);
    held := jobstate.operation_hold($1, $2);
    outcome := CASE WHEN held.state IN ('failed', 'failed_retryable') THEN held.state
                    WHEN $4 AND held.retries < held.max_retries THEN 'failed_retryable'
                    ELSE 'failed' END;
    PERFORM jobstate.operation_end($1, $2, outcome, $3, $5);
    RETURN outcome;
END
$$;
COMMENT ON FUNCTION jobstate.operation_fail(bigint, uuid, text, boolean, interval)
    IS 'ends an attempt with an error: failed, or failed_retryable as long as there are retries; raises JS001, JS002 or JS003';
-- applies: stop, start, cancel, release ----------------------------------------------
--
-- People ask; what nobody works on obeys at once, and drivers learn it at their next
-- heartbeat.  A request stays pending until the last of them has obeyed, and nothing
-- begins meanwhile.  Cancel beats stop, and both beat a start that was asked before;
-- a start that is asked while drivers still stop comes after that.

-- apply_orphan: marks what waits for work that did not succeed, and will never run.
-- Writes: operation.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_orphan(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.operation o
                    WHERE o.apply_id = $1 AND o.state IN ('failed', 'cancelled', 'reverted')) THEN
        RETURN;
    END IF;
    UPDATE jobstate.operation o
       SET orphaned = true
     WHERE o.apply_id = $1 AND NOT o.orphaned AND o.state IN ('pending', 'stopped')
       AND EXISTS (SELECT FROM jobstate.operation_follows($1, o.id) f
                    WHERE f.state IN ('failed', 'cancelled', 'reverted'));
END
$$;
COMMENT ON FUNCTION jobstate.apply_orphan(bigint)
    IS 'internal: marks operations that wait for what did not succeed';

-- apply_ask: notes a request.  One that was open already stays as it is.
-- Writes: apply_control_request.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_ask(apply_id bigint, operation text, requested_by text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO jobstate.apply_control_request AS r (apply_id, operation, requested_by)
    VALUES ($1, $2, $3)
        ON CONFLICT (apply_id, operation) DO UPDATE
       SET status = 'pending', requested_by = $3, requested_at = clock_timestamp(), ended_at = NULL, note = NULL
     WHERE r.status <> 'pending';
END
$$;
COMMENT ON FUNCTION jobstate.apply_ask(bigint, text, text)
    IS 'internal: opens a request to an apply';

-- apply_answer: ends a request, if it is open.
-- Writes: apply_control_request.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_answer(apply_id bigint, operation text, status text, note text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.apply_control_request r
       SET status = $3, note = $4, ended_at = clock_timestamp()
     WHERE r.apply_id = $1 AND r.operation = $2 AND r.status = 'pending';
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.apply_answer(bigint, text, text, text)
    IS 'internal: ends an open request to an apply';

-- apply_move: moves what nobody works on from some states to another.
-- Writes: operation.  Locks: the operations; the caller holds the apply.
CREATE FUNCTION jobstate.apply_move(apply_id bigint, from_states text[], to_state text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    moved bigint;
BEGIN
    UPDATE jobstate.operation o
       SET state = $3, updated_at = at, lease_until = NULL,
           completed_at = CASE WHEN jobstate.apply_is_settled($3) THEN at END
     WHERE o.apply_id = $1 AND o.state = ANY ($2);
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.apply_move(bigint, text[], text)
    IS 'internal: moves operations that nobody works on';

-- apply_restart: what was stopped before it began waits again; what was at work is
-- for drivers to claim.  True once nothing is stopped any more.
-- Writes: operation.  Locks: the operations; the caller holds the apply.
CREATE FUNCTION jobstate.apply_restart(apply_id bigint)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.operation o
       SET state = 'pending', updated_at = clock_timestamp()
     WHERE o.apply_id = $1 AND o.state = 'stopped' AND o.started_at IS NULL;
    RETURN NOT EXISTS (SELECT FROM jobstate.operation o
                        WHERE o.apply_id = $1 AND o.state = 'stopped' AND NOT o.orphaned);
END
$$;
COMMENT ON FUNCTION jobstate.apply_restart(bigint)
    IS 'internal: lets what never began wait again, and tells whether nothing is stopped';

-- apply_settle: carries out what is asked, as far as nobody works on it any more.
-- Called after whatever may have been the last thing to wait for.
-- Writes: operation, apply_control_request.  Locks: the operations; the caller holds
-- the apply.
CREATE FUNCTION jobstate.apply_settle(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.apply_requested($1, 'stop', 'start', 'cancel') THEN
        RETURN;
    END IF;
    IF NOT jobstate.apply_is_at_work($1) THEN
        IF jobstate.apply_requested($1, 'cancel') THEN
            PERFORM jobstate.apply_move($1, '{pending,stopped,failed_retryable}', 'cancelled');
            PERFORM jobstate.apply_answer($1, 'cancel', 'completed');
        ELSIF jobstate.apply_requested($1, 'stop') THEN
            PERFORM jobstate.apply_move($1, '{pending,failed_retryable}', 'stopped');
        END IF;
        PERFORM jobstate.apply_answer($1, 'stop', 'completed');
    END IF;
    IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1 AND NOT jobstate.apply_is_settled(o.state)) THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', 'nothing is left to start');
    ELSIF jobstate.apply_requested($1, 'start') AND NOT jobstate.apply_requested($1, 'stop', 'cancel')
          AND jobstate.apply_restart($1) THEN
        PERFORM jobstate.apply_answer($1, 'start', 'completed');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_settle(bigint)
    IS 'internal: carries out the requests to an apply as far as nobody is at work';

-- apply_take: an apply that is not settled, or has somebody at work although it is,
-- held.  What this transaction has done to it counts already.
-- Writes: apply.  Locks: its row.
CREATE FUNCTION jobstate.apply_take(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    its_state text;
BEGIN
    PERFORM jobstate.derive_now();
    its_state := jobstate.apply_hold(apply_id);
    IF jobstate.apply_is_settled(its_state) AND NOT jobstate.apply_is_at_work(apply_id) THEN
        PERFORM jobstate.apply_refuse('settled', apply_id, its_state);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_take(bigint)
    IS 'internal: locks and updates an apply''s row, unless it is settled';

-- apply_control: what the verbs below have in common: the apply is held and not
-- settled, the request is noted and carried out as far as it can be, and the answer
-- is how it stands.
-- Writes: apply, operation, apply_control_request.
-- Locks: the apply, then its operations that nobody works on.
CREATE FUNCTION jobstate.apply_control(apply_id bigint, operation text, requested_by text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_take($1);
    IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1) THEN
        PERFORM jobstate.apply_refuse('no operations', $1);
    END IF;
    PERFORM jobstate.apply_ask($1, $2, $3);
    IF $2 IN ('stop', 'cancel') THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', format('%s was asked after it', $2));
    ELSIF $2 = 'start' AND jobstate.apply_requested($1, 'cancel') THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', 'the apply is being cancelled');
    END IF;
    IF $2 = 'stop' AND NOT jobstate.apply_requested($1, 'cancel') THEN
        PERFORM jobstate.apply_move($1, '{pending,failed_retryable}', 'stopped');
    END IF;
    PERFORM jobstate.apply_settle($1);
    RETURN (SELECT r.status FROM jobstate.apply_control_request r WHERE r.apply_id = $1 AND r.operation = $2);
END
$$;
COMMENT ON FUNCTION jobstate.apply_control(bigint, text, text)
    IS 'internal: notes a request and carries it out as far as nobody is at work';

-- apply_stop: what waits is stopped at once, and nothing begins until the drivers
-- have stopped too, at a point that suits them.  An apply that is stopped keeps its
-- deployments.
-- apply_start: goes on after a stop.
-- apply_cancel: once the drivers have stopped, all that is not settled is cancelled,
-- at once and for good.  Asked again after that it changes nothing.
-- Write and lock what apply_control() says.
CREATE FUNCTION jobstate.apply_stop(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.apply_control($1, 'stop', $2) $$;
COMMENT ON FUNCTION jobstate.apply_stop(bigint, text)
    IS 'stops an apply: completed, or pending as long as drivers are at work; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_start(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.apply_control($1, 'start', $2) $$;
COMMENT ON FUNCTION jobstate.apply_start(bigint, text)
    IS 'starts a stopped apply again: completed, pending until drivers took up what was at work, or failed; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_cancel(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.derive_now();
    IF jobstate.apply_hold($1) = 'cancelled' AND NOT jobstate.apply_is_at_work($1) THEN
        RETURN 'completed';
    END IF;
    RETURN jobstate.apply_control($1, 'cancel', $2);
END
$$;
COMMENT ON FUNCTION jobstate.apply_cancel(bigint, text)
    IS 'cancels an apply: completed, or pending as long as drivers are at work; raises JS002 or JS003';

-- apply_release: lets an apply that a failure paused go on, as if the failure had
-- been one to continue after.
-- Writes: apply, operation, apply_control_request.
-- Locks: the apply, then its failed operations.
CREATE FUNCTION jobstate.apply_release(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    released bigint;
BEGIN
    PERFORM jobstate.apply_take($1);
    UPDATE jobstate.operation o
       SET released_at = clock_timestamp()
     WHERE o.apply_id = $1 AND o.variant = 'pause';
    GET DIAGNOSTICS released = ROW_COUNT;
    IF released > 0 THEN
        PERFORM jobstate.apply_ask($1, 'release', $2);
        PERFORM jobstate.apply_answer($1, 'release', 'completed', format('%s failures released', released));
    END IF;
    RETURN released;
END
$$;
COMMENT ON FUNCTION jobstate.apply_release(bigint, text)
    IS 'releases the pause after failures, and tells of how many; raises JS002 or JS003';

-- apply_request: asks drivers for what only they can do: cutover, revert, skip_revert.
-- They learn it at their next heartbeat.
-- apply_request_done: a driver has answered it.
-- Write: apply, apply_control_request.  Lock: the apply.
CREATE FUNCTION jobstate.apply_request(apply_id bigint, operation text, requested_by text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_require_request($2);
    PERFORM jobstate.apply_take($1);
    PERFORM jobstate.apply_ask($1, $2, $3);
END
$$;
COMMENT ON FUNCTION jobstate.apply_request(bigint, text, text)
    IS 'asks the drivers of an apply for a cutover, revert or skip_revert; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_request_done(apply_id bigint, operation text, success boolean DEFAULT true,
    note text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_require_request($2);
    PERFORM jobstate.require_argument('success', $3);
    PERFORM jobstate.apply_hold($1);
    RETURN jobstate.apply_answer($1, $2, CASE WHEN $3 THEN 'completed' ELSE 'failed' END, $4);
END
$$;
COMMENT ON FUNCTION jobstate.apply_request_done(bigint, text, boolean, text)
    IS 'tells that a cutover, revert or skip_revert was carried out or failed; false if nobody asks for it; raises JS002';

-- apply_require_request: refuses requests that have a verb of their own.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_require_request(operation text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM jobstate.require_argument('operation', operation);
    IF operation NOT IN ('cutover', 'revert', 'skip_revert') THEN
        RAISE EXCEPTION 'request "%" is none for drivers', operation
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Requests for drivers: cutover, revert, skip_revert.',
                  HINT = 'Use apply_stop(), apply_start(), apply_cancel(), apply_release() for the others.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_require_request(text)
    IS 'internal: raises 22023 unless it is cutover, revert or skip_revert';
-- tasks -----------------------------------------------------------------------------

-- task_progress: what an engine says about a task, in its own words.  NULL leaves a
-- thing as it is.  The token is that of the operation, and is looked at on the
-- operation's row, which stays locked; a task of no operation has none.
-- Writes: task.  Locks: the operation, then the task.
CREATE FUNCTION jobstate.task_progress(task_id bigint, token uuid, state text DEFAULT NULL,
    rows_copied bigint DEFAULT NULL, rows_total bigint DEFAULT NULL, progress_percent numeric DEFAULT NULL,
    error_message text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    next_state CONSTANT text := CASE WHEN $3 IS NOT NULL THEN jobstate.task_state_name($3) END;
    owner_id bigint;
    its_state text;
BEGIN
    PERFORM jobstate.require_argument('task_id', $1);
    SELECT t.operation_id INTO owner_id FROM jobstate.task t WHERE t.id = $1;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no task', $1);
    ELSIF owner_id IS NOT NULL THEN
        PERFORM jobstate.require_argument('token', $2);
        PERFORM FROM jobstate.operation o WHERE o.id = owner_id FOR NO KEY UPDATE;
        IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.id = owner_id AND o.token = $2) THEN
            PERFORM jobstate.apply_refuse('lease lost', owner_id);
        END IF;
    END IF;
    UPDATE jobstate.task t
       SET state = coalesce(next_state, t.state), rows_copied = coalesce($4, t.rows_copied),
           rows_total = coalesce($5, t.rows_total), progress_percent = coalesce($6, t.progress_percent),
           error_message = coalesce($7, t.error_message), updated_at = at,
           attempt = t.attempt + (t.started_at IS NULL AND next_state <> 'pending'
                                  OR t.state IN ('stopped', 'failed_retryable') AND next_state <> t.state)::integer,
           started_at = CASE WHEN next_state <> 'pending' THEN coalesce(t.started_at, at) ELSE t.started_at END,
           completed_at = CASE WHEN jobstate.apply_is_settled(next_state) THEN coalesce(t.completed_at, at)
                               ELSE t.completed_at END
     WHERE t.id = $1
    RETURNING t.state INTO its_state;
    RETURN its_state;
END
$$;
COMMENT ON FUNCTION jobstate.task_progress(bigint, uuid, text, bigint, bigint, numeric, text)
    IS 'keeps what an engine says about a task, and tells the task''s state; raises JS001 or JS002';

-- operation_conclude: ends an operation as its own tasks have ended.  As long as they
-- have not, nothing happens, and the answer is NULL.
-- Writes and locks what operation_end() says.
CREATE FUNCTION jobstate.operation_conclude(operation_id bigint, token uuid)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    outcome text;
    message text;
BEGIN
    held := jobstate.operation_hold($1, $2);
    outcome := jobstate.fold_states('head', ARRAY(
        SELECT t.state FROM jobstate.task t WHERE t.apply_id = held.apply_id AND t.operation_id = $1));
    IF outcome IN ('failed', 'failed_retryable') THEN
        message := (SELECT t.error_message FROM jobstate.task t
                     WHERE t.apply_id = held.apply_id AND t.operation_id = $1
                       AND t.state = outcome AND t.error_message <> ''
                     ORDER BY t.created_at, t.id LIMIT 1);
        RETURN jobstate.operation_fail($1, $2, message, outcome = 'failed_retryable');
    ELSIF outcome IN ('completed', 'stopped', 'cancelled', 'reverted') THEN
        PERFORM jobstate.operation_end($1, $2, outcome);
        RETURN outcome;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.operation_conclude(bigint, uuid)
    IS 'ends an operation as its tasks ended, and tells how; NULL as long as they have not; raises JS001, JS002 or JS003';
-- applies: maintenance --------------------------------------------------------------
--
-- Nothing rests for ever.  A lease that runs out needs no sweep: the next claim sees
-- it.  What is swept is what nobody will ever claim.  Sweeps pass over what others
-- hold, and may run together.

-- apply_expire: an operation that was to be retried, and was not for too long, or too
-- often, has failed.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operations and their applies, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_one record;
    expired bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    FOR found_one IN
        SELECT o.apply_id, o.id FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
         WHERE a.reaped_at IS NULL AND o.state = 'failed_retryable'
           AND (o.retries > o.max_retries
                OR o.updated_at <= clock_timestamp() - (SELECT p.retryable_for FROM jobstate.apply_policy p))
         ORDER BY o.id LIMIT max_rows
    LOOP
        CONTINUE WHEN NOT jobstate.operation_grab(found_one.apply_id, found_one.id);
        UPDATE jobstate.operation o
           SET state = 'failed', updated_at = clock_timestamp(), completed_at = clock_timestamp()
         WHERE o.apply_id = found_one.apply_id AND o.id = found_one.id AND o.state = 'failed_retryable'
           AND (o.retries > o.max_retries
                OR o.updated_at <= clock_timestamp() - (SELECT p.retryable_for FROM jobstate.apply_policy p));
        expired := expired + CASE WHEN FOUND THEN 1 ELSE 0 END;
        PERFORM jobstate.apply_orphan(found_one.apply_id);
        PERFORM jobstate.apply_settle(found_one.apply_id);
    END LOOP;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.apply_expire(integer)
    IS 'fails operations that were to be retried and were not, and tells how many';

-- apply_expire_tasks: the same for tasks, a little later, so that an operation's own
-- end comes first.
-- Writes: task.  Locks: the tasks, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_expire_tasks(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    limit_age CONSTANT interval := (SELECT p.retryable_for + p.task_grace FROM jobstate.apply_policy p);
    expired bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    UPDATE jobstate.task t
       SET state = 'failed', completed_at = clock_timestamp(), updated_at = clock_timestamp()
     WHERE t.id = ANY (ARRAY(
           SELECT k.id FROM jobstate.apply a JOIN jobstate.task k ON k.apply_id = a.id
            WHERE a.reaped_at IS NULL AND k.state = 'failed_retryable'
              AND k.updated_at <= clock_timestamp() - limit_age
            ORDER BY k.id LIMIT max_rows
              FOR NO KEY UPDATE OF k SKIP LOCKED));
    GET DIAGNOSTICS expired = ROW_COUNT;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.apply_expire_tasks(integer)
    IS 'fails tasks that were to be retried and were not, and tells how many';

-- apply_strand: tasks of an operation that has ended, and was quiet since, end as it
-- did.
-- Writes: task.  Locks: the tasks, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_strand(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    quiet CONSTANT interval := (SELECT p.quiet FROM jobstate.apply_policy p);
    ended bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    WITH stranded AS (
        SELECT k.id, o.state
          FROM jobstate.apply a
          JOIN jobstate.operation o ON o.apply_id = a.id
          JOIN jobstate.task k ON k.apply_id = o.apply_id AND k.operation_id = o.id
         WHERE a.reaped_at IS NULL AND o.updated_at <= at - quiet AND k.updated_at <= at - quiet
           AND CASE WHEN o.state = 'stopped' THEN jobstate.apply_is_active(k.state)
                    ELSE jobstate.apply_is_settled(o.state) AND NOT jobstate.apply_is_settled(k.state) END
         ORDER BY k.id LIMIT max_rows
           FOR NO KEY UPDATE OF k SKIP LOCKED)
    UPDATE jobstate.task t
       SET state = s.state, updated_at = at,
           completed_at = CASE WHEN jobstate.apply_is_settled(s.state) THEN at END
      FROM stranded s
     WHERE t.id = s.id;
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION jobstate.apply_strand(integer)
    IS 'ends tasks that an operation left behind, as the operation ended, and tells how many';

-- apply_obey: carries out requests that somebody's plain statements, not the verbs,
-- left behind, and finds what such statements orphaned.
-- Writes: apply, operation, apply_control_request.
-- Locks: the applies, with SKIP LOCKED, then operations that nobody works on.
CREATE FUNCTION jobstate.apply_obey(max_rows integer DEFAULT 1000)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    FOR one IN
        SELECT a.id FROM jobstate.apply a
         WHERE a.reaped_at IS NULL AND a.completed_at IS NULL
           AND (jobstate.apply_requested(a.id, 'stop', 'start', 'cancel')
                OR EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = a.id AND NOT o.orphaned AND o.state IN ('pending', 'stopped')
                              AND EXISTS (SELECT FROM jobstate.operation_follows(a.id, o.id) f
                                           WHERE f.state IN ('failed', 'cancelled', 'reverted'))))
         ORDER BY a.id LIMIT max_rows
           FOR NO KEY UPDATE OF a SKIP LOCKED
    LOOP
        PERFORM jobstate.apply_hold(one);
        PERFORM jobstate.apply_orphan(one);
        PERFORM jobstate.apply_settle(one);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_obey(integer)
    IS 'carries out requests to applies that nobody is at work on';

-- apply_reap: what is left of an apply that is settled, and that nobody has had for a
-- while, ends as the apply did; requests that nobody heard have failed.  Once nothing
-- is left the apply is not looked at again.
-- Writes: operation, apply, apply_control_request.  Locks: the applies and operations, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_reap(max_applies integer DEFAULT 100)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    quiet CONSTANT interval := (SELECT p.quiet FROM jobstate.apply_policy p);
    one record;
    reaped bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_applies', max_applies > 0);
    FOR one IN
        SELECT a.id, a.state FROM jobstate.apply a
         WHERE a.reaped_at IS NULL AND a.completed_at <= clock_timestamp() - quiet
           -- a task or an operation that somebody is still at
           AND NOT EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = a.id AND NOT jobstate.apply_is_settled(o.state)
                              AND greatest(o.lease_until, o.updated_at) > clock_timestamp() - quiet)
         ORDER BY a.created_at, a.id LIMIT max_applies
           FOR NO KEY UPDATE OF a SKIP LOCKED
    LOOP
        UPDATE jobstate.operation o
           SET state = one.state, updated_at = clock_timestamp(), completed_at = clock_timestamp()
         WHERE o.apply_id = one.id AND NOT jobstate.apply_is_settled(o.state)
           AND o.id = ANY (ARRAY(SELECT p.id FROM jobstate.operation p WHERE p.apply_id = one.id
                                   FOR NO KEY UPDATE SKIP LOCKED))
           AND (o.lease_until IS NULL OR o.lease_until <= clock_timestamp() - quiet);
        UPDATE jobstate.apply a
           SET reaped_at = clock_timestamp(), version = a.version + 1
         WHERE a.id = one.id
           AND NOT EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = one.id AND NOT jobstate.apply_is_settled(o.state))
           AND NOT EXISTS (SELECT FROM jobstate.task t
                            WHERE t.apply_id = one.id AND t.operation_id IS NOT NULL
                              AND NOT jobstate.apply_is_settled(t.state));
        CONTINUE WHEN NOT FOUND;
        reaped := reaped + 1;
        PERFORM jobstate.apply_settle(one.id);
        UPDATE jobstate.apply_control_request r
           SET status = 'failed', note = 'the apply is ' || one.state, ended_at = clock_timestamp()
         WHERE r.apply_id = one.id AND r.status = 'pending';
    END LOOP;
    RETURN reaped;
END
$$;
COMMENT ON FUNCTION jobstate.apply_reap(integer)
    IS 'ends what settled applies left behind, and tells of how many applies nothing is left';

-- maintain_apply: a step of the applies' maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the applies are not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_apply(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.apply')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            RETURN jobstate.apply_expire(many) >= many;
        WHEN 1 THEN
            RETURN jobstate.apply_expire_tasks(many) >= many;
        WHEN 2 THEN
            PERFORM jobstate.apply_obey(many);
            RETURN false;
        WHEN 3 THEN
            RETURN jobstate.apply_strand(many) >= many;
        WHEN 4 THEN
            RETURN jobstate.apply_reap(many) >= many;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_apply(integer)
    IS 'internal: a step of the applies'' maintenance, called by maintain(): expire, obey, strand, reap';
-- applies: health and metrics --------------------------------------------------------
--
-- Only open applies are looked at, by the index on them: those that are not settled,
-- and those that settled a while ago and were not swept yet.

-- apply_load: the open applies, and what goes on in them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_load()
RETURNS TABLE (id bigint, identifier text, state text, completed_at timestamptz, held bigint, expired bigint,
               claimable boolean, quiet_since timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.id, a.apply_identifier, a.state, a.completed_at, o.held, o.expired, o.claimable, greatest(a.created_at, o.touched)
      FROM jobstate.apply a
     CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE p.lease_until > clock_timestamp()) AS held,
                   count(*) FILTER (WHERE p.lease_until <= clock_timestamp()) AS expired,
                   coalesce(bool_or(jobstate.apply_is_active(p.state) OR p.state IN ('pending', 'failed_retryable')), true) AS claimable,
                   max(greatest(p.updated_at, p.lease_until, p.retry_at)) AS touched
              FROM jobstate.operation p WHERE p.apply_id = a.id) o
     WHERE a.reaped_at IS NULL
$$;
COMMENT ON FUNCTION jobstate.apply_load()
    IS 'internal: open applies, with the leases of their operations and since when nothing moved';

-- health_apply: applies that nobody works on, that wait for somebody's release, or
-- that settled and were not swept.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_apply(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
    quiet interval;
BEGIN
    IF NOT jobstate.can_read('jobstate.apply', 'jobstate.operation', 'jobstate.apply_policy') THEN
        RETURN;
    END IF;
    quiet := (SELECT p.quiet FROM jobstate.apply_policy p);
    RETURN QUERY
    WITH load AS MATERIALIZED (SELECT * FROM jobstate.apply_load())
    SELECT 'apply lagging', 'apply ' || l.id, 'warning',
           format('%s "%s" has not moved since %s, and %s: start drivers', l.state, l.identifier, date_trunc('second', l.quiet_since),
                  CASE WHEN l.expired > 0 THEN format('%s of its operations have outlived their lease', l.expired)
                       ELSE 'nobody claims its operations' END), NULL
      FROM load l
     WHERE l.completed_at IS NULL AND l.state NOT IN ('paused', 'stopped') AND l.claimable AND l.held = 0 AND l.quiet_since < long_ago
    UNION ALL
    SELECT 'apply paused', 'apply ' || l.id, CASE WHEN l.quiet_since < long_ago THEN 'warning' ELSE 'info' END,
           format('"%s" has failed in a place and waits for a decision since %s; apply_cancel() is the other one',
                  l.identifier, date_trunc('second', l.quiet_since)),
           format('SELECT jobstate.apply_release(%s)', l.id)
      FROM load l WHERE l.state = 'paused'
    UNION ALL
    SELECT 'apply unswept', 'jobstate.apply', 'warning',
           format('%s applies have been settled for long, the first since %s, and nobody ends what they left behind',
                  count(*), date_trunc('second', min(l.completed_at))),
           'SELECT jobstate.apply_strand(10000); SELECT jobstate.apply_reap(10000)'
      FROM load l WHERE l.completed_at < long_ago - quiet AND l.held = 0 HAVING count(*) > 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('apply lagging', 'applies move'), ('apply paused', 'no apply waits for a decision'),
                   ('apply unswept', 'settled applies leave nothing behind')) o (c, d);
END
$$;
COMMENT ON FUNCTION jobstate.health_apply(boolean, interval)
    IS 'internal: what health() says of applies';

-- metrics_apply: open applies.  Applies and operations by state are among the metrics
-- of tables.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_apply()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.apply', 'jobstate.operation') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT count(*) FILTER (WHERE l.completed_at IS NULL) AS open, count(*) FILTER (WHERE l.completed_at IS NOT NULL) AS unswept,
                   coalesce(sum(l.held), 0) AS held, coalesce(sum(l.expired), 0) AS expired
              FROM jobstate.apply_load() l) o
     CROSS JOIN LATERAL (VALUES
            ('jobstate_apply_open', o.open, '', 'applies that are not settled'),
            ('jobstate_apply_unswept', o.unswept, '', 'applies that are settled and may have left something behind'),
            ('jobstate_apply_operations_held', o.held, '', 'operations of open applies that a driver holds'),
            ('jobstate_apply_operations_expired', o.expired, '', 'operations of open applies whose driver has let the lease run out'))
           AS m (name, value, unit, help);
END
$$;
COMMENT ON FUNCTION jobstate.metrics_apply()
    IS 'internal: the applies'' part of the view metrics';
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
    PERFORM jobstate.require_argument('worker', worker);
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
-- health ----------------------------------------------------------------------------
--
-- health() asks every function health_<part>(deep, patience) of the extension: the
-- kernel's, which stand here, and those that the families bring.  They run as the
-- caller.  What is told of a table is told to who may read it, and to pg_monitor;
-- what is told of a session is what pg_stat_activity shows the caller.
--
-- Each part gives a row "ok" for each of its checks, and a row for each thing that
-- it found; health() leaves out the "ok" where there is something.  A fix is SQL that
-- mends it as it stands, for who has the right to.

-- hooks: functions of the extension by prefix and types of arguments.  Only members
-- of the extension count, so nobody can plant one.
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
       AND starts_with(p.proname, prefix) AND oidvectortypes(p.proargtypes) = arguments
     ORDER BY p.proname
$$;
COMMENT ON FUNCTION jobstate.hooks(text, text)
    IS 'internal: the functions that health() and metrics ask';

-- can_read: are all these relations there, and may the caller read them, all rows?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.can_read(VARIADIC relations text[])
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT bool_and(coalesce(has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid), false))
      FROM unnest(relations) r (relation) LEFT JOIN pg_class c ON c.oid = to_regclass(r.relation)
$$;
COMMENT ON FUNCTION jobstate.can_read(text[])
    IS 'internal: whether all these relations are there and the caller may read all their rows';

-- can_see: may the caller be told how a table is set up?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.can_see(relation oid)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(has_table_privilege(relation, 'SELECT'), true) OR pg_has_role('pg_monitor', 'USAGE')
$$;
COMMENT ON FUNCTION jobstate.can_see(oid)
    IS 'internal: whether health() tells the caller of a table; of one that is gone it tells everybody';

-- log_tables, last_fold: the counter log from outside.  What a fold has locked is
-- passed over: its sizes, and the time, are null.
-- Write nothing.  Lock: the log against TRUNCATE, without waiting, during the call.
CREATE FUNCTION jobstate.log_tables()
    RETURNS TABLE (relation regclass, bytes bigint, log_rows bigint, is_full boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 11
    AS 'MODULE_PATHNAME', 'jobstate_log_tables';
COMMENT ON FUNCTION jobstate.log_tables() IS
    'sizes of the counter log''s segments and of its base; rows of a table larger than a full segment are estimated';

CREATE FUNCTION jobstate.last_fold()
    RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_last_fold';
COMMENT ON FUNCTION jobstate.last_fold() IS
    'when the counter log was folded last; null where it never was, or is being folded';

-- health_relations: the attached tables and their partitions, as far as the caller
-- may know of them.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_relations()
RETURNS TABLE (target regclass, relation regclass, has_rows boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.target, c.oid::regclass, c.relkind = 'r'
      FROM jobstate.attachment a
     CROSS JOIN LATERAL (SELECT a.target::oid AS relid UNION SELECT p.relid FROM pg_partition_tree(a.target) p) p
      JOIN pg_class c ON c.oid = p.relid
     WHERE jobstate.can_see(a.target)
$$;
COMMENT ON FUNCTION jobstate.health_relations()
    IS 'internal: attached tables and their partitions that the caller may know of';

-- health_trigger_faults: which triggers of attached tables do not do their part.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_trigger_faults()
RETURNS TABLE (target regclass, relation regclass, trigger_name name, fault text, repair text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH wanted AS (
        SELECT r.target, r.relation, w.name, w.fn::regprocedure::oid AS fn, w.moment, w.level
          FROM jobstate.health_relations() r
          JOIN (VALUES ('jobstate_watch'::name, 'jobstate.watch()', 'AFTER INSERT OR UPDATE OR DELETE', 'ROW'),
                       ('jobstate_truncate', 'jobstate.watch_truncate()', 'BEFORE TRUNCATE', 'STATEMENT'))
               AS w (name, fn, moment, level) ON r.has_rows OR w.name = 'jobstate_watch'),
    found AS (
        SELECT w.*, g.tgenabled, o.tgname AS other_name
          FROM wanted w
          LEFT JOIN pg_trigger g ON g.tgrelid = w.relation AND g.tgfoid = w.fn AND g.tgname = w.name
          LEFT JOIN LATERAL (SELECT o.tgname FROM pg_trigger o
                              WHERE o.tgrelid = w.relation AND o.tgfoid = w.fn AND o.tgname <> w.name
                              ORDER BY o.tgname LIMIT 1) o ON g.oid IS NULL)
    SELECT f.target, f.relation, f.name,
           CASE WHEN f.tgenabled IN ('D', 'R') THEN 'disabled' WHEN f.tgenabled = 'O' THEN 'not always'
                WHEN f.other_name IS NOT NULL THEN 'renamed' ELSE 'missing' END,
           CASE WHEN f.tgenabled IS NOT NULL
                THEN format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', f.relation, f.name)
                WHEN f.other_name IS NOT NULL
                THEN format('ALTER TRIGGER %I ON %s RENAME TO %I', f.other_name, f.relation, f.name)
                ELSE format('CREATE TRIGGER %I %s ON %s FOR EACH %s EXECUTE FUNCTION %s; ALTER TABLE %3$s ENABLE ALWAYS TRIGGER %1$I',
                            f.name, f.moment, f.relation, f.level, f.fn::regprocedure) END
      FROM found f
     WHERE f.tgenabled IS DISTINCT FROM 'A'
       -- a trigger of a partition is renamed, dropped and made with its parent's
       AND (f.tgenabled IS NOT NULL OR f.name <> 'jobstate_watch' OR f.relation = f.target)
$$;
COMMENT ON FUNCTION jobstate.health_trigger_faults()
    IS 'internal: triggers of attached tables that are disabled, renamed or missing';

-- health_triggers: do the triggers of attached tables fire, and are there any where
-- they do not belong?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_triggers(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'triggers', f.target::text, CASE f.fault WHEN 'not always' THEN 'info' ELSE 'warning' END,
           format('%s of %s%s %s', f.trigger_name, f.relation,
                  CASE WHEN f.n > 1 THEN format(' and %s more', f.n - 1) ELSE '' END,
                  CASE f.fault WHEN 'disabled' THEN 'is disabled: rows change unguarded and uncounted'
                               WHEN 'renamed' THEN 'has another name: what it should see is refused'
                               WHEN 'missing' THEN 'is missing: rows change unguarded and uncounted'
                               ELSE 'is not ENABLE ALWAYS: rows that are replayed are not counted' END),
           f.repairs || CASE WHEN f.fault IN ('missing', 'disabled')
                             THEN format('; SELECT jobstate.%s(%L)',
                                         CASE WHEN jobstate.counted(f.target) THEN 'rebuild' ELSE 'recount' END, f.target)
                                  || coalesce((SELECT string_agg(DISTINCT format('; SELECT jobstate.rederive(%L)', d.parent), '')
                                                 FROM jobstate.derivation d WHERE f.target IN (d.parent, d.child)), '')
                             ELSE '' END
      FROM (SELECT t.target, t.fault, min(t.trigger_name) AS trigger_name, count(*) AS n,
                   (array_agg(t.relation ORDER BY t.trigger_name, t.relation::text))[1] AS relation,
                   string_agg(t.repair, '; ' ORDER BY t.relation <> t.target, t.relation::text, t.trigger_name) AS repairs
              FROM jobstate.health_trigger_faults() t GROUP BY t.target, t.fault) f
    UNION ALL
    SELECT 'triggers', s.tgrelid::regclass::text, 'warning',
           format('%s is left on a table that is not attached: what it sees is refused', s.tgname),
           format('DROP TRIGGER %I ON %s', s.tgname, s.tgrelid::regclass)
      FROM pg_trigger s
     WHERE s.tgfoid IN ('jobstate.watch()'::regprocedure, 'jobstate.watch_truncate()'::regprocedure)
       AND s.tgparentid = 0 AND jobstate.can_see(s.tgrelid)
       AND NOT EXISTS (SELECT FROM jobstate.attachment a
                        WHERE a.target = s.tgrelid
                           OR a.target IN (SELECT p.relid FROM pg_partition_ancestors(s.tgrelid) p (relid)))
    UNION ALL
    SELECT 'triggers', NULL, 'ok', 'the triggers of attached tables fire', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_triggers(boolean, interval)
    IS 'internal: what health() says of the triggers of attached tables';

-- health_catalogue: is what the extension knows of tables still so, and does it hear
-- of changes?
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_catalogue(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'event triggers', e.evtname::text, 'warning',
           'the event trigger is off: tables that are renamed, dropped or given partitions are not followed',
           format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', e.evtname)
      FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
     WHERE p.pronamespace = 'jobstate'::regnamespace AND e.evtenabled <> 'A'
    UNION ALL
    SELECT 'event triggers', NULL, 'ok', 'changes of tables are followed', NULL
    UNION ALL
    SELECT 'attachments', a.target::text, 'warning', 'the attached table is gone',
           format('DELETE FROM jobstate.attachment WHERE target = %s', a.target::oid)
      FROM jobstate.attachment a
     WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.target)
    UNION ALL
    SELECT 'attachments', a.target::text, 'warning',
           format('column %I, by which the table is attached, is gone', g.name),
           format('SELECT jobstate.detach(%L)', a.target)
      FROM jobstate.attachment a
     CROSS JOIN LATERAL (SELECT min(n) AS name FROM unnest(a.state_column || a.group_by) n
                          WHERE NOT EXISTS (SELECT FROM pg_attribute t
                                             WHERE t.attrelid = a.target AND t.attname = n AND NOT t.attisdropped)) g
     WHERE g.name IS NOT NULL AND jobstate.can_see(a.target)
       AND EXISTS (SELECT FROM pg_class c WHERE c.oid = a.target)
    UNION ALL
    SELECT 'attachments', r.target::text, 'warning',
           format('partition %s is half detached: its rows are not counted', i.inhrelid::regclass),
           format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', i.inhparent::regclass, i.inhrelid::regclass)
      FROM jobstate.health_relations() r JOIN pg_inherits i ON i.inhparent = r.relation AND i.inhdetachpending
    UNION ALL
    SELECT 'attachments', NULL, 'ok',
           (SELECT format('%s tables are attached', count(*)) FROM jobstate.attachment a WHERE jobstate.can_see(a.target)), NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_catalogue(boolean, interval)
    IS 'internal: what health() says of attachments and event triggers';

-- health_drift: what verify() says of a table, in one row at most.
-- Writes nothing.  Locks: the table against DROP; scans it.
CREATE FUNCTION jobstate.health_drift(target regclass)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    SELECT format('%s counts are wrong; the first is %s %s: %s counted, %s there', count(*),
                  min(v.group_key::text), (array_agg(v.state ORDER BY v.group_key::text, v.state))[1],
                  (array_agg(v.counted ORDER BY v.group_key::text, v.state))[1],
                  (array_agg(v.actual ORDER BY v.group_key::text, v.state))[1])
      INTO said
      FROM jobstate.verify_one(target) v HAVING count(*) > 0;
    RETURN said;
EXCEPTION
    WHEN insufficient_privilege THEN
        RETURN NULL;
    WHEN data_corrupted THEN
        RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION jobstate.health_drift(regclass)
    IS 'internal: what is wrong with the counts of a table; null where nothing is';

-- health_counters: are the tables counted, and, if asked to look deep, rightly?  A
-- table whose triggers are off is told of by health_triggers().
-- Writes nothing.  Locks: deep, each table against DROP; scans them.
CREATE FUNCTION jobstate.health_counters(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'counters', a.target::text, 'warning', 'the table is uncounted: counts() scans it',
           format('SELECT jobstate.recount(%L)', a.target)
      FROM jobstate.attachments a
     WHERE NOT a.counted AND a.watched AND jobstate.can_see(a.target)
    UNION ALL
    SELECT 'counters', d.target::text, 'warning', d.said, format('SELECT jobstate.rebuild(%L)', d.target)
      FROM (SELECT a.target, jobstate.health_drift(a.target) AS said
              FROM jobstate.attachments a WHERE deep AND a.counted AND jobstate.can_see(a.target)) d
     WHERE d.said IS NOT NULL
    UNION ALL
    SELECT 'counters', NULL, 'ok',
           CASE WHEN deep THEN 'what is watched is counted, and the counts are those of the rows'
                ELSE 'what is watched is counted; health(deep => true) compares the counts with the rows' END, NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_counters(boolean, interval)
    IS 'internal: what health() says of the counts';

-- state_name_sql: an expression for the name of the state that a row is in.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.state_name_sql(target regclass, alias text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN jobstate.holds_ids(a.target, a.state_column)
                THEN format('%L::jsonb ->> %s.%I::text', jsonb_object_agg(s.state_id, s.name), alias, a.state_column)
                ELSE format('%s.%I::text', alias, a.state_column) END
      FROM jobstate.attachment a JOIN jobstate.state s ON s.machine = a.machine
     WHERE a.target = $1 GROUP BY a.target, a.state_column
$$;
COMMENT ON FUNCTION jobstate.state_name_sql(regclass, text)
    IS 'internal: SQL for the name of a row''s state';

-- health_underived: rows of a derived table whose state is not what their children
-- say, by a fold of all of them.  Where no rule holds a state stays what it is.
-- Writes nothing, locks nothing; reads parents and children.
CREATE FUNCTION jobstate.health_underived(derived regclass)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own name[] := jobstate.primary_key_of(derived);
    said text;
    query text;
BEGIN
    SELECT format('SELECT format(''%%s rows are not in the state that their children give; the first is %%s'', count(*), min(w.key))
                     FROM (SELECT (%s)::text AS key, %s AS is, (coalesce(%s, ARRAY[jobstate.fold(%L, ''{}'')]))[1] AS wanted
                             FROM %s p) w
                    WHERE w.is IS DISTINCT FROM coalesce(w.wanted, w.is) HAVING count(*) > 0',
                  (SELECT string_agg(format('p.%I', k), ', ') FROM unnest(own) k), jobstate.state_name_sql(derived, 'p'),
                  string_agg(format('(SELECT ARRAY[jobstate.fold(%L, array_agg(%s%s), %s)] FROM %s c WHERE %s HAVING count(*) > 0)',
                                    d.rule_set, jobstate.state_name_sql(d.child, 'c'), o.by,
                                    CASE WHEN d.child_variant IS NULL THEN 'NULL' ELSE format('array_agg(c.%I::text%s)', d.child_variant, o.by) END, t.name, j.joined),
                             ', ' ORDER BY d.ord),
                  (array_agg(d.rule_set ORDER BY d.ord))[1],
                  (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || derived FROM pg_class c WHERE c.oid = derived))
      INTO query
      FROM jobstate.derivation d
     CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || d.child FROM pg_class c WHERE c.oid = d.child) t (name)
     CROSS JOIN LATERAL (SELECT coalesce(' ORDER BY ' || string_agg(format('c.%I', n), ', ' ORDER BY i), '')
                           FROM unnest(d.child_order) WITH ORDINALITY x (n, i)) o (by)
     CROSS JOIN LATERAL (SELECT string_agg(format('c.%I = p.%I', k, own[i]), ' AND ')
                           FROM unnest(d.key) WITH ORDINALITY x (k, i)) j (joined)
     WHERE d.parent = derived;
    EXECUTE query INTO said;
    RETURN said;
END
$$;
COMMENT ON FUNCTION jobstate.health_underived(regclass)
    IS 'internal: which rows of a derived table are not in the state that their children give; null where all are';

-- health_derivations: can the children of derived tables be found, and, if asked to
-- look deep, are the states those that they give?
-- Writes nothing, locks nothing; deep, reads parents and children.
CREATE FUNCTION jobstate.health_derivations(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'derived states', d.child::text, 'warning',
           format('no index on (%s): each change reads the whole table to find the children of one row of %s', k.columns, d.parent),
           format('CREATE INDEX ON %s (%s)', d.child, k.columns)
      FROM jobstate.derivation d
     CROSS JOIN LATERAL (SELECT string_agg(quote_ident(n), ', ' ORDER BY i) FROM unnest(d.key) WITH ORDINALITY x (n, i)) k (columns)
     WHERE jobstate.can_see(d.child)
       AND NOT EXISTS (SELECT FROM pg_index x
                        WHERE x.indrelid = d.child AND x.indisvalid AND x.indpred IS NULL
                          AND (SELECT array_agg(a.attname ORDER BY i.n)
                                 FROM unnest(x.indkey::smallint[]) WITH ORDINALITY i (attnum, n)
                                 JOIN pg_attribute a ON a.attrelid = d.child AND a.attnum = i.attnum
                                WHERE i.n <= cardinality(d.key)) = d.key)
    UNION ALL
    SELECT 'derived states', w.parent::text, 'warning', w.said, format('SELECT jobstate.rederive(%L)', w.parent)
      FROM (SELECT p.parent, jobstate.health_underived(p.parent) AS said
              FROM (SELECT d.parent FROM jobstate.derivation d
                     GROUP BY d.parent
                    HAVING deep AND bool_and(jobstate.can_read(d.parent::text, d.child::text))
                    -- else the server would look first, and ask for rights after
                    OFFSET 0) p) w
     WHERE w.said IS NOT NULL
    UNION ALL
    SELECT 'derived states', NULL, 'ok',
           CASE WHEN deep THEN 'derived states are what the children give'
                ELSE 'children are found by an index; health(deep => true) compares the states with theirs' END, NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_derivations(boolean, interval)
    IS 'internal: what health() says of derived tables';

-- health_log: is the log folded, and who keeps it from being?
-- Writes nothing.  Locks: what log_tables() locks.
CREATE FUNCTION jobstate.health_log(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    folded CONSTANT timestamptz := jobstate.last_fold();
    overdue CONSTANT boolean := coalesce(folded < clock_timestamp() - patience, true);
BEGIN
    RETURN QUERY
    WITH log AS MATERIALIZED (SELECT * FROM jobstate.log_tables()),
    blocked AS (
        SELECT h.who, h.ending, min(log.relation::text) AS relation, bool_or(h.mode = 'AccessExclusiveLock') AS folding
          FROM log JOIN jobstate.health_holders(patience) h ON h.relation = log.relation
         WHERE h.mode = 'AccessExclusiveLock' OR h.mode = 'RowExclusiveLock' AND log.is_full
         GROUP BY h.who, h.ending)
    SELECT 'unfolded', b.who, 'warning',
           CASE WHEN b.folding THEN format('holds %s against everybody: who asks for counts waits', b.relation)
                ELSE format('holds %s, which is full and cannot be folded meanwhile', b.relation) END, b.ending
      FROM blocked b
    UNION ALL
    SELECT 'unfolded', 'counter log', 'warning',
           format('%s segments with some %s rows are full, and %s; whoever asks for counts reads them', count(*),
                  sum(l.log_rows), coalesce('the last fold was at ' || date_trunc('second', folded), 'nobody ever folded')),
           'CALL jobstate.maintain()'
      FROM log l WHERE l.is_full AND overdue HAVING count(*) > 0
    UNION ALL
    SELECT 'unfolded', NULL, 'ok', format('some %s rows of the log wait for a fold', coalesce(sum(l.log_rows), 0)), NULL
      FROM log l WHERE l.is_full IS NOT NULL AND l.relation::text LIKE '%segment%';
END
$$;
COMMENT ON FUNCTION jobstate.health_log(boolean, interval)
    IS 'internal: what health() says of the counter log';

-- health_holders: transactions that have held a table of schema jobstate for longer
-- than this, and how to end them.  Where the caller is not shown since when a
-- transaction runs, it is not told of.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_holders(patience interval)
RETURNS TABLE (relation regclass, mode text, who text, ending text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.relation::regclass, l.mode,
           CASE WHEN p.gid IS NOT NULL THEN format('prepared transaction %L of %s', p.gid, p.owner)
                ELSE format('session %s of %s', s.pid, s.usename) END,
           CASE WHEN p.gid IS NOT NULL THEN format('ROLLBACK PREPARED %L', p.gid)
                ELSE format('SELECT pg_terminate_backend(%s)', s.pid) END
      FROM pg_locks l
      JOIN pg_class c ON c.oid = l.relation AND c.relnamespace = 'jobstate'::regnamespace
      -- a prepared transaction keeps the virtual one that it had, and the lock on its own number
      LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
                              AND x.virtualtransaction = l.virtualtransaction
      LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
      LEFT JOIN pg_stat_activity s ON s.pid = l.pid
     WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
       AND coalesce(p.prepared, s.xact_start) < clock_timestamp() - patience
$$;
COMMENT ON FUNCTION jobstate.health_holders(interval)
    IS 'internal: who has held tables of the extension or of the families for long';

-- health_pins: sessions, prepared transactions and unused replication slots that keep
-- what is dead from being removed.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_pins()
RETURNS TABLE (kind text, who text, since interval, behind integer, more text, ending text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'session',
           CASE WHEN s.backend_type = 'walsender' THEN format('standby %s', s.application_name)
                ELSE format('session %s of %s', s.pid, s.usename) END,
           clock_timestamp() - s.xact_start, greatest(age(s.backend_xid), age(s.backend_xmin)),
           concat_ws(', ', 'application ' || quote_ident(nullif(s.application_name, '')), s.state),
           format('SELECT pg_terminate_backend(%s)', s.pid)
      FROM pg_stat_activity s
     WHERE s.pid <> pg_backend_pid() AND coalesce(s.backend_type, '') <> 'autovacuum worker'
       AND (s.datname = current_database() OR s.datid IS NULL)
       AND (s.backend_xid IS NOT NULL OR s.backend_xmin IS NOT NULL)
    UNION ALL
    SELECT 'prepared', format('prepared transaction %L of %s', p.gid, p.owner), clock_timestamp() - p.prepared,
           age(p.transaction), NULL, format('ROLLBACK PREPARED %L', p.gid)
      FROM pg_prepared_xacts p WHERE p.database = current_database()
    UNION ALL
    -- up to version 16 the server does not tell since when nobody uses a slot
    SELECT 'slot', format('replication slot %L', r.slot_name),
           clock_timestamp() - (to_jsonb(r) ->> 'inactive_since')::timestamptz,
           greatest(age(r.xmin), age(r.catalog_xmin)), 'nobody uses it', format('SELECT pg_drop_replication_slot(%L)', r.slot_name)
      FROM pg_replication_slots r
     WHERE NOT r.active AND (r.xmin IS NOT NULL OR r.catalog_xmin IS NOT NULL)
       AND (r.database IS NULL OR r.database = current_database())
$$;
COMMENT ON FUNCTION jobstate.health_pins()
    IS 'internal: who keeps dead rows of this database from being removed, since when, and how to end it';

-- health_snapshots: who has kept what is dead for long.  Of a transaction whose begin
-- the caller is not shown, others tell by how many came after it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_snapshots(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'snapshots', p.who, CASE WHEN coalesce(p.since > 6 * patience, p.kind = 'slot') THEN 'warning' ELSE 'info' END,
           concat_ws(', ', format('keeps dead rows from being removed for %s transactions', p.behind),
                     'since ' || date_trunc('second', clock_timestamp() - p.since), nullif(p.more, '')), p.ending
      FROM jobstate.health_pins() p
     WHERE coalesce(p.since > patience, p.kind = 'slot' OR p.behind > 100000)
     ORDER BY p.behind DESC LIMIT 10;
    RETURN QUERY
    SELECT 'snapshots', NULL, 'ok', 'nobody keeps dead rows from being removed for long', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_snapshots(boolean, interval)
    IS 'internal: what health() says of old snapshots';

-- health_row_security: row security on tables that somebody has to see whole.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_row_security(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'row security', c.oid::regclass::text,
           CASE WHEN bound OR c.relnamespace = 'jobstate'::regnamespace THEN 'warning' ELSE 'info' END,
           CASE WHEN bound THEN format('policies bind the owner %s too: what it does about the table passes over rows that they hide', o.rolname)
                WHEN c.relnamespace = 'jobstate'::regnamespace
                THEN 'policies hide rows from workers: the family''s functions refuse them, or pass over these rows'
                ELSE 'roles that policies hide rows from get no counts, and the verbs pass over these rows' END,
           CASE WHEN bound AND c.relnamespace <> 'jobstate'::regnamespace
                THEN format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', c.oid::regclass)
                WHEN c.relnamespace = 'jobstate'::regnamespace
                THEN format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', c.oid::regclass) END
      FROM pg_class c
      JOIN pg_roles o ON o.oid = c.relowner
     CROSS JOIN LATERAL (SELECT c.relforcerowsecurity AND NOT (o.rolsuper OR o.rolbypassrls)) b (bound)
     WHERE c.relrowsecurity AND jobstate.can_see(c.oid)
       AND (c.relnamespace = 'jobstate'::regnamespace
            OR c.oid IN (SELECT r.relation FROM jobstate.health_relations() r))
    UNION ALL
    SELECT 'row security', NULL, 'ok', 'no policy hides rows of attached tables', NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_row_security(boolean, interval)
    IS 'internal: what health() says of row-level security';

-- worker_is_there: the lock by which the background worker tells so.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.worker_is_there()
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_locks l
                    WHERE l.locktype = 'advisory' AND l.objsubid = 74 AND l.mode = 'ExclusiveLock' AND l.granted
                      AND l.objid = 'jobstate.base_recent'::regclass
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
$$;
COMMENT ON FUNCTION jobstate.worker_is_there()
    IS 'internal: whether the background worker of this database runs';

-- health_maintenance: can the background worker start, and does somebody maintain
-- where it is not to?
-- Writes nothing.  Locks: what log_tables() locks.
CREATE FUNCTION jobstate.health_maintenance(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    folded CONSTANT timestamptz := jobstate.last_fold();
    auto CONSTANT boolean := current_setting('jobstate.auto_maintain');
    places CONSTANT integer := current_setting('max_worker_processes');
    wanted CONSTANT boolean := coalesce(folded < clock_timestamp() - patience, true)
                               AND EXISTS (SELECT FROM jobstate.log_tables() l WHERE l.is_full);
BEGIN
    RETURN QUERY
    SELECT 'maintenance', 'jobstate.auto_maintain', CASE WHEN wanted THEN 'warning' ELSE 'info' END,
           CASE WHEN wanted THEN 'no worker starts, and nobody calls maintain(): the log is full'
                ELSE 'no worker starts by itself: somebody has to call maintain() regularly' END,
           format('ALTER DATABASE %I SET jobstate.auto_maintain = on', current_database())
     WHERE NOT auto AND NOT pg_is_in_recovery()
    UNION ALL
    SELECT 'maintenance', 'max_worker_processes', 'warning',
           CASE WHEN places = 0 THEN 'there is room for no worker; a new value counts from the server''s next start'
                ELSE format('a worker is wanted and does not come: there is room for %s, the server''s and its extensions'' together', places) END,
           CASE WHEN places = 0 THEN 'ALTER SYSTEM SET max_worker_processes = 8' ELSE 'CALL jobstate.maintain()' END
     WHERE auto AND NOT pg_is_in_recovery() AND (places = 0 OR wanted AND NOT jobstate.worker_is_there())
    UNION ALL
    SELECT 'maintenance', NULL, 'ok',
           CASE WHEN pg_is_in_recovery() THEN 'this is a standby; its primary folds'
                ELSE coalesce('the last fold was at ' || date_trunc('second', folded), 'nothing was to be folded yet') END, NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_maintenance(boolean, interval)
    IS 'internal: what health() says of who folds and maintains';

-- health_of: asks one part.  What it may not read it says nothing of; another error
-- is a row, so that the other parts are heard.
-- Writes nothing.  Locks what the part locks.
CREATE FUNCTION jobstate.health_of(part name, deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT h.* FROM jobstate.%I($1, $2) h', part) USING deep, patience;
EXCEPTION
    WHEN insufficient_privilege THEN
        RETURN;
    WHEN others THEN
        RETURN QUERY SELECT 'health', part::text, 'warning', format('could not look: %s', SQLERRM), NULL;
END
$$;
COMMENT ON FUNCTION jobstate.health_of(name, boolean, interval)
    IS 'internal: what one part of health() says';

-- health: everything that wants a hand, worst first, with the SQL that mends it.
-- Works on a standby and in read-only transactions; waits for no lock longer than a
-- second.
-- Writes nothing.  Locks: deep, attached tables against DROP, and scans them.
CREATE FUNCTION jobstate.health(deep boolean DEFAULT false, patience interval DEFAULT '10 minutes')
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
SET datestyle = 'ISO'
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('deep', deep);
    PERFORM jobstate.require_argument('patience', patience);
    RETURN QUERY
    WITH said AS MATERIALIZED (
        SELECT r.* FROM jobstate.hooks('health_', 'boolean, interval') h CROSS JOIN LATERAL jobstate.health_of(h, deep, patience) r)
    SELECT s.* FROM said s
     WHERE s.status <> 'ok'
        OR NOT EXISTS (SELECT FROM said o WHERE o.check_name = s.check_name AND o.status <> 'ok')
     ORDER BY array_position('{warning,info,ok}', s.status), s.check_name COLLATE "C", s.object COLLATE "C";
END
$$;
COMMENT ON FUNCTION jobstate.health(boolean, interval)
    IS 'what wants a hand: a row per finding, worst first, with the SQL that mends it; deep compares counts with rows; what rests longer than patience is a warning';
-- metrics -----------------------------------------------------------------------------
--
-- The view metrics asks every function metrics_<part>() of the extension, as the
-- reader.  Groups are never labels: there may be any number of them.  A table that is
-- uncounted has no rows per state, because to count it would be a scan.

-- metrics_tables: the attached tables that the reader may count.  A table whose counts
-- cannot be read does not keep the others from being.
-- Writes nothing.  Locks: the counter log against TRUNCATE, during the call.
CREATE FUNCTION jobstate.metrics_tables()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    unwatched CONSTANT regclass[] := ARRAY(SELECT f.target FROM jobstate.health_trigger_faults() f WHERE f.fault <> 'not always');
    which regclass;
    live jsonb;
BEGIN
    FOR which IN SELECT a.target FROM jobstate.attachment a WHERE jobstate.can_read(a.target::text) ORDER BY 1
    LOOP
        BEGIN
            live := (SELECT jsonb_object_agg(t.state, jsonb_build_array(t.live, t.rolled_up)) FROM jobstate.state_totals(which) t);
        EXCEPTION WHEN data_corrupted OR undefined_column OR undefined_table OR undefined_object THEN
            live := NULL;
        END;
        RETURN QUERY
        SELECT m.name, jsonb_build_object('table', which) || m.more, m.value::double precision, m.kind, '', m.help
          FROM (SELECT 'jobstate_rows' AS name, jsonb_build_object('state', s.key) AS more, (s.value ->> 0)::double precision AS value,
                       'gauge' AS kind, 'rows that are there, by state' AS help
                  FROM jsonb_each(live) s
                UNION ALL
                SELECT 'jobstate_rows_rolled_up_total', jsonb_build_object('state', s.key), (s.value ->> 1)::double precision,
                       'counter', 'rows that prune() took, by terminal state'
                  FROM jsonb_each(live) s
                  JOIN jobstate.attachment a ON a.target = which
                  JOIN jobstate.state f ON f.machine = a.machine AND f.name = s.key AND f.is_terminal
                UNION ALL
                SELECT 'jobstate_table_counted', '{}', (live IS NOT NULL)::integer, 'gauge', '1 if counts come from counters, and these are sound'
                UNION ALL
                SELECT 'jobstate_table_watched', '{}', (which <> ALL (unwatched))::integer, 'gauge', '1 if the table''s triggers fire') m;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.metrics_tables()
    IS 'internal: the attached tables'' part of the view metrics';

-- metrics_log: the counter log, and who folds it.
-- Writes nothing.  Locks: what log_tables() locks.
CREATE FUNCTION jobstate.metrics_log()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT sum(t.log_rows) FILTER (WHERE t.relation::text ~ 'segment') AS log_rows,
                   sum(t.bytes) FILTER (WHERE t.relation::text ~ 'segment') AS log_bytes,
                   count(*) FILTER (WHERE t.is_full) AS segments_full,
                   sum(t.bytes) FILTER (WHERE t.relation::text ~ 'base') AS base_bytes
              FROM jobstate.log_tables() t) l
     CROSS JOIN LATERAL (VALUES
            ('jobstate_log_rows', l.log_rows, '', 'rows of the counter log that are not folded yet'),
            ('jobstate_log_bytes', l.log_bytes, 'bytes', 'size of the counter log''s segments'),
            ('jobstate_log_segments_full', l.segments_full, '', 'segments that want to be folded, of 8'),
            ('jobstate_base_bytes', l.base_bytes, 'bytes', 'size of the counter base'),
            ('jobstate_last_fold_timestamp_seconds', extract(epoch FROM jobstate.last_fold()), 'seconds',
             'when the counter log was folded last, as a Unix time'),
            ('jobstate_worker_running', jobstate.worker_is_there()::integer, '', '1 while the background worker of this database runs'),
            ('jobstate_auto_maintain', current_setting('jobstate.auto_maintain')::boolean::integer, '', '1 if the background worker starts by itself'))
           AS m (name, value, unit, help)
     WHERE m.value IS NOT NULL;
END
$$;
COMMENT ON FUNCTION jobstate.metrics_log()
    IS 'internal: the counter log''s part of the view metrics';

-- metrics_snapshots: how long dead rows are kept, and by prepared transactions.  Since
-- when a session's transaction runs is not shown to everybody.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_snapshots()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT max(p.behind) AS behind, max(p.since) AS since, count(*) FILTER (WHERE p.kind = 'prepared') AS prepared
              FROM jobstate.health_pins() p) p
     CROSS JOIN LATERAL (VALUES
            ('jobstate_oldest_snapshot_transactions', coalesce(p.behind, 0), '',
             'transactions since the oldest one that keeps dead rows of this database from being removed'),
            ('jobstate_oldest_snapshot_seconds', coalesce(extract(epoch FROM p.since), 0), 'seconds',
             'for how long the oldest transaction that keeps dead rows has been running, as far as the reader is shown'),
            ('jobstate_prepared_transactions', p.prepared, '', 'prepared transactions of this database'))
           AS m (name, value, unit, help);
END
$$;
COMMENT ON FUNCTION jobstate.metrics_snapshots()
    IS 'internal: the snapshots'' part of the view metrics';

-- metrics_of: asks one part.  What it may not read it says nothing of; another error
-- is a metric, so that the other parts are heard.
-- Writes nothing.  Locks what the part locks.
CREATE FUNCTION jobstate.metrics_of(part name)
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
SET jit = off
AS $$
DECLARE
    failed boolean := false;
BEGIN
    BEGIN
        RETURN QUERY EXECUTE format('SELECT m.* FROM jobstate.%I() m', part);
    EXCEPTION
        WHEN insufficient_privilege THEN
            NULL;
        WHEN others THEN
            failed := true;
    END;
    RETURN QUERY SELECT 'jobstate_metrics_failed', jsonb_build_object('part', substr(part, length('metrics_') + 1)),
                        failed::integer::double precision, 'gauge', '', '1 if this part of the metrics could not be read';
END
$$;
COMMENT ON FUNCTION jobstate.metrics_of(name)
    IS 'internal: one part of the view metrics';

CREATE VIEW jobstate.metrics AS
    SELECT m.name, m.labels, m.value, m.kind, m.unit, m.help
      FROM jobstate.hooks('metrics_', '') h CROSS JOIN LATERAL jobstate.metrics_of(h) m;
COMMENT ON VIEW jobstate.metrics IS 'what an exporter wants to know of tables, log, snapshots and families; Prometheus names, one row per name and labels';
GRANT SELECT ON jobstate.metrics TO PUBLIC;
