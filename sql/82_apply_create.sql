-- applies: creation -----------------------------------------------------------------
--
-- Problem: two sessions create an apply for one deployment at the same time, and
-- neither sees the other's.
-- Solution: a row for each deployment of a database, which whoever creates UPDATES
-- before it looks for applies that are open there, in a later statement.  Under READ
-- COMMITTED the second one waits and then sees the first one's apply; under the
-- stricter levels it fails with 40001.
-- Why an apply that is settled, and has nobody at work, needs no look again: only
-- somebody at work could open it.

-- apply_refuse: words every refusal of an apply or an operation.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_refuse(reason text, id bigint, state text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on operation % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = 'The token is not that of the operation''s last claim.',
                      HINT = 'Drop the result: the operation is somebody else''s, or waits to be claimed again.';
        WHEN 'replaced' THEN
            RAISE EXCEPTION 'lease on operation % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = 'It ran out, and as many other drivers are at work as the apply allows.',
                      HINT = 'Leave the operation: it is claimed again when one of them is done.';
        WHEN 'no operation' THEN
            RAISE EXCEPTION 'operation % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no task' THEN
            RAISE EXCEPTION 'task % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no apply' THEN
            RAISE EXCEPTION 'apply % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'not running' THEN
            RAISE EXCEPTION 'operation % is not running', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Claim it with operation_claim(), if it can be claimed.';
        WHEN 'settled' THEN
            RAISE EXCEPTION 'apply % is settled', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Create another one with apply_create().';
        WHEN 'no operations' THEN
            RAISE EXCEPTION 'apply % has no operations', id
                USING ERRCODE = 'JS003',
                      DETAIL = 'Its state follows from its tasks, and is pending without any.',
                      HINT = 'End its tasks with task_progress(), or delete the apply.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.apply_refuse(text, bigint, text)
    IS 'internal: raises JS001, JS002 or JS003 for an apply, an operation or a task';

-- apply_lock_targets: takes the deployments of a database, in the order of their
-- names.
-- Writes: apply_target.  Locks: the rows, until the end of the transaction.
CREATE FUNCTION jobstate.apply_lock_targets(database_name text, database_type text, environment text,
    deployments text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    one text;
BEGIN
    FOR one IN SELECT DISTINCT d COLLATE "C" FROM unnest(deployments) d ORDER BY 1 LOOP
        INSERT INTO jobstate.apply_target AS t (database_name, database_type, environment, deployment)
        VALUES ($1, $2, $3, one)
            ON CONFLICT (database_name, database_type, environment, deployment)
            DO UPDATE SET version = t.version + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_lock_targets(text, text, text, text[])
    IS 'internal: locks the targets of an apply that is being created';

-- apply_is_at_work: whether a driver has an operation of an apply, or ought to.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_is_at_work(apply_id bigint)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1 AND jobstate.apply_is_active(o.state));
END
$$;
COMMENT ON FUNCTION jobstate.apply_is_at_work(bigint)
    IS 'internal: whether an operation of an apply is neither waiting, nor stopped, nor settled';

-- apply_holder: an apply that keeps others off one of these deployments: it is not
-- settled, or somebody is still at work on it, anywhere.
-- Writes nothing, locks nothing: the caller holds the targets.
CREATE FUNCTION jobstate.apply_holder(database_name text, database_type text, environment text,
    deployments text[], OUT apply_id bigint, OUT state text, OUT deployment text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    SELECT a.id, a.state, o.deployment INTO apply_id, state, deployment
      FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
     WHERE coalesce(a.reaped_at, 'infinity') = 'infinity'   -- not reaped, in the words of the index apply_database
       AND a.database_name COLLATE "default" = $1 AND a.database_type COLLATE "default" = $2 AND a.environment COLLATE "default" = $3
       AND o.deployment COLLATE "default" = ANY ($4)
       AND (a.completed_at IS NULL OR jobstate.apply_is_at_work(a.id))
     ORDER BY a.id, o.id LIMIT 1;
END
$$;
COMMENT ON FUNCTION jobstate.apply_holder(text, text, text, text[])
    IS 'the apply that keeps others off one of these deployments, and which one; NULLs if there is none';

-- apply_check_operations: refuses what cannot be an apply's operations.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_check_operations(operations jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('operations', operations);
    IF jsonb_typeof(operations) <> 'array' OR jsonb_array_length(operations) = 0
       OR EXISTS (SELECT FROM jsonb_array_elements(operations) o
                   WHERE jsonb_typeof(o) <> 'object' OR coalesce(o ->> 'deployment', '') = '') THEN
        RAISE EXCEPTION 'argument "operations" is not a list of operations'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It has to be an array of at least one object with a "deployment".',
                  HINT = 'For example: [{"deployment": "us-east"}, {"deployment": "us-west"}].';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_check_operations(jsonb)
    IS 'internal: raises 22023 unless it is a list of operations';

-- apply_add_operations: the operations of a new apply, and their tasks, in the order
-- in which they are listed.  All are created at the same time, so that their ids
-- are their order.  One that has nothing to do is born completed.
-- Writes: operation, task.  Locks nothing more.
CREATE FUNCTION jobstate.apply_add_operations(apply_id bigint, operations jsonb, cutover_policy text, on_failure text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    created CONSTANT timestamptz := clock_timestamp();
    retries CONSTANT integer := (SELECT p.max_retries FROM jobstate.apply_policy p);
    one record;
    operation_id bigint;
BEGIN
    FOR one IN
        SELECT o.*, coalesce(o.already_converged, false) AS converged
          FROM jsonb_array_elements(operations) WITH ORDINALITY e (operation, ord),
               jsonb_to_record(e.operation) AS o (deployment text, operation_key text, operation_kind text,
                   target text, cutover_policy text, on_failure text, max_retries integer,
                   already_converged boolean, tasks jsonb)
         ORDER BY e.ord
    LOOP
        INSERT INTO jobstate.operation (apply_id, deployment, operation_key, operation_kind, target,
                                        cutover_policy, on_failure, max_retries, already_converged,
                                        state, created_at, updated_at, completed_at)
        VALUES ($1, one.deployment, coalesce(one.operation_key, ''), coalesce(one.operation_kind, 'work'), one.target,
                coalesce(one.cutover_policy, $3), coalesce(one.on_failure, $4),
                coalesce(one.max_retries, retries), one.converged,
                CASE WHEN one.converged THEN 'completed' ELSE 'pending' END,
                created, created, CASE WHEN one.converged THEN created END)
        RETURNING id INTO operation_id;
        INSERT INTO jobstate.task (apply_id, operation_id, task_identifier, name, created_at, updated_at)
        SELECT $1, operation_id, coalesce(t.task ->> 'task_identifier', gen_random_uuid()::text),
               coalesce(t.task ->> 'name', t.task #>> '{}'), created, created
          FROM jsonb_array_elements(coalesce(one.tasks, '[]')) WITH ORDINALITY t (task, ord)
         ORDER BY t.ord;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_add_operations(bigint, jsonb, text, text)
    IS 'internal: adds operations and tasks to a new apply';

-- apply_by_key: the apply that was created under an idempotency key.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_by_key(idempotency_key text)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT a.id FROM jobstate.apply a WHERE a.idempotency_key = $1);
END
$$;
COMMENT ON FUNCTION jobstate.apply_by_key(text)
    IS 'the apply that was created under a key; NULL if there is none';

-- apply_create: an apply with all its operations and tasks, or none of it.  Whoever
-- asks again under the same key gets the one that is there.  One apply that is not
-- settled keeps others off all its deployments.
-- Writes: apply, operation, task, apply_target.
-- Locks: the targets, in the order of their names.
CREATE FUNCTION jobstate.apply_create(database_name text, database_type text, environment text, operations jsonb,
    idempotency_key text DEFAULT NULL, cutover_policy text DEFAULT 'rolling', on_failure text DEFAULT 'halt',
    max_drivers integer DEFAULT 2, apply_identifier text DEFAULT NULL, options jsonb DEFAULT '{}',
    OUT apply_id bigint, OUT created boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    deployments text[];
    holder record;
BEGIN
    PERFORM jobstate.require_argument('database_name', $1);
    PERFORM jobstate.require_argument('database_type', $2);
    PERFORM jobstate.require_argument('environment', $3);
    PERFORM jobstate.apply_check_operations($4);
    PERFORM jobstate.require_argument('cutover_policy', $6);
    PERFORM jobstate.require_argument('on_failure', $7);
    PERFORM jobstate.require_positive('max_drivers', $8 > 0);
    PERFORM jobstate.require_argument('options', $10);
    created := false;
    apply_id := jobstate.apply_by_key($5);
    IF apply_id IS NULL THEN
        deployments := ARRAY(SELECT o ->> 'deployment' FROM jsonb_array_elements($4) o);
        PERFORM jobstate.derive_now(), jobstate.apply_lock_targets($1, $2, $3, deployments);
        apply_id := jobstate.apply_by_key($5);
    END IF;
    IF apply_id IS NOT NULL THEN
        RETURN;
    END IF;
    holder := jobstate.apply_holder($1, $2, $3, deployments);
    IF holder.apply_id IS NOT NULL THEN
        RAISE EXCEPTION 'active apply exists: %', holder.apply_id
            USING ERRCODE = 'lock_not_available',
                  DETAIL = format('Apply %s is %s and has deployment "%s" of database "%s" (%s, %s).',
                                  holder.apply_id, holder.state, holder.deployment, $1, $2, $3),
                  HINT = 'Wait until it is settled, or end it with jobstate.apply_cancel().';
    END IF;
    INSERT INTO jobstate.apply (database_name, database_type, environment, idempotency_key,
                                max_drivers, apply_identifier, options)
    VALUES ($1, $2, $3, $5, $8, coalesce($9, gen_random_uuid()::text), $10)
        ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id INTO apply_id;
    IF apply_id IS NULL THEN
        -- of another database, or the targets would have made us wait
        apply_id := jobstate.apply_by_key($5);
        RETURN;
    END IF;
    created := true;
    PERFORM jobstate.apply_add_operations(apply_id, $4, $6, $7);
    UPDATE jobstate.apply_target t
       SET apply_id = apply_create.apply_id
     WHERE t.database_name COLLATE "default" = $1 AND t.database_type COLLATE "default" = $2 AND t.environment COLLATE "default" = $3 AND t.deployment COLLATE "default" = ANY (deployments);
END
$$;
COMMENT ON FUNCTION jobstate.apply_create(text, text, text, jsonb, text, text, text, integer, text, jsonb)
    IS 'creates an apply with its operations and tasks; a repeated key gives the one that is there, an active apply on a target is refused';
