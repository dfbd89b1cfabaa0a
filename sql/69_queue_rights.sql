-- queue: rights --------------------------------------------------------------------

-- queue_functions: what of the family writes, and whether a worker needs it.  What
-- makes queues, changes their settings or keeps the ring is the owner's.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_functions()
RETURNS TABLE (fn regprocedure, for_workers boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid::regprocedure,
           p.proname !~ '^(queue_(install_.*|grant|define|pause|add_slots|(ring|slot|sweep)_.*|prune_kept)|pause|resume|rotate|prune_slots|maintain_queue)$'
      FROM pg_proc p
     WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v' AND p.prokind = 'f'
       AND (p.proname ~ '^(queue|enqueue|claim|dlq)_'
            OR p.proname = ANY ('{enqueue,claim,complete,heartbeat,fail,snooze,cancel,cancel_unique,cancel_all,
                                  retry,retry_all,discard,set_priority,move_queue,next_due,promote,rescue,
                                  pause,resume,rotate,prune_slots,maintain_queue}'::name[]))
     ORDER BY p.oid::regprocedure::text COLLATE "C"
$$;
COMMENT ON FUNCTION jobstate.queue_functions()
    IS 'internal: the functions of the family that write, and which of them a worker needs';

-- queue_grant: what a worker's role needs: to call the verbs, and to read and write
-- jobs.  It cannot change a queue's settings: who locks a row has to be allowed to
-- update some column of it, and gets the one that means nothing.
-- Writes nothing.  Locks: what GRANT locks.
CREATE FUNCTION jobstate.queue_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.queue_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.job, jobstate.job_waiting, jobstate.job_kept,
                    jobstate.dead_letter, jobstate.unique_job TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT ON jobstate.queue, jobstate.queue_lane, jobstate.queue_window TO %s', worker);
    EXECUTE format('GRANT UPDATE (created_at) ON jobstate.queue TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.queue_ring, jobstate.jobs, jobstate.queues TO %s', worker);
    EXECUTE format('GRANT USAGE ON SEQUENCE jobstate.job_number TO %s', worker);
END
$$;
COMMENT ON FUNCTION jobstate.queue_grant(regrole)
    IS 'lets a role enqueue, claim, end and manage jobs, but not change the settings of queues';

-- What writes is volatile, and is the database owner's to pass on; what reads is
-- everybody's, within their rights on the tables.
DO $$
DECLARE
    verb regprocedure;
BEGIN
    FOR verb IN SELECT f.fn FROM jobstate.queue_functions() f
                UNION ALL SELECT 'jobstate.install_queue()'::regprocedure LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', verb);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO pg_database_owner WITH GRANT OPTION', verb);
    END LOOP;
END
$$;
