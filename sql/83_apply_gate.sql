-- applies: who may claim what -------------------------------------------------------
--
-- A claim looks twice: without a lock, for something that can be claimed, and again
-- once it holds the apply and the operation.  Both times it asks operation_blocker().

-- operation_scope: the part of a key that makes operations of one deployment belong
-- together: "scope/step", "scope/group_finalizer".  A finalizer without a scope is
-- its whole deployment's.
-- operation_covers: whether a scope has a key in it, byte by byte.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.operation_scope(operation_kind text, operation_key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN operation_key LIKE '%/group_finalizer' AND operation_kind = 'group_finalizer'
    THEN left(operation_key, -length('/group_finalizer'))
    WHEN operation_kind = 'group_finalizer' THEN ''
    ELSE substring(operation_key FROM '^(.*)/[^/]*$') END;
COMMENT ON FUNCTION jobstate.operation_scope(text, text)
    IS 'the scope that an operation''s key names; NULL if it names none';

CREATE FUNCTION jobstate.operation_covers(scope text, operation_key text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN scope = '' OR operation_key = scope OR starts_with(operation_key, scope || '/');
COMMENT ON FUNCTION jobstate.operation_covers(text, text)
    IS 'whether a key is the scope or lies in it';

-- operation_follows: the operations that this one cannot do without: a finalizer's
-- whole scope, a step's earlier steps.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_follows(apply_id bigint, operation_id bigint)
RETURNS TABLE (id bigint, state text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT e.id, e.state
          FROM jobstate.operation o
          JOIN jobstate.operation e ON e.apply_id = o.apply_id AND e.deployment = o.deployment
         WHERE o.apply_id = $1 AND o.id = $2 AND e.id <> o.id AND e.operation_kind = 'work'
           AND CASE o.operation_kind
                   WHEN 'group_finalizer'
                   THEN jobstate.operation_covers(jobstate.operation_scope(o.operation_kind, o.operation_key), e.operation_key)
                   ELSE (e.created_at, e.id) < (o.created_at, o.id)
                        AND jobstate.operation_scope(e.operation_kind, e.operation_key)
                          = jobstate.operation_scope(o.operation_kind, o.operation_key) END
         ORDER BY e.created_at, e.id;
END
$$;
COMMENT ON FUNCTION jobstate.operation_follows(bigint, bigint)
    IS 'internal: the operations of the same deployment that have to be completed before one may begin';

-- operation_keeps_back: whether an earlier operation keeps a later one from
-- beginning, or, at a cutover, from cutting over.  A failure that is to be
-- continued, or was released, does not; nor does what will never run.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_keeps_back(state text, variant text, cutover_policy text, cutover boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN state = 'completed' OR variant IN ('continue', 'orphaned') THEN false
    WHEN state = 'failed' THEN true
    WHEN cutover_policy = 'parallel' THEN false
    WHEN cutover_policy = 'barrier' AND NOT cutover
    THEN state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window')
    ELSE true END;
COMMENT ON FUNCTION jobstate.operation_keeps_back(text, text, text, boolean)
    IS 'internal: whether an operation in this state keeps later ones of this policy back';

-- operation_sibling_blocker: the operation that this one has to wait for, as text.
-- A failure under halt stops all that has not begun, wherever it stands.  A finalizer
-- that is listed before its work does not keep that back, or both would wait for ever.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_sibling_blocker(apply_id bigint, operation_id bigint, cutover boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    own record;
BEGIN
    SELECT o.created_at, o.cutover_policy, o.deployment, o.operation_kind, o.operation_key INTO own
      FROM jobstate.operation o WHERE o.apply_id = $1 AND o.id = $2;
    RETURN (
        SELECT format('operation %s is %s', b.id, b.state)
          FROM (SELECT e.id, e.state, e.created_at FROM jobstate.operation e
                 WHERE e.apply_id = $1 AND e.id <> $2
                   AND NOT (e.operation_kind = 'group_finalizer' AND own.operation_kind = 'work'
                            AND e.state <> 'failed' AND e.deployment = own.deployment
                            AND jobstate.operation_covers(jobstate.operation_scope(e.operation_kind, e.operation_key), own.operation_key))
                   AND CASE WHEN (e.created_at, e.id) < (own.created_at, $2)
                            THEN jobstate.operation_keeps_back(e.state, e.variant, own.cutover_policy, cutover)
                            ELSE e.variant = 'halt' AND NOT cutover END
                UNION ALL
                SELECT f.id, f.state, NULL FROM jobstate.operation_follows($1, $2) f
                 WHERE f.state <> 'completed' AND NOT cutover) b
         ORDER BY b.created_at, b.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION jobstate.operation_sibling_blocker(bigint, bigint, boolean)
    IS 'internal: the sibling that an operation has to wait for, in words; NULL if there is none';

-- apply_requested: whether somebody asked this of an apply and it is still open.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_requested(apply_id bigint, VARIADIC operations text[])
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.apply_control_request r
                    WHERE r.apply_id = $1 AND r.operation = ANY ($2) AND r.status = 'pending');
END
$$;
COMMENT ON FUNCTION jobstate.apply_requested(bigint, text[])
    IS 'whether one of these requests to an apply is open';

-- apply_full: how many of an apply's operations are leased, if that is as many as may be;
-- NULL if there is room.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_full(apply_id bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN (SELECT d.drivers FROM jobstate.apply a,
                   LATERAL (SELECT count(*) AS drivers FROM jobstate.operation o
                             WHERE o.apply_id = $1 AND o.lease_until > clock_timestamp()) d
             WHERE a.id = $1 AND d.drivers >= a.max_drivers);
END
$$;
COMMENT ON FUNCTION jobstate.apply_full(bigint)
    IS 'internal: how many operations of an apply are leased, if no other may be; NULL if one may';

-- operation_state_blocker: what keeps an operation from being claimed, as far as its
-- own state, its parent's and the requests go.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_state_blocker(apply_id bigint, operation_id bigint, cutover boolean)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    stopping CONSTANT boolean := jobstate.apply_requested($1, 'stop', 'cancel');
    starting CONSTANT boolean := jobstate.apply_requested($1, 'start');
    o record;
BEGIN
    SELECT p.*, a.state AS parent,
           p.updated_at > clock_timestamp() - (SELECT y.retryable_for FROM jobstate.apply_policy y) AS fresh,
           (SELECT count(*) FROM jobstate.operation s WHERE s.apply_id = $1) AS siblings
      INTO o
      FROM jobstate.operation p JOIN jobstate.apply a ON a.id = p.apply_id
     WHERE p.apply_id = $1 AND p.id = $2;
    RETURN CASE
        WHEN NOT FOUND THEN 'it does not exist'
        WHEN jobstate.apply_is_settled(o.state) THEN 'it is ' || o.state
        WHEN jobstate.apply_is_settled(o.parent) THEN 'the apply is ' || o.parent
        WHEN o.lease_until > clock_timestamp() THEN 'it is leased to ' || coalesce(o.owner, 'somebody')
        WHEN cutover AND o.state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window')
        THEN 'it is ' || o.state
        WHEN cutover AND o.state = 'waiting_for_cutover' AND stopping THEN 'the apply is to stop'
        WHEN NOT cutover AND o.state = 'waiting_for_cutover' AND o.cutover_policy = 'barrier'
             AND o.siblings > 1 AND NOT stopping THEN 'it waits for its cutover'
        WHEN jobstate.apply_is_active(o.state) THEN NULL
        WHEN stopping THEN 'the apply is to stop'
        WHEN o.variant = 'orphaned' THEN 'what it follows did not succeed'
        WHEN o.state = 'failed_retryable' AND o.retry_at > clock_timestamp() THEN 'its retry is not due'
        WHEN o.state = 'failed_retryable' AND (NOT o.fresh OR o.retries > o.max_retries) THEN 'its retries are over'
        WHEN o.state = 'stopped' AND NOT starting THEN 'it is stopped'
        WHEN o.state = 'pending' AND o.parent = 'stopped' AND NOT starting THEN 'the apply is stopped'
        END;
END
$$;
COMMENT ON FUNCTION jobstate.operation_state_blocker(bigint, bigint, boolean)
    IS 'internal: why an operation''s state, or its apply''s, keeps it from being claimed';

-- operation_blocker: why an operation cannot be claimed now; NULL if it can.  What was
-- stopped at work is resumed whatever its siblings do: it had its turn when it began.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.operation_blocker(operation_id bigint, cutover boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    o record;
    blocker text;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('cutover', $2);
    SELECT p.apply_id, p.state = 'pending' OR p.state = 'stopped' AND p.started_at IS NULL
                       OR $2 AND p.state = 'waiting_for_cutover' AS begins
      INTO o
      FROM jobstate.operation p
     WHERE p.id = $1;
    blocker := jobstate.operation_state_blocker(o.apply_id, $1, $2);
    IF blocker IS NULL AND o.begins THEN
        blocker := jobstate.operation_sibling_blocker(o.apply_id, $1, $2);
    END IF;
    RETURN coalesce(blocker, jobstate.apply_full(o.apply_id) || ' drivers are at work');
END
$$;
COMMENT ON FUNCTION jobstate.operation_blocker(bigint, boolean)
    IS 'why an operation cannot be claimed now, or be cut over; NULL if it can';

-- operation_candidates: what a claim looks at, in the order in which it looks.  What
-- an earlier sibling keeps back is left out here already, for all siblings in one
-- pass, in which finalizers do not count: whom they keep back is looked at later.
-- Behind an old snapshot an apply that was committed late may be found five seconds
-- later, see low_ends().
-- Writes nothing, locks nothing: ask operation_blocker() about each.
CREATE FUNCTION jobstate.operation_candidates(cutover boolean, only_apply bigint, only_deployment text)
RETURNS TABLE (apply_id bigint, operation_id bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known CONSTANT timestamptz[] := CASE WHEN $2 IS NULL
        THEN jobstate.low_ends('jobstate.apply', 'created_at', 'reaped_at IS NULL', 5) ELSE '{-infinity}' END;
    since CONSTANT timestamptz := known[cardinality(known)];
BEGIN
    RETURN QUERY
        SELECT c.apply_id, c.id
          FROM (SELECT o.*, a.created_at AS apply_created_at,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'rolling', $1)) OVER earlier AS rolling,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'barrier', $1)) OVER earlier AS barrier,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'parallel', $1)) OVER earlier AS parallel
                  FROM (SELECT a.* FROM jobstate.apply a WHERE a.reaped_at IS NULL AND a.created_at >= since
                         UNION ALL
                        SELECT a.* FROM jobstate.apply a
                         WHERE a.reaped_at IS NULL AND a.created_at < since AND a.created_at = ANY (known)) a
                  JOIN jobstate.operation o ON o.apply_id = a.id
                 WHERE a.completed_at IS NULL AND ($2 IS NULL OR a.id = $2)
                WINDOW earlier AS (PARTITION BY o.apply_id ORDER BY o.created_at, o.id
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) c
         WHERE ($3 IS NULL OR c.deployment = $3)
           AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
           AND CASE WHEN jobstate.apply_is_settled(c.state) THEN false
                    WHEN $1 AND c.state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window') THEN false
                    WHEN c.state = 'pending' OR c.state = 'stopped' AND c.started_at IS NULL OR $1 AND c.state = 'waiting_for_cutover'
                    THEN CASE c.cutover_policy WHEN 'rolling' THEN c.rolling WHEN 'barrier' THEN c.barrier
                                               ELSE c.parallel END IS NOT TRUE
                    ELSE true END
         ORDER BY c.apply_created_at, c.apply_id, c.created_at, c.id;
END
$$;
COMMENT ON FUNCTION jobstate.operation_candidates(boolean, bigint, text)
    IS 'internal: the operations that nobody has, oldest first';
