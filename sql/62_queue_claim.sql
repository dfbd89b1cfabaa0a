-- queue: attempts, from claim to their end ------------------------------------------
--
-- A token names one claim call.  Whoever comes with another token than the job's
-- has lost the lease: nothing is written.  Every verb finds its jobs first and
-- checks state and token again on the row that it locks.

-- claim: the most urgent lane first, in the order of positions; what others hold is
-- passed over.  A paused queue gives nothing.
-- Writes: job; queue_window now and then.  Locks: the jobs; the queue's row, where
-- the queue is limited, until commit.
CREATE FUNCTION jobstate.claim(queue text, worker text, n integer DEFAULT 1, lease interval DEFAULT NULL)
RETURNS TABLE (id bigint, token bigint, attempt smallint, kind text, payload jsonb,
               priority smallint, enqueued_at timestamptz, lease_until timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_claim';
COMMENT ON FUNCTION jobstate.claim(text, text, integer, interval)
    IS 'claims up to n jobs of a queue for a worker; the token is asked for by every later call about them';
