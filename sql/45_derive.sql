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

-- What defines machines, attachments and derivations is each database's own.
CREATE FUNCTION jobstate.keep_own() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_keep_own';
COMMENT ON FUNCTION jobstate.keep_own() IS 'keeps what a subscription brings out of the catalogue';

DO $$
DECLARE
    relname text;
BEGIN
    FOREACH relname IN ARRAY ARRAY['machine', 'state', 'transition', 'attachment', 'rule_set', 'rule', 'derivation']
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER keep_own BEFORE INSERT OR UPDATE OR DELETE ON jobstate.%I'
            ' FOR EACH ROW EXECUTE FUNCTION jobstate.keep_own()', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I ENABLE REPLICA TRIGGER keep_own', relname);
    END LOOP;
END
$$;

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
