-- tasks -----------------------------------------------------------------------------

-- task_progress: what an engine says about a task, in its own words.  NULL leaves a
-- thing as it is.  The token is that of the operation, and is looked at on the
-- operation's row, which stays locked; a task of no operation has none.
-- Writes: task.  Locks: the operation, then the task.
CREATE FUNCTION jobstate.task_progress(task_id bigint, token uuid, state text DEFAULT NULL,
    rows_copied bigint DEFAULT NULL, rows_total bigint DEFAULT NULL, progress_percent numeric DEFAULT NULL,
    error_message text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    next_state CONSTANT text := CASE WHEN $3 IS NOT NULL THEN jobstate.task_state_name($3) END;
    owner_id bigint;
    its_state text;
BEGIN
    PERFORM jobstate.require_argument('task_id', $1);
    SELECT t.operation_id INTO owner_id FROM jobstate.task t WHERE t.id = $1;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no task', $1);
    ELSIF owner_id IS NOT NULL THEN
        PERFORM jobstate.require_argument('token', $2);
        PERFORM FROM jobstate.operation o WHERE o.id = owner_id FOR NO KEY UPDATE;
        IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.id = owner_id AND o.token = $2) THEN
            PERFORM jobstate.apply_refuse('lease lost', owner_id);
        END IF;
    END IF;
    UPDATE jobstate.task t
       SET state = coalesce(next_state, t.state), rows_copied = coalesce($4, t.rows_copied),
           rows_total = coalesce($5, t.rows_total), progress_percent = coalesce($6, t.progress_percent),
           error_message = coalesce($7, t.error_message), updated_at = at,
           attempt = t.attempt + (t.started_at IS NULL AND next_state <> 'pending'
                                  OR t.state IN ('stopped', 'failed_retryable') AND next_state <> t.state)::integer,
           started_at = CASE WHEN next_state <> 'pending' THEN coalesce(t.started_at, at) ELSE t.started_at END,
           completed_at = CASE WHEN jobstate.apply_is_settled(next_state) THEN coalesce(t.completed_at, at)
                               ELSE t.completed_at END
     WHERE t.id = $1
    RETURNING t.state INTO its_state;
    RETURN its_state;
END
$$;
COMMENT ON FUNCTION jobstate.task_progress(bigint, uuid, text, bigint, bigint, numeric, text)
    IS 'keeps what an engine says about a task, and tells the task''s state; raises JS001 or JS002';

-- operation_conclude: ends an operation as its own tasks have ended.  As long as they
-- have not, nothing happens, and the answer is NULL.
-- Writes and locks what operation_end() says.
CREATE FUNCTION jobstate.operation_conclude(operation_id bigint, token uuid)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    outcome text;
    message text;
BEGIN
    held := jobstate.operation_hold($1, $2);
    outcome := jobstate.fold_states('head', ARRAY(
        SELECT t.state FROM jobstate.task t WHERE t.apply_id = held.apply_id AND t.operation_id = $1));
    IF outcome IN ('failed', 'failed_retryable') THEN
        message := (SELECT t.error_message FROM jobstate.task t
                     WHERE t.apply_id = held.apply_id AND t.operation_id = $1
                       AND t.state = outcome AND t.error_message <> ''
                     ORDER BY t.created_at, t.id LIMIT 1);
        RETURN jobstate.operation_fail($1, $2, message, outcome = 'failed_retryable');
    ELSIF outcome IN ('completed', 'stopped', 'cancelled', 'reverted') THEN
        PERFORM jobstate.operation_end($1, $2, outcome);
        RETURN outcome;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.operation_conclude(bigint, uuid)
    IS 'ends an operation as its tasks ended, and tells how; NULL as long as they have not; raises JS001, JS002 or JS003';
