-- ledger: health --------------------------------------------------------------------

-- ledger_stuck: the oldest of the items that are to be processed and have not been
-- since before some time.  A row counts under the item's name and, with a root,
-- under its absolute one.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_stuck(processor text, items text[], modified_at timestamptz[], root text,
    before timestamptz, OUT item text, OUT modified timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    SELECT c.item, c.modified_at INTO item, modified
      FROM unnest($2, $3) c (item, modified_at)
     WHERE c.modified_at < $5
       AND NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item
                          AND (l.state = 'dead' OR l.processed_at > c.modified_at))
       AND ($4 IS NULL
            OR NOT EXISTS (SELECT FROM jobstate.ledger l
                            WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = rtrim($4, '/') || '/' || c.item
                              AND (l.state = 'dead' OR l.processed_at > c.modified_at)))
     ORDER BY c.modified_at, c.item COLLATE "C" LIMIT 1;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_stuck(text, text[], timestamptz[], text, timestamptz)
    IS 'internal: the oldest item that waits since before some time';

-- ledger_health: is a processor keeping up with its items?  The caller tells what
-- items there are; null says that it could not find out.
--   ok       it keeps up, or there is no item; before its first success it is behind
--            or well by the newest item alone
--   warning  the newest item is newer than the last success by more than grace
--   info     it keeps up, but has passed an item over for longer than stuck_grace,
--            or items are dead
--   unknown  nobody knows what items there are
-- grace is twice the processor's interval, stuck_grace four times grace, where
-- they are not given or not above zero.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_health(processor text, items text[], modified_at timestamptz[],
    root text DEFAULT NULL, grace interval DEFAULT NULL, stuck_grace interval DEFAULT NULL,
    OUT status text, OUT headline text, OUT lag_seconds bigint, OUT stuck_file text,
    OUT stuck_file_age_seconds bigint, OUT max_processed_at timestamptz, OUT failing bigint,
    OUT dead bigint, OUT claimed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    patience CONSTANT interval := jobstate.ledger_grace($1, $5);
    long CONSTANT interval := CASE WHEN $6 > interval '0' THEN $6 ELSE 4 * patience END;
    newest timestamptz;
    stuck_since timestamptz;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    max_processed_at := jobstate.ledger_max_processed_at($1);
    SELECT coalesce(sum(c.n) FILTER (WHERE c.state = 'failing'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'dead'), 0),
           coalesce(sum(c.n) FILTER (WHERE c.state = 'claimed'), 0)
      INTO failing, dead, claimed
      FROM jobstate.counts('jobstate.ledger', jsonb_build_object('processor', $1)) c;
    SELECT max(m) INTO newest FROM unnest($3) m;
    IF $2 IS NULL OR cardinality($2) > 0 AND newest IS NULL THEN
        status := 'unknown';
        headline := 'nobody knows what there is to do';
        RETURN;
    END IF;
    PERFORM jobstate.ledger_check_candidates($1, $2, coalesce($3, '{}'), NULL, 'head');
    status := CASE WHEN newest - coalesce(max_processed_at, newest) > patience
                     OR max_processed_at IS NULL AND now - newest > patience THEN 'warning' ELSE 'ok' END;
    headline := CASE status WHEN 'warning' THEN 'the processor is behind' ELSE 'the processor keeps up' END;
    IF status = 'warning' THEN
        lag_seconds := extract(epoch FROM newest - max_processed_at);
        RETURN;
    ELSIF newest IS NULL OR max_processed_at IS NULL THEN
        RETURN;
    END IF;
    SELECT s.item, s.modified INTO stuck_file, stuck_since
      FROM jobstate.ledger_stuck($1, $2, $3, $4, now - long) s;
    stuck_file_age_seconds := extract(epoch FROM now - stuck_since);
    status := CASE WHEN stuck_file IS NOT NULL OR dead > 0 THEN 'info' ELSE 'ok' END;
END
$$;
COMMENT ON FUNCTION jobstate.ledger_health(text, text[], timestamptz[], text, interval, interval)
    IS 'whether a processor keeps up with these items: ok, warning, info or unknown, with its lag and the item that waits longest';

-- ledger_grace: how far a processor may be behind.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.ledger_grace(processor text, grace interval)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF grace > interval '0' THEN
        RETURN grace;
    END IF;
    RETURN 2 * coalesce((SELECT p."interval" FROM jobstate.ledger_processor p
                          WHERE p.processor COLLATE "C" = ledger_grace.processor), interval '900 s');
END
$$;
COMMENT ON FUNCTION jobstate.ledger_grace(text, interval)
    IS 'internal: the grace that a call gives, or twice the processor''s interval';
