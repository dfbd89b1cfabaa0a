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
