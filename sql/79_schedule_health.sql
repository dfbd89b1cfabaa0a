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
