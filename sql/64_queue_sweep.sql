-- queue: sweeping, and all of its maintenance ---------------------------------------

-- queue_sweep_keys: drops unique keys whose job is gone, or is in none of the states
-- in which it keeps others out.  It looks at a few pages, anywhere, so that the cost
-- does not grow with the number of keys.  The job is looked at after the key's row
-- is locked, by a statement that sees what was committed until then.
-- Writes: unique_job.  Locks: the keys' rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_sweep_keys()
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    few CONSTANT integer := 16;
    pages CONSTANT bigint := pg_relation_size('jobstate.unique_job') / current_setting('block_size')::bigint;
    first CONSTANT bigint := floor(random() * greatest(pages - few + 1, 1));
    ids bigint[];
    dropped bigint;
BEGIN
    IF pages = 0 THEN
        RETURN 0;
    END IF;
    ids := ARRAY(SELECT u.id FROM jobstate.unique_job u
                  WHERE u.ctid >= format('(%s,0)', first)::tid
                    AND u.ctid < format('(%s,0)', first + few)::tid
                    FOR UPDATE SKIP LOCKED);
    DELETE FROM jobstate.unique_job u
     WHERE u.ctid >= format('(%s,0)', first)::tid AND u.ctid < format('(%s,0)', first + few)::tid
       AND u.id = ANY (ids)
       AND NOT EXISTS (SELECT FROM jobstate.queue_find(ARRAY[u.id]) f
                        WHERE jobstate.queue_state_name(f.state_id) = ANY (u.states));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_keys()
    IS 'internal: drops some of the unique keys that no job holds any more, and tells how many';

-- queue_sweep_dead: drops dead letters about which nobody decided in time.
-- Writes: dead_letter.  Locks: the rows, with SKIP LOCKED.
CREATE FUNCTION jobstate.queue_sweep_dead(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped bigint;
BEGIN
    DELETE FROM jobstate.dead_letter d
     WHERE d.id = ANY (ARRAY(
           SELECT o.id FROM jobstate.dead_letter o
            WHERE o.died_at < clock_timestamp() - (SELECT r.dead_letter_retention FROM jobstate.queue_ring r)
            ORDER BY o.died_at LIMIT n FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_dead(integer)
    IS 'internal: drops dead letters older than the retention, and tells how many';

-- queue_sweep_windows: leaves one row per lane of what is only ever appended to.
-- Who has it locked has seen every row's transaction end, and keeps them all in
-- mind by the greatest.  A transaction that keeps an older snapshot finds nothing,
-- and looks everywhere.
-- Writes: queue_window.  Locks: queue_window against everybody, if it can be had at once.
CREATE FUNCTION jobstate.queue_sweep_windows()
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    large CONSTANT bigint := 65536;
    lanes smallint[];
    floors bigint[];
    ceilings bigint[];
    settleds bigint[];
BEGIN
    IF pg_relation_size('jobstate.queue_window') < large
       OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN false;
    END IF;
    LOCK TABLE jobstate.queue_window IN ACCESS EXCLUSIVE MODE NOWAIT;
    SELECT array_agg(w.lane), array_agg(w.floor), array_agg(w.ceiling), array_agg(w.settled)
      INTO lanes, floors, ceilings, settleds
      FROM (SELECT w.lane, max(w.floor) AS floor, max(w.ceiling) AS ceiling, max(w.settled) AS settled
              FROM jobstate.queue_window w GROUP BY w.lane) w;
    TRUNCATE jobstate.queue_window;
    INSERT INTO jobstate.queue_window (lane, floor, ceiling, settled)
    SELECT * FROM unnest(lanes, floors, ceilings, settleds);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION jobstate.queue_sweep_windows()
    IS 'internal: condenses what is known of each lane to one row; true if it did';

-- maintain_queue: a step of the queue's maintenance, for jobstate.maintain().  True
-- means that the same step has more to do, false that the next one may come, null
-- that there is none, or that the queue is not the caller's.
-- Writes and locks what the functions called say.
CREATE FUNCTION jobstate.maintain_queue(step integer)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    many CONSTANT integer := 1000;
BEGIN
    IF NOT coalesce((SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c
                      WHERE c.oid = to_regclass('jobstate.job')), false) THEN
        RETURN NULL;
    END IF;
    CASE step
        WHEN 0 THEN
            RETURN (SELECT count(*) >= many FROM jobstate.rescue(many));
        WHEN 1 THEN
            RETURN jobstate.promote(NULL, many) >= many;
        WHEN 2 THEN
            PERFORM jobstate.rotate();
            RETURN false;
        WHEN 3 THEN
            RETURN EXISTS (SELECT FROM jobstate.prune_slots(1));
        WHEN 4 THEN
            RETURN jobstate.queue_prune_kept(many) >= many;
        WHEN 5 THEN
            RETURN jobstate.queue_sweep_dead(many) >= many;
        WHEN 6 THEN
            PERFORM jobstate.queue_sweep_keys();
            PERFORM jobstate.queue_sweep_windows();
            RETURN false;
        ELSE
            RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.maintain_queue(integer)
    IS 'internal: a step of the queue''s maintenance, called by maintain(): rescue, promote, rotate, prune, sweep';
