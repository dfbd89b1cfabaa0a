-- ledger_unprocessed: which of many candidates are to be processed, by one question.
SELECT jobstate.install('ledger');
SET timezone = 'America/New_York';
SELECT count(jobstate.ledger_mark('regress_p', item, 'x', 1, 'h', '2026-03-08 12:00:00Z')) FROM unnest('{b,c,d,e,f}'::text[]) item;

-- D.5 scenario 3: no row, 10 s before, 1 s after, equal; the order is the candidates'
CREATE TEMP VIEW candidate AS
SELECT array_agg(item ORDER BY n) AS items, array_agg(m ORDER BY n) AS modified, array_agg(f ORDER BY n) AS prints
  FROM (VALUES (1, 'd', timestamptz '2026-03-08 12:00:00Z', 'h'), (2, 'c', '2026-03-08 12:00:01Z', 'h'),
               (3, 'b', '2026-03-08 11:59:50Z', 'h'), (4, 'a', '2026-03-08 11:00:00Z', 'h')) v (n, item, m, f);
SELECT rule, u.item, u.nth FROM candidate, unnest('{head,seed,fingerprint}'::text[]) rule,
       jobstate.ledger_unprocessed('regress_p', items, modified, rule => rule) u;
SELECT u.item, u.nth FROM candidate, jobstate.ledger_unprocessed('regress_p', items, modified, max_items => 2) u;
-- no limit, as an environment may say it
SELECT count(*) FROM candidate, jobstate.ledger_unprocessed('regress_p', items, modified, max_items => 0) u;

-- head: within 50 ms before, the fingerprint decides; nothing known decides for processing
SELECT how, array_agg(u.item) AS unprocessed
  FROM (VALUES (1, 'the same', 'h'), (2, 'another', 'g'), (3, 'unknown', NULL)) k (n, how, f),
       jobstate.ledger_unprocessed('regress_p', '{b,c,d,e,f}',
           ARRAY['2026-03-08 11:59:59.95Z', '2026-03-08 11:59:59.949999Z', '2026-03-08 11:59:59.999999Z', NULL,
                 '2026-03-08 12:00Z']::timestamptz[],
           ARRAY[f, f, f, f, f]) u
 GROUP BY n, how ORDER BY n;
-- seed: after, whatever the fingerprint
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{b,c,d,e}',
    ARRAY['2026-03-08 11:59:59.99Z', '2026-03-08 12:00Z', '2026-03-08 12:00:00.000001Z', NULL]::timestamptz[],
    '{g,g,h,h}', 'seed') u;
-- D.3 open: content that changed under an old time is seen where fingerprints are compared (D.6)
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{b,c,d,e}',
    array_fill(timestamptz '2020-01-01', '{4}'), '{h,g,NULL,h}', 'fingerprint') u;
-- without times: what is not there, or has another fingerprint
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{a,b,c}') u;
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{a,b,c}', fingerprints => '{h,g,h}') u;

-- D.3: a time is a time, whatever the session's zone
SET timezone = 'Asia/Kolkata';
SELECT u.item FROM candidate, jobstate.ledger_unprocessed('regress_p', items, modified) u;
-- over the hour that New York skipped that day
SET timezone = 'America/New_York';
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{b,c}', '{2026-03-08 08:00:00,2026-03-08 07:59:59}') u;
RESET timezone;

-- D.5 scenario 6: a processor that nobody knows has everything to do; no candidates, nothing
SELECT u.item, u.nth FROM jobstate.ledger_unprocessed('regress_none', '{y,NULL,x,y}') u;
SELECT * FROM jobstate.ledger_unprocessed('regress_p', '{}', '{}', '{}');

-- D.3: what is processed is not offered tick after tick; what fails, is held or dead is a state of its own
SELECT jobstate.ledger_define('regress_p', '{"max_failures": 2}');
SELECT jobstate.ledger_fail('regress_p', 'b', 'no'), jobstate.ledger_fail('regress_p', 'c', 'no'), jobstate.ledger_fail('regress_p', 'c', 'no'),
       jobstate.ledger_fail('regress_p', 'd', 'later', retry_after => '1 hour');
SELECT attempt FROM jobstate.ledger_claim('regress_p', 'e', 'other');
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{b,c,d,e,f}', array_fill(timestamptz '2020-01-01', '{5}')) u;
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE processor = 'regress_p' AND item = 'e';
UPDATE jobstate.ledger SET retry_at = '2020-01-01' WHERE processor = 'regress_p' AND item = 'd';
SELECT u.item FROM jobstate.ledger_unprocessed('regress_p', '{b,c,d,e,f}', array_fill(timestamptz '2020-01-01', '{5}')) u;

-- many candidates, one question
SELECT jobstate.ledger_forget('{regress_p}');
INSERT INTO jobstate.ledger (processor, item, state, processed_at, fingerprint)
SELECT 'regress_p', 'f' || n, 'processed', '2026-01-01', 'h' FROM generate_series(1, 20000) n;
ANALYZE jobstate.ledger;
SELECT count(*), min(u.nth), max(u.nth)
  FROM jobstate.ledger_unprocessed('regress_p', ARRAY(SELECT 'f' || n FROM generate_series(19990, 40000) n)) u;
-- a processor of which the statistics know nothing yet: no plan may look at all rows for each
SET statement_timeout = '20 s';
SELECT count(*) FROM jobstate.ledger_take('regress_late', ARRAY(SELECT 'g' || n FROM generate_series(1, 6000) n), n => 0);
UPDATE jobstate.ledger SET state = 'processed', processed_at = '2026-01-01', lease_until = NULL WHERE processor = 'regress_late';
SELECT jobstate.ledger_retain('regress_late', ARRAY(SELECT 'h' || n FROM generate_series(1, 6000) n));
RESET statement_timeout;
SELECT jobstate.ledger_forget('{regress_p}');
DELETE FROM jobstate.ledger_processor WHERE processor = 'regress_p';
SELECT * FROM jobstate.verify('jobstate.ledger');
