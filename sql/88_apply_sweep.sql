-- applies: maintenance --------------------------------------------------------------
--
-- Nothing rests for ever.  A lease that runs out needs no sweep: the next claim sees
-- it.  What is swept is what nobody will ever claim.  Sweeps pass over what others
-- hold, and may run together.

-- apply_expire: an operation that was to be retried, and was not for too long, or too
-- often, has failed.
-- Writes: operation, apply, apply_control_request.
-- Locks: the operations and their applies, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_one record;
    expired bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    FOR found_one IN
        SELECT o.apply_id, o.id FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
         WHERE a.reaped_at IS NULL AND o.state = 'failed_retryable'
           AND (o.retries > o.max_retries
                OR o.updated_at <= clock_timestamp() - (SELECT p.retryable_for FROM jobstate.apply_policy p))
         ORDER BY o.id LIMIT max_rows
    LOOP
        CONTINUE WHEN NOT jobstate.operation_grab(found_one.apply_id, found_one.id);
        UPDATE jobstate.operation o
           SET state = 'failed', updated_at = clock_timestamp(), completed_at = clock_timestamp()
         WHERE o.apply_id = found_one.apply_id AND o.id = found_one.id AND o.state = 'failed_retryable'
           AND (o.retries > o.max_retries
                OR o.updated_at <= clock_timestamp() - (SELECT p.retryable_for FROM jobstate.apply_policy p));
        expired := expired + CASE WHEN FOUND THEN 1 ELSE 0 END;
        PERFORM jobstate.apply_orphan(found_one.apply_id);
        PERFORM jobstate.apply_settle(found_one.apply_id);
    END LOOP;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.apply_expire(integer)
    IS 'fails operations that were to be retried and were not, and tells how many';

-- apply_expire_tasks: the same for tasks, a little later, so that an operation's own
-- end comes first.
-- Writes: task.  Locks: the tasks, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_expire_tasks(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    limit_age CONSTANT interval := (SELECT p.retryable_for + p.task_grace FROM jobstate.apply_policy p);
    expired bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    UPDATE jobstate.task t
       SET state = 'failed', completed_at = clock_timestamp(), updated_at = clock_timestamp()
     WHERE t.id = ANY (ARRAY(
           SELECT k.id FROM jobstate.apply a JOIN jobstate.task k ON k.apply_id = a.id
            WHERE a.reaped_at IS NULL AND k.state = 'failed_retryable'
              AND k.updated_at <= clock_timestamp() - limit_age
            ORDER BY k.id LIMIT max_rows
              FOR NO KEY UPDATE OF k SKIP LOCKED));
    GET DIAGNOSTICS expired = ROW_COUNT;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.apply_expire_tasks(integer)
    IS 'fails tasks that were to be retried and were not, and tells how many';

-- apply_strand: tasks of an operation that has ended, and was quiet since, end as it
-- did.
-- Writes: task.  Locks: the tasks, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_strand(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    quiet CONSTANT interval := (SELECT p.quiet FROM jobstate.apply_policy p);
    ended bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    WITH stranded AS (
        SELECT k.id, o.state
          FROM jobstate.apply a
          JOIN jobstate.operation o ON o.apply_id = a.id
          JOIN jobstate.task k ON k.apply_id = o.apply_id AND k.operation_id = o.id
         WHERE a.reaped_at IS NULL AND o.updated_at <= at - quiet AND k.updated_at <= at - quiet
           AND CASE WHEN o.state = 'stopped' THEN jobstate.apply_is_active(k.state)
                    ELSE jobstate.apply_is_settled(o.state) AND NOT jobstate.apply_is_settled(k.state) END
         ORDER BY k.id LIMIT max_rows
           FOR NO KEY UPDATE OF k SKIP LOCKED)
    UPDATE jobstate.task t
       SET state = s.state, updated_at = at,
           completed_at = CASE WHEN jobstate.apply_is_settled(s.state) THEN at END
      FROM stranded s
     WHERE t.id = s.id;
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION jobstate.apply_strand(integer)
    IS 'ends tasks that an operation left behind, as the operation ended, and tells how many';

-- apply_obey: carries out requests that somebody's plain statements, not the verbs,
-- left behind, and finds what such statements orphaned.
-- Writes: apply, operation, apply_control_request.
-- Locks: the applies, with SKIP LOCKED, then operations that nobody works on.
CREATE FUNCTION jobstate.apply_obey(max_rows integer DEFAULT 1000)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one bigint;
BEGIN
    PERFORM jobstate.require_positive('max_rows', max_rows > 0);
    FOR one IN
        SELECT a.id FROM jobstate.apply a
         WHERE a.reaped_at IS NULL AND a.completed_at IS NULL
           AND (jobstate.apply_requested(a.id, 'stop', 'start', 'cancel')
                OR EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = a.id AND NOT o.orphaned AND o.state IN ('pending', 'stopped')
                              AND EXISTS (SELECT FROM jobstate.operation_follows(a.id, o.id) f
                                           WHERE f.state IN ('failed', 'cancelled', 'reverted'))))
         ORDER BY a.id LIMIT max_rows
           FOR NO KEY UPDATE OF a SKIP LOCKED
    LOOP
        PERFORM jobstate.apply_hold(one);
        PERFORM jobstate.apply_orphan(one);
        PERFORM jobstate.apply_settle(one);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_obey(integer)
    IS 'carries out requests to applies that nobody is at work on';

-- apply_reap: what is left of an apply that is settled, and that nobody has had for a
-- while, ends as the apply did; requests that nobody heard have failed.  Once nothing
-- is left the apply is not looked at again.
-- Writes: operation, apply, apply_control_request.  Locks: the applies and operations, with SKIP LOCKED.
CREATE FUNCTION jobstate.apply_reap(max_applies integer DEFAULT 100)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    quiet CONSTANT interval := (SELECT p.quiet FROM jobstate.apply_policy p);
    one record;
    reaped bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_applies', max_applies > 0);
    FOR one IN
        SELECT a.id, a.state FROM jobstate.apply a
         WHERE a.reaped_at IS NULL AND a.completed_at <= clock_timestamp() - quiet
           -- a task or an operation that somebody is still at
           AND NOT EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = a.id AND NOT jobstate.apply_is_settled(o.state)
                              AND greatest(o.lease_until, o.updated_at) > clock_timestamp() - quiet)
         ORDER BY a.created_at, a.id LIMIT max_applies
           FOR NO KEY UPDATE OF a SKIP LOCKED
    LOOP
        UPDATE jobstate.operation o
           SET state = one.state, updated_at = clock_timestamp(), completed_at = clock_timestamp()
         WHERE o.apply_id = one.id AND NOT jobstate.apply_is_settled(o.state)
           AND o.id = ANY (ARRAY(SELECT p.id FROM jobstate.operation p WHERE p.apply_id = one.id
                                   FOR NO KEY UPDATE SKIP LOCKED))
           AND (o.lease_until IS NULL OR o.lease_until <= clock_timestamp() - quiet);
        UPDATE jobstate.apply a
           SET reaped_at = clock_timestamp(), version = a.version + 1
         WHERE a.id = one.id
           AND NOT EXISTS (SELECT FROM jobstate.operation o
                            WHERE o.apply_id = one.id AND NOT jobstate.apply_is_settled(o.state))
           AND NOT EXISTS (SELECT FROM jobstate.task t
                            WHERE t.apply_id = one.id AND t.operation_id IS NOT NULL
                              AND NOT jobstate.apply_is_settled(t.state));
        CONTINUE WHEN NOT FOUND;
        reaped := reaped + 1;
        PERFORM jobstate.apply_settle(one.id);
        UPDATE jobstate.apply_control_request r
           SET status = 'failed', note = 'the apply is ' || one.state, ended_at = clock_timestamp()
         WHERE r.apply_id = one.id AND r.status = 'pending';
    END LOOP;
    RETURN reaped;
END
$$;
COMMENT ON FUNCTION jobstate.apply_reap(integer)
    IS 'ends what settled applies left behind, and tells of how many applies nothing is left';

-- maintain_apply: a step of the applies' maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the applies are not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_apply(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.apply')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            RETURN jobstate.apply_expire(many) >= many;
        WHEN 1 THEN
            RETURN jobstate.apply_expire_tasks(many) >= many;
        WHEN 2 THEN
            PERFORM jobstate.apply_obey(many);
            RETURN false;
        WHEN 3 THEN
            RETURN jobstate.apply_strand(many) >= many;
        WHEN 4 THEN
            RETURN jobstate.apply_reap(many) >= many;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_apply(integer)
    IS 'internal: a step of the applies'' maintenance, called by maintain(): expire, obey, strand, reap';
