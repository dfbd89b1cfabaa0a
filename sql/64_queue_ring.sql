-- queue: the ring -----------------------------------------------------------------
--
-- Slots are emptied oldest first, and one at a time.  Whoever moves the ring along
-- or empties slots holds queue_ring against others who do.  Nothing waits for long:
-- what is in use now is left for the next time.

-- queue_ring_take: are we the one who moves the ring now?
-- Writes nothing.  Locks: queue_ring, against other maintainers, until the
-- transaction's end.
CREATE FUNCTION jobstate.queue_ring_take()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE jobstate.queue_ring IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION jobstate.queue_ring_take()
    IS 'internal: elects the one who moves the ring along';

-- queue_ring_now: the number that was drawn last, and the slot that it fell into.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_ring_now(OUT number bigint, OUT slot smallint, OUT slots smallint, OUT slot_jobs bigint)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n.last_value, ((n.last_value / r.slot_jobs) % r.slots)::smallint, r.slots, r.slot_jobs
      FROM jobstate.job_number n, jobstate.queue_ring r
$$;
COMMENT ON FUNCTION jobstate.queue_ring_now()
    IS 'internal: where the ring stands';

-- queue_ring_define: changes settings of the ring.  Its size says where each job
-- lies, so that can change only while the ring is empty.
-- Writes: queue_ring.  Locks: job against everybody where its size changes.
CREATE FUNCTION jobstate.queue_ring_define(settings jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{slots,slot_jobs,slot_length,retention,failed_retention,dead_letter_retention}';
    unknown text;
    ring record;
    fresh record;
BEGIN
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It was given for the ring.',
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    SELECT r.* INTO ring FROM jobstate.queue_ring r;
    SELECT n.* INTO fresh FROM jobstate.queue_ring r, jsonb_populate_record(r, settings) n;
    IF (fresh.slots, fresh.slot_jobs) IS DISTINCT FROM (ring.slots, ring.slot_jobs) THEN
        LOCK TABLE jobstate.job IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (SELECT FROM jobstate.job j WHERE j.slot >= 0) THEN
            RAISE EXCEPTION 'the ring cannot change its size while it holds jobs'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'Where a job lies follows from the number of slots and the jobs in a slot.',
                      HINT = 'Wait until all jobs have ended, and prune them: retention 0, then jobstate.prune_slots().';
        END IF;
    END IF;
    UPDATE jobstate.queue_ring r
       SET (slots, slot_jobs, slot_length, retention, failed_retention, dead_letter_retention) =
           (SELECT fresh.slots, fresh.slot_jobs, fresh.slot_length,
                   fresh.retention, fresh.failed_retention, fresh.dead_letter_retention);
    PERFORM jobstate.queue_add_slots();
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for the ring are not valid'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'There are 3 to 1024 slots; sizes and the slot''s length are above zero, retentions are not negative.';
END
$$;
COMMENT ON FUNCTION jobstate.queue_ring_define(jsonb)
    IS 'changes settings of the ring: {"retention": "1 day", "slots": 32, ...}';

-- rotate: goes on to the next slot when the current one is old enough, so that
-- what it holds can be pruned though few jobs come.  Only if the next one is empty;
-- and a ring that stands still is left alone.  The numbers in between are drawn,
-- not skipped by setval(): somebody else may be further by then, and no number may
-- come twice.
-- Writes: the sequence.  Locks: queue_ring, against other maintainers.
CREATE FUNCTION jobstate.rotate()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET synchronize_seqscans = off
AS $$
DECLARE
    ring record;
    began timestamptz;
    occupied boolean;
BEGIN
    IF NOT jobstate.queue_ring_take() THEN
        RETURN false;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_ring_now();
    EXECUTE format('SELECT EXISTS (SELECT FROM jobstate.job_%s)', (ring.slot + 1) % ring.slots) INTO occupied;
    IF occupied THEN
        RETURN false;
    END IF;
    -- the rows lie in the order in which they came
    EXECUTE format('SELECT greatest(j.enqueued_at, j.run_at) FROM jobstate.job_%s j LIMIT 1', ring.slot) INTO began;
    IF began IS NULL OR began > clock_timestamp() - (SELECT r.slot_length FROM jobstate.queue_ring r) THEN
        RETURN false;
    END IF;
    PERFORM nextval('jobstate.job_number')
       FROM generate_series(ring.number + 1, (ring.number / ring.slot_jobs + 1) * ring.slot_jobs);
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.rotate()
    IS 'moves the ring on to its next slot if the current one is old enough and the next one is free; true if it did';

-- pruning ---------------------------------------------------------------------------
--
-- Problem: a slot must go as a whole, and workers must not wait for that.
-- Solution: failed jobs that have to stay are carried over to job_kept beforehand,
-- under locks on these rows.  Then the slot is locked, if that takes no longer than
-- a moment, looked at again, rolled up from its rows and truncated.

-- queue_slot_free: may a slot go, but for failed jobs?  Where the ring needs it, what
-- has ended may go early, and a few jobs that have not are carried over; a slot full
-- of these is left, and used a second time.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_slot_free(slot integer, needed boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 1000;
    part CONSTANT text := format('jobstate.%I', 'job_' || slot);
    pages CONSTANT bigint := pg_relation_size(part::regclass) / current_setting('block_size')::bigint;
    old timestamptz;
    stays boolean;
BEGIN
    IF needed THEN
        EXECUTE format('SELECT count(*) > %s FROM (SELECT FROM %s j WHERE j.state_id IN (1, 2) LIMIT %s) s',
                       few, part, few + 1) INTO stays;
        RETURN NOT stays;
    END IF;
    SELECT clock_timestamp() - r.retention INTO old FROM jobstate.queue_ring r;
    -- what came last lies at the end: most slots that cannot go are known by that
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j WHERE j.ctid >= ''(%s,0)'' AND j.enqueued_at > $1)',
                   part, greatest(pages - 1, 0)) INTO stays USING old;
    IF stays THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j
                                    WHERE j.state_id IN (1, 2) OR j.state_id <> 5 AND j.finished_at > $1)',
                   part) INTO stays USING old;
    RETURN NOT stays;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_free(integer, boolean)
    IS 'internal: whether a slot of the ring can be emptied';

-- queue_slot_carry: carries jobs over from a slot to job_kept that failed not long
-- ago.  They keep their places.  One that is retried while we look has left.
-- Writes: job.  Locks: the jobs, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_slot_carry(slot integer, n integer)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    young timestamptz;
    stay bigint[];
BEGIN
    SELECT clock_timestamp() - r.failed_retention INTO young FROM jobstate.queue_ring r;
    WHILE stay IS NULL LOOP
        BEGIN
            EXECUTE format('SELECT array(SELECT j.position FROM jobstate.%I j
                                          WHERE j.state_id = 5 AND j.finished_at > $1
                                          LIMIT $2 FOR UPDATE SKIP LOCKED)', 'job_' || slot)
               INTO stay USING young, n;
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF stay <> '{}' THEN
        UPDATE jobstate.job j SET slot = -2
         WHERE j.slot = queue_slot_carry.slot AND j.position = ANY (stay);
    END IF;
    RETURN cardinality(stay);
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_carry(integer, integer)
    IS 'internal: carries failed jobs over to job_kept, and tells how many';

-- queue_slot_rest: what is left in a slot that has to stay, looked up once.  NULL
-- where it is too much, or something that ended a moment ago and is to be seen in
-- its place for a while.
-- Writes nothing, locks nothing: the caller has the slot.
CREATE FUNCTION jobstate.queue_slot_rest(slot integer, needed boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 2000;
    old timestamptz;
    young timestamptz;
    rest record;
BEGIN
    SELECT clock_timestamp() - r.retention, clock_timestamp() - r.failed_retention
      INTO old, young FROM jobstate.queue_ring r;
    EXECUTE format('SELECT coalesce(array_agg(s.position), ''{}'') AS positions,
                           count(*) <= %s AND bool_and($1 OR s.state_id = 5) IS NOT FALSE AS can_move
                      FROM (SELECT j.position, j.state_id FROM jobstate.%I j
                             WHERE j.state_id IN (1, 2) OR j.state_id = 5 AND j.finished_at > $2
                                   OR NOT $1 AND j.state_id <> 5 AND j.finished_at > $3
                             LIMIT %s) s', few, 'job_' || slot, few + 1)
       INTO rest USING needed, young, old;
    RETURN CASE WHEN rest.can_move THEN rest.positions END;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_rest(integer, boolean)
    IS 'internal: the jobs that have to leave a slot before it is emptied';

-- queue_slot_empty: rolls a slot up and truncates it.  NULL where it is in use, or
-- something came up that has to stay.  Whoever has emptied a slot in this transaction
-- does not wait for another: a reader of that may wait for the first one, and would be
-- told of a deadlock.
-- Writes: job, rollup.  Locks: the slot against everybody, if it can be had at once.
CREATE FUNCTION jobstate.queue_slot_empty(slot integer, needed boolean, OUT carried bigint, OUT rolled_up bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10ms'
AS $$
DECLARE
    holds CONSTANT boolean := EXISTS (
        SELECT FROM pg_locks k JOIN pg_inherits i ON i.inhrelid = k.relation
         WHERE k.pid = pg_backend_pid() AND k.locktype = 'relation' AND k.mode = 'AccessExclusiveLock'
           AND i.inhparent = to_regclass('jobstate.job'));
    rest bigint[];
BEGIN
    EXECUTE format('LOCK TABLE jobstate.%I IN ACCESS EXCLUSIVE MODE %s', 'job_' || slot, CASE WHEN holds THEN 'NOWAIT' END);
    rest := jobstate.queue_slot_rest(slot, needed);
    IF rest IS NULL THEN
        RAISE lock_not_available;
    END IF;
    UPDATE jobstate.job j SET slot = -2
     WHERE j.slot = queue_slot_empty.slot AND j.position = ANY (rest);
    carried := cardinality(rest);
    rolled_up := jobstate.prune_partition(format('jobstate.job_%s', slot)::regclass, 'finished_at');
EXCEPTION
    -- this also gives the lock back
    WHEN lock_not_available OR object_not_in_prerequisite_state THEN
        carried := NULL;
        rolled_up := NULL;
END
$$;
COMMENT ON FUNCTION jobstate.queue_slot_empty(integer, boolean)
    IS 'internal: rolls a slot of the ring up and truncates it, unless it is in use';

-- prune_slots: empties slots of the ring, the oldest first: those in which all jobs
-- have ended longer ago than the retention, and the two that come next.  A row for
-- each slot that was emptied; without a number of jobs rolled up, for one of which
-- more have to be carried over first.
-- Writes: job, rollup.  Locks: queue_ring, against other maintainers; jobs, with SKIP
-- LOCKED; a slot against everybody, waiting for that at most 10 ms.
CREATE FUNCTION jobstate.prune_slots(max_slots integer DEFAULT 1)
RETURNS TABLE (slot smallint, carried bigint, rolled_up bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    batch CONSTANT integer := 5000;
    ring record;
    needed boolean := true;
BEGIN
    PERFORM jobstate.require_positive('max_slots', max_slots > 0);
    IF NOT jobstate.queue_ring_take() THEN
        RETURN;
    END IF;
    SELECT * INTO ring FROM jobstate.queue_ring_now();
    FOR ahead IN 1 .. ring.slots - 1 LOOP
        slot := (ring.slot + ahead) % ring.slots;
        CONTINUE WHEN pg_relation_size(format('jobstate.job_%s', slot)::regclass) = 0;
        carried := NULL;
        IF jobstate.queue_slot_free(slot, needed AND ahead <= 2) THEN
            carried := jobstate.queue_slot_carry(slot, batch);
            rolled_up := NULL;
            IF carried < batch THEN
                SELECT carried + e.carried, e.rolled_up INTO carried, rolled_up
                  FROM jobstate.queue_slot_empty(slot, needed AND ahead <= 2) e;
            END IF;
        END IF;
        -- what is carried over is claimed first, so it must be the oldest there is
        needed := needed AND carried IS NOT NULL;
        CONTINUE WHEN carried IS NULL;
        RETURN NEXT;
        max_slots := max_slots - 1;
        EXIT WHEN max_slots = 0;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.prune_slots(integer)
    IS 'rolls up and empties slots of the ring that are through; a row for each slot that was worked on';

-- queue_prune_kept: what was carried over goes when its own time has come, unless
-- somebody retries it.
-- Writes: job, rollup.  Locks: the jobs, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_prune_kept(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOOP
        BEGIN
            RETURN (SELECT jobstate.prune('jobstate.job_kept', r.failed_retention, 'finished_at', $1, '{failed}')
                         + jobstate.prune('jobstate.job_kept', r.retention, 'finished_at', $1, '{completed,cancelled}')
                      FROM jobstate.queue_ring r);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_prune_kept(integer)
    IS 'internal: rolls up jobs that were carried over and have ended long enough ago; returns how many';
