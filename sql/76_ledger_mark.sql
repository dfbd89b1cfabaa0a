-- ledger: marking ------------------------------------------------------------------

-- ledger_record: a line in the records of a run, if there is one.
-- Writes: ledger_outcome.  Locks: the run's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_record(processor text, run_id bigint, kind text, item text, n bigint,
    error text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF run_id IS NOT NULL THEN
        INSERT INTO jobstate.ledger_outcome (processor, run_id, kind, item, n, error)
        VALUES (processor, run_id, kind, item, n, error);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_record(text, bigint, text, text, bigint, text)
    IS 'internal: notes what happened to an item in a run';

-- ledger_run_of: the run that a token stands for, if that still holds its processor;
-- nobody can take the processor over until this transaction ends.
-- Writes nothing.  Locks: the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_run_of(processor text, token uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
BEGIN
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor COLLATE "C" = ledger_run_of.processor AND p.run_token = token
       FOR KEY SHARE;
    RETURN run;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_run_of(text, uuid)
    IS 'internal: the run of a processor that a token stands for; NULL if it does not hold it';

-- ledger_is_processed: whether this very content was processed.  A content without
-- a fingerprint never was.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_is_processed(processor text, item text, fingerprint text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    RETURN EXISTS (SELECT FROM jobstate.ledger l
                    WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.fingerprint = $3
                      AND l.processed_at IS NOT NULL);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_is_processed(text, text, text)
    IS 'true if the item was processed with this fingerprint; a null on either side is not';

-- ledger_mark_claimed: the mark of whoever claimed the item.  Says in which run
-- that was, and when the item was read; nothing if the token is not that of the
-- item's claim.  A repeated call changes nothing, and says when the first one did.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_mark_claimed(processor text, item text, username text, items integer,
    fingerprint text, at timestamptz, token uuid, OUT marked_at timestamptz, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.ledger l
       SET state = 'processed', username = $3, items = $4, fingerprint = $5, processed_at = $6,
           failures = 0, error = NULL, retry_at = NULL, lease_until = NULL
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $7 AND l.state = 'claimed'
    RETURNING l.processed_at, l.run_id INTO marked_at, run_id;
    IF NOT FOUND THEN
        SELECT l.processed_at INTO marked_at FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $7 AND l.state = 'processed';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark_claimed(text, text, text, integer, text, timestamptz, uuid)
    IS 'internal: marks an item that the token claimed';

-- ledger_mark_freely: the mark of somebody who has not claimed the item.  Not done
-- if somebody else has.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_mark_freely(processor text, item text, username text, items integer,
    fingerprint text, at timestamptz)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO jobstate.ledger AS l (processor, item, state, username, items, fingerprint, processed_at)
    VALUES ($1, $2, 'processed', $3, $4, $5, $6)
        ON CONFLICT (processor, item) DO UPDATE
       SET state = excluded.state, username = excluded.username, items = excluded.items,
           fingerprint = excluded.fingerprint, processed_at = excluded.processed_at,
           failures = 0, error = NULL, retry_at = NULL, token = NULL, lease_until = NULL
     WHERE l.state <> 'claimed' OR l.lease_until <= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark_freely(text, text, text, integer, text, timestamptz)
    IS 'internal: marks an item that nobody holds';

-- ledger_mark: an item is processed, as of when it was read.  In the transaction
-- that writes the results, what was processed is exactly what has results.  The
-- token is that of the item's claim or of the processor's run.
-- Writes: ledger, ledger_outcome.  Locks: the item's row; with a run's token first
-- the processor's, KEY SHARE.
CREATE FUNCTION jobstate.ledger_mark(processor text, item text, username text DEFAULT '',
    items integer DEFAULT 0, fingerprint text DEFAULT NULL, read_at timestamptz DEFAULT NULL,
    token uuid DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := coalesce(read_at, clock_timestamp());
    marked timestamptz;
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('username', $3);
    PERFORM jobstate.require_argument('items', $4);
    IF NOT isfinite(at) THEN
        RAISE EXCEPTION 'argument "read_at" must be finite' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF token IS NOT NULL THEN
        SELECT m.marked_at, m.run_id INTO marked, run
          FROM jobstate.ledger_mark_claimed($1, $2, $3, $4, $5, at, token) m;
        IF marked IS NULL THEN
            run := jobstate.ledger_run_of($1, token);
        END IF;
    END IF;
    IF marked IS NULL AND (token IS NULL OR run IS NOT NULL)
       AND jobstate.ledger_mark_freely($1, $2, $3, $4, $5, at) THEN
        marked := at;
    END IF;
    IF marked IS NULL THEN
        PERFORM jobstate.ledger_refuse($1, $2, token);
    END IF;
    PERFORM jobstate.ledger_record($1, run, 'processed', $2, $4);
    RETURN marked;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_mark(text, text, text, integer, text, timestamptz, uuid)
    IS 'an item is processed as of read_at, which is returned and overwrites what an earlier mark said; raises JS001 or JS002 where the token does not hold it';
