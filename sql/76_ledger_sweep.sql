-- ledger: maintenance -------------------------------------------------------------------

-- ledger_rescue: writes down as lost the runs whose hold has ended, and tells of
-- which processors.
-- Writes: ledger_run, ledger_processor.  Locks: processors' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_rescue()
RETURNS SETOF text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT p.processor, p.run_id FROM jobstate.ledger_processor p
         WHERE p.run_id IS NOT NULL
           AND jobstate.ledger_run_over(p.run_hold, p.run_until, p.run_pid, p.run_backend)
           -- somebody who has just begun may be about to hold it
           AND (p.run_hold <> 'transaction' OR p.run_until <= clock_timestamp())
         ORDER BY p.processor FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM jobstate.ledger_close_run(held.processor, held.run_id, true, 'the run ended without saying so');
        RETURN NEXT held.processor;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_rescue()
    IS 'ends runs that died, as lost, and tells of which processors they were';

-- maintain_ledger: a step of the ledger's maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the ledger is not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_ledger(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.ledger_run')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            PERFORM FROM jobstate.ledger_rescue();
            RETURN false;
        WHEN 1 THEN
            RETURN jobstate.ledger_expire(n => many) >= many;
        WHEN 2 THEN
            RETURN jobstate.prune('jobstate.ledger_run',
                       (SELECT p.delay FROM jobstate.ledger_policy p WHERE p.kind = 'run_retention'),
                       'ended_at', many) >= many;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_ledger(integer)
    IS 'internal: a step of the ledger''s maintenance, called by maintain(): runs that died, leases that ended, old runs';
