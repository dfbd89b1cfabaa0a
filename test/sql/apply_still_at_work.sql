-- apply_still_at_work: an apply is cancelled or reverted as soon as one of its operations is
-- (C.2), whoever is at work on the others: they hear of a stop, and can tell how they ended.
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 82000, false), setval('jobstate.operation_id_seq', 82000, false);
-- an apply all of whose operations are claimed
CREATE FUNCTION pg_temp.new(name text, policy text, VARIADIC deployments text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    made := (jobstate.apply_create(name, 'mysql', 'at work', (SELECT jsonb_agg(jsonb_build_object('deployment', d)) FROM unnest(deployments) d),
        cutover_policy => 'parallel', on_failure => policy, max_drivers => 9)).apply_id;
    PERFORM jobstate.operation_claim('driver', only_apply => made) FROM unnest(deployments);
    RETURN made;
END $$;
CREATE FUNCTION pg_temp.does(apply bigint, deployment text, verb text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('SELECT jobstate.operation_%s FROM jobstate.operation o WHERE o.apply_id = $1 AND o.deployment = $2',
                   replace(verb, '(', '(o.id, o.token')) INTO answer USING apply, does.deployment;
    RETURN answer;
END $$;
CREATE FUNCTION pg_temp.see(apply bigint) RETURNS TABLE (apply text, ended bool, says text, operations text, requests text) LANGUAGE sql AS $$
    SELECT a.state, a.completed_at IS NOT NULL, a.error_message,
           (SELECT string_agg(o.deployment || ' ' || o.state, ', ' ORDER BY o.id) FROM jobstate.operation o WHERE o.apply_id = a.id),
           (SELECT string_agg(r.operation || ' ' || r.status || coalesce(' (' || r.note || ')', ''), ', ' ORDER BY r.operation)
              FROM jobstate.apply_control_request r WHERE r.apply_id = a.id)
      FROM jobstate.apply a WHERE a.id = apply
$$;
CREATE FUNCTION pg_temp.later(whose bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE jobstate.operation SET updated_at = updated_at - interval '1 h' WHERE apply_id = whose;
    UPDATE jobstate.apply SET completed_at = completed_at - interval '1 h' WHERE id = whose;
$$;

-- one is cancelled, the next one fails, the last one is done; nobody else gets in meanwhile
SELECT pg_temp.new('fails', 'halt', 'a', 'b', 'c') AS x \gset
SELECT pg_temp.does(:x, 'a', 'cancel()');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.new('fails', 'halt', 'a');                                -- fails
SELECT pg_temp.does(:x, 'b', 'fail(, ''broken'')');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.does(:x, 'c', 'complete()');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.new('fails', 'halt', 'a') > 0 AS free;
-- likewise under the other policies, and if it is to be tried again
SELECT pg_temp.new('goes on', 'continue', 'a', 'b', 'c') AS x, pg_temp.new('pauses', 'pause', 'a', 'b', 'c') AS y, pg_temp.new('tries', 'halt', 'a', 'b') AS z \gset
SELECT pg_temp.does(id, 'a', 'cancel()') FROM unnest(ARRAY[:x, :y, :z]) id;
SELECT pg_temp.does(:x, 'b', 'fail(, ''broken'')'), pg_temp.does(:y, 'b', 'fail(, ''broken'')'), pg_temp.does(:z, 'b', 'fail(, ''broken'', true)');
SELECT s.* FROM unnest(ARRAY[:x, :y, :z]) id, pg_temp.see(id) s;
SELECT deployment, state FROM jobstate.operation_claim('driver', only_apply => :z);
SELECT pg_temp.does(:x, 'c', 'complete()'), pg_temp.does(:y, 'c', 'complete()'), pg_temp.does(:z, 'b', 'complete()');
SELECT s.* FROM unnest(ARRAY[:x, :y, :z]) id, pg_temp.see(id) s;

-- two revert, one sooner than the other
SELECT pg_temp.new('reverts', 'halt', 'a', 'b') AS x \gset
SELECT pg_temp.does(:x, d, format('progress(, %L)', s)) FROM unnest('{cutting_over,revert_window}'::text[]) s, unnest('{a,b}'::text[]) d;
SELECT pg_temp.does(:x, 'a', 'progress(, ''reverting'')'), pg_temp.does(:x, 'a', 'revert()');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.does(:x, 'b', 'progress(, ''reverting'')');
SELECT * FROM pg_temp.see(:x);
SELECT pg_temp.does(:x, 'b', 'revert()');
SELECT * FROM pg_temp.see(:x);

-- a cancel reaches those who are still at work
SELECT pg_temp.new('asked', 'halt', 'a', 'b') AS x \gset
SELECT pg_temp.does(:x, 'a', 'cancel()'), jobstate.apply_cancel(:x);
SELECT pg_temp.does(:x, 'b', 'heartbeat()') LIKE '%{cancel}%' AS heard, pg_temp.does(:x, 'b', 'stop()');
SELECT * FROM pg_temp.see(:x);
SELECT jobstate.apply_cancel(:x), jobstate.apply_cancel(:x);
SELECT jobstate.apply_stop(:x);                                          -- fails

-- a driver that does not come back: his operation ends ten minutes after his lease, not
-- sooner, and what was asked of him is over
SELECT pg_temp.new('dies', 'halt', 'a', 'b') AS x \gset
SELECT jobstate.apply_request(:x, 'revert'), jobstate.apply_stop(:x), pg_temp.does(:x, 'a', 'cancel()');
UPDATE jobstate.operation SET lease_until = clock_timestamp() - interval '9 min' WHERE apply_id = :x AND state = 'running';
SELECT pg_temp.later(:x), jobstate.apply_reap(1000) IS NOT NULL AS swept;
SELECT * FROM pg_temp.see(:x);
UPDATE jobstate.operation SET lease_until = lease_until - interval '1 min' WHERE apply_id = :x AND state = 'running';
SELECT pg_temp.later(:x), jobstate.apply_reap(1000) > 0 AS reaped;
SELECT * FROM pg_temp.see(:x);

-- what was stopped at work is resumed, though a sibling failed under halt meanwhile
SELECT pg_temp.new('resumes', 'halt', 'a', 'b') AS x \gset
SELECT pg_temp.does(:x, 'a', 'fail(, ''broken'')'), jobstate.apply_stop(:x), pg_temp.does(:x, 'b', 'stop()'), jobstate.apply_start(:x);
SELECT deployment, state FROM jobstate.operation_claim('driver', only_apply => :x);
SELECT pg_temp.does(:x, 'b', 'complete()');
SELECT * FROM pg_temp.see(:x);

DELETE FROM jobstate.apply WHERE environment = 'at work';
DELETE FROM jobstate.apply_target WHERE environment = 'at work';
SELECT * FROM jobstate.verify();
