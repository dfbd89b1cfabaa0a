-- ledger: failures, dead letters, and starting over ------------------------------------

-- ledger_fail_claimed: the failure of whoever claimed the item; NULL if the token is
-- not that of the item's claim.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_fail_claimed(processor text, item text, error text, token uuid,
    retry_at timestamptz, OUT state text, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    max_failures CONSTANT integer := jobstate.ledger_max_failures($1);
BEGIN
    UPDATE jobstate.ledger l
       SET state = CASE WHEN l.failures + 1 >= max_failures THEN 'dead' ELSE 'failing' END,
           failures = l.failures + 1, error = $3, retry_at = $5, lease_until = NULL
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $4 AND l.state = 'claimed'
    RETURNING l.state, l.run_id INTO ledger_fail_claimed.state, ledger_fail_claimed.run_id;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail_claimed(text, text, text, uuid, timestamptz)
    IS 'internal: counts a failure of an item that the token claimed';

-- ledger_fail_freely: the failure of somebody who has not claimed the item; NULL if
-- somebody else has.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_fail_freely(processor text, item text, error text, retry_at timestamptz)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    max_failures CONSTANT integer := jobstate.ledger_max_failures($1);
    becomes text;
BEGIN
    INSERT INTO jobstate.ledger AS l (processor, item, state, failures, error, retry_at)
    VALUES ($1, $2, CASE WHEN max_failures = 1 THEN 'dead' ELSE 'failing' END, 1, $3, $4)
        ON CONFLICT (processor, item) DO UPDATE
       SET state = CASE WHEN l.failures + 1 >= max_failures OR l.state = 'dead' THEN 'dead' ELSE 'failing' END,
           failures = l.failures + 1, error = excluded.error, retry_at = excluded.retry_at,
           token = NULL, lease_until = NULL
     WHERE l.state <> 'claimed' OR l.lease_until <= clock_timestamp()
    RETURNING l.state INTO becomes;
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail_freely(text, text, text, timestamptz)
    IS 'internal: counts a failure of an item that nobody holds';

-- ledger_fail: an item could not be processed.  It is offered again, at once or
-- later, until it has failed as often as its processor's max_failures says; then it
-- is dead.  Called in a transaction of its own, because that of the work is over.
-- Writes: ledger, ledger_outcome.  Locks: as ledger_mark().
CREATE FUNCTION jobstate.ledger_fail(processor text, item text, error text, token uuid DEFAULT NULL,
    retry_after interval DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    retry_at CONSTANT timestamptz := clock_timestamp() + retry_after;
    becomes text;
    run bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('error', $3);
    IF token IS NOT NULL THEN
        SELECT f.state, f.run_id INTO becomes, run
          FROM jobstate.ledger_fail_claimed($1, $2, $3, $4, retry_at) f;
        IF becomes IS NULL THEN
            run := jobstate.ledger_run_of($1, token);
        END IF;
    END IF;
    IF becomes IS NULL AND (token IS NULL OR run IS NOT NULL) THEN
        becomes := jobstate.ledger_fail_freely($1, $2, $3, retry_at);
    END IF;
    IF becomes IS NULL THEN
        PERFORM jobstate.ledger_refuse($1, $2, token);
    END IF;
    PERFORM jobstate.ledger_record($1, run, 'error', $2, 0, $3);
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_fail(text, text, text, uuid, interval)
    IS 'an item failed: "failing" if it is offered again, after retry_after if that is given, "dead" if it failed too often; raises JS001 or JS002';

-- ledger_reset: items are to be processed again, whatever became of them: all of a
-- processor, or some, or those in some states.  Who holds one of them loses it.
-- Writes: ledger.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_reset(processor text, items text[] DEFAULT NULL, states text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    WITH locked AS (
        SELECT l.item FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = (SELECT $1) AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2)) AND ($3 IS NULL OR l.state = ANY ($3))
           AND l.state <> 'pending'
         ORDER BY l.item FOR NO KEY UPDATE)
    UPDATE jobstate.ledger l
       SET state = 'pending', processed_at = NULL, items = 0, fingerprint = NULL, failures = 0, error = NULL,
           retry_at = NULL, token = NULL, lease_until = NULL, run_id = NULL
      FROM locked k
     WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = k.item;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_reset(text, text[], text[])
    IS 'has items processed again, dead ones too: of a processor all, some, or those in some states; tells how many';

-- ledger_forget: the ledger knows nothing of these processors' items any more.
-- Writes: ledger.  Locks: the items' rows.
CREATE FUNCTION jobstate.ledger_forget(processors text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processors', processors);
    DELETE FROM jobstate.ledger l WHERE l.processor COLLATE "C" = ANY (processors);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_forget(text[])
    IS 'deletes all items of these processors from the ledger, and tells how many there were';

-- ledger_retain: forgets the items that are no longer there; what is claimed stays
-- until its claim has ended.  Where none is named nothing is forgotten: a directory that
-- is not mounted looks the same as one that is empty.
-- Writes: ledger.  Locks: the items' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_retain(processor text, items text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    IF array_remove($2, NULL) = '{}' THEN
        RETURN 0;
    END IF;
    DELETE FROM jobstate.ledger d
     WHERE d.processor COLLATE "C" = (SELECT $1)
       AND d.item IN (SELECT l.item FROM jobstate.ledger l
                       WHERE l.processor COLLATE "C" = (SELECT $1) AND l.state <> 'claimed'
                         AND NOT EXISTS (SELECT FROM unnest($2) i WHERE i = l.item COLLATE "C")
                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_retain(text, text[])
    IS 'deletes the items of a processor that are not among these from the ledger, and tells how many; none if none is named';

-- ledger_rename: an item has another name now, and need not be processed for it.
-- Writes: ledger.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_rename(processor text, item text, new_item text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('new_item', $3);
    UPDATE jobstate.ledger l SET item = $3
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.state <> 'claimed'
       AND NOT EXISTS (SELECT FROM jobstate.ledger o WHERE o.processor COLLATE "C" = $1 AND o.item COLLATE "C" = $3);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_rename(text, text, text)
    IS 'an item goes by another name; false if it is not there, is claimed, or there is one of that name';
