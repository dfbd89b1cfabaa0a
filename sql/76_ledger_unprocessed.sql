-- ledger: what is to be processed ------------------------------------------------------

-- ledger_check_candidates: parallel arrays have as many elements as there are items.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_check_candidates(processor text, items text[], modified_at timestamptz[],
    fingerprints text[], rule text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n CONSTANT integer := cardinality(items);
BEGIN
    PERFORM jobstate.require_argument('processor', processor);
    PERFORM jobstate.require_argument('items', items);
    PERFORM jobstate.require_argument('rule', rule);
    IF rule NOT IN ('head', 'seed', 'fingerprint') THEN
        RAISE EXCEPTION 'rule "%" does not exist', rule
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Rules: head, seed, fingerprint.';
    ELSIF n <> cardinality(modified_at) OR n <> cardinality(fingerprints) THEN
        RAISE EXCEPTION 'arrays have different numbers of elements'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('There are %s items, %s times and %s fingerprints.', n,
                                  coalesce(cardinality(modified_at)::text, 'no'),
                                  coalesce(cardinality(fingerprints)::text, 'no')),
                  HINT = 'Give each item one element in every array, which may be null, or leave the array out.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_check_candidates(text, text[], timestamptz[], text[], text)
    IS 'internal: raises 22004 or 22023 for candidates that make no sense';

-- ledger_unprocessed: which of the candidates are to be processed, in their order.
-- One anti-join: a candidate is out if its row says that it is done with, held, not
-- due or dead.  The comparison of a processed item is one of three:
--   head         modified at or after it was read, or up to 50 ms before and with
--                another fingerprint, for clocks of coarse files
--   seed         modified after it was read
--   fingerprint  another fingerprint, where one is given, else as head
-- What is not known (no time, no fingerprint) never keeps an item out; but where no
-- times are given at all, only fingerprints are compared.
-- The processor stands in a subquery, here and wherever many items are asked for: of one
-- that the statistics do not know the planner would expect no row, and look at all for each.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_unprocessed(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', max_items integer DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, modified timestamptz, given_fingerprint text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    skew CONSTANT interval := '50 ms';
    now CONSTANT timestamptz := clock_timestamp();
    how CONSTANT text := CASE WHEN $3 IS NOT NULL THEN rule ELSE 'given' END;
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    RETURN QUERY
        SELECT c.item, c.nth, c.modified_at, c.fingerprint
          FROM unnest($2, $3, $4) WITH ORDINALITY c (item, modified_at, fingerprint, nth)
         WHERE c.item IS NOT NULL
           AND NOT EXISTS (
               SELECT FROM jobstate.ledger l
                WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item
                  AND CASE l.state
                      WHEN 'processed' THEN
                          CASE WHEN how = 'seed' THEN c.modified_at <= l.processed_at
                               WHEN how <> 'head' AND c.fingerprint IS NOT NULL THEN c.fingerprint = l.fingerprint
                               WHEN how = 'given' THEN true
                               ELSE c.modified_at < l.processed_at - skew
                                    OR c.modified_at < l.processed_at AND c.fingerprint = l.fingerprint END
                      WHEN 'claimed' THEN l.lease_until > now
                      WHEN 'failing' THEN l.retry_at > now
                      ELSE l.state = 'dead' END)
         ORDER BY c.nth
         LIMIT CASE WHEN max_items > 0 THEN max_items END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_unprocessed(text, text[], timestamptz[], text[], text, integer)
    IS 'which of the candidates are to be processed, in their order, and the how manieth each is';

-- ledger_items: what is known of some items, or of all; what is not known is not there.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_items(processor text, items text[] DEFAULT NULL)
RETURNS TABLE (item text, status text, state text, username text, processed_at timestamptz, extracted integer,
               fingerprint text, failures integer, error text, claimed_by text, lease_until timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN QUERY
        SELECT l.item, CASE WHEN l.processed_at IS NULL THEN 'pending'
                            WHEN l.items > 0 THEN 'extracted' ELSE 'processed' END,
               l.state, l.username, l.processed_at, l.items, l.fingerprint, l.failures, l.error,
               CASE WHEN l.state = 'claimed' THEN l.claimed_by END, l.lease_until
          FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = $1 AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2))
         ORDER BY l.item;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_items(text, text[])
    IS 'what the ledger says of items of a processor; status is pending, extracted or processed, whatever happens to the item now';

-- ledger_activity: the last success, and what was extracted since some time, that
-- time included.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_activity(processor text, since timestamptz DEFAULT '-infinity',
    OUT max_processed_at timestamptz, OUT items bigint, OUT processed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('since', $2);
    SELECT max(l.processed_at), coalesce(sum(l.items), 0), count(*)
      INTO max_processed_at, items, processed
      FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.processed_at >= $2;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_activity(text, timestamptz)
    IS 'when a processor last had success, and how many items it processed and extracted since some time';

-- ledger_max_processed_at: the last success, found without looking at all others.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_max_processed_at(processor text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN (SELECT max(l.processed_at) FROM jobstate.ledger l WHERE l.processor COLLATE "C" = $1);
END
$$;
COMMENT ON FUNCTION jobstate.ledger_max_processed_at(text)
    IS 'when a processor last had success; null if never';
