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
