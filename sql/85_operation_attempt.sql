-- operations: a driver's verbs ------------------------------------------------------
--
-- Each takes the token of the claim and looks at it on the operation's own row, once
-- that is locked: a token that is looked up by a join may be stolen meanwhile.

-- operation_hold: an operation for whoever has its token, and its apply if it is at
-- work: what is not cannot be written, and to wait for the apply then would be a
-- deadlock with whoever has that, and waits for the operation.
-- Writes: apply.  Locks: the operation, then the apply.
CREATE FUNCTION jobstate.operation_hold(operation_id bigint, token uuid,
    OUT apply_id bigint, OUT state text, OUT retries integer, OUT max_retries integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no operation', $1);
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    END IF;
    IF jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_hold(held.apply_id);
    END IF;
    apply_id := held.apply_id;
    state := held.state;
    retries := held.retries;
    max_retries := held.max_retries;
END
$$;
COMMENT ON FUNCTION jobstate.operation_hold(bigint, uuid)
    IS 'internal: locks an operation, and its apply if it is at work, for the token of the last claim';

-- operation_heartbeat: keeps a lease, and tells what people ask of the apply.  An
-- operation that is gone is told by NULLs.  One that comes after the lease has run out
-- may find as many drivers at work as there may be, and has lost it then.
-- Writes: operation, and apply after the lease.  Locks: the operation, then the apply.
CREATE FUNCTION jobstate.operation_heartbeat(operation_id bigint, token uuid, lease interval DEFAULT '60 s',
    OUT lease_until timestamptz, OUT requests text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 > interval '0');
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    ELSIF NOT jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    ELSIF held.lease_until IS NULL OR held.lease_until <= clock_timestamp() THEN
        PERFORM jobstate.apply_hold(held.apply_id);
        IF jobstate.apply_full(held.apply_id) IS NOT NULL THEN
            PERFORM jobstate.apply_refuse('replaced', $1);
        END IF;
    END IF;
    UPDATE jobstate.operation o
       SET lease_until = clock_timestamp() + $3
     WHERE o.apply_id = held.apply_id AND o.id = $1
    RETURNING o.lease_until INTO lease_until;
    requests := ARRAY(SELECT r.operation FROM jobstate.apply_control_request r
                       WHERE r.apply_id = held.apply_id AND r.status = 'pending' ORDER BY r.operation);
END
$$;
COMMENT ON FUNCTION jobstate.operation_heartbeat(bigint, uuid, interval)
    IS 'extends a lease, and tells until when and what is asked of the apply; raises JS001 or JS003';

-- operation_release: gives an operation back as it is, for the next driver to claim
-- at once.
-- Writes: operation.  Locks: its row.
CREATE FUNCTION jobstate.operation_release(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    UPDATE jobstate.operation o
       SET token = NULL, owner = NULL, lease_until = NULL
     WHERE o.id = $1 AND o.token = $2 AND jobstate.apply_is_active(o.state);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.operation_release(bigint, uuid)
    IS 'gives an operation back to be claimed at once; false if the token does not hold it';

-- operation_progress: what a driver tells of its work.  NULL leaves a thing as it is;
-- progress is merged key by key, the context is replaced.  A state that is expected
-- and is not there changes nothing.  How an operation ends is told by other verbs.
-- Writes: operation, apply.  Locks: the operation, then the apply.
CREATE FUNCTION jobstate.operation_progress(operation_id bigint, token uuid, state text DEFAULT NULL,
    progress jsonb DEFAULT NULL, resume_context jsonb DEFAULT NULL, expected text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    next_state CONSTANT text := jobstate.apply_state_name(regexp_replace($3, '^STATE_', '', 'i'));
    expected_state CONSTANT text := jobstate.apply_state_name(regexp_replace($6, '^STATE_', '', 'i'));
    held record;
BEGIN
    PERFORM jobstate.require_json('progress', coalesce($4, '{}'), 'object');
    IF $3 IS NOT NULL AND NOT coalesce(jobstate.apply_is_active(next_state), false) THEN
        RAISE EXCEPTION 'state "%" is none of a driver at work', $3
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use operation_complete(), operation_fail(), operation_stop(), operation_cancel(), operation_revert().';
    END IF;
    held := jobstate.operation_hold($1, $2);
    IF NOT jobstate.apply_is_active(held.state) THEN
        IF $6 IS NOT NULL THEN
            RETURN false;
        END IF;
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    ELSIF $6 IS NOT NULL AND held.state IS DISTINCT FROM expected_state THEN
        RETURN false;
    END IF;
    UPDATE jobstate.operation o
       SET state = coalesce(next_state, o.state), progress = o.progress || coalesce($4, '{}'),
           resume_context = coalesce($5, o.resume_context),
           updated_at = CASE WHEN next_state <> o.state THEN clock_timestamp() ELSE o.updated_at END
     WHERE o.apply_id = held.apply_id AND o.id = $1
       AND (next_state <> o.state OR $4 IS NOT NULL OR $5 IS NOT NULL);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_progress(bigint, uuid, text, jsonb, jsonb, text)
    IS 'moves an operation on under its token, with progress; false if it is not in the state expected; raises JS001, JS002 or JS003';

-- operation_end: the end of an attempt.  What the same token brought about before is
-- told by false, and nothing is written.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation, then the apply, then what is stopped or cancelled with it.
CREATE FUNCTION jobstate.operation_end(operation_id bigint, token uuid, state text,
    error_message text DEFAULT NULL, retry_after interval DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    held record;
BEGIN
    held := jobstate.operation_hold($1, $2);
    IF held.state = $3 THEN
        RETURN false;
    ELSIF NOT jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    END IF;
    UPDATE jobstate.operation o
       SET state = $3, lease_until = NULL, updated_at = at,
           error_message = coalesce($4, o.error_message),
           retries = o.retries + ($3 = 'failed_retryable')::integer,
           retry_at = CASE WHEN $3 = 'failed_retryable' THEN at + coalesce($5, '0') END,
           completed_at = CASE WHEN jobstate.apply_is_settled($3) THEN at END
     WHERE o.apply_id = held.apply_id AND o.id = $1;
    PERFORM jobstate.apply_orphan(held.apply_id);
    PERFORM jobstate.apply_settle(held.apply_id);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_end(bigint, uuid, text, text, interval)
    IS 'internal: ends an attempt in a state';

-- operation_complete, operation_stop, operation_cancel, operation_revert: the ends
-- that need no more words.  Each raises JS001, JS002 or JS003.
-- Write and lock what operation_end() says.
CREATE FUNCTION jobstate.operation_complete(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'completed') $$;
COMMENT ON FUNCTION jobstate.operation_complete(bigint, uuid)
    IS 'completes an operation; false if this token completed it before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_stop(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'stopped') $$;
COMMENT ON FUNCTION jobstate.operation_stop(bigint, uuid)
    IS 'stops an operation, to be resumed after apply_start(); false if this token stopped it before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_cancel(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'cancelled') $$;
COMMENT ON FUNCTION jobstate.operation_cancel(bigint, uuid)
    IS 'tells that an operation was cancelled outside; false if this token did before; raises JS001, JS002 or JS003';

CREATE FUNCTION jobstate.operation_revert(operation_id bigint, token uuid)
RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.operation_end($1, $2, 'reverted') $$;
COMMENT ON FUNCTION jobstate.operation_revert(bigint, uuid)
    IS 'tells that an operation was reverted; false if this token did before; raises JS001, JS002 or JS003';

-- operation_fail: the attempt's bad end.  What may be retried and has retries left is
-- claimed again after a while.
-- Writes and locks what operation_end() says.
CREATE FUNCTION jobstate.operation_fail(operation_id bigint, token uuid, error_message text,
    retryable boolean DEFAULT false, retry_after interval DEFAULT '0')
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    outcome text;
BEGIN
    PERFORM jobstate.require_argument('retryable', $4);
    PERFORM jobstate.queue_delay_check('retry_after', $5);
    held := jobstate.operation_hold($1, $2);
    outcome := CASE WHEN held.state IN ('failed', 'failed_retryable') THEN held.state
                    WHEN $4 AND held.retries < held.max_retries THEN 'failed_retryable'
                    ELSE 'failed' END;
    PERFORM jobstate.operation_end($1, $2, outcome, $3, $5);
    RETURN outcome;
END
$$;
COMMENT ON FUNCTION jobstate.operation_fail(bigint, uuid, text, boolean, interval)
    IS 'ends an attempt with an error: failed, or failed_retryable as long as there are retries; raises JS001, JS002 or JS003';
