-- schedule_spec: when a schedule is due.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = iso;

-- D.5 scenario 16: never run, a second too early, on the boundary, late; and D.2: a future last run
SELECT last_run, at, jobstate.schedule_is_due('every 15m', last_run, at)
  FROM (VALUES (NULL::timestamptz, '2026-01-01 12:00:00'::timestamptz), ('2026-01-01 11:45:01', '2026-01-01 12:00:00'),
               ('2026-01-01 11:45:00', '2026-01-01 12:00:00'), ('2026-01-01 09:00:00', '2026-01-01 12:00:00'),
               ('2026-01-01 12:00:01', '2026-01-01 12:00:00'), ('infinity', '2026-01-01 12:00:00'),
               ('-infinity', '2026-01-01 12:00:00')) v (last_run, at);
-- cron: whatever lies after the last run and not after now, however long ago
SELECT last_run, at, jobstate.schedule_is_due('0 3 * * *', last_run, at)
  FROM (VALUES (NULL::timestamptz, '2026-01-01 12:00:00'::timestamptz), ('2026-01-01 03:00:00', '2026-01-02 02:59:59'),
               ('2026-01-01 03:00:00', '2026-01-02 03:00:00'), ('2026-01-01 02:59:59', '2026-01-01 03:00:00'),
               ('2026-01-01 02:59:59', '2026-01-01 02:59:59.999999'), ('2025-11-01 00:00:00', '2026-01-01 01:00:00'),
               ('2026-01-03 00:00:00', '2026-01-02 04:00:00')) v (last_run, at);
-- times of day
SELECT last_run, jobstate.schedule_next('daily 15:30, 03:00', last_run)
  FROM unnest('{2026-01-01 02:59:59.9,2026-01-01 03:00,2026-01-01 15:29:59,2026-01-01 15:30,2026-01-01 23:59:59.9,NULL}'::timestamptz[]) last_run;

-- how an interval, times and fields may be written
SELECT spec, jobstate.schedule_next(spec, '2026-11-22 10:07:30') FROM unnest(ARRAY[
    'every 90s', 'every 15m', 'EVERY  2 Hours', 'every 1 day', 'every 1w', 'daily 3:05', 'daily 00:00,10:07,10:08',
    'every 5sec', 'every 5 secs', 'every 1 second', 'every 5 seconds', 'every 5 min', 'every 5 mins', 'every 1 minute', 'every 5 minutes',
    'every 1 hour', 'every 3 days', 'every 1 week', 'every 2 weeks',
    '* * * * *', '*/15 * * * *', '7 10 * * *', '8 10 * * *', '5,35 9-17/4 * * *', '50/3 * * * *', '0 0 1 jan *', '0 0 * FEB-mar *',
    '0 12 * * mon-fri', '0 12 * * 7', '0 12 * * 0', '0 12 * * sun', '0 12 * * 5-7', '0 12 * * fri-sun', '0 12 * * sat,tue',
    '0 0 29 2 *', '0 0 31 * *', '0 0 */10 * *', '@hourly', '@daily', '@Midnight', '@weekly', '@monthly', '@yearly', '@annually']) spec;
-- two limited day fields: either; a star makes it both
SELECT spec, array_agg(d ORDER BY d) AS days
  FROM unnest(ARRAY['0 0 13 * fri', '0 0 * * fri', '0 0 13 * *', '0 0 */12 * fri', '0 0 13 * */5']) spec,
       LATERAL (WITH RECURSIVE run AS (
           SELECT jobstate.schedule_next(spec, '2026-02-01') AS at UNION ALL
           SELECT jobstate.schedule_next(spec, at) FROM run WHERE at < '2026-03-20')
         SELECT to_char(at, 'MM-DD Dy') AS d FROM run) r
 GROUP BY spec ORDER BY spec;

-- not an hour is skipped or doubled where clocks are changed, and no zone of a session matters
SET timezone = 'America/New_York';
SELECT count(DISTINCT jobstate.schedule_next(spec, t)) AS runs, count(DISTINCT jobstate.schedule_next(spec, t) - t) AS distances
  FROM unnest(ARRAY['0 * * * *', 'every 1h']) spec, generate_series(timestamptz '2026-03-07 00:00Z', '2026-03-10 00:00Z', '1 hour') t GROUP BY spec ORDER BY 1;
SELECT zone, jobstate.schedule_next('30 2 8 3 *', '2026-03-07 00:00Z') AT TIME ZONE 'UTC' AS cron,
       jobstate.schedule_next('daily 06:30', '2026-11-01 05:00Z') AT TIME ZONE 'UTC' AS daily,
       jobstate.schedule_next('every 1d', '2026-03-07 12:00Z') AT TIME ZONE 'UTC' AS every
  FROM unnest('{America/New_York,Asia/Kolkata,Australia/Lord_Howe,UTC}'::text[]) zone, LATERAL (SELECT set_config('timezone', zone, false)) s;
SET timezone = 'UTC';

-- every one of these is refused, and says why
CREATE FUNCTION pg_temp.try(spec text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    RETURN jobstate.schedule_next(spec, '2026-01-01');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ': ' || detail;
END $$;
SELECT spec, pg_temp.try(spec) FROM unnest(ARRAY[
    '', 'never', 'every', 'every 0m', 'every -1m', 'every 1.5h', 'every 15', 'every 15 y', 'every 5 hins', 'every 5 secks', 'every 1 mays', 'every 2 dours', 'every 1 wecs', 'every 1 m inutes', 'every 999999999w', 'daily', 'daily 24:00',
    'daily 3', 'daily 3:60', 'daily 03:00 04:00', '* * * *', '* * * * * *', '60 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 13 *',
    '* * * * 8', '* * * foo *', '* * * * fry', '5-1 * * * *', '*/0 * * * *', '1,,2 * * * *', ', * * * *', '1- * * * *', '-1 * * * *', 'a * * * *',
    '1/2/3 * * * *', '0 0 30 2 *', '0 0 31 4,6,9,11 *', '@reboot']) spec;
SELECT jobstate.schedule_next('61 * * * *', now());                              -- fails
SELECT jobstate.schedule_next(NULL, now());                                      -- fails
