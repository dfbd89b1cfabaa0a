-- ledger_claim: one worker per item, known by a token.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SELECT jobstate.install('ledger');

-- a claim keeps others out, and its mark goes with the results
SELECT token AS a, attempt, read_at <= clock_timestamp() AS read, lease_until - read_at AS lease
  FROM jobstate.ledger_claim('regress_c', 'i', 'h1', worker => 'w') \gset
SELECT :attempt AS attempt, :'read' AS read, :'lease' AS lease;
SELECT * FROM jobstate.ledger_claim('regress_c', 'i', 'h1', worker => 'w');
SELECT jobstate.ledger_mark('regress_c', 'i', items => 4, fingerprint => 'h1', token => :'a') IS NOT NULL AS marked;
-- once more, because the answer was lost: nothing changes
SELECT processed_at AS at FROM jobstate.ledger WHERE processor = 'regress_c' \gset
SELECT jobstate.ledger_mark('regress_c', 'i', items => 9, fingerprint => 'h1', token => :'a') = :'at' AS as_before;
SELECT state, items, attempt, token = :'a' AS last_token FROM jobstate.ledger WHERE processor = 'regress_c';
-- the same content is not to be claimed, another one is
SELECT count(*) FROM jobstate.ledger_claim('regress_c', 'i', 'h1');
SELECT token AS b FROM jobstate.ledger_claim('regress_c', 'i', 'h2') \gset
-- the content of before stays known while the new one is processed
SELECT jobstate.ledger_is_processed('regress_c', 'i', 'h1');
SELECT jobstate.ledger_release('regress_c', 'i', :'b');

-- D.5 scenario 19: A's lease ends, B claims; A's mark is refused, B's is not; one worker's name
SELECT token AS a FROM jobstate.ledger_claim('regress_c', 'j', worker => 'w') \gset
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE processor = 'regress_c' AND item = 'j';
SELECT token AS b, attempt FROM jobstate.ledger_claim('regress_c', 'j', worker => 'w') \gset
SELECT jobstate.ledger_mark('regress_c', 'j', token => :'a');                    -- fails
SELECT jobstate.ledger_fail('regress_c', 'j', 'late', :'a');                     -- fails
SELECT jobstate.ledger_heartbeat('regress_c', '{j}', :'a');                      -- fails
SELECT jobstate.ledger_release('regress_c', 'j', :'a');                          -- fails
SELECT jobstate.ledger_mark('regress_c', 'j');                                   -- fails
SELECT jobstate.ledger_fail('regress_c', 'j', 'not mine');                       -- fails
SELECT jobstate.ledger_mark('regress_c', 'j', token => :'b') IS NOT NULL AS marked;
SELECT jobstate.ledger_mark('regress_c', 'j', token => :'a');                    -- fails
SELECT jobstate.ledger_mark('regress_c', 'none', token => :'a');                 -- fails
-- the claim that was lost counts as a failure until there is a success
SELECT item, state, attempt, failures FROM jobstate.ledger WHERE processor = 'regress_c' ORDER BY item;
-- a lease that ended is still good as long as nobody else has the item
SELECT token AS a FROM jobstate.ledger_claim('regress_c', 'k') \gset
UPDATE jobstate.ledger SET lease_until = '2020-01-01' WHERE processor = 'regress_c' AND item = 'k';
SELECT jobstate.ledger_mark('regress_c', 'k', token => :'a') IS NOT NULL AS marked;

-- results and mark are one transaction: both, or neither (D.3: crash in between)
CREATE TEMP TABLE result (item text);
SELECT token AS a FROM jobstate.ledger_claim('regress_c', 'l') \gset
BEGIN;
INSERT INTO result VALUES ('l');
SELECT jobstate.ledger_mark('regress_c', 'l', token => :'a') IS NOT NULL AS marked;
ROLLBACK;
SELECT state FROM jobstate.ledger WHERE processor = 'regress_c' AND item = 'l';
BEGIN;
INSERT INTO result VALUES ('l');
SELECT jobstate.ledger_mark('regress_c', 'l', token => :'a') IS NOT NULL AS marked;
COMMIT;
SELECT state, (SELECT count(*) FROM result) AS results FROM jobstate.ledger WHERE processor = 'regress_c' AND item = 'l';

-- many at once, in the candidates' order, the cap's number of them; a heartbeat for all or none
SELECT item, nth, attempt FROM jobstate.ledger_take('regress_c', '{z,l,y,x,z}', n => 2);
SELECT item, nth FROM jobstate.ledger_take('regress_c', '{z,l,y,x}', n => 0);
SELECT token AS z FROM jobstate.ledger WHERE processor = 'regress_c' AND item = 'z' \gset
SELECT jobstate.ledger_heartbeat('regress_c', '{z,y}', :'z', '1 hour') > now() + interval '59 min' AS kept;
SELECT jobstate.ledger_heartbeat('regress_c', '{z,y,x}', :'z');                  -- fails
SELECT jobstate.ledger_heartbeat('regress_c', '{}', :'z') IS NOT NULL AS nothing;
-- without a setting the cap is 50, and it is the processor's where there is one
SELECT count(*) FROM jobstate.ledger_take('regress_c', ARRAY(SELECT 'm' || n FROM generate_series(1, 60) n));
SELECT jobstate.ledger_define('regress_c', '{"cap": null}');
SELECT count(*) FROM jobstate.ledger_take('regress_c', ARRAY(SELECT 'm' || n FROM generate_series(1, 2060) n));

-- a reset takes an item out of its worker's hands
SELECT jobstate.ledger_reset('regress_c', '{z}');
SELECT jobstate.ledger_mark('regress_c', 'z', token => :'z');                    -- fails
-- D.6: neither state nor lease can be written so that they contradict each other
UPDATE jobstate.ledger SET state = 'claimed' WHERE processor = 'regress_c' AND item = 'z';   -- fails
UPDATE jobstate.ledger SET lease_until = '2030-01-01' WHERE processor = 'regress_c' AND item = 'z'; -- fails
SELECT jobstate.ledger_forget('{regress_c}') > 2000 AS forgotten;
DELETE FROM jobstate.ledger_processor WHERE processor = 'regress_c';
SELECT * FROM jobstate.verify('jobstate.ledger');
