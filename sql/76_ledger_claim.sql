-- ledger: claiming -----------------------------------------------------------------
--
-- A claim is a row that others can see, so it is committed before the work begins.
-- The mark carries its token and goes with the results: either both are there, or
-- neither, and the item is offered again once the lease has ended.

-- ledger_expire: a claim whose lease has ended is a failure, so that an item that
-- kills its workers ends dead.  Tells how many claims had ended.  Behind an old
-- snapshot a lease that was set back by hand may be found five seconds later, see
-- low_end().
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.ledger_expire(processor text DEFAULT NULL, items text[] DEFAULT NULL, n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ended record;
    expired bigint := 0;
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    since := jobstate.low_end('jobstate.ledger', 'lease_until', 'lease_until IS NOT NULL', 5);
    FOR ended IN
        SELECT l.processor, l.item, l.run_id FROM jobstate.ledger l
         WHERE l.lease_until BETWEEN since AND clock_timestamp()
           AND ($1 IS NULL OR l.processor COLLATE "C" = $1) AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2))
         ORDER BY l.processor, l.item LIMIT $3
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        UPDATE jobstate.ledger l
           SET state = CASE WHEN l.failures + 1 >= jobstate.ledger_max_failures(l.processor)
                            THEN 'dead' ELSE 'failing' END,
               failures = l.failures + 1, error = 'the lease ended', retry_at = NULL, lease_until = NULL
         WHERE l.processor COLLATE "C" = ended.processor AND l.item = ended.item;
        PERFORM jobstate.ledger_record(ended.processor, ended.run_id, 'error', ended.item, 0, 'the lease ended');
        expired := expired + 1;
    END LOOP;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_expire(text, text[], integer)
    IS 'internal: counts claims whose lease has ended as failures, and tells how many';

-- ledger_claim_rows: claims those candidates that can be had, and returns their
-- items.  What another transaction has locked is passed over; only one that is
-- inserting the first row of an item is waited for.  (So rows that are there are kept
-- out of the insert: it would wait for whoever is writing a newer version of one.)  Rows that were there are judged
-- again once they are locked, because somebody may have marked them meanwhile.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows.
CREATE FUNCTION jobstate.ledger_claim_rows(processor text, items text[], modified_at timestamptz[],
    fingerprints text[], rule text, worker text, token uuid, lease_until timestamptz, run_id bigint)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fresh text[];
    locked text[];
    again text[];
BEGIN
    WITH born AS (
        INSERT INTO jobstate.ledger (processor, item, state, attempt, claimed_by, token, lease_until, run_id)
        SELECT $1, i, 'claimed', 1, $6, $7, $8, $9 FROM unnest($2) i
         WHERE NOT EXISTS (SELECT FROM jobstate.ledger l WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = i)
         ORDER BY i COLLATE "C"
            ON CONFLICT DO NOTHING RETURNING item)
    SELECT coalesce(array_agg(b.item), '{}') INTO fresh FROM born b;
    PERFORM jobstate.ledger_expire($1, $2);
    locked := ARRAY(SELECT l.item FROM jobstate.ledger l
                     WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = ANY ($2) AND l.item COLLATE "C" <> ALL (fresh)
                     ORDER BY l.item FOR NO KEY UPDATE SKIP LOCKED);
    WITH taken AS (
        UPDATE jobstate.ledger l
           SET state = 'claimed', attempt = l.attempt + 1, claimed_by = $6, token = $7,
               lease_until = $8, run_id = $9
         WHERE l.processor COLLATE "C" = (SELECT $1)
           AND l.item COLLATE "C" IN (SELECT u.item FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
                           WHERE u.item COLLATE "C" = ANY (locked))
        RETURNING l.item)
    SELECT coalesce(array_agg(t.item), '{}') INTO again FROM taken t;
    RETURN fresh || again;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_claim_rows(text, text[], timestamptz[], text[], text, text, uuid, timestamptz, bigint)
    IS 'internal: claims candidates, and returns those that it got';

-- ledger_allowance: how many items may still be taken: NULL is any number.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_allowance(processor text, n integer, run_id bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run record;
    used bigint;
BEGIN
    IF $3 IS NULL THEN
        SELECT p.cap INTO run FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1;
        RETURN CASE WHEN n > 0 THEN n WHEN n IS NOT NULL THEN NULL WHEN FOUND THEN run.cap ELSE 50 END;
    END IF;
    SELECT r.cap, r.stop_at INTO run FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.id = $3;
    SELECT coalesce(sum(CASE o.kind WHEN 'taken' THEN o.n ELSE -1 END), 0) INTO used
      FROM jobstate.ledger_outcome o
     WHERE o.processor COLLATE "C" = $1 AND o.run_id = $3 AND o.kind IN ('taken', 'skipped', 'released');
    RETURN CASE WHEN run.stop_at <= clock_timestamp() THEN 0
                ELSE least(CASE WHEN n > 0 THEN n END,
                           CASE WHEN run.cap IS NOT NULL THEN greatest(run.cap - used, 0) END) END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_allowance(text, integer, bigint)
    IS 'internal: how many items a call may take, by its own limit and the run''s cap and time';

-- ledger_take: claims candidates that are to be processed, in their order, as many as
-- cap and time allow.  A run looks at an item once.
-- Writes: ledger, ledger_outcome.  Locks: the items' rows, with SKIP LOCKED; with a
-- run first the processor's row, KEY SHARE.
CREATE FUNCTION jobstate.ledger_take(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', n integer DEFAULT NULL, worker text DEFAULT '',
    lease interval DEFAULT NULL, run uuid DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, token uuid, attempt integer, read_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    until CONSTANT timestamptz := at + jobstate.ledger_lease($1, $8);
    secret CONSTANT uuid := gen_random_uuid();
    in_run bigint;
    allowed bigint;
    looked integer := 0;
    upto integer;
    found_items text[];
    nths bigint[];
    times timestamptz[];
    prints text[];
    got text[] := '{}';
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    PERFORM jobstate.require_argument('worker', worker);
    IF run IS NOT NULL THEN
        in_run := jobstate.ledger_require_run($1, run);
    END IF;
    allowed := jobstate.ledger_allowance($1, n, in_run);
    SELECT array_agg(u.item), array_agg(u.nth), array_agg(u.modified), array_agg(u.given_fingerprint)
      INTO found_items, nths, times, prints
      FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
     WHERE in_run IS NULL
        OR NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = u.item AND l.run_id = in_run);
    WHILE looked < cardinality(found_items) AND (allowed IS NULL OR cardinality(got) < allowed) LOOP
        upto := least(looked + coalesce(allowed - cardinality(got), 1000), cardinality(found_items));
        got := got || jobstate.ledger_claim_rows($1, found_items[looked + 1:upto],
                          CASE WHEN $3 IS NOT NULL THEN times[looked + 1:upto] END,
                          CASE WHEN $4 IS NOT NULL THEN prints[looked + 1:upto] END,
                          $5, worker, secret, until, in_run);
        looked := upto;
    END LOOP;
    PERFORM jobstate.ledger_record($1, in_run, 'scanned', NULL, cardinality($2)),
            jobstate.ledger_record($1, in_run, 'taken', NULL, cardinality(got)),
            jobstate.ledger_record($1, in_run, 'capped', NULL, coalesce(cardinality(found_items), 0) - looked);
    RETURN QUERY
        SELECT l.item, min(c.nth), secret, l.attempt, at, until
          FROM unnest(found_items[:looked], nths[:looked]) c (item, nth)
          JOIN jobstate.ledger l ON l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item AND l.token = secret
         GROUP BY l.item, l.attempt ORDER BY 2;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_take(text, text[], timestamptz[], text[], text, integer, text, interval, uuid)
    IS 'claims candidates that are to be processed: their items, the claim''s token, and read_at, from before they can be read';

-- ledger_claim: claims one item, unless it is held, dead, not due, or processed as it is.
-- Writes and locks as ledger_take() does.
CREATE FUNCTION jobstate.ledger_claim(processor text, item text, fingerprint text DEFAULT NULL,
    modified_at timestamptz DEFAULT NULL, worker text DEFAULT '', lease interval DEFAULT NULL,
    run uuid DEFAULT NULL)
RETURNS TABLE (token uuid, attempt integer, read_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('item', $2);
    RETURN QUERY
        SELECT t.token, t.attempt, t.read_at, t.lease_until
          FROM jobstate.ledger_take($1, ARRAY[$2], ARRAY[$4], ARRAY[$3], 'fingerprint', 1, worker, lease, run) t;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_claim(text, text, text, timestamptz, text, interval, uuid)
    IS 'claims an item: the token that its mark has to carry; no row if it is held, dead, not due, or processed as it is';

-- ledger_heartbeat: the claimer is still at it.  All of the items, or none.
-- Writes: ledger.  Locks: the items' rows, in their order.
CREATE FUNCTION jobstate.ledger_heartbeat(processor text, items text[], token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $4);
    held text[];
    lost text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    PERFORM jobstate.require_argument('token', $3);
    held := ARRAY(SELECT l.item FROM jobstate.ledger l
                   WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = ANY ($2) AND l.token = $3 AND l.state = 'claimed'
                   ORDER BY l.item FOR NO KEY UPDATE);
    SELECT min(i COLLATE "C") INTO lost FROM unnest($2) i WHERE i <> ALL (held);
    IF lost IS NOT NULL THEN
        PERFORM jobstate.ledger_refuse($1, lost);
    END IF;
    UPDATE jobstate.ledger l SET lease_until = until WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = ANY (held);
    RETURN until;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_heartbeat(text, text[], uuid, interval)
    IS 'extends the lease on claimed items, and tells until when; raises JS001 or JS002 if one is not the token''s';

-- ledger_release: gives a claimed item back that was not processed: it is as it was
-- before.  Skipped means that its content is that which was processed; then it is
-- no longer failing either.
-- Writes: ledger, ledger_outcome.  Locks: the item's row.
CREATE FUNCTION jobstate.ledger_release(processor text, item text, token uuid, skipped boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    becomes text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('token', $3);
    PERFORM jobstate.require_argument('skipped', $4);
    SELECT l.run_id, CASE WHEN l.processed_at IS NOT NULL AND (skipped OR l.failures = 0) THEN 'processed'
                          WHEN l.failures > 0 THEN 'failing' ELSE 'pending' END
      INTO run, becomes FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $3 AND l.state = 'claimed'
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_refuse($1, $2, $3);
    END IF;
    UPDATE jobstate.ledger l
       SET state = becomes, lease_until = NULL, token = NULL,
           failures = CASE becomes WHEN 'failing' THEN l.failures ELSE 0 END,
           error = CASE becomes WHEN 'failing' THEN l.error END,
           run_id = CASE WHEN skipped THEN l.run_id END
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2;
    PERFORM jobstate.ledger_record($1, run, CASE WHEN skipped THEN 'skipped' ELSE 'released' END, $2, 0);
    RETURN becomes;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_release(text, text, uuid, boolean)
    IS 'gives a claimed item back unprocessed, or skipped because its content was processed before; returns its state';
