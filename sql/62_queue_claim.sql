-- queue: attempts, from claim to their end ------------------------------------------
--
-- A token names one claim call.  Whoever comes with another token than the job's
-- has lost the lease: nothing is written.  Every verb finds its jobs first and
-- checks state and token again on the row that it locks.

-- claim_limits: what a limited queue still allows: how many jobs more, and which
-- keys are at their limit.  The counts include what the caller's transaction did.
-- Writes nothing.  Locks: the queue's row, where it has limits; it is held until
-- commit, so that the next claimer counts what this one took.
CREATE FUNCTION jobstate.claim_limits(queue text, OUT room bigint, OUT full_keys text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    per_queue integer;
    per_key integer;
BEGIN
    SELECT q.max_running, q.max_running_per_key INTO per_queue, per_key
      FROM jobstate.queue q WHERE q.queue = $1 FOR NO KEY UPDATE;
    SELECT per_queue - coalesce(sum(c.n), 0) INTO room
      FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', $1)) c
     WHERE c.state = 'running';
    full_keys := ARRAY(
        SELECT c.group_key ->> 'limit_key'
          FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', $1)) c
         WHERE c.state = 'running' AND c.group_key ->> 'limit_key' IS NOT NULL
         GROUP BY 1 HAVING sum(c.n) >= per_key);
END
$$;
COMMENT ON FUNCTION jobstate.claim_limits(text)
    IS 'internal: the room that a queue''s limits leave, and the keys without any';

-- claim_lanes: the lanes of a queue that have jobs, the one to be served first in
-- front.  A head that has waited k times the queue's aging counts k priorities more.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.claim_lanes(queue text)
RETURNS SETOF smallint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT l.lane
          FROM jobstate.queue q
          JOIN jobstate.queue_lane l ON l.queue = q.queue
         CROSS JOIN LATERAL (
                SELECT j.run_at, clock_timestamp() - j.run_at AS waited FROM jobstate.job j
                 WHERE j."position" BETWEEN l.lane::bigint << 48 AND l.lane::bigint << 48 | 281474976710655
                   AND j.state_id = 1
                 ORDER BY j."position" LIMIT 1) head
         WHERE q.queue = $1
         ORDER BY l.priority - floor(extract(epoch FROM head.waited) / extract(epoch FROM q.aging)),
                  head.run_at;
END
$$;
COMMENT ON FUNCTION jobstate.claim_lanes(text)
    IS 'internal: the lanes of a queue in the order in which they are served';

-- claim_from: gives up to n jobs of a lane to a worker, in the order of their
-- positions, passing over what others are about to take.
-- Writes: job.  Locks: the jobs, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.claim_from(lane smallint, worker text, n bigint, fresh bigint, lease interval,
    full_keys text[])
RETURNS TABLE (id bigint, token bigint, attempt smallint, kind text, payload jsonb,
               priority smallint, enqueued_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
        UPDATE jobstate.job j
           SET state_id = 2, attempt = j.attempt + 1, token = $4, worker = $2, claimed_at = now,
               lease_until = now + least($5, j.timeout)
          FROM (SELECT c.slot, c."position" FROM jobstate.job c
                 WHERE c."position" BETWEEN $1::bigint << 48 AND $1::bigint << 48 | 281474976710655
                   AND c.state_id = 1
                   AND (c.limit_key = ANY ($6)) IS NOT TRUE
                 ORDER BY c."position" LIMIT $3 FOR UPDATE SKIP LOCKED) c
         WHERE j.slot = c.slot AND j."position" = c."position"
        RETURNING j.id, j.token, j.attempt, j.kind, j.payload, j.priority, j.enqueued_at, j.lease_until;
END
$$;
COMMENT ON FUNCTION jobstate.claim_from(smallint, text, bigint, bigint, interval, text[])
    IS 'internal: claims jobs of one lane';

-- claim: up to n jobs of a queue for a worker, under one fresh token.  Commit
-- before working: the lease only protects what others can see.
-- Writes: job.  Locks: the jobs, with SKIP LOCKED; the queue's row, where it has limits.
CREATE FUNCTION jobstate.claim(queue text, worker text, n integer DEFAULT 1, lease interval DEFAULT NULL)
RETURNS TABLE (id bigint, token bigint, attempt smallint, kind text, payload jsonb,
               priority smallint, enqueued_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    setting jobstate.queue;
    limits record;
    fresh CONSTANT bigint := uuid_hash_extended(gen_random_uuid(), 0) & 9223372036854775807;
    left_over bigint := n;
    from_lane smallint;
    got bigint;
BEGIN
    PERFORM jobstate.require_argument('queue', queue);
    PERFORM jobstate.require_positive('n', n > 0);
    PERFORM jobstate.require_positive('lease', coalesce(lease, '1 s') > '0');
    SELECT * INTO setting FROM jobstate.queue q WHERE q.queue = $1;
    IF NOT FOUND OR setting.paused_at IS NOT NULL THEN
        RETURN;
    END IF;
    FOR from_lane IN SELECT l FROM jobstate.claim_lanes($1) l LOOP
        WHILE left_over > 0 LOOP
            IF num_nonnulls(setting.max_running, setting.max_running_per_key) > 0 THEN
                SELECT * INTO limits FROM jobstate.claim_limits($1);
                EXIT WHEN limits.room <= 0;
            ELSE
                SELECT left_over AS room, NULL::text[] AS full_keys INTO limits;
            END IF;
            -- One at a time, where each may fill up its key.
            RETURN QUERY
                SELECT c.* FROM jobstate.claim_from(from_lane, $2,
                    CASE WHEN setting.max_running_per_key IS NULL THEN least(left_over, limits.room) ELSE 1 END,
                    fresh, coalesce($4, setting.lease), limits.full_keys) c;
            GET DIAGNOSTICS got = ROW_COUNT;
            EXIT WHEN got = 0;
            left_over := left_over - got;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.claim(text, text, integer, interval)
    IS 'claims up to n jobs of a queue for a worker; the token is asked for by every later call about them';
