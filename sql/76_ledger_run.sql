-- ledger: runs ---------------------------------------------------------------------
--
-- One run of a processor at a time.  The lock is the processor's row: it says who
-- runs it and until when, so it outlives the session that wrote it and works behind
-- a pooler.  What ends it besides ledger_end_run() is for the run to say:
--   lease        the end of the lease; nothing else can be known behind a pooler
--   session      that, or the end of the backend that began the run
--   transaction  the end of the transaction that called ledger_hold_run()
-- Whoever finds a run that has ended so writes it down as lost.
--
-- Whoever takes the row over has it FOR UPDATE; a mark under a run's token has it
-- KEY SHARE, and a run that holds it with its transaction NO KEY UPDATE.  So nobody
-- takes over while one of these is under way, and these do not hinder each other.

-- ledger_run_busy: says who runs the processor.  A transaction that began a run and
-- has not committed yet is known by its lock only; so is one that takes the processor
-- over from a run that is over, which the row still tells of.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_busy(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    told text;
    by_run boolean;
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT p.*, k.pid, a.application_name AS session, a.xact_start INTO held
      FROM jobstate.ledger_processor p
           LEFT JOIN pg_locks k ON k.locktype = 'transactionid' AND k.transactionid = p.xmax
                               AND k.mode = 'ExclusiveLock' AND k.granted
           LEFT JOIN pg_stat_activity a ON a.pid = k.pid
     WHERE p.processor COLLATE "C" = $1;
    by_run := held.run_id IS NOT NULL
        AND (NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
             OR held.run_hold = 'transaction' AND held.run_until > clock_timestamp()
                AND coalesce(held.pid = held.run_pid, true));
    told := CASE WHEN by_run
                 THEN format('Run %s of "%s", backend %s, holds it since %s, by its %s, until %s.', held.run_id,
                             held.run_owner, held.run_pid, held.run_since, held.run_hold, held.run_until)
                 WHEN held.pid IS NOT NULL
                 THEN format('Backend %s (%s) has it in a transaction that is open since %s.', held.pid,
                             coalesce(held.session, 'of another session'), coalesce(held.xact_start::text, 'an unknown time'))
                 ELSE 'A transaction that has not ended yet has it.' END;
    RAISE EXCEPTION 'processor "%" is already running', $1
        USING ERRCODE = 'lock_not_available', DETAIL = told,
              HINT = 'Try again later; a run that died is free when its hold has ended.';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_busy(text)
    IS 'internal: raises 55P03 with who runs a processor, and since when';

-- ledger_require_run: the run that a token stands for.
-- Writes nothing.  Locks: the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_require_run(processor text, token uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('token', token);
    run := jobstate.ledger_run_of(processor, token);
    IF run IS NULL THEN
        PERFORM jobstate.ledger_refuse_run(processor);
    END IF;
    RETURN run;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_require_run(text, uuid)
    IS 'internal: the run that a token stands for; raises JS001 if that holds its processor no longer';

-- ledger_run_over: true if the run that a processor's row tells of has ended without
-- saying so.  The caller has the row locked, so no transaction holds it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_over(run_hold text, run_until timestamptz, run_pid integer,
    run_backend timestamptz)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT run_until <= clock_timestamp() OR run_hold = 'transaction'
        OR run_hold = 'session' AND jobstate.ledger_backend_gone(run_pid, run_backend)
$$;
COMMENT ON FUNCTION jobstate.ledger_run_over(text, timestamptz, integer, timestamptz)
    IS 'internal: true if a run''s hold on its processor has ended';

-- ledger_run_sums: the figures of a run, from what was noted in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_run_sums(processor text, run_id bigint)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT jsonb_build_object(
                   'scanned', coalesce(max(o.n) FILTER (WHERE o.kind = 'scanned'), 0),
                   'processed', count(*) FILTER (WHERE o.kind = 'processed'),
                   'skipped', count(*) FILTER (WHERE o.kind = 'skipped'),
                   'capped', coalesce((array_agg(o.n ORDER BY o.id DESC) FILTER (WHERE o.kind = 'capped'))[1], 0),
                   'errors', count(*) FILTER (WHERE o.kind = 'error'),
                   'items_extracted', coalesce(sum(o.n) FILTER (WHERE o.kind = 'processed'), 0),
                   'errors_detail', coalesce(jsonb_path_query_array(
                       jsonb_agg(jsonb_build_object('item', o.item, 'error', o.error) ORDER BY o.id)
                           FILTER (WHERE o.kind = 'error'), '$[0 to 99]'), '[]'))
          FROM jobstate.ledger_outcome o
         WHERE o.processor COLLATE "C" = $1 AND o.run_id = $2);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_sums(text, bigint)
    IS 'internal: the figures of a run';

-- ledger_end_claims: claims made in a run end with it.  Those of a run that was lost
-- are failures, like those whose lease has ended; others are given back.  The index
-- of leases may be full of dead ones behind an old snapshot.  No lease of this run
-- ended before it began, so it need not look at those that did; one that was set
-- back by hand is ledger_expire()'s.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_end_claims(processor text, run_id bigint, lost boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT l.item, l.token FROM jobstate.ledger l
         WHERE l.lease_until >= (SELECT r.started_at FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.id = $2)
           -- by leases, of which there are few; the primary key would pass all of the processor's items
           AND (l.processor COLLATE "C" = $1) IS TRUE AND l.run_id = $2 AND l.state = 'claimed'
         ORDER BY l.item FOR NO KEY UPDATE
    LOOP
        IF lost THEN
            PERFORM jobstate.ledger_fail($1, held.item, 'the run was lost', held.token);
        ELSE
            PERFORM jobstate.ledger_release($1, held.item, held.token);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_end_claims(text, bigint, boolean)
    IS 'internal: ends the claims of a run that ends';

-- ledger_close_run: writes down how a run ended.  What the caller knows better
-- replaces the figures that were noted.
-- Writes: ledger_run, ledger_processor, ledger, ledger_outcome.  Locks: the run's row
-- and the items' that it still holds.
CREATE FUNCTION jobstate.ledger_close_run(processor text, run_id bigint, lost boolean, error text,
    stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    becomes text;
BEGIN
    PERFORM jobstate.ledger_end_claims($1, $2, $3);
    UPDATE jobstate.ledger_run r
       SET (scanned, processed, skipped, capped, errors, items_extracted, errors_detail) =
           (n.scanned, n.processed, n.skipped, n.capped, n.errors, n.items_extracted, n.errors_detail),
           error = $4, ended_at = clock_timestamp(),
           state = CASE WHEN $3 THEN 'lost' WHEN $4 IS NULL AND n.errors = 0 THEN 'succeeded' ELSE 'failed' END
      FROM jsonb_populate_record(NULL::jobstate.ledger_run, jobstate.ledger_run_sums($1, $2) || $5) n
     WHERE r.processor COLLATE "C" = $1 AND r.id = $2 AND r.state = 'running'
    RETURNING r.state INTO becomes;
    UPDATE jobstate.ledger_processor p
       SET run_id = NULL, run_token = NULL, run_owner = NULL, run_since = NULL, run_until = NULL,
           run_hold = NULL, run_pid = NULL, run_backend = NULL
     WHERE p.processor COLLATE "C" = $1 AND p.run_id = $2;
    RETURN becomes = 'succeeded';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_close_run(text, bigint, boolean, text, jsonb)
    IS 'internal: ends a run in the records, frees its processor, and tells whether it went well';

-- ledger_begin_run: makes the caller the one who runs a processor, or says at once
-- who is.  Commit it before the work begins: then the run is in the records whatever
-- becomes of it.
-- Writes: ledger_processor, ledger_run.  Locks: the processor's row, which it never
-- waits for.
CREATE FUNCTION jobstate.ledger_begin_run(processor text, owner text DEFAULT '', lease interval DEFAULT NULL,
    hold text DEFAULT 'lease', OUT run_id bigint, OUT token uuid, OUT lease_until timestamptz,
    OUT stop_at timestamptz, OUT cap integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    held jobstate.ledger_processor;
BEGIN
    PERFORM jobstate.ledger_check_run($1, $2, $4);
    SELECT p.* INTO held FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_processor($1);
        PERFORM jobstate.ledger_run_busy($1);
    END IF;
    IF held.run_id IS NOT NULL THEN
        -- a run that this very transaction began is held by it, and its lock stops others only
        IF NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
           OR held.run_hold = 'transaction' AND held.run_pid = pg_backend_pid() AND held.run_since >= now() THEN
            PERFORM jobstate.ledger_run_busy($1);
        END IF;
        PERFORM jobstate.ledger_close_run($1, held.run_id, true, 'the run ended without saying so');
    END IF;
    INSERT INTO jobstate.ledger_run AS r (processor, owner, started_at, stop_at, cap)
    VALUES ($1, $2, at, at + held.budget, held.cap)
    RETURNING r.id, r.token, r.stop_at, r.cap INTO run_id, token, stop_at, cap;
    UPDATE jobstate.ledger_processor p
       SET run_id = ledger_begin_run.run_id, run_token = ledger_begin_run.token, run_owner = $2, run_since = at,
           run_until = at + jobstate.ledger_lease($1, $3), run_hold = $4, run_pid = pg_backend_pid(),
           run_backend = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
     WHERE p.processor COLLATE "C" = $1
    RETURNING p.run_until INTO lease_until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_begin_run(text, text, interval, text)
    IS 'begins a run of a processor: its token, its cap and until when it may take items; raises 55P03 with who runs it if somebody does';

-- ledger_check_run: refuses a run without an owner, or held by nothing.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_run(processor text, owner text, hold text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_argument('hold', hold);
    IF hold NOT IN ('lease', 'session', 'transaction') THEN
        RAISE EXCEPTION 'a run cannot be held by "%"', hold
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'It is held by its lease, its session or its transaction.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_run(text, text, text)
    IS 'internal: raises 22004 or 22023 for arguments of ledger_begin_run()';

-- ledger_require_processor: refuses a processor that was never defined.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_require_processor(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1) THEN
        RAISE EXCEPTION 'processor "%" does not exist', $1
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Make it with jobstate.ledger_define().';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_require_processor(text)
    IS 'internal: raises 22023 if there is no such processor';

-- ledger_hold_run: the transaction that calls it holds the run, for as long as it is
-- open: nobody takes the processor over meanwhile, whatever the lease says.
-- Writes nothing.  Locks: the processor's row, NO KEY UPDATE.
CREATE FUNCTION jobstate.ledger_hold_run(processor text, token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM FROM jobstate.ledger_processor p
      WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_hold_run(text, uuid)
    IS 'holds a run with this transaction until it ends; raises JS001 if the run is lost';

-- ledger_heartbeat_run: the run is still at it.
-- Writes: ledger_processor.  Locks: the processor's row.
CREATE FUNCTION jobstate.ledger_heartbeat_run(processor text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $3);
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    UPDATE jobstate.ledger_processor p SET run_until = until WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_heartbeat_run(text, uuid, interval)
    IS 'extends the lease of a run, and tells until when; raises JS001 if the run is lost';

-- ledger_check_stats: refuses figures that a run does not have.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_stats(stats jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{scanned,processed,skipped,capped,errors,items_extracted,errors_detail}';
    unknown text;
BEGIN
    PERFORM jobstate.require_json('stats', stats, 'object');
    SELECT min(s.key) INTO unknown FROM jsonb_each(stats) s
     WHERE s.key <> ALL (known)
        OR CASE s.key WHEN 'errors_detail' THEN jsonb_typeof(s.value) <> 'array'
                      ELSE s.value::text !~ '^\d{1,18}$' END;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'figure "%" of a run is not valid', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Figures are whole numbers, errors_detail an array: %s.', array_to_string(known, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_stats(jsonb)
    IS 'internal: raises 22004 or 22023 for figures that a run does not have';

-- ledger_end_run: the run has ended, well if it had no error.  Figures that are
-- given replace those that were noted in the run.  A repeated call changes nothing.
-- Writes: ledger_run, ledger_processor.  Locks: the processor's row and the run's.
CREATE FUNCTION jobstate.ledger_end_run(processor text, token uuid, error text DEFAULT NULL, stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    ended text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.ledger_check_stats($4);
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF FOUND THEN
        RETURN jobstate.ledger_close_run($1, run, false, $3, $4);
    END IF;
    SELECT r.state INTO ended FROM jobstate.ledger_run r
     WHERE r.processor COLLATE "C" = $1 AND r.token = $2 AND r.state <> 'lost';
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN ended = 'succeeded';
END
$$;
COMMENT ON FUNCTION jobstate.ledger_end_run(text, uuid, text, jsonb)
    IS 'ends a run, and tells whether it had no error; raises JS001 if somebody else has taken the processor over';
