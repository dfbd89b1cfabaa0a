-- operations: claims ----------------------------------------------------------------
--
-- Lock order: operations by id, then the apply.  That is the kernel's order too:
-- whoever wrote an operation locks its apply when it commits.  Claims and sweeps
-- lock with SKIP LOCKED and wait for nobody.  What follows for siblings that nobody
-- has is written under the apply's lock: against the order, but only plain statements
-- hold such a row while they wait for the apply.
--
-- Whoever moves or claims an operation UPDATES the apply's row before it looks at the
-- others, so that at REPEATABLE READ nobody decides by an old snapshot: he fails with
-- 40001.

-- apply_hold: takes an apply, and tells its state.
-- Writes: apply.  Locks: its row.
CREATE FUNCTION jobstate.apply_hold(apply_id bigint)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    its_state text;
BEGIN
    PERFORM jobstate.require_argument('apply_id', apply_id);
    UPDATE jobstate.apply a SET version = a.version + 1 WHERE a.id = apply_id
    RETURNING a.state INTO its_state;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no apply', apply_id);
    END IF;
    RETURN its_state;
END
$$;
COMMENT ON FUNCTION jobstate.apply_hold(bigint)
    IS 'internal: locks and updates an apply''s row, and tells its state';

-- operation_grab: takes an operation and its apply without waiting; false if
-- somebody else has one of them.
-- Writes: apply.  Locks: both rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.operation_grab(apply_id bigint, operation_id bigint)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM jobstate.operation o WHERE o.apply_id = $1 AND o.id = $2 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM jobstate.apply a WHERE a.id = $1 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM jobstate.apply_hold($1);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.operation_grab(bigint, bigint)
    IS 'internal: locks an operation and its apply, unless that takes waiting';

-- operation_lease: gives an operation that is held, and may be claimed, to a driver.
-- What was at work goes on in its state; all else begins.
-- Writes: operation, apply.  Locks nothing more.
CREATE FUNCTION jobstate.operation_lease(apply_id bigint, operation_id bigint, owner text, lease interval, cutover boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
BEGIN
    UPDATE jobstate.operation o
       SET state = n.state, updated_at = CASE WHEN n.state = o.state THEN o.updated_at ELSE at END,
           owner = $3, token = gen_random_uuid(), lease_until = at + $4, attempt = o.attempt + 1,
           retry_at = NULL, started_at = coalesce(o.started_at, at)
      FROM (SELECT CASE WHEN p.state IN ('pending', 'failed_retryable') THEN 'running'
                        WHEN p.state = 'stopped' THEN 'resuming'
                        WHEN $5 AND p.state = 'waiting_for_cutover' THEN 'cutting_over'
                        ELSE p.state END AS state
              FROM jobstate.operation p WHERE p.apply_id = $1 AND p.id = $2) n
     WHERE o.apply_id = $1 AND o.id = $2;
    UPDATE jobstate.apply a SET started_at = at WHERE a.id = $1 AND a.started_at IS NULL;
END
$$;
COMMENT ON FUNCTION jobstate.operation_lease(bigint, bigint, text, interval, boolean)
    IS 'internal: leases a held operation under a fresh token';

-- operation_claim_one: the first candidate that can be claimed, once it is held.  What
-- this transaction has done to an apply counts already.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim_one(owner text, lease interval, cutover boolean,
    only_apply bigint, only_deployment text)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    candidate record;
    was text;
BEGIN
    PERFORM jobstate.require_argument('owner', $1);
    IF $1 = '' THEN
        RAISE EXCEPTION 'argument "owner" must not be empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM jobstate.require_positive('lease', $2 > interval '0');
    PERFORM jobstate.derive_now();
    FOR candidate IN SELECT c.apply_id, c.operation_id FROM jobstate.operation_candidates($3, $4, $5) c LOOP
        CONTINUE WHEN jobstate.operation_blocker(candidate.operation_id, $3) IS NOT NULL;
        CONTINUE WHEN NOT jobstate.operation_grab(candidate.apply_id, candidate.operation_id);
        -- it may have gone another way before it was held
        CONTINUE WHEN jobstate.operation_blocker(candidate.operation_id, $3) IS NOT NULL;
        was := (SELECT o.state FROM jobstate.operation o WHERE o.id = candidate.operation_id);
        PERFORM jobstate.operation_lease(candidate.apply_id, candidate.operation_id, $1, $2, $3);
        PERFORM jobstate.apply_settle(candidate.apply_id);
        RETURN QUERY
            SELECT o.apply_id, o.id, o.token, o.attempt, o.lease_until, was, o.state, o.deployment,
                   o.operation_key, o.operation_kind, o.target, o.resume_context
              FROM jobstate.operation o WHERE o.id = candidate.operation_id;
        RETURN;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.operation_claim_one(text, interval, boolean, bigint, text)
    IS 'internal: what operation_claim() and operation_claim_cutover() have in common';

-- operation_claim: one operation for a driver to work on, or no row.  It may be one
-- that waits (it is running now), one whose driver is gone (it keeps its state), one
-- to be resumed after a stop, or one whose retry is due.  Commit before working: the
-- lease only protects what others can see.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim(owner text, lease interval DEFAULT '60 s',
    only_apply bigint DEFAULT NULL, only_deployment text DEFAULT NULL)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM jobstate.operation_claim_one($1, $2, false, $3, $4)
$$;
COMMENT ON FUNCTION jobstate.operation_claim(text, interval, bigint, text)
    IS 'leases an operation that may be worked on to the caller, or returns no row';

-- operation_claim_cutover: the same for one that waits for its cutover, once all
-- before it are completed, or that was left in the middle of it.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operation and its apply, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.operation_claim_cutover(owner text, lease interval DEFAULT '60 s',
    only_apply bigint DEFAULT NULL, only_deployment text DEFAULT NULL)
RETURNS TABLE (apply_id bigint, operation_id bigint, token uuid, attempt integer, lease_until timestamptz,
    previous_state text, state text, deployment text, operation_key text, operation_kind text,
    target text, resume_context jsonb)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM jobstate.operation_claim_one($1, $2, true, $3, $4)
$$;
COMMENT ON FUNCTION jobstate.operation_claim_cutover(text, interval, bigint, text)
    IS 'leases an operation whose cutover is due to the caller, or returns no row';
