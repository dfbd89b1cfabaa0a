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
     CROSS JOIN LATERAL (SELECT max(l.processed_at) AS latest FROM jobstate.ledger l WHERE l.processor COLLATE "C" = c.processor) d
      LEFT JOIN jobstate.ledger_processor p ON p.processor COLLATE "C" = c.processor
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
