-- schedule_cron: the next run, held against all minutes of ten weeks: each expression
-- has the minutes that it stands for, and no others.
SET timezone = 'Europe/Berlin';
CREATE TEMP TABLE minute AS
SELECT t, extract(minute FROM u)::int AS mi, extract(hour FROM u)::int AS ho, extract(day FROM u)::int AS da,
       extract(month FROM u)::int AS mo, extract(isodow FROM u)::int AS dw
  FROM generate_series(timestamptz '2027-12-25 00:00Z', '2028-03-07 00:00Z', '1 minute') t, LATERAL (SELECT t AT TIME ZONE 'UTC' AS u) x;
CREATE INDEX ON minute (t);

-- what an expression means is written down a second time here, as a condition
CREATE TEMP TABLE expression (spec text, condition text);
INSERT INTO expression VALUES
    ('*/9 3 * * *', 'mi % 9 = 0 AND ho = 3'), ('3-59/11 */7 */3 * *', 'mi % 11 = 3 AND ho % 7 = 0 AND da % 3 = 1'), ('0,15,59 23 * * *', 'mi IN (0, 15, 59) AND ho = 23'),
    ('30 4 29-31 * *', 'mi = 30 AND ho = 4 AND da >= 29'), ('0 0 29 feb *', 'mi = 0 AND ho = 0 AND da = 29 AND mo = 2'),
    ('1 1 1 * mon', 'mi = 1 AND ho = 1 AND (da = 1 OR dw = 1)'), ('59 23 * 1-2 sat-7', 'mi = 59 AND ho = 23 AND mo <= 2 AND dw >= 6'),
    ('*/20 12 */9 * 0-3', 'mi % 20 = 0 AND ho = 12 AND da % 9 = 1 AND dw IN (7, 1, 2, 3)'), ('10 10 10 12,3 0', 'mi = 10 AND ho = 10 AND mo IN (12, 3) AND (da = 10 OR dw = 7)'),
    ('45 */23 2-30/2 */2 *', 'mi = 45 AND ho IN (0, 23) AND da % 2 = 0 AND da < 31 AND mo % 2 = 1'), ('@weekly', 'mi = 0 AND ho = 0 AND dw = 7'),
    ('daily 00:00, 23:59', '(ho, mi) IN ((0, 0), (23, 59))');
DO $$
DECLARE
    e record;
    wanted timestamptz[];
    found timestamptz[];
BEGIN
    FOR e IN SELECT * FROM expression ORDER BY spec LOOP
        EXECUTE format('SELECT array_agg(t ORDER BY t) FROM minute WHERE t > ''2027-12-25 00:00Z'' AND (%s)', e.condition) INTO wanted;
        WITH RECURSIVE run AS (
            SELECT jobstate.schedule_next(e.spec, '2027-12-25 00:00Z') AS at UNION ALL
            SELECT jobstate.schedule_next(e.spec, at) FROM run WHERE at <= '2028-03-07 00:00Z')
        SELECT array_agg(at ORDER BY at) INTO found FROM run WHERE at <= '2028-03-07 00:00Z';
        IF found IS DISTINCT FROM wanted THEN
            RAISE WARNING '%: % instead of %', e.spec, found[1:5], wanted[1:5];
        END IF;
        RAISE NOTICE '%: % runs', e.spec, cardinality(wanted);
    END LOOP;
END $$;
-- from any second, not only from a run to the next
SELECT count(*) AS wrong
  FROM generate_series(1, 200) n, LATERAL (SELECT timestamptz '2028-01-01Z' + n * interval '5 h 7 min 11.3 s' AS at) r
 WHERE jobstate.schedule_next('1 1 1 * mon', at)
       <> (SELECT min(t) FROM minute WHERE t > at AND mi = 1 AND ho = 1 AND (da = 1 OR dw = 1)) AND at < '2028-02-20';
-- a step from a day of the week on ends with Saturday, as * does; 7 alone is Sunday
SELECT s.spec, array_agg(DISTINCT extract(dow FROM jobstate.schedule_next(s.spec, d) AT TIME ZONE 'UTC')) AS weekdays
  FROM unnest('{0 0 * * 1/2,0 0 * * 2/5,0 0 * * 7/2,0 0 * * */2,0 0 * * 5-7}'::text[]) s (spec),
       generate_series(timestamptz '2028-01-01Z', '2028-01-14Z', '1 day') d
 GROUP BY 1 ORDER BY 1;
