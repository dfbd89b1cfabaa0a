-- upload_gate: one finisher at a time, by the server's clock.
SELECT jobstate.install('uploads');

SELECT jobstate.upload_gate_acquire(51, 'gate'), jobstate.upload_gate_acquire(51, 'gate');
-- of another commit, or of the same one elsewhere: another gate
SELECT jobstate.upload_gate_acquire(51, 'other'), jobstate.upload_gate_acquire(52, 'gate');
SELECT gate_until BETWEEN clock_timestamp() + interval '890 s' AND clock_timestamp() + interval '900 s' AS in_900_s
  FROM jobstate.upload_scope WHERE repo_id = 51 AND commit_sha = 'gate';
SELECT jobstate.upload_gate_release(51, 'gate'), jobstate.upload_gate_release(51, 'gate');
SELECT jobstate.upload_gate_acquire(51, 'gate');
SELECT jobstate.upload_gate_release(51, 'gate');

-- with owners: A.3 open 8, a gate that ran out is not kept, and the next one's not given back
SELECT jobstate.upload_gate_acquire(51, 'gate', 'a', '1 hour'), jobstate.upload_gate_acquire(51, 'gate', 'b');
SELECT jobstate.upload_gate_refresh(51, 'gate', 'a'), jobstate.upload_gate_refresh(51, 'gate', 'b');
SELECT jobstate.upload_gate_acquire(51, 'gate', 'a') AS twice;
UPDATE jobstate.upload_scope SET gate_until = clock_timestamp() - interval '1 s' WHERE repo_id = 51 AND commit_sha = 'gate';
SELECT jobstate.upload_gate_refresh(51, 'gate', 'a');
SELECT jobstate.upload_gate_acquire(51, 'gate', 'b');
SELECT jobstate.upload_gate_refresh(51, 'gate', 'a'), jobstate.upload_gate_release(51, 'gate', 'a');
SELECT jobstate.upload_gate_refresh(51, 'gate', 'b', '2 hours');
SELECT gate_owner, gate_until > clock_timestamp() + interval '1 hour' AS extended
  FROM jobstate.upload_scope WHERE repo_id = 51 AND commit_sha = 'gate';
SELECT jobstate.upload_gate_release(51, 'gate', 'b'), jobstate.upload_gate_release(51, 'gate', 'b');
-- a gate that nobody ever took
SELECT jobstate.upload_gate_refresh(51, 'none'), jobstate.upload_gate_release(51, 'none');

-- A.3 open 11d: what comes after the gate fails, and the gate goes with it
BEGIN;
SELECT jobstate.upload_gate_acquire(51, 'gate');
ROLLBACK;
SELECT jobstate.upload_gate_acquire(51, 'gate');

-- by the server's clock, not the transaction's: it runs out within one
BEGIN;
SELECT jobstate.upload_gate_acquire(51, 'clock'), jobstate.upload_gate_acquire(51, 'clock');
UPDATE jobstate.upload_scope SET gate_until = clock_timestamp() WHERE repo_id = 51 AND commit_sha = 'clock';
SELECT jobstate.upload_gate_refresh(51, 'clock'), jobstate.upload_gate_acquire(51, 'clock');
COMMIT;

DELETE FROM jobstate.upload_scope WHERE repo_id IN (51, 52);
