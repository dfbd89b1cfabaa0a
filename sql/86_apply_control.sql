-- applies: stop, start, cancel, release ----------------------------------------------
--
-- People ask; what nobody works on obeys at once, and drivers learn it at their next
-- heartbeat.  A request stays pending until the last of them has obeyed, and nothing
-- begins meanwhile.  Cancel beats stop, and both beat a start that was asked before;
-- a start that is asked while drivers still stop comes after that.

-- apply_orphan: marks what waits for work that did not succeed, and will never run.
-- Writes: operation.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_orphan(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.operation o
                    WHERE o.apply_id = $1 AND o.state IN ('failed', 'cancelled', 'reverted')) THEN
        RETURN;
    END IF;
    UPDATE jobstate.operation o
       SET orphaned = true
     WHERE o.apply_id = $1 AND NOT o.orphaned AND o.state IN ('pending', 'stopped')
       AND EXISTS (SELECT FROM jobstate.operation_follows($1, o.id) f
                    WHERE f.state IN ('failed', 'cancelled', 'reverted'));
END
$$;
COMMENT ON FUNCTION jobstate.apply_orphan(bigint)
    IS 'internal: marks operations that wait for what did not succeed';

-- apply_ask: notes a request.  One that was open already stays as it is.
-- Writes: apply_control_request.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_ask(apply_id bigint, operation text, requested_by text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO jobstate.apply_control_request AS r (apply_id, operation, requested_by)
    VALUES ($1, $2, $3)
        ON CONFLICT (apply_id, operation) DO UPDATE
       SET status = 'pending', requested_by = $3, requested_at = clock_timestamp(), ended_at = NULL, note = NULL
     WHERE r.status <> 'pending';
END
$$;
COMMENT ON FUNCTION jobstate.apply_ask(bigint, text, text)
    IS 'internal: opens a request to an apply';

-- apply_answer: ends a request, if it is open.
-- Writes: apply_control_request.  Locks nothing more: the caller holds the apply.
CREATE FUNCTION jobstate.apply_answer(apply_id bigint, operation text, status text, note text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.apply_control_request r
       SET status = $3, note = $4, ended_at = clock_timestamp()
     WHERE r.apply_id = $1 AND r.operation = $2 AND r.status = 'pending';
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.apply_answer(bigint, text, text, text)
    IS 'internal: ends an open request to an apply';

-- apply_move: moves what nobody works on from some states to another.
-- Writes: operation.  Locks: the operations; the caller holds the apply.
CREATE FUNCTION jobstate.apply_move(apply_id bigint, from_states text[], to_state text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    moved bigint;
BEGIN
    UPDATE jobstate.operation o
       SET state = $3, updated_at = at, lease_until = NULL,
           completed_at = CASE WHEN jobstate.apply_is_settled($3) THEN at END
     WHERE o.apply_id = $1 AND o.state = ANY ($2);
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.apply_move(bigint, text[], text)
    IS 'internal: moves operations that nobody works on';

-- apply_restart: what was stopped before it began waits again; what was at work is
-- for drivers to claim.  True once nothing is stopped any more.
-- Writes: operation.  Locks: the operations; the caller holds the apply.
CREATE FUNCTION jobstate.apply_restart(apply_id bigint)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.operation o
       SET state = 'pending', updated_at = clock_timestamp()
     WHERE o.apply_id = $1 AND o.state = 'stopped' AND o.started_at IS NULL;
    RETURN NOT EXISTS (SELECT FROM jobstate.operation o
                        WHERE o.apply_id = $1 AND o.state = 'stopped' AND NOT o.orphaned);
END
$$;
COMMENT ON FUNCTION jobstate.apply_restart(bigint)
    IS 'internal: lets what never began wait again, and tells whether nothing is stopped';

-- apply_settle: carries out what is asked, as far as nobody works on it any more.
-- Called after whatever may have been the last thing to wait for.
-- Writes: operation, apply_control_request.  Locks: the operations; the caller holds
-- the apply.
CREATE FUNCTION jobstate.apply_settle(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.apply_requested($1, 'stop', 'start', 'cancel') THEN
        RETURN;
    END IF;
    IF NOT jobstate.apply_is_at_work($1) THEN
        IF jobstate.apply_requested($1, 'cancel') THEN
            PERFORM jobstate.apply_move($1, '{pending,stopped,failed_retryable}', 'cancelled');
            PERFORM jobstate.apply_answer($1, 'cancel', 'completed');
        ELSIF jobstate.apply_requested($1, 'stop') THEN
            PERFORM jobstate.apply_move($1, '{pending,failed_retryable}', 'stopped');
        END IF;
        PERFORM jobstate.apply_answer($1, 'stop', 'completed');
    END IF;
    IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1 AND NOT jobstate.apply_is_settled(o.state)) THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', 'nothing is left to start');
    ELSIF jobstate.apply_requested($1, 'start') AND NOT jobstate.apply_requested($1, 'stop', 'cancel')
          AND jobstate.apply_restart($1) THEN
        PERFORM jobstate.apply_answer($1, 'start', 'completed');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_settle(bigint)
    IS 'internal: carries out the requests to an apply as far as nobody is at work';

-- apply_take: an apply that is not settled, or has somebody at work although it is,
-- held.  What this transaction has done to it counts already.
-- Writes: apply.  Locks: its row.
CREATE FUNCTION jobstate.apply_take(apply_id bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    its_state text;
BEGIN
    PERFORM jobstate.derive_now();
    its_state := jobstate.apply_hold(apply_id);
    IF jobstate.apply_is_settled(its_state) AND NOT jobstate.apply_is_at_work(apply_id) THEN
        PERFORM jobstate.apply_refuse('settled', apply_id, its_state);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_take(bigint)
    IS 'internal: locks and updates an apply''s row, unless it is settled';

-- apply_control: what the verbs below have in common: the apply is held and not
-- settled, the request is noted and carried out as far as it can be, and the answer
-- is how it stands.
-- Writes: apply, operation, apply_control_request.
-- Locks: the apply, then its operations that nobody works on.
CREATE FUNCTION jobstate.apply_control(apply_id bigint, operation text, requested_by text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_take($1);
    IF NOT EXISTS (SELECT FROM jobstate.operation o WHERE o.apply_id = $1) THEN
        PERFORM jobstate.apply_refuse('no operations', $1);
    END IF;
    PERFORM jobstate.apply_ask($1, $2, $3);
    IF $2 IN ('stop', 'cancel') THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', format('%s was asked after it', $2));
    ELSIF $2 = 'start' AND jobstate.apply_requested($1, 'cancel') THEN
        PERFORM jobstate.apply_answer($1, 'start', 'failed', 'the apply is being cancelled');
    END IF;
    IF $2 = 'stop' AND NOT jobstate.apply_requested($1, 'cancel') THEN
        PERFORM jobstate.apply_move($1, '{pending,failed_retryable}', 'stopped');
    END IF;
    PERFORM jobstate.apply_settle($1);
    RETURN (SELECT r.status FROM jobstate.apply_control_request r WHERE r.apply_id = $1 AND r.operation = $2);
END
$$;
COMMENT ON FUNCTION jobstate.apply_control(bigint, text, text)
    IS 'internal: notes a request and carries it out as far as nobody is at work';

-- apply_stop: what waits is stopped at once, and nothing begins until the drivers
-- have stopped too, at a point that suits them.  An apply that is stopped keeps its
-- deployments.
-- apply_start: goes on after a stop.
-- apply_cancel: once the drivers have stopped, all that is not settled is cancelled,
-- at once and for good.  Asked again after that it changes nothing.
-- Write and lock what apply_control() says.
CREATE FUNCTION jobstate.apply_stop(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.apply_control($1, 'stop', $2) $$;
COMMENT ON FUNCTION jobstate.apply_stop(bigint, text)
    IS 'stops an apply: completed, or pending as long as drivers are at work; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_start(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT jobstate.apply_control($1, 'start', $2) $$;
COMMENT ON FUNCTION jobstate.apply_start(bigint, text)
    IS 'starts a stopped apply again: completed, pending until drivers took up what was at work, or failed; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_cancel(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.derive_now();
    IF jobstate.apply_hold($1) = 'cancelled' AND NOT jobstate.apply_is_at_work($1) THEN
        RETURN 'completed';
    END IF;
    RETURN jobstate.apply_control($1, 'cancel', $2);
END
$$;
COMMENT ON FUNCTION jobstate.apply_cancel(bigint, text)
    IS 'cancels an apply: completed, or pending as long as drivers are at work; raises JS002 or JS003';

-- apply_release: lets an apply that a failure paused go on, as if the failure had
-- been one to continue after.
-- Writes: apply, operation, apply_control_request.
-- Locks: the apply, then its failed operations.
CREATE FUNCTION jobstate.apply_release(apply_id bigint, requested_by text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    released bigint;
BEGIN
    PERFORM jobstate.apply_take($1);
    UPDATE jobstate.operation o
       SET released_at = clock_timestamp()
     WHERE o.apply_id = $1 AND o.variant = 'pause';
    GET DIAGNOSTICS released = ROW_COUNT;
    IF released > 0 THEN
        PERFORM jobstate.apply_ask($1, 'release', $2);
        PERFORM jobstate.apply_answer($1, 'release', 'completed', format('%s failures released', released));
    END IF;
    RETURN released;
END
$$;
COMMENT ON FUNCTION jobstate.apply_release(bigint, text)
    IS 'releases the pause after failures, and tells of how many; raises JS002 or JS003';

-- apply_request: asks drivers for what only they can do: cutover, revert, skip_revert.
-- They learn it at their next heartbeat.
-- apply_request_done: a driver has answered it.
-- Write: apply, apply_control_request.  Lock: the apply.
CREATE FUNCTION jobstate.apply_request(apply_id bigint, operation text, requested_by text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_require_request($2);
    PERFORM jobstate.apply_take($1);
    PERFORM jobstate.apply_ask($1, $2, $3);
END
$$;
COMMENT ON FUNCTION jobstate.apply_request(bigint, text, text)
    IS 'asks the drivers of an apply for a cutover, revert or skip_revert; raises JS002 or JS003';

CREATE FUNCTION jobstate.apply_request_done(apply_id bigint, operation text, success boolean DEFAULT true,
    note text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.apply_require_request($2);
    PERFORM jobstate.require_argument('success', $3);
    PERFORM jobstate.apply_hold($1);
    RETURN jobstate.apply_answer($1, $2, CASE WHEN $3 THEN 'completed' ELSE 'failed' END, $4);
END
$$;
COMMENT ON FUNCTION jobstate.apply_request_done(bigint, text, boolean, text)
    IS 'tells that a cutover, revert or skip_revert was carried out or failed; false if nobody asks for it; raises JS002';

-- apply_require_request: refuses requests that have a verb of their own.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_require_request(operation text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM jobstate.require_argument('operation', operation);
    IF operation NOT IN ('cutover', 'revert', 'skip_revert') THEN
        RAISE EXCEPTION 'request "%" is none for drivers', operation
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Requests for drivers: cutover, revert, skip_revert.',
                  HINT = 'Use apply_stop(), apply_start(), apply_cancel(), apply_release() for the others.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_require_request(text)
    IS 'internal: raises 22023 unless it is cutover, revert or skip_revert';
