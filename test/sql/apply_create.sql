-- apply_create: all of an apply or none of it, once per key, one at a time per
-- deployment (C.6 scenario 20).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80400, false), setval('jobstate.operation_id_seq', 80400, false);

-- operations and tasks with what they say, else what the apply says, else the policy
SELECT * FROM jobstate.apply_create('orders', 'mysql', 'create',
    '[{"deployment": "us-east", "target": "10.0.0.1", "tasks": ["users", {"name": "items", "task_identifier": "t 1"}]},
      {"deployment": "us-west", "on_failure": "pause", "cutover_policy": "rolling", "max_retries": 1},
      {"deployment": "us-west", "operation_key": "group_finalizer", "operation_kind": "group_finalizer"},
      {"deployment": "eu", "already_converged": true}]',
    cutover_policy => 'barrier', on_failure => 'continue', apply_identifier => 'apply 1', options => '{"pr": 7}');
SELECT apply_identifier, state, options, started_at, completed_at FROM jobstate.apply WHERE id = 80400;
SELECT deployment, operation_key, operation_kind, target, cutover_policy, on_failure, max_retries, state, completed_at IS NOT NULL AS ended
  FROM jobstate.operation WHERE apply_id = 80400 ORDER BY id;
SELECT o.deployment, t.name, t.state, t.task_identifier = 't 1' AS named FROM jobstate.task t JOIN jobstate.operation o ON o.id = t.operation_id WHERE t.apply_id = 80400 ORDER BY t.id;
-- nothing to do anywhere
SELECT apply_id FROM jobstate.apply_create('converged', 'mysql', 'create', '[{"deployment": "a", "already_converged": true}]');
SELECT state, completed_at IS NOT NULL AS ended, started_at FROM jobstate.apply WHERE id = 80401;

-- none of it: a duplicate operation, a bad word, nothing to do
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"deployment": "a"}, {"deployment": "b"}, {"deployment": "a"}]');   -- fails
\set VERBOSITY terse
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"deployment": "a", "operation_kind": "play"}]');               -- fails
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"deployment": "a"}]', cutover_policy => 'sometime');           -- fails
\set VERBOSITY default
SELECT jobstate.apply_create('none', 'mysql', 'create', '[]');                                                            -- fails
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"name": "a"}]');                                               -- fails
SELECT jobstate.apply_create('none', 'mysql', NULL, '[{"deployment": "a"}]');                                             -- fails
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"deployment": "a"}]', apply_identifier => 'apply 1');          -- fails
SELECT jobstate.apply_create('none', 'mysql', 'create', '[{"deployment": "a"}]', max_drivers => 0);                       -- fails
SELECT count(*) FROM jobstate.apply WHERE database_name = 'none';
-- an operation that is there already
INSERT INTO jobstate.operation (apply_id, deployment) VALUES (80400, 'us-east');                                          -- fails

-- under a key: the one that is there, even if it is settled
SELECT * FROM jobstate.apply_create('key', 'mysql', 'create', '[{"deployment": "a"}]', 'key 1') \gset
\echo :created
SELECT apply_id = :apply_id AS same, created FROM jobstate.apply_create('key', 'mysql', 'create', '[{"deployment": "a"}]', 'key 1');
SELECT apply_id = :apply_id AS same, created FROM jobstate.apply_create('other', 'mysql', 'create', '[{"deployment": "b"}]', 'key 1');
SELECT jobstate.apply_cancel(:apply_id);
SELECT apply_id = :apply_id AS same, created FROM jobstate.apply_create('key', 'mysql', 'create', '[{"deployment": "a"}]', 'key 1');
SELECT jobstate.apply_by_key('key 1') = :apply_id AS by_key, jobstate.apply_by_key('key 2');

-- C.6 scenario 20: as long as an apply is not settled, its deployments are taken
CREATE FUNCTION pg_temp.again(name text, deployment text, env text DEFAULT 'create') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    PERFORM jobstate.apply_create(name, 'mysql', env, jsonb_build_array(jsonb_build_object('deployment', deployment)));
    RETURN 'created';
EXCEPTION WHEN lock_not_available THEN
    RETURN regexp_replace(SQLERRM, '\d+', 'N');
END $$;
CREATE TEMP TABLE way (name text, policy text, a text, b text, should_be text);
INSERT INTO way VALUES ('pending', 'halt', '', '', 'pending'), ('running', 'halt', 'running', '', 'running'),
    ('retryable', 'halt', 'running,failed_retryable', '', 'failed_retryable'), ('degraded', 'halt', 'running,failed', 'running', 'running_degraded'),
    ('paused', 'pause', 'running,failed', '', 'paused'), ('stopped', 'halt', 'running,stopped', '', 'stopped'),
    ('failed', 'halt', 'running,failed', '', 'failed'), ('completed', 'halt', 'running,completed', 'running,completed', 'completed'),
    ('cancelled', 'halt', 'cancelled', 'cancelled', 'cancelled'), ('still writing', 'halt', 'cancelled', 'running', 'cancelled');
DO $$
DECLARE
    w record;
    made bigint;
    s text;
BEGIN
    FOR w IN SELECT * FROM way LOOP
        made := (jobstate.apply_create(w.name, 'mysql', 'create', '[{"deployment": "a"}, {"deployment": "b"}]', on_failure => w.policy)).apply_id;
        FOREACH s IN ARRAY string_to_array(w.a, ',') LOOP
            UPDATE jobstate.operation SET state = s, started_at = clock_timestamp() WHERE apply_id = made AND deployment = 'a';
        END LOOP;
        FOREACH s IN ARRAY string_to_array(w.b, ',') LOOP
            UPDATE jobstate.operation SET state = s, started_at = clock_timestamp() WHERE apply_id = made AND deployment = 'b';
        END LOOP;
    END LOOP;
END $$;
SELECT w.name, a.state, a.state = should_be AS good, pg_temp.again(w.name, 'a') AS a, pg_temp.again(w.name, 'b') AS b,
       pg_temp.again(w.name, 'c') AS c, pg_temp.again(w.name, 'b', 'create 2') AS elsewhere
  FROM way w JOIN jobstate.apply a ON a.database_name = w.name ORDER BY a.id;

-- a transaction that ends one and creates the next
SELECT apply_id AS last FROM jobstate.apply_create('next', 'mysql', 'create', '[{"deployment": "a"}]') \gset
BEGIN;
SELECT jobstate.operation_complete(c.operation_id, c.token) FROM jobstate.operation_claim('driver', only_apply => :last) c;
SELECT created FROM jobstate.apply_create('next', 'mysql', 'create', '[{"deployment": "a"}]');
COMMIT;

DELETE FROM jobstate.apply WHERE environment IN ('create', 'create 2');
DELETE FROM jobstate.apply_target WHERE environment IN ('create', 'create 2');
SELECT * FROM jobstate.verify();
