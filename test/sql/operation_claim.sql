-- operation_claim: who gets which operation, and when (C.4; C.6 scenarios 13, 15, 17).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80200, false), setval('jobstate.operation_id_seq', 80200, false);
CREATE TEMP SEQUENCE n;
-- an apply over deployments a, b, ..., and what a claim on it gives
CREATE FUNCTION pg_temp.new(cutover text, policy text, operations jsonb, drivers int DEFAULT 9) RETURNS bigint LANGUAGE sql AS $$
    SELECT apply_id FROM jobstate.apply_create('claims ' || nextval('pg_temp.n'), 'mysql', 'claim',
        (SELECT jsonb_agg(CASE jsonb_typeof(o) WHEN 'string' THEN jsonb_build_object('deployment', o) ELSE o END)
           FROM jsonb_array_elements(operations) o), on_failure => policy, cutover_policy => cutover, max_drivers => drivers)
$$;
CREATE FUNCTION pg_temp.claim(apply bigint, cutover bool DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    got record;
BEGIN
    IF cutover THEN
        SELECT * INTO got FROM jobstate.operation_claim_cutover('driver', only_apply => apply);
    ELSE
        SELECT * INTO got FROM jobstate.operation_claim('driver', only_apply => apply);
    END IF;
    RETURN CASE WHEN got.token IS NULL THEN 'none' ELSE format('%s%s: %s -> %s', got.deployment, '/' || nullif(got.operation_key, ''), got.previous_state, got.state) END;
END $$;
-- the driver of a deployment does something; a lease runs out
CREATE FUNCTION pg_temp.op(apply bigint, deployment text, key text DEFAULT '') RETURNS jobstate.operation LANGUAGE sql AS $$
    SELECT * FROM jobstate.operation o WHERE o.apply_id = apply AND o.deployment = op.deployment AND o.operation_key = key
$$;
CREATE FUNCTION pg_temp.lapse(apply bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE jobstate.operation SET lease_until = clock_timestamp() - interval '1 s' WHERE apply_id = apply AND lease_until IS NOT NULL
$$;
CREATE FUNCTION pg_temp.done(apply bigint, deployment text, key text DEFAULT '') RETURNS boolean LANGUAGE sql AS $$
    SELECT jobstate.operation_complete(o.id, o.token) FROM pg_temp.op(apply, deployment, key) o
$$;
CREATE FUNCTION pg_temp.fails(apply bigint, deployment text, retryable bool DEFAULT false, key text DEFAULT '', later interval DEFAULT '0') RETURNS text LANGUAGE sql AS $$
    SELECT jobstate.operation_fail(o.id, o.token, 'broken', retryable, later) FROM pg_temp.op(apply, deployment, key) o
$$;
CREATE FUNCTION pg_temp.goes(apply bigint, deployment text, next text) RETURNS boolean LANGUAGE sql AS $$
    SELECT jobstate.operation_progress(o.id, o.token, next) FROM pg_temp.op(apply, deployment) o
$$;

-- C.6 scenario 13: one after the other
SELECT pg_temp.new('rolling', 'halt', '["a", "b", "c"]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.claim(:r);
SELECT pg_temp.done(:r, 'a'), pg_temp.claim(:r), pg_temp.claim(:r);
SELECT deployment, jobstate.operation_blocker(id) FROM jobstate.operation WHERE apply_id = :r ORDER BY id;
-- a fails: under halt nobody is next; under continue b; under pause b once released
SELECT pg_temp.new('rolling', p, '["a", "b", "c"]') AS id, p INTO TEMP failing FROM unnest('{halt,continue,pause}'::text[]) p;
SELECT p, pg_temp.claim(id), pg_temp.fails(id, 'a') FROM failing;
SELECT p, pg_temp.claim(id), (pg_temp.op(id, 'b')).state AS b FROM failing;
SELECT p, jobstate.operation_blocker((pg_temp.op(id, 'b')).id) FROM failing WHERE p <> 'continue';
SELECT p, jobstate.apply_release(id), pg_temp.claim(id) FROM failing WHERE p = 'pause';

-- barrier: the next begins once the others wait for their cutover; they cut over in order
SELECT pg_temp.new('barrier', 'halt', '["a", "b", "c"]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.claim(:r);
SELECT pg_temp.goes(:r, 'a', 'waiting_for_cutover'), pg_temp.claim(:r), pg_temp.goes(:r, 'b', 'waiting_for_cutover');
-- parked, they are claimed for their cutover only, and the first one first
SELECT pg_temp.lapse(:r), pg_temp.claim(:r);
SELECT pg_temp.claim(:r), pg_temp.claim(:r, true), pg_temp.claim(:r, true);
SELECT pg_temp.done(:r, 'a'), pg_temp.claim(:r, true);
-- one that was left in the middle of it is taken up again
SELECT pg_temp.lapse(:r), pg_temp.claim(:r, true);
SELECT pg_temp.goes(:r, 'b', 'revert_window'), pg_temp.lapse(:r), pg_temp.claim(:r, true);
-- alone, or rolling, it is its driver's
SELECT pg_temp.new('barrier', 'halt', '["a"]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.goes(:r, 'a', 'waiting_for_cutover'), pg_temp.lapse(:r), pg_temp.claim(:r);

-- parallel: all at once, as many as there may be drivers
SELECT pg_temp.new('parallel', 'halt', '["a", "b", "c"]', 2) AS r \gset
SELECT pg_temp.claim(:r), pg_temp.claim(:r), pg_temp.claim(:r);
SELECT jobstate.operation_blocker((pg_temp.op(:r, 'c')).id);
SELECT pg_temp.fails(:r, 'b'), pg_temp.claim(:r);
SELECT jobstate.operation_blocker((pg_temp.op(:r, 'c')).id);

-- a finalizer waits for its scope, and only for that; steps of a scope go in order
SELECT pg_temp.new('parallel', 'continue', '[{"deployment": "a", "operation_key": "g/1"}, {"deployment": "a", "operation_key": "g/2"},
    {"deployment": "a", "operation_key": "g2/1"}, {"deployment": "b", "operation_key": "g/1"},
    {"deployment": "a", "operation_key": "g/group_finalizer", "operation_kind": "group_finalizer"}]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.claim(:r), pg_temp.claim(:r), pg_temp.claim(:r);
SELECT pg_temp.done(:r, 'a', 'g/1'), pg_temp.claim(:r), pg_temp.done(:r, 'a', 'g/2'), pg_temp.claim(:r);
-- without its work it is orphaned, and holds nothing back
SELECT pg_temp.new('rolling', 'continue', '[{"deployment": "a", "operation_key": "g/1"}, {"deployment": "a", "operation_key": "g/2"},
    {"deployment": "a", "operation_key": "g/group_finalizer", "operation_kind": "group_finalizer"}, {"deployment": "b"}]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.fails(:r, 'a', key => 'g/1');
SELECT operation_key, variant, jobstate.operation_blocker(id) FROM jobstate.operation WHERE apply_id = :r AND deployment = 'a' ORDER BY id;
SELECT pg_temp.claim(:r), pg_temp.done(:r, 'b');
SELECT state FROM jobstate.apply WHERE id = :r;

-- listed before its work it comes after it all the same
SELECT pg_temp.new('rolling', 'halt', '[{"deployment": "a", "operation_key": "g/group_finalizer", "operation_kind": "group_finalizer"},
    {"deployment": "a", "operation_key": "g/1"}, {"deployment": "b"}]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.claim(:r), pg_temp.done(:r, 'a', 'g/1'), pg_temp.claim(:r), pg_temp.claim(:r);
SELECT pg_temp.done(:r, 'a', 'g/group_finalizer'), pg_temp.claim(:r);

-- C.6 scenario 15: a lease of 60 seconds; after 61 it is another one's, who goes on in the
-- same state, after 59 it is not
SELECT pg_temp.new('rolling', 'halt', '["a"]') AS r \gset
SELECT operation_id AS op, token AS old, lease_until - clock_timestamp() BETWEEN '59 s' AND '60 s' AS a_minute FROM jobstate.operation_claim('first', only_apply => :r) \gset
\echo :a_minute
SELECT pg_temp.goes(:r, 'a', 'checksumming');
UPDATE jobstate.operation SET lease_until = lease_until - interval '59 s' WHERE id = :op;
SELECT pg_temp.claim(:r);
UPDATE jobstate.operation SET lease_until = lease_until - interval '2 s' WHERE id = :op;
SELECT token <> :'old' AS fresh, attempt, previous_state, state FROM jobstate.operation_claim('second', only_apply => :r);
SELECT jobstate.operation_heartbeat(:op, :'old');                        -- fails
SELECT jobstate.operation_complete(:op, :'old');                         -- fails
SELECT jobstate.operation_fail(:op, :'old', 'late');                     -- fails
SELECT jobstate.operation_progress(:op, :'old', 'running');              -- fails
SELECT jobstate.operation_release(:op, :'old');
SELECT owner, state, error_message FROM jobstate.operation WHERE id = :op;

-- C.6 scenario 17: no owner; a release by the holder, and by somebody else
SELECT jobstate.operation_claim('');                                     -- fails
SELECT jobstate.operation_claim(NULL);                                   -- fails
SELECT jobstate.operation_claim('x', '0 s');                             -- fails
SELECT jobstate.operation_release(:op, gen_random_uuid()), pg_temp.claim(:r);
SELECT jobstate.operation_release(:op, token) AS released FROM jobstate.operation WHERE id = :op;
SELECT pg_temp.claim(:r);

-- a retry waits until it is due, and until there are none left
SELECT pg_temp.new('rolling', 'halt', '[{"deployment": "a", "max_retries": 2}]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.fails(:r, 'a', true, later => '1 hour');
SELECT state, pg_temp.claim(:r) AS claim, jobstate.operation_blocker((pg_temp.op(:r, 'a')).id) FROM jobstate.apply WHERE id = :r;
UPDATE jobstate.operation SET retry_at = clock_timestamp() WHERE apply_id = :r;
SELECT pg_temp.claim(:r), pg_temp.fails(:r, 'a', true), pg_temp.claim(:r), pg_temp.fails(:r, 'a', true);
SELECT state, error_message FROM jobstate.apply WHERE id = :r;
-- and not longer than a day
SELECT pg_temp.new('rolling', 'halt', '["a"]') AS r \gset
SELECT pg_temp.claim(:r), pg_temp.fails(:r, 'a', true);
UPDATE jobstate.operation SET updated_at = updated_at - interval '1 day' WHERE apply_id = :r;
SELECT pg_temp.claim(:r), jobstate.operation_blocker((pg_temp.op(:r, 'a')).id);

-- the oldest apply first; a driver may serve one deployment only
SELECT pg_temp.new('rolling', 'halt', '["zone 1"]') AS r1, pg_temp.new('parallel', 'halt', '["zone 1", "zone 2"]') AS r2 \gset
SELECT apply_id = :r1 AS first, deployment FROM jobstate.operation_claim('driver', only_deployment => 'zone 1');
SELECT apply_id = :r2 AS second, deployment FROM jobstate.operation_claim('driver', only_deployment => 'zone 2');
SELECT apply_id = :r2 AS second, deployment FROM jobstate.operation_claim('driver', only_deployment => 'zone 1');
SELECT count(*) FROM jobstate.operation_claim('driver', only_deployment => 'zone 1');

DELETE FROM jobstate.apply WHERE environment = 'claim';
DELETE FROM jobstate.apply_target WHERE environment = 'claim';
SELECT * FROM jobstate.verify();
