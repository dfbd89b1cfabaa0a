-- ledger_health: is a processor keeping up with its items?
\set SHOW_CONTEXT never
SELECT jobstate.install('ledger');

-- a file is as old as it is said to be; a success was so long ago
CREATE FUNCTION pg_temp.health(what text, item_ages interval[], success interval DEFAULT NULL, grace interval DEFAULT NULL,
    stuck_grace interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    h record;
    items CONSTANT text[] := ARRAY(SELECT 'f' || n FROM generate_subscripts(item_ages, 1) n);
BEGIN
    PERFORM jobstate.ledger_forget('{regress_h}');
    IF success IS NOT NULL THEN
        PERFORM jobstate.ledger_mark('regress_h', 'done', read_at => clock_timestamp() - success);
    END IF;
    SELECT * INTO h FROM jobstate.ledger_health('regress_h', items,
        ARRAY(SELECT clock_timestamp() - a FROM unnest(item_ages) WITH ORDINALITY a (a, n) ORDER BY n), NULL, grace, stuck_grace);
    RETURN format('%s: %s, %s; lag %s, stuck %s for %s', what, h.status, h.headline, h.lag_seconds, h.stuck_file, h.stuck_file_age_seconds);
END $$;

-- D.2: nothing to do is well; nothing known is unknown
SELECT pg_temp.health('no files', '{}');
SELECT status, headline FROM jobstate.ledger_health('regress_h', NULL, NULL);
SELECT status FROM jobstate.ledger_health('regress_h', '{a}', '{NULL}');
SELECT status FROM jobstate.ledger_health('regress_h', '{a}', NULL);
-- never a success: 1800 s of grace, by the newest file
SELECT pg_temp.health('never, new', '{5 min}');
SELECT pg_temp.health('never, newest is new', '{1 hour, 29 min}');
SELECT pg_temp.health('never, old', '{1 hour, 31 min}');
-- and by that alone: before the first success nothing is stuck
SELECT pg_temp.health('never, oldest is very old', '{9 hours, 5 min}');
-- the newest file is newer than the last success by more than grace
SELECT pg_temp.health('behind', '{10 min, 3 hours}', '41 min');
SELECT pg_temp.health('not far behind', '{10 min}', '39 min');
-- it keeps up, but has passed one over for more than four times grace; the oldest is told
SELECT pg_temp.health('stuck', '{10 min, 121 min, 3 hours}', '15 min');
SELECT pg_temp.health('not yet stuck', '{10 min, 119 min}', '15 min');
-- graces that are given, and those that are no times
SELECT pg_temp.health('short grace', '{10 min}', '21 min', '10 min');
SELECT pg_temp.health('stuck grace is 4 times', '{10 min, 41 min}', '15 min', '10 min');
SELECT pg_temp.health('short stuck grace', '{10 min, 21 min}', '15 min', NULL, '20 min');
SELECT pg_temp.health('no graces', '{10 min, 121 min}', '41 min', '0', '-1 s');
-- as the processor's interval says
SELECT jobstate.ledger_define('regress_h', '{"interval": "1 hour"}');
SELECT pg_temp.health('slow', '{10 min}', '119 min');
SELECT pg_temp.health('slow and behind', '{0 min}', '121 min');

-- the stuck item is found under its absolute name too
SELECT jobstate.ledger_forget('{regress_h}');
SELECT count(jobstate.ledger_mark('regress_h', i)) FROM unnest('{/data/x/a.jsonl,x/b.jsonl}'::text[]) i;
SELECT root, status, stuck_file, stuck_file_age_seconds
  FROM unnest('{/data,/data/,/other,NULL}'::text[]) root,
       jobstate.ledger_health('regress_h', '{x/a.jsonl,x/b.jsonl}',
           ARRAY[now() - interval '10 hours', now() - interval '9 hours'], root);
-- changed since it was processed, and not looked at since: stuck
UPDATE jobstate.ledger SET processed_at = now() - interval '20 hours' WHERE item = 'x/b.jsonl';
SELECT status, stuck_file FROM jobstate.ledger_health('regress_h', '{x/a.jsonl,x/b.jsonl}',
    ARRAY[now() - interval '30 hours', now() - interval '19 hours'], '/data');
-- a dead item is told by number; it is not what the processor is stuck at
SELECT jobstate.ledger_define('regress_h', '{"max_failures": 1}');
SELECT jobstate.ledger_mark('regress_h', 'x/b.jsonl') IS NOT NULL AS marked, jobstate.ledger_fail('regress_h', 'x/c.jsonl', 'no'),
       (SELECT count(*) FROM jobstate.ledger_claim('regress_h', 'x/d.jsonl')) AS claimed;
SELECT status, headline, stuck_file, failing, dead, claimed FROM jobstate.ledger_health('regress_h', '{x/b.jsonl,x/c.jsonl}',
    ARRAY[now() - interval '19 hours', now() - interval '90 hours']);
-- without items all is well, whatever died; and so it is before the first success
SELECT status, headline, dead FROM jobstate.ledger_health('regress_h', '{}', '{}');
SELECT jobstate.ledger_forget('{regress_h}') > 0 AS forgotten;
SELECT jobstate.ledger_fail('regress_h', 'x/c.jsonl', 'no');
SELECT status, stuck_file, max_processed_at, dead FROM jobstate.ledger_health('regress_h', '{x/b.jsonl,x/c.jsonl}',
    ARRAY[now() - interval '5 min', now() - interval '90 hours']);

-- limits as an environment gives them
SELECT v AS value, jobstate.ledger_setting(v, 50) AS cap, jobstate.ledger_setting(v) AS or_none,
       jobstate.ledger_setting(v, unset => 50) AS or_none_but_50
  FROM unnest(ARRAY['7', ' 7 ', '2.5', '', '0', '-1', 'many', '1e9', NULL]) v;
SELECT jobstate.ledger_forget('{regress_h}') > 0 AS forgotten;
DELETE FROM jobstate.ledger_processor WHERE processor = 'regress_h';
