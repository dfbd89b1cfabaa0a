-- apply_maintain: what nobody will ever claim is ended by maintain() (C.4, reapers).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80700, false), setval('jobstate.operation_id_seq', 80700, false);
CREATE FUNCTION pg_temp.new(name text, operations jsonb, policy text DEFAULT 'halt') RETURNS bigint LANGUAGE sql AS $$
    SELECT apply_id FROM jobstate.apply_create(name, 'mysql', 'maintain', operations, cutover_policy => 'parallel', on_failure => policy, max_drivers => 9)
$$;
CREATE FUNCTION pg_temp.put(whose bigint, deployment text, VARIADIC states text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s text;
BEGIN
    FOREACH s IN ARRAY states LOOP
        UPDATE jobstate.operation o SET state = s, started_at = coalesce(o.started_at, clock_timestamp()) WHERE o.apply_id = whose AND o.deployment = put.deployment;
    END LOOP;
END $$;
-- everything happened that long ago
CREATE FUNCTION pg_temp.later(whose bigint, by interval) RETURNS void LANGUAGE sql AS $$
    UPDATE jobstate.operation SET updated_at = updated_at - by WHERE apply_id = whose;
    UPDATE jobstate.task SET updated_at = updated_at - by WHERE apply_id = whose;
    UPDATE jobstate.apply SET completed_at = completed_at - by WHERE id = whose;
$$;
CREATE FUNCTION pg_temp.maintain() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    step integer := 0;
    more boolean;
BEGIN
    LOOP
        more := jobstate.maintain_apply(step);
        EXIT WHEN more IS NULL;
        step := step + CASE WHEN more THEN 0 ELSE 1 END;
    END LOOP;
END $$;
CREATE FUNCTION pg_temp.see(whose bigint) RETURNS TABLE (apply text, operations text, tasks text, reaped bool) LANGUAGE sql AS $$
    SELECT a.state,
           (SELECT string_agg(o.deployment || ' ' || o.state, ', ' ORDER BY o.id) FROM jobstate.operation o WHERE o.apply_id = a.id),
           (SELECT string_agg(t.state, ', ' ORDER BY t.id) FROM jobstate.task t WHERE t.apply_id = a.id), a.reaped_at IS NOT NULL
      FROM jobstate.apply a WHERE a.id = whose
$$;

-- what waits under an apply that has failed mirrors it, ten minutes later
SELECT pg_temp.new('settled', '[{"deployment": "a", "tasks": ["t"]}, {"deployment": "b", "tasks": ["t"]}, {"deployment": "c"}]') AS x \gset
SELECT pg_temp.put(:x, 'a', 'running', 'failed');
SELECT pg_temp.later(:x, '9 min'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.later(:x, '1 min');
CALL jobstate.maintain();
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.later(:x, '10 min'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
-- cancelled likewise; what somebody still has is left to him
SELECT pg_temp.new('cancelled', '[{"deployment": "a"}, {"deployment": "b"}, {"deployment": "c"}]') AS x \gset
SELECT count(*) FROM jobstate.operation_claim('driver', only_apply => :x);
SELECT pg_temp.put(:x, 'b', 'cancelled');
SELECT pg_temp.later(:x, '1 h'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
UPDATE jobstate.operation SET lease_until = clock_timestamp() - interval '10 min' WHERE apply_id = :x AND deployment = 'a';
SELECT pg_temp.later(:x, '1 h'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);

-- to be retried, for a day; a task five minutes longer
SELECT pg_temp.new('retry', '[{"deployment": "a", "tasks": ["t"]}, {"deployment": "b"}]', 'continue') AS x \gset
SELECT pg_temp.put(:x, 'a', 'running', 'failed_retryable'), pg_temp.put(:x, 'b', 'running');
UPDATE jobstate.task SET state = 'running' WHERE apply_id = :x;
UPDATE jobstate.task SET state = 'failed_retryable' WHERE apply_id = :x;
SELECT pg_temp.later(:x, '23 h'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.later(:x, '1 h'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.later(:x, '5 min'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
-- or with no retries left
SELECT pg_temp.new('spent', '[{"deployment": "a"}]') AS x \gset
SELECT pg_temp.put(:x, 'a', 'running', 'failed_retryable');
UPDATE jobstate.operation SET retries = 6 WHERE apply_id = :x;
SELECT pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);

-- tasks that their operation left behind end as it did
SELECT pg_temp.new('stranded', '[{"deployment": "a", "tasks": ["t", "u"]}, {"deployment": "b", "tasks": ["t"]}, {"deployment": "c"}]') AS x \gset
UPDATE jobstate.task SET state = 'running' WHERE apply_id = :x;
SELECT pg_temp.put(:x, 'a', 'running', 'completed'), pg_temp.put(:x, 'b', 'running', 'stopped'), pg_temp.later(:x, '10 min'), pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);

-- plain statements: a request is carried out, orphans are found
SELECT pg_temp.new('plain', '[{"deployment": "a", "operation_key": "g/1"}, {"deployment": "a", "operation_key": "g/2"}]', 'continue') AS x \gset
UPDATE jobstate.operation SET state = 'running' WHERE apply_id = :x AND operation_key = 'g/1';
UPDATE jobstate.operation SET state = 'failed' WHERE apply_id = :x AND operation_key = 'g/1';
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.new('asked', '[{"deployment": "a"}]') AS x \gset
INSERT INTO jobstate.apply_control_request (apply_id, operation) VALUES (:x, 'cancel');
SELECT pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);

-- the policy is a row; what is not above zero is refused
UPDATE jobstate.apply_policy SET quiet = '0';
SELECT pg_temp.maintain();
SELECT * FROM pg_temp.see(:x);
UPDATE jobstate.apply_policy SET quiet = '10 min';
SELECT jobstate.apply_reap(0);                                           -- fails
-- pruned, an apply takes its operations and tasks along
SELECT jobstate.prune('jobstate.apply', '0', 'completed_at') > 0 AS pruned;
SELECT count(*) FROM jobstate.operation WHERE apply_id = :x;

DELETE FROM jobstate.apply WHERE environment = 'maintain';
DELETE FROM jobstate.apply_target WHERE environment = 'maintain';
SELECT * FROM jobstate.verify();
