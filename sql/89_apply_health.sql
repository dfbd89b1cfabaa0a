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

-- apply_deadlock: what keeps the first operation of an apply from going on, if no driver
-- could claim any of them; NULL if one could.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_deadlock(apply_id bigint)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_and(coalesce(b.claim <> '' AND b.cutover <> '', false))
                THEN (array_agg(format('operation %s cannot be claimed: %s', b.id,
                                          CASE b.state WHEN 'waiting_for_cutover' THEN b.cutover ELSE b.claim END)
                                   ORDER BY b.created_at, b.id))[1] END
      FROM (SELECT o.id, o.state, o.created_at, jobstate.operation_blocker(o.id) AS claim, jobstate.operation_blocker(o.id, true) AS cutover
              FROM jobstate.operation o
             WHERE o.apply_id = $1 AND NOT jobstate.apply_is_settled(o.state)) b
$$;
COMMENT ON FUNCTION jobstate.apply_deadlock(bigint)
    IS 'internal: why no operation of an apply can be claimed; NULL if one can';

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
           format('%s "%s" has not moved since %s, and %s', l.state, l.identifier, date_trunc('second', l.quiet_since),
                  coalesce(jobstate.apply_deadlock(l.id) || '; apply_cancel() ends it',
                           CASE WHEN l.expired > 0 THEN format('%s of its operations have outlived their lease', l.expired)
                                ELSE 'nobody claims its operations' END || ': start drivers')), NULL
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
