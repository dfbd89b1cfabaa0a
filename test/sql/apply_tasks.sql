-- apply_tasks: an operation ends as its own tasks end; an apply from before there were
-- operations follows from its tasks (C.4).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80600, false), setval('jobstate.operation_id_seq', 80600, false), setval('jobstate.task_id_seq', 80600, false);
CREATE FUNCTION pg_temp.claim(name text) RETURNS TABLE (op bigint, token uuid, t1 bigint, t2 bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT c.operation_id, c.token INTO op, token
      FROM jobstate.apply_create(name, 'mysql', 'tasks', '[{"deployment": "us-east", "tasks": ["users", "items"]}]') a,
           jobstate.operation_claim('driver', only_apply => a.apply_id) c;
    RETURN QUERY SELECT op, claim.token, min(t.id), max(t.id) FROM jobstate.task t WHERE t.operation_id = op;
END $$;

-- in the engine's words; what nobody knows is running
SELECT op, token, t1, t2 FROM pg_temp.claim('words') \gset
SELECT jobstate.task_progress(:t1, :'token', 'STATE_COPYING', 10, 100, 10.5), jobstate.task_progress(:t2, :'token', 'Recovering_Cutover');
SELECT jobstate.task_progress(:t1, :'token', rows_copied => 20);
SELECT state, rows_copied, rows_total, progress_percent, attempt, started_at IS NOT NULL AS began FROM jobstate.task WHERE id IN (:t1, :t2) ORDER BY id;
-- nothing follows as long as one goes on
SELECT jobstate.task_progress(:t1, :'token', 'complete'), jobstate.operation_conclude(:op, :'token');
SELECT jobstate.task_progress(:t2, :'token', 'completed'), jobstate.operation_conclude(:op, :'token'), jobstate.operation_conclude(:op, :'token');
SELECT o.state, o.completed_at IS NOT NULL AS ended, a.state AS apply FROM jobstate.operation o JOIN jobstate.apply a ON a.id = o.apply_id WHERE o.id = :op;
SELECT jobstate.task_progress(:t1, :'token', 'running');                 -- fails
SELECT jobstate.task_progress(:t1, gen_random_uuid(), 'completed');      -- fails
SELECT jobstate.task_progress(:t1, NULL, 'completed');                   -- fails
SELECT jobstate.task_progress(-1, :'token', 'completed');                -- fails

-- each end of two tasks, and what the operation and the apply make of it
CREATE FUNCTION pg_temp.run(name text, first text, second text) RETURNS TABLE (concluded text, op text, ended bool, apply text, says text) LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    SELECT * INTO c FROM pg_temp.claim(name);
    PERFORM jobstate.task_progress(c.t1, c.token, 'running'), jobstate.task_progress(c.t2, c.token, 'running');
    PERFORM jobstate.task_progress(c.t1, c.token, first, error_message => 'of users'), jobstate.task_progress(c.t2, c.token, second, error_message => 'of items');
    concluded := jobstate.operation_conclude(c.op, c.token);
    PERFORM jobstate.derive_now();
    RETURN QUERY SELECT run.concluded, o.state, o.completed_at IS NOT NULL, a.state, a.error_message
                   FROM jobstate.operation o JOIN jobstate.apply a ON a.id = o.apply_id WHERE o.id = c.op;
END $$;
SELECT w.first, w.second, r.*
  FROM (VALUES ('completed', 'completed'), ('completed', 'failed'), ('failed', 'failed'), ('completed', 'failed_retryable'), ('completed', 'stopped'),
               ('completed', 'cancelled'), ('completed', 'reverted'), ('completed', 'running'), ('completed', 'cutting_over')) w (first, second),
       pg_temp.run('ends ' || w.second || w.first, w.first, w.second) r;

-- no tasks, no conclusion
SELECT c.operation_id AS op, c.token FROM jobstate.apply_create('none', 'mysql', 'tasks', '[{"deployment": "a"}]') a, jobstate.operation_claim('driver', only_apply => a.apply_id) c \gset
SELECT jobstate.operation_conclude(:op, :'token');
SELECT jobstate.operation_conclude(:op, gen_random_uuid());              -- fails

-- from before there were operations: the tasks are what the apply follows from
INSERT INTO jobstate.apply (database_name, database_type, environment) VALUES ('legacy', 'mysql', 'tasks') RETURNING id AS legacy \gset
INSERT INTO jobstate.task (apply_id, state, name) VALUES (:legacy, 'running', 'users'), (:legacy, 'pending', 'items');
CREATE TEMP VIEW legacy AS SELECT state, completed_at IS NOT NULL AS ended, error_message, reason FROM jobstate.apply WHERE database_name = 'legacy' AND environment = 'tasks';
SELECT * FROM legacy;
-- there is nobody who would stop, or obey
SELECT jobstate.apply_stop(:legacy);                                     -- fails
SELECT jobstate.apply_cancel(:legacy);                                   -- fails
SELECT jobstate.task_progress(id, NULL, 'completed') FROM jobstate.task WHERE apply_id = :legacy AND name = 'users';
SELECT state, ended FROM legacy;
SELECT jobstate.task_progress(id, NULL, 'failed', error_message => 'disk full') FROM jobstate.task WHERE apply_id = :legacy AND name = 'items';
SELECT * FROM legacy;
-- as soon as there is an operation, that tells, and tasks of none do not
INSERT INTO jobstate.apply (database_name, database_type, environment) VALUES ('mixed', 'mysql', 'tasks') RETURNING id AS mixed \gset
INSERT INTO jobstate.task (apply_id, state) VALUES (:mixed, 'failed_retryable');   -- fails
INSERT INTO jobstate.task (apply_id, state) VALUES (:mixed, 'running');
SELECT state FROM jobstate.apply WHERE id = :mixed;
INSERT INTO jobstate.operation (apply_id, deployment) VALUES (:mixed, 'a');
SELECT state FROM jobstate.apply WHERE id = :mixed;
UPDATE jobstate.task SET state = 'completed' WHERE apply_id = :mixed;
SELECT state FROM jobstate.apply WHERE id = :mixed;
DELETE FROM jobstate.operation WHERE apply_id = :mixed;
SELECT state FROM jobstate.apply WHERE id = :mixed;
-- an operation that moves takes its tasks along
SELECT apply_id AS "from" FROM jobstate.apply_create('moves', 'mysql', 'tasks', '[{"deployment": "a", "tasks": ["t"]}, {"deployment": "b"}]') \gset
SELECT apply_id AS "to" FROM jobstate.apply_create('stays', 'mysql', 'tasks', '[{"deployment": "b"}]') \gset
UPDATE jobstate.operation SET apply_id = :to WHERE apply_id = :from AND deployment = 'a';
SELECT count(*) FROM jobstate.task WHERE apply_id = :to;

DELETE FROM jobstate.apply WHERE environment = 'tasks';
DELETE FROM jobstate.apply_target WHERE environment = 'tasks';
SELECT * FROM jobstate.verify();
