-- schedule_due: what is due is taken once, and has run by that, whatever becomes of it.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SELECT jobstate.install('schedule');
SELECT jobstate.install('schedule');

-- D.5 scenario 16: never run, so due; in flight, so not due; on the boundary due
SELECT jobstate.schedule_define('regress_a', 'every 15m');
SELECT name, token, due_at = last_run AS just_now, previous_run IS NULL AS never, last_run <= clock_timestamp() AS ran, lease_until - last_run AS lease
  FROM jobstate.schedule_due('w') \gset
SELECT :'name' AS name, :'just_now' AS just_now, :'never' AS never, :'ran' AS ran, :'lease' AS lease;
SELECT count(*) FROM jobstate.schedule_due('w');
SELECT jobstate.schedule_finish('regress_a', :'token') - last_run AS next FROM jobstate.schedule WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
UPDATE jobstate.schedule SET last_run = clock_timestamp() - interval '14 min 59 s' WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
UPDATE jobstate.schedule SET last_run = clock_timestamp() - interval '15 min' WHERE name = 'regress_a';
SELECT token FROM jobstate.schedule_due('w') \gset
-- D.3: a failing job has run as well: next in 15 minutes, not with the next tick
SELECT jobstate.schedule_finish('regress_a', :'token', false, 'no') > clock_timestamp() + interval '14 min' AS later;
SELECT count(*) FROM jobstate.schedule_due('w');
SELECT state, failures, last_error, runs, last_success_at IS NOT NULL AS succeeded FROM jobstate.schedule WHERE name = 'regress_a';
-- once more, because the answer was lost: nothing changes
SELECT jobstate.schedule_finish('regress_a', :'token') > clock_timestamp() AS later;
SELECT state, failures FROM jobstate.schedule WHERE name = 'regress_a';
-- what raises where it was taken was not taken
UPDATE jobstate.schedule SET last_run = '2020-01-01' WHERE name = 'regress_a';
BEGIN;
SELECT count(*) FROM jobstate.schedule_due('w');
ROLLBACK;
SELECT last_run = '2020-01-01' AS as_before FROM jobstate.schedule WHERE name = 'regress_a';

-- D.5 scenario 17: the taker dies; last_run has moved, and the slot is free when the lease ends
SELECT token AS dead FROM jobstate.schedule_due('w', lease => '1 hour') \gset
UPDATE jobstate.schedule SET lease_until = '2020-01-01' WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
UPDATE jobstate.schedule SET last_run = clock_timestamp() - interval '16 min' WHERE name = 'regress_a';
SELECT token FROM jobstate.schedule_due('w') \gset
SELECT failures, last_error FROM jobstate.schedule WHERE name = 'regress_a';
SELECT jobstate.schedule_finish('regress_a', :'dead');                           -- fails
SELECT jobstate.schedule_heartbeat('regress_a', :'dead');                        -- fails
-- a run that is slower than its interval keeps others out, and is due at once when it ends
UPDATE jobstate.schedule SET last_run = clock_timestamp() - interval '16 min' WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
SELECT jobstate.schedule_heartbeat('regress_a', :'token', '1 hour') > clock_timestamp() + interval '59 min' AS kept;
SELECT jobstate.schedule_finish('regress_a', :'token') <= clock_timestamp() AS due;
SELECT name, token AS dead FROM jobstate.schedule_due('w', hold => 'session') \gset
-- free without clean-up when the session is gone, whatever the lease says
UPDATE jobstate.schedule SET last_run = clock_timestamp() - interval '16 min' WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
UPDATE jobstate.schedule SET backend = '2020-01-01' WHERE name = 'regress_a';
SELECT count(*) FROM jobstate.schedule_due('w');
-- maintain() writes down what was not finished, and its token is worthless
UPDATE jobstate.schedule SET lease_until = '2020-01-01' WHERE name = 'regress_a';
SELECT token AS dead FROM jobstate.schedule WHERE name = 'regress_a' \gset
CALL jobstate.maintain();
SELECT state, last_error FROM jobstate.schedule WHERE name = 'regress_a';
SELECT jobstate.schedule_finish('regress_a', :'dead');                           -- fails

-- missed runs become one, or each is made up for
SELECT jobstate.schedule_drop('regress_a'), jobstate.schedule_drop('regress_a');
SELECT jobstate.schedule_define('regress_one', '* * * * *', last_run => date_trunc('minute', now()) - interval '10 min') < now() AS due,
       jobstate.schedule_define('regress_each', '* * * * *', catch_up => '5 min', last_run => date_trunc('minute', now()) - interval '10 min') < now() AS due;
CREATE FUNCTION pg_temp.ran() RETURNS TABLE (name text, runs bigint, first_at boolean, in_order boolean) LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE taken AS SELECT * FROM jobstate.schedule_due('w') WITH NO DATA;
    FOR i IN 1 .. 12 LOOP
        INSERT INTO taken SELECT * FROM jobstate.schedule_due('w');
        PERFORM jobstate.schedule_finish(s.name, s.token) FROM jobstate.schedule s WHERE s.state = 'running';
    END LOOP;
    RETURN QUERY SELECT t.name, count(*), min(t.previous_run) = date_trunc('minute', now()) - interval '10 min',
                        bool_and(t.previous_run < t.due_at AND t.due_at <= t.last_run) FROM taken t GROUP BY 1 ORDER BY 1;
END $$;
SELECT name, CASE name WHEN 'regress_each' THEN runs BETWEEN 5 AND 7 ELSE runs BETWEEN 1 AND 2 END AS runs, first_at, in_order FROM pg_temp.ran();
SELECT name, next_at > clock_timestamp() - interval '1 s' AS through FROM jobstate.schedule ORDER BY 1;
-- with catch_up a run is due at one of its schedule's times, those before become the last of them
SELECT spec, last_run, catch_up, array_agg(jobstate.schedule_ran(spec, last_run, jobstate.schedule_next(spec, last_run), catch_up, '2026-03-07 15:12:30Z')
                                   AT TIME ZONE 'UTC') AS ran
  FROM (VALUES ('0 * * * *', '2026-03-07 05:00Z'::timestamptz, '3 h'::interval), ('0 * * * *', '2026-03-07 13:00Z', '3 h'), ('every 1h', '2026-03-07 05:20Z', '3 h'),
               ('every 1h', '2026-03-07 05:20Z', '10 min'), ('0 * * * *', '2026-03-07 05:00Z', '10 min'), ('* * * * *', '2020-01-01 00:00Z', '1 h'),
               ('daily 03:00, 15:12', '2026-03-01 00:00Z', '1 min'), ('daily 03:00, 15:12', '2026-03-01 00:00Z', '30 s'),
               ('0 0 29 2 *', '2016-03-01 00:00Z', '1 h'), ('* 9 * * mon', '2025-12-01 00:00Z', '2 days'), ('0 * * * *', '2026-03-07 05:00Z', '0'),
               ('0 * * * *', NULL, '3 h')) v (spec, last_run, catch_up)
 GROUP BY 1, 2, 3 ORDER BY spec COLLATE "C", last_run, catch_up;
SELECT jobstate.schedule_define('regress_hours', 'every 1h', catch_up => '3 h', last_run => now() - interval '9 h 30 min') < now() AS due;
SELECT last_run AS first FROM jobstate.schedule WHERE name = 'regress_hours' \gset
SELECT token, due_at - :'first' AS due, last_run - :'first' AS ran FROM jobstate.schedule_due('w', names => '{regress_hours}') \gset
SELECT :'due' AS due, :'ran' AS ran, jobstate.schedule_finish('regress_hours', :'token') - :'first' AS next;
SELECT jobstate.schedule_drop('regress_hours');
-- what never ran makes up for nothing
SELECT jobstate.schedule_define('regress_new', '* * * * *', catch_up => '1 day');
SELECT name, previous_run, last_run > now() - interval '1 min' AS now FROM jobstate.schedule_due('w', names => '{regress_new}');

-- only some, only so many, none that is paused; longest due first
SELECT count(jobstate.schedule_define('regress_' || n, 'every 1h', last_run => '2020-01-01'::timestamptz + n * interval '1 day')) FROM generate_series(1, 5) n;
SELECT jobstate.schedule_pause('regress_1'), jobstate.schedule_pause('regress_1'), jobstate.schedule_pause('regress_none');
SELECT count(*) FROM jobstate.schedule_due('w', names => '{}');
SELECT name FROM jobstate.schedule_due('w', 2);
SELECT jobstate.schedule_pause('regress_1', false);
SELECT name FROM jobstate.schedule_due('w', names => '{regress_1,regress_2,regress_5}') ORDER BY 1;
-- changed, when it last ran stays
SELECT last_run FROM jobstate.schedule WHERE name = 'regress_5' \gset
SELECT jobstate.schedule_define('regress_5', 'daily 03:00') > now() AS later;
SELECT last_run = :'last_run' AS kept, state FROM jobstate.schedule WHERE name = 'regress_5';

SELECT state, n FROM jobstate.counts('jobstate.schedule') WHERE n > 0;
-- D.2: a last run that cannot be read, or a schedule that nobody knows, cannot be there
UPDATE jobstate.schedule SET last_run = 'yesterday morning';                     -- fails
UPDATE jobstate.schedule SET spec = 'now and then';                              -- fails
SELECT jobstate.schedule_define('regress_bad', 'now and then');                  -- fails
SELECT jobstate.schedule_define('', 'every 1h');                                 -- fails
SELECT jobstate.schedule_define(NULL, 'every 1h');                               -- fails
SELECT jobstate.schedule_define('regress_bad', 'every 1h', catch_up => '-1 s');  -- fails
SELECT jobstate.schedule_define('regress_bad', 'every 1h', lease => '0');        -- fails
SELECT jobstate.schedule_define('regress_bad', 'every 1h', queue => 'q');        -- fails
SELECT jobstate.schedule_finish('regress_bad', gen_random_uuid());               -- fails
SELECT jobstate.schedule_finish('regress_3', gen_random_uuid());                 -- fails
SELECT jobstate.schedule_due(NULL);                                              -- fails
SELECT jobstate.schedule_due('w', 0);                                            -- fails
SELECT jobstate.schedule_due('w', hold => 'transaction');                        -- fails
DELETE FROM jobstate.schedule WHERE name ~ '^regress';
SELECT * FROM jobstate.verify('jobstate.schedule');
