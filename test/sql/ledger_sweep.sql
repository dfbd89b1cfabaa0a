-- ledger_sweep: maintain() ends what died, and old runs become numbers.
SELECT jobstate.install('ledger');
SELECT jobstate.ledger_define('regress_w'), jobstate.ledger_define('regress_v');

-- runs that died are lost, those that are alive stay
SELECT count(*) FROM unnest('{regress_w,regress_v}'::text[]) p, jobstate.ledger_begin_run(p, 'w');
UPDATE jobstate.ledger_processor SET run_until = '2020-01-01' WHERE processor = 'regress_w';
CALL jobstate.maintain();
SELECT processor, state, error FROM jobstate.ledger_run WHERE processor ~ '^regress' ORDER BY 1;
SELECT processor, run_id IS NULL AS free FROM jobstate.ledger_processor WHERE processor ~ '^regress' ORDER BY 1;
-- by a session that is gone
SELECT cap FROM jobstate.ledger_begin_run('regress_w', 'gone', hold => 'session');
CALL jobstate.maintain();
SELECT state FROM jobstate.ledger_run WHERE owner = 'gone';
UPDATE jobstate.ledger_processor SET run_backend = '2020-01-01' WHERE processor = 'regress_w';
CALL jobstate.maintain();
SELECT state FROM jobstate.ledger_run WHERE owner = 'gone';

-- claims whose lease has ended are failures
SELECT count(*) FROM jobstate.ledger_take('regress_w', '{a,b,c}');
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE processor = 'regress_w' AND item < 'c';
CALL jobstate.maintain();
SELECT item, state, failures FROM jobstate.ledger_items('regress_w');

-- old runs go with what was noted in them, and stay in the totals
SELECT token FROM jobstate.ledger_begin_run('regress_w', 'old') \gset
SELECT jobstate.ledger_fail('regress_w', 'x', 'no', :'token');
SELECT jobstate.ledger_end_run('regress_w', :'token');
UPDATE jobstate.ledger_run SET ended_at = now() - interval '31 days' WHERE owner IN ('old', 'gone');
UPDATE jobstate.ledger_run SET started_at = now() - interval '31 days' WHERE processor = 'regress_v';
CALL jobstate.maintain();
SELECT owner, state FROM jobstate.ledger_run WHERE processor ~ '^regress' ORDER BY processor, id;
SELECT group_key ->> 'processor' AS processor, state, live, rolled_up, total FROM jobstate.totals('jobstate.ledger_run')
 WHERE group_key ->> 'processor' ~ '^regress' AND total > 0 ORDER BY 1, 2;
SELECT count(*) FROM jobstate.ledger_outcome WHERE processor = 'regress_w' AND error = 'no';

-- somebody else's ledger is left alone
CREATE ROLE regress_other;
GRANT EXECUTE ON FUNCTION jobstate.maintain_ledger(integer) TO regress_other;
SET ROLE regress_other;
SELECT jobstate.maintain_ledger(0) IS NULL AS not_mine;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION jobstate.maintain_ledger(integer) FROM regress_other;
DROP ROLE regress_other;

DELETE FROM jobstate.ledger_processor WHERE processor ~ '^regress';
DELETE FROM jobstate.ledger_run WHERE processor ~ '^regress';
DELETE FROM jobstate.rollup WHERE target = 'jobstate.ledger_run'::regclass;
SELECT jobstate.ledger_forget('{regress_w}');
SELECT * FROM jobstate.verify();
