\echo Use "ALTER EXTENSION jobstate UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION jobstate.sql_drop() RETURNS event_trigger
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

