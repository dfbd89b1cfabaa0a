-- schedule: periodic jobs, and maintenance ---------------------------------------------

-- schedule_enqueue_one: a job for a schedule that is due; NULL if there still is one
-- that has not ended, because missed runs become one.  Where they are made up for one
-- by one, each has a job of its own.
-- Writes: what enqueue() writes.  Locks: likewise.
CREATE FUNCTION jobstate.schedule_enqueue_one(name text, queue text, kind text, payload jsonb, priority integer,
    due_at timestamptz, one_by_one boolean)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    job record;
BEGIN
    SELECT e.id, e.duplicate INTO job
      FROM jobstate.enqueue(queue, kind,
               CASE jsonb_typeof(payload) WHEN 'object'
                    THEN payload || jsonb_build_object('schedule', name, 'due_at', due_at) ELSE payload END,
               priority,
               unique_key => 'schedule ' || name || CASE WHEN one_by_one THEN ' ' || due_at ELSE '' END) e;
    RETURN CASE WHEN NOT job.duplicate THEN job.id END;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_enqueue_one(text, text, text, jsonb, integer, timestamptz, boolean)
    IS 'internal: enqueues the job of a schedule, unless there still is one';

-- schedule_enqueue: enqueues a job for each schedule that has a queue and is due.
-- Row and job go together: however many call it, each run has one job.  A job that
-- is refused is a failure of its schedule, which comes again at its time.
-- Writes: schedule, and what enqueue() writes.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_enqueue(n integer DEFAULT 100)
RETURNS TABLE (name text, job_id bigint, due_at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    s jobstate.schedule;
    ran timestamptz;
    problem text;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    FOR s IN
        SELECT d.* FROM jobstate.schedule d
         WHERE d.next_at <= now AND d.queue IS NOT NULL AND d.paused_at IS NULL
         ORDER BY d.next_at, d.name LIMIT $1
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        name := s.name;
        ran := jobstate.schedule_ran(s.spec, s.last_run, s.next_at, s.catch_up, now);
        due_at := jobstate.schedule_became_due(s.next_at, s.catch_up, ran);
        BEGIN
            problem := NULL;
            job_id := jobstate.schedule_enqueue_one(s.name, s.queue, s.kind, s.payload, s.priority, due_at,
                                                    s.catch_up > interval '0');
        EXCEPTION
            WHEN transaction_rollback OR lock_not_available OR query_canceled THEN
                RAISE;
            WHEN OTHERS THEN
                job_id := NULL;
                problem := SQLERRM;
        END;
        UPDATE jobstate.schedule u
           SET last_run = ran, runs = u.runs + 1, last_error = problem, last_ended_at = now,
               state = CASE WHEN problem IS NULL THEN 'scheduled' ELSE 'failed' END, lease_until = NULL,
               failures = CASE WHEN problem IS NULL THEN 0 ELSE u.failures + 1 END,
               last_success_at = CASE WHEN problem IS NULL THEN now ELSE u.last_success_at END
         WHERE u.name = s.name;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_enqueue(integer)
    IS 'enqueues a job for each schedule that has a queue and is due; job_id is null if one that has not ended is there, or it was refused';

-- schedule_rescue: what was taken and not finished has failed.
-- Writes: schedule.  Locks: the schedules' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.schedule_rescue()
RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        UPDATE jobstate.schedule s
           SET state = 'failed', token = NULL, lease_until = NULL, failures = s.failures + 1,
               last_error = 'it was not finished', last_ended_at = clock_timestamp()
         WHERE s.name IN (SELECT d.name FROM jobstate.schedule d
                           WHERE d.state = 'running'
                             AND NOT jobstate.schedule_in_flight(d.state, d.lease_until, d.hold, d.pid, d.backend)
                           ORDER BY d.name FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING s.name;
END
$$;
COMMENT ON FUNCTION jobstate.schedule_rescue()
    IS 'counts schedules that were taken and whose hold has ended as failed, and tells which';

-- maintain_schedule: a step of the schedules' maintenance, for jobstate.maintain().
-- True means that the same step has more to do, false that the next one may come,
-- null that there is none, or that the schedules are not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_schedule(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.schedule')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            IF to_regclass('jobstate.job') IS NULL THEN
                RETURN false;
            END IF;
            RETURN EXISTS (SELECT FROM jobstate.schedule_enqueue());
        WHEN 1 THEN
            PERFORM FROM jobstate.schedule_rescue();
            RETURN false;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_schedule(integer)
    IS 'internal: a step of the schedules'' maintenance, called by maintain(): periodic jobs, and what was taken and not finished';
