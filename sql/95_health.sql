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

-- log_tables, last_fold, log_full_since: the counter log from outside.  What a fold has locked is
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

CREATE FUNCTION jobstate.log_full_since()
    RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_log_full_since_when';
COMMENT ON FUNCTION jobstate.log_full_since() IS
    'since when a segment of the counter log has been full; null where none is';

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
           CASE WHEN f.tgenabled IN ('D', 'R') THEN 'disabled'
                WHEN f.tgenabled = 'O' AND EXISTS (SELECT FROM pg_subscription_rel s
                                                     JOIN jobstate.health_relations() r ON r.relation = s.srrelid
                                                    WHERE r.target = f.target) THEN 'subscribed'
                WHEN f.tgenabled = 'O' THEN 'not always'
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
                               WHEN 'subscribed' THEN 'is not ENABLE ALWAYS: rows that the subscription brings are not counted'
                               WHEN 'renamed' THEN 'has another name: what it should see is refused'
                               WHEN 'missing' THEN 'is missing: rows change unguarded and uncounted'
                               ELSE 'is not ENABLE ALWAYS: rows that are replayed are not counted' END),
           f.repairs || CASE WHEN f.fault IN ('missing', 'disabled', 'subscribed')
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
     WHERE d.parent = derived
    HAVING count(*) > 0;
    -- none where the table is no parent
    IF query IS NOT NULL THEN
        EXECUTE query INTO said;
    END IF;
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
    overdue CONSTANT boolean := coalesce(jobstate.log_full_since() < clock_timestamp() - patience, false);
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
    wanted CONSTANT boolean := coalesce(jobstate.log_full_since() < clock_timestamp() - patience, false);
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
