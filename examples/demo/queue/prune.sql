-- What maintain() does by itself when the time has come; here it comes at once.
\pset border 0
\pset footer off
\pset null ''

-- The background worker may be at it.
BEGIN;
LOCK TABLE jobstate.queue_ring IN SHARE UPDATE EXCLUSIVE MODE;
SELECT jobstate.queue_ring_define('{"slot_length": "1 ms", "retention": "0"}') \g /dev/null
SELECT jobstate.rotate() \g /dev/null

\echo
\echo 'Slots of the ring that were emptied:'
SELECT * FROM jobstate.prune_slots(16);
COMMIT;

\echo 'Jobs, those that are there and those that have gone:'
SELECT queue, priority, state, live, rolled_up, total FROM jobstate.queue_totals();
