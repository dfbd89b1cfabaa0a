-- apply_control: stop, start, cancel, and what is asked of drivers (C.6 scenario 18).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80300, false), setval('jobstate.operation_id_seq', 80300, false);
CREATE FUNCTION pg_temp.new(name text, VARIADIC deployments text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT apply_id FROM jobstate.apply_create(name, 'mysql', 'control',
        (SELECT jsonb_agg(jsonb_build_object('deployment', d)) FROM unnest(deployments) d), cutover_policy => 'parallel', max_drivers => 9)
$$;
CREATE FUNCTION pg_temp.claim(apply bigint) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce((SELECT format('%s: %s -> %s', c.deployment, c.previous_state, c.state)
                       FROM jobstate.operation_claim('driver', only_apply => apply) c), 'none')
$$;
CREATE FUNCTION pg_temp.does(apply bigint, deployment text, verb text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('SELECT jobstate.operation_%s(o.id, o.token)::text FROM jobstate.operation o WHERE o.apply_id = $1 AND o.deployment = $2', verb)
       INTO answer USING apply, does.deployment;
    RETURN answer;
END $$;
-- the apply, its operations, its requests
CREATE FUNCTION pg_temp.see(apply bigint) RETURNS TABLE (apply text, ended bool, operations text, requests text) LANGUAGE sql AS $$
    SELECT a.state, a.completed_at IS NOT NULL,
           (SELECT string_agg(o.deployment || ' ' || o.state, ', ' ORDER BY o.id) FROM jobstate.operation o WHERE o.apply_id = a.id),
           (SELECT string_agg(r.operation || ' ' || r.status || coalesce(' (' || r.note || ')', ''), ', ' ORDER BY r.operation)
              FROM jobstate.apply_control_request r WHERE r.apply_id = a.id)
      FROM jobstate.apply a WHERE a.id = apply
$$;

-- stop: what waits at once, what runs when its driver does; nothing begins meanwhile
SELECT pg_temp.new('stop', 'a', 'b', 'c') AS x \gset
SELECT pg_temp.claim(:x), pg_temp.claim(:x);
SELECT jobstate.apply_stop(:x, 'alice');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.claim(:x), (SELECT (jobstate.operation_heartbeat(id, token)).requests FROM jobstate.operation WHERE apply_id = :x AND deployment = 'a');
SELECT pg_temp.does(:x, 'a', 'stop'), pg_temp.does(:x, 'a', 'stop'), jobstate.apply_stop(:x, 'bob');
SELECT pg_temp.does(:x, 'b', 'complete');
SELECT * FROM pg_temp.see(:x);
SELECT requested_by FROM jobstate.apply_control_request WHERE apply_id = :x;
-- stopped, it keeps its deployments, and nothing of it is claimed
SELECT pg_temp.new('stop', 'c');                                         -- fails
SELECT pg_temp.claim(:x);
-- start: what never began waits again, what was at work is resumed by a driver
SELECT jobstate.apply_start(:x);
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.claim(:x), pg_temp.claim(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.does(:x, 'a', 'complete'), pg_temp.does(:x, 'c', 'complete');
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_stop(:x);                                          -- fails
SELECT jobstate.apply_start(:x);                                         -- fails
SELECT jobstate.apply_cancel(:x);                                        -- fails
SELECT jobstate.apply_release(:x);                                       -- fails
SELECT jobstate.apply_stop(-1);                                          -- fails
SELECT jobstate.apply_stop(NULL);                                        -- fails

-- C.6 scenario 18: a stop ends a start that is pending, and nothing can be claimed
SELECT pg_temp.new('both', 'a', 'b') AS x \gset
SELECT pg_temp.claim(:x), jobstate.apply_stop(:x), pg_temp.does(:x, 'a', 'stop'), jobstate.apply_start(:x);
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_stop(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_start(:x), pg_temp.claim(:x), pg_temp.claim(:x), pg_temp.claim(:x);
-- a start while a driver still stops comes after that
SELECT jobstate.apply_stop(:x), jobstate.apply_start(:x), pg_temp.claim(:x);
SELECT pg_temp.does(:x, 'a', 'stop'), pg_temp.does(:x, 'b', 'stop');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.claim(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
-- cancel and start both pending: cancelled, and the start has failed
SELECT pg_temp.does(:x, 'a', 'stop'), jobstate.apply_start(:x), jobstate.apply_cancel(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_start(:x), jobstate.apply_stop(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.does(:x, 'b', 'stop');
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_cancel(:x), jobstate.apply_cancel(:x);

-- cancel: as long as one runs the apply has not ended, and keeps its deployments
SELECT pg_temp.new('cancel', 'a', 'b', 'c') AS x \gset
SELECT pg_temp.claim(:x), pg_temp.claim(:x);
SELECT jobstate.operation_fail(o.id, o.token, 'later', true) FROM jobstate.operation o WHERE apply_id = :x AND deployment = 'b';
SELECT jobstate.apply_cancel(:x), pg_temp.claim(:x);
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.new('cancel', 'b');                                       -- fails
-- a driver that is gone: the next one claims it to end it
UPDATE jobstate.operation SET lease_until = clock_timestamp() WHERE apply_id = :x AND deployment = 'a';
SELECT pg_temp.claim(:x), pg_temp.does(:x, 'a', 'cancel');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.new('cancel', 'b') > 0 AS free;
-- at once where nobody is at work; a stopped one too
SELECT pg_temp.new('idle', 'a', 'b') AS x \gset
SELECT jobstate.apply_stop(:x), jobstate.apply_cancel(:x);
SELECT * FROM pg_temp.see(:x);

-- one that waits for its cutover, and that nobody has, can be stopped all the same
SELECT apply_id AS x FROM jobstate.apply_create('parked', 'mysql', 'control', '[{"deployment": "a"}, {"deployment": "b"}]', cutover_policy => 'barrier') \gset
SELECT pg_temp.claim(:x);
SELECT jobstate.operation_progress(id, token, 'waiting_for_cutover'), jobstate.operation_release(id, token) FROM jobstate.operation WHERE apply_id = :x AND deployment = 'a';
SELECT pg_temp.claim(:x);
SELECT pg_temp.claim(:x), jobstate.apply_stop(:x), pg_temp.claim(:x), pg_temp.does(:x, 'a', 'stop'), pg_temp.does(:x, 'b', 'stop');
SELECT * FROM pg_temp.see(:x);

-- what only drivers can do: asked, heard at a heartbeat, answered
SELECT pg_temp.new('ask', 'a') AS x \gset
SELECT pg_temp.claim(:x), jobstate.apply_request(:x, 'revert', 'alice');
SELECT (jobstate.operation_heartbeat(id, token)).requests FROM jobstate.operation WHERE apply_id = :x;
SELECT jobstate.apply_request_done(:x, 'revert', false, 'too late'), jobstate.apply_request_done(:x, 'revert');
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_request(:x, 'stop');                               -- fails
SELECT state, n FROM jobstate.counts('jobstate.apply_control_request', '{"operation": "revert"}');

DELETE FROM jobstate.apply WHERE environment = 'control';
DELETE FROM jobstate.apply_target WHERE environment = 'control';
SELECT * FROM jobstate.verify();
