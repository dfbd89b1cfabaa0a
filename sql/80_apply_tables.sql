-- applies: machines and tables ------------------------------------------------------
--
-- An apply is one change of a schema that goes to several deployments.  It has an
-- operation for each of them (or for each step of one), and an operation has tasks.
-- Workers (drivers) claim operations, under a lease and a token.  The apply's state
-- is derived by the kernel from all its operations: nobody writes it.
--
-- Every key begins with the apply's id, so that an apply lives on one node.  No
-- index holds a state or a lease, so every change of either is a HOT update.  The
-- only indexed column that changes is apply.reaped_at, once in an apply's life.

-- apply_state_ids: the 26 states that applies and operations share.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_state_ids()
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{"pending": 1, "running": 2, "running_degraded": 3, "catching_up": 4, "checksumming": 5,
         "post_checksum": 6, "paused": 7, "resuming": 8, "waiting_for_deploy": 9, "waiting_for_cutover": 10,
         "recovering": 11, "cutting_over": 12, "revert_window": 13, "skipping_revert": 14, "reverting": 15,
         "completed": 16, "failed": 17, "failed_retryable": 18, "stopped": 19, "cancelled": 20, "reverted": 21,
         "preparing_branch": 22, "applying_branch_changes": 23, "validating_branch": 24,
         "creating_deploy_request": 25, "validating_deploy_request": 26}'::jsonb;
COMMENT ON FUNCTION jobstate.apply_state_ids()
    IS 'the states of applies and operations, with their ids';

-- apply_is_settled: the end of an apply, an operation or a task.  What is stopped
-- is not settled: it may be started again.
-- apply_is_active: somebody works on it, or ought to.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.apply_is_settled(state text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN state IN ('completed', 'failed', 'cancelled', 'reverted');
COMMENT ON FUNCTION jobstate.apply_is_settled(text)
    IS 'whether a state is an end: completed, failed, cancelled or reverted';

CREATE FUNCTION jobstate.apply_is_active(state text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN state NOT IN ('pending', 'stopped', 'failed_retryable', 'completed', 'failed', 'cancelled', 'reverted');
COMMENT ON FUNCTION jobstate.apply_is_active(text)
    IS 'whether a state means work in progress: neither waiting, nor stopped, nor settled';

-- apply_edges: the edges from each of some states to each of others.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_edges(from_states text[], to_states text[], event text DEFAULT NULL)
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(format('%s -> %s', f, t) || coalesce(': ' || event, '') ORDER BY i, j)
      FROM unnest(from_states) WITH ORDINALITY a (f, i), unnest(to_states) WITH ORDINALITY b (t, j)
     WHERE f <> t
$$;
COMMENT ON FUNCTION jobstate.apply_edges(text[], text[], text)
    IS 'internal: transitions from each state of one list to each of another';

-- apply_install_machine: an apply that is settled stays settled: it has given its
-- targets back, so what would open it again is refused.  Cancelled or reverted it may
-- be by one operation while others are at work: as long as they are it keeps its
-- targets, and how they end may open it again.  All else may follow on all else, for
-- it follows from the operations.
-- Writes: machine, state, transition.  Locks: those rows, which also makes
-- two installers take turns.
CREATE FUNCTION jobstate.apply_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    states CONSTANT text[] := ARRAY(SELECT key FROM jsonb_each_text(jobstate.apply_state_ids()) ORDER BY value::int);
    settled CONSTANT text[] := ARRAY(SELECT s FROM unnest(states) s WHERE jobstate.apply_is_settled(s));
    unsettled CONSTANT text[] := ARRAY(SELECT s FROM unnest(states) s WHERE NOT jobstate.apply_is_settled(s));
BEGIN
    PERFORM jobstate.define_machine('apply', jobstate.apply_state_ids(),
        jobstate.apply_edges(unsettled, states) || jobstate.apply_edges(settled, settled)
        || jobstate.apply_edges('{cancelled,reverted}', '{running_degraded,paused,failed_retryable}', 'still at work')
        || jobstate.apply_edges('{reverted}', '{reverting,stopped}', 'still at work'),
        initial => ARRAY['pending'], terminal => settled);
    PERFORM jobstate.define_machine('apply_request',
        '{"pending": 1, "completed": 2, "failed": 3}',
        ARRAY['pending -> completed: done', 'pending -> failed: not done',
              'completed -> pending: again', 'failed -> pending: again'],
        terminal => ARRAY['completed', 'failed']);
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_machine()
    IS 'internal: defines the machines "apply" and "apply_request"';

-- operation_install_machine: an operation begins when it is claimed, and what is
-- completed, failed, cancelled or reverted stays so.  A cutover that has begun is
-- not stopped in the middle.  The edges named "reap" are for what
-- was left behind under an apply that is settled.
-- Writes: machine, state, transition.  Locks: those rows.
CREATE FUNCTION jobstate.operation_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    setup CONSTANT text[] := '{preparing_branch,applying_branch_changes,validating_branch,creating_deploy_request,
                               validating_deploy_request,waiting_for_deploy}';
    work CONSTANT text[] := '{running,catching_up,checksumming,post_checksum}';
    again CONSTANT text[] := '{resuming,recovering}';
    parked CONSTANT text[] := '{waiting_for_cutover}';
    late CONSTANT text[] := '{cutting_over,revert_window,skipping_revert,reverting}';
    -- nothing leads to these; rows that were loaded in them have a way out
    projected CONSTANT text[] := '{running_degraded,paused}';
    early CONSTANT text[] := setup || work || again || parked || projected;
BEGIN
    PERFORM jobstate.define_machine('operation', jobstate.apply_state_ids(),
        ARRAY['pending -> running: claim', 'stopped -> resuming: start', 'stopped -> pending: start',
              'failed_retryable -> running: retry', 'waiting_for_cutover -> cutting_over: cutover',
              'cutting_over -> waiting_for_cutover: not yet', 'cutting_over -> revert_window: cut over',
              'cutting_over -> completed: complete', 'revert_window -> completed: complete',
              'revert_window -> skipping_revert: skip', 'skipping_revert -> completed: complete',
              'skipping_revert -> revert_window', 'revert_window -> reverting: revert',
              'reverting -> revert_window', 'reverting -> reverted: reverted']
        || jobstate.apply_edges(early, setup || work || parked)
        || jobstate.apply_edges(setup || work || again || projected, '{cutting_over}')
        || jobstate.apply_edges(again, '{revert_window,skipping_revert,reverting}')
        || jobstate.apply_edges(early || late, '{recovering}', 'recover')
        || jobstate.apply_edges(early || late, '{failed,failed_retryable}', 'fail')
        || jobstate.apply_edges(early, '{completed}', 'complete')
        || jobstate.apply_edges(early || '{pending,failed_retryable}', '{stopped}', 'stop')
        || jobstate.apply_edges(early || '{pending,failed_retryable,stopped}', '{cancelled}', 'cancel')
        || jobstate.apply_edges('{pending,stopped,failed_retryable}', '{failed}', 'reap')
        || jobstate.apply_edges(late, '{cancelled}', 'reap')
        || jobstate.apply_edges(early || '{pending,stopped,failed_retryable,cutting_over,revert_window,skipping_revert}',
                                '{reverted}', 'reap'),
        initial => ARRAY['pending', 'completed'],
        terminal => ARRAY['completed', 'failed', 'cancelled', 'reverted']);
END
$$;
COMMENT ON FUNCTION jobstate.operation_install_machine()
    IS 'internal: defines the machine "operation"';

-- task_install_machine: what the engine says about a table goes as it comes, until
-- the task is settled.
-- Writes: machine, state, transition.  Locks: those rows.
CREATE FUNCTION jobstate.task_install_machine()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    active CONSTANT text[] := '{running,catching_up,checksumming,post_checksum,waiting_for_deploy,waiting_for_cutover,
                                recovering,cutting_over,revert_window,reverting}';
    settled CONSTANT text[] := '{completed,failed,cancelled,reverted}';
BEGIN
    PERFORM jobstate.define_machine('apply_task',
        (SELECT jsonb_object_agg(s, jobstate.apply_state_ids() -> s)
           FROM unnest('{pending,failed_retryable,stopped}' || active || settled) s),
        jobstate.apply_edges('{pending,stopped,failed_retryable}' || active, active || settled)
        || jobstate.apply_edges('{pending,failed_retryable}' || active, '{stopped}', 'stop')
        || jobstate.apply_edges(active, '{failed_retryable}', 'fail')
        || jobstate.apply_edges('{stopped,failed_retryable}', '{pending}', 'start'),
        initial => '{pending}' || active,
        terminal => settled);
END
$$;
COMMENT ON FUNCTION jobstate.task_install_machine()
    IS 'internal: defines the machine "apply_task"';

-- apply_install_applies: the applies, and what they keep others off.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.apply_install_applies()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.apply (
        id               bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        apply_identifier text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
        idempotency_key  text UNIQUE,
        database_name    text NOT NULL,
        database_type    text NOT NULL,
        environment      text NOT NULL,
        state            text NOT NULL DEFAULT 'pending',
        reason           text,
        error_message    text,
        version          bigint NOT NULL DEFAULT 1,
        max_drivers      smallint NOT NULL DEFAULT 2 CHECK (max_drivers > 0),
        options          jsonb NOT NULL DEFAULT '{}',
        created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at       timestamptz,
        completed_at     timestamptz,
        reaped_at        timestamptz
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS apply_open ON jobstate.apply (created_at, id) WHERE reaped_at IS NULL;
    -- Whoever creates looks for applies of his database alone.  The condition is not that of apply_open, or else the
    -- server would take that one for it where few applies are open, and walk over all that were.
    CREATE INDEX IF NOT EXISTS apply_database
        ON jobstate.apply (database_name, database_type, environment) WHERE coalesce(reaped_at, 'infinity') = 'infinity';

    CREATE TABLE IF NOT EXISTS jobstate.apply_target (
        database_name text NOT NULL,
        database_type text NOT NULL,
        environment   text NOT NULL,
        deployment    text NOT NULL,
        apply_id      bigint,
        version       bigint NOT NULL DEFAULT 1,
        PRIMARY KEY (database_name, database_type, environment, deployment)
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.apply_control_request (
        apply_id     bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        operation    text NOT NULL CHECK (operation IN
                         ('stop', 'start', 'cancel', 'release', 'cutover', 'revert', 'skip_revert')),
        status       text NOT NULL DEFAULT 'pending',
        note         text,
        requested_by text,
        requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at     timestamptz,
        PRIMARY KEY (apply_id, operation)
    );

    CREATE TABLE IF NOT EXISTS jobstate.apply_policy (
        singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        max_retries      integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
        retryable_for    interval NOT NULL DEFAULT '1 day' CHECK (retryable_for > '0'),
        task_grace       interval NOT NULL DEFAULT '5 minutes' CHECK (task_grace >= '0'),
        quiet            interval NOT NULL DEFAULT '10 minutes' CHECK (quiet >= '0')
    );
    INSERT INTO jobstate.apply_policy DEFAULT VALUES ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_applies()
    IS 'internal: creates apply, apply_target, apply_control_request and apply_policy';

-- apply_install_operations: the operations.  The variant says what a state alone
-- does not: how a failure bears on the others, and whether a row that waits can
-- ever run.
-- Writes nothing.  Locks: the tables that it creates.
CREATE FUNCTION jobstate.apply_install_operations()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.operation (
        apply_id       bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        id             bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE,
        deployment     text NOT NULL,
        operation_key  text NOT NULL DEFAULT '',
        operation_kind text NOT NULL DEFAULT 'work' CHECK (operation_kind IN ('work', 'group_finalizer')),
        target         text,
        cutover_policy text NOT NULL DEFAULT 'rolling' CHECK (cutover_policy IN ('rolling', 'barrier', 'parallel')),
        on_failure     text NOT NULL DEFAULT 'halt',
        max_retries    integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
        already_converged boolean NOT NULL DEFAULT false,
        state          text NOT NULL DEFAULT 'pending',
        variant        text GENERATED ALWAYS AS (CASE
                           WHEN orphaned AND state IN ('pending', 'stopped') THEN 'orphaned'
                           WHEN state = 'pending' THEN 'waiting'
                           WHEN state = 'stopped' AND started_at IS NULL THEN 'never_started'
                           WHEN state = 'stopped' THEN 'started'
                           WHEN state = 'failed' AND on_failure = 'continue' THEN 'continue'
                           WHEN state = 'failed' AND on_failure = 'pause' AND released_at IS NULL THEN 'pause'
                           WHEN state = 'failed' AND on_failure = 'pause' THEN 'continue'
                           WHEN state = 'failed' THEN 'halt' END) STORED,
        orphaned       boolean NOT NULL DEFAULT false,
        released_at    timestamptz,
        error_message  text,
        failure        text GENERATED ALWAYS AS (CASE
                           WHEN state = 'failed' AND error_message <> ''
                           THEN 'deployment ' || deployment || ' failed: ' || error_message END) STORED,
        attempt        integer NOT NULL DEFAULT 0,
        retries        integer NOT NULL DEFAULT 0,
        retry_at       timestamptz,
        owner          text,
        token          uuid,
        lease_until    timestamptz,
        progress       jsonb NOT NULL DEFAULT '{}',
        resume_context jsonb,
        created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at     timestamptz,
        completed_at   timestamptz,
        updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (apply_id, id),
        UNIQUE (apply_id, deployment, operation_key)
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.task (
        apply_id         bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        id               bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE,
        operation_id     bigint,
        legacy_apply_id  bigint GENERATED ALWAYS AS (CASE WHEN operation_id IS NULL THEN apply_id END) STORED,
        task_identifier  text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
        name             text,
        state            text NOT NULL DEFAULT 'pending',
        attempt          integer NOT NULL DEFAULT 0,
        error_message    text,
        rows_copied      bigint,
        rows_total       bigint,
        progress_percent numeric(5, 2) CHECK (progress_percent BETWEEN 0 AND 100),
        created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at       timestamptz,
        completed_at     timestamptz,
        updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (apply_id, id),
        FOREIGN KEY (apply_id, operation_id)
            REFERENCES jobstate.operation (apply_id, id) ON UPDATE CASCADE ON DELETE CASCADE
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS task_operation ON jobstate.task (apply_id, operation_id);
    CREATE INDEX IF NOT EXISTS task_legacy ON jobstate.task (legacy_apply_id);
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_operations()
    IS 'internal: creates operation and task';

-- apply_install_comments: says in the database what each table is for.
-- Writes nothing.  Locks: the tables, SHARE UPDATE EXCLUSIVE.
CREATE FUNCTION jobstate.apply_install_comments()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    COMMENT ON TABLE jobstate.apply IS 'one row per apply; its state, reason, error and end follow from its operations';
    COMMENT ON COLUMN jobstate.apply.state IS 'derived from the operations, or where there are none from the tasks; not to be written';
    COMMENT ON COLUMN jobstate.apply.reason IS 'the rule that gave the state';
    COMMENT ON COLUMN jobstate.apply.error_message IS 'of the first operation that failed with a message';
    COMMENT ON COLUMN jobstate.apply.version IS 'moves with every verb that decides about the apply';
    COMMENT ON COLUMN jobstate.apply.max_drivers IS 'how many operations may be leased at a time';
    COMMENT ON COLUMN jobstate.apply.completed_at IS 'when it was settled; NULL as long as it is not';
    COMMENT ON COLUMN jobstate.apply.reaped_at IS 'when maintenance found that nothing unsettled is left of it';
    COMMENT ON INDEX jobstate.apply_open IS 'the applies that claims and maintenance look at';

    COMMENT ON TABLE jobstate.apply_target IS 'one row per deployment of a database; locked by whoever creates an apply on it';
    COMMENT ON COLUMN jobstate.apply_target.apply_id IS 'the apply that was last created there';
    COMMENT ON TABLE jobstate.apply_control_request IS 'what people asked of an apply, one row per kind';
    COMMENT ON COLUMN jobstate.apply_control_request.note IS 'why it failed, or what came of it';
    COMMENT ON TABLE jobstate.apply_policy IS 'one row: retries, and after how long maintenance steps in';

    COMMENT ON TABLE jobstate.operation IS 'one row per deployment of an apply, or per step of one';
    COMMENT ON COLUMN jobstate.operation.operation_key IS 'tells operations of one deployment apart; "scope/step" makes steps in order, "scope/group_finalizer" comes after a scope';
    COMMENT ON COLUMN jobstate.operation.on_failure IS 'halt, continue or pause: what a failure means for the others; any other text is halt';
    COMMENT ON COLUMN jobstate.operation.variant IS 'what the rules know beside the state: of a failure halt, continue or pause; of what waits whether it ever will run';
    COMMENT ON COLUMN jobstate.operation.orphaned IS 'it waits for work that failed, so it never runs; kept by the functions';
    COMMENT ON COLUMN jobstate.operation.released_at IS 'when the pause after its failure was released';
    COMMENT ON COLUMN jobstate.operation.failure IS 'the error as the apply tells it';
    COMMENT ON COLUMN jobstate.operation.attempt IS 'how often it was claimed';
    COMMENT ON COLUMN jobstate.operation.retries IS 'how often it failed and was to be retried';
    COMMENT ON COLUMN jobstate.operation.retry_at IS 'when a retry is due';
    COMMENT ON COLUMN jobstate.operation.owner IS 'who claimed it last';
    COMMENT ON COLUMN jobstate.operation.token IS 'of the last claim; whoever has another one has lost the lease';
    COMMENT ON COLUMN jobstate.operation.lease_until IS 'until when the owner may be silent';
    COMMENT ON COLUMN jobstate.operation.progress IS 'what drivers tell about it';
    COMMENT ON COLUMN jobstate.operation.resume_context IS 'what the next driver needs to go on';
    COMMENT ON COLUMN jobstate.operation.updated_at IS 'the last move of state';

    COMMENT ON TABLE jobstate.task IS 'one row per table that an operation changes; without operation_id from before there were operations';
    COMMENT ON COLUMN jobstate.task.legacy_apply_id IS 'the apply, where the task belongs to no operation';
    COMMENT ON INDEX jobstate.task_operation IS 'the tasks of an operation';
    COMMENT ON INDEX jobstate.task_legacy IS 'the tasks of an apply without operations';
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_comments()
    IS 'internal: comments on the applies'' tables';

-- apply_attach: puts the kernel on one of the family's tables, once.
-- Writes: attachment.  Locks: the table against writers.
CREATE FUNCTION jobstate.apply_attach(target text, machine text, state_column name, group_by name[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.attachments a WHERE a.target = $1::regclass AND a.watched) THEN
        PERFORM jobstate.attach($1::regclass, machine, state_column, group_by);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_attach(text, text, name, name[])
    IS 'internal: attaches a table unless it is attached';

-- install_apply: the family's machines, rules and tables, and the kernel on them.
-- Writes: machine, state, transition, rule, attachment, derivation and apply_policy.
-- Locks: the tables against writers while they are attached for the first time.
CREATE FUNCTION jobstate.install_apply()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.apply_install_machine();
    PERFORM jobstate.operation_install_machine();
    PERFORM jobstate.task_install_machine();
    PERFORM jobstate.apply_install_rules();
    PERFORM jobstate.apply_install_applies();
    PERFORM jobstate.apply_install_operations();
    PERFORM jobstate.apply_install_comments();
    PERFORM jobstate.apply_attach('jobstate.apply', 'apply', 'state', '{database_name,environment}');
    PERFORM jobstate.apply_attach('jobstate.operation', 'operation', 'state', '{apply_id}');
    PERFORM jobstate.apply_attach('jobstate.task', 'apply_task', 'state', '{apply_id}');
    PERFORM jobstate.apply_attach('jobstate.apply_control_request', 'apply_request', 'status', '{operation}');
    PERFORM jobstate.apply_install_derivation();
END
$$;
COMMENT ON FUNCTION jobstate.install_apply()
    IS 'internal: what install(''apply'') does';
