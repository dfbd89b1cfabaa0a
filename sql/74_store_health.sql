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
