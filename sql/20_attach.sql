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
                -- pg_restore --clean drops keys before tables: then no row of the parent can be named
                PERFORM jobstate.touch_parents(d.parent) FROM jobstate.derivation d
                  WHERE d.child = dropped.objid
                    AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = d.parent AND x.indisprimary);
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
