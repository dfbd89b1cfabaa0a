-- schedule_queue: a schedule may put a job into a queue.
\set SHOW_CONTEXT never
SELECT jobstate.install('schedule');
SELECT jobstate.install('queue');

-- one job for each time that it is due, put there by maintain()
SELECT jobstate.schedule_define('regress_q', 'every 1h', 'regress_q', 'tick', '{"a": 1}', priority => 1);
CALL jobstate.maintain();
CALL jobstate.maintain();
SELECT j.queue, j.kind, j.payload - 'due_at' AS payload, j.priority, (j.payload ->> 'due_at')::timestamptz = s.last_run AS its_time
  FROM jobstate.job j JOIN jobstate.schedule s ON s.name = j.payload ->> 'schedule' WHERE j.queue = 'regress_q';
-- it is nobody's to take
SELECT count(*) FROM jobstate.schedule_due('w', names => '{regress_q}');

-- coalesced: no second one is put behind one that has not ended, and last_run moves
UPDATE jobstate.schedule SET last_run = now() - interval '5 h' WHERE name = 'regress_q';
SELECT name, job_id, now() - due_at BETWEEN interval '4 h' AND interval '4 h 1 min' AS first_missed FROM jobstate.schedule_enqueue();
SELECT now() - last_run < interval '1 min' AS ran FROM jobstate.schedule WHERE name = 'regress_q';
SELECT count(*) FROM jobstate.job WHERE queue = 'regress_q';
SELECT count(jobstate.complete(id, token)) FROM jobstate.claim('regress_q', 'w');
UPDATE jobstate.schedule SET last_run = now() - interval '5 h' WHERE name = 'regress_q';
SELECT name, job_id IS NOT NULL AS enqueued FROM jobstate.schedule_enqueue();
-- job and answer say when it became due, as schedule_due() does
SELECT now() - (payload ->> 'due_at')::timestamptz BETWEEN interval '4 h' AND interval '4 h 1 min' AS first_missed
  FROM jobstate.job WHERE queue = 'regress_q' ORDER BY id DESC LIMIT 1;

-- made up for: a job for each, within the time that is worth it
SELECT jobstate.schedule_define('regress_each', 'every 1h', 'regress_e', 'tick', catch_up => '3 h',
                                last_run => now() - interval '9 h 30 min') < now() AS due;
CALL jobstate.maintain();
SELECT date_trunc('minute', now() - (payload ->> 'due_at')::timestamptz) AS ago FROM jobstate.job WHERE queue = 'regress_e' ORDER BY 1;
SELECT runs, failures, state, next_at > now() AS later FROM jobstate.schedule WHERE name = 'regress_each';

-- a job that is refused is a failure of its schedule, once, and of no other
SELECT jobstate.schedule_define('regress_bad', 'every 1h', 'regress_q', 'tick', priority => 99),
       jobstate.schedule_define('regress_good', 'every 1h', 'regress_g', 'tick', '[1]');
CALL jobstate.maintain();
CALL jobstate.maintain();
SELECT name, state, runs, failures, last_error, next_at > now() AS later FROM jobstate.schedule WHERE name ~ '^regress_(bad|good)' ORDER BY 1;
SELECT payload FROM jobstate.job WHERE queue = 'regress_g';
-- paused is paused
SELECT jobstate.schedule_pause('regress_q');
UPDATE jobstate.schedule SET last_run = NULL WHERE name = 'regress_q';
SELECT name FROM jobstate.schedule_enqueue();
SELECT jobstate.schedule_enqueue(0);                                             -- fails

DELETE FROM jobstate.schedule WHERE name ~ '^regress';
DELETE FROM jobstate.job WHERE queue ~ '^regress';
DELETE FROM jobstate.queue WHERE queue ~ '^regress';
SELECT * FROM jobstate.verify();
