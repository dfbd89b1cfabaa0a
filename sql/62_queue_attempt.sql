-- queue: what a worker says about its jobs --------------------------------------------

-- queue_require_length: one element for each id, or no list at all; null elements
-- mean that nothing is given for that id.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_length(argument text, ids bigint[], elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cardinality(ids) <> cardinality(elements) THEN
        RAISE EXCEPTION 'arguments "ids" and "%" must have the same length', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(ids), cardinality(elements)),
                  HINT = 'Give one element for each id, null where nothing is meant.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_length(text, bigint[], anyarray)
    IS 'raises 22023 unless there is no list or one element for each id';

-- queue_held: the jobs that run under these tokens, as far as the statement's
-- snapshot knows; of an id that is given twice, the first counts.
-- Writes nothing, locks nothing: check state and token again on the locked row.
CREATE FUNCTION jobstate.queue_held(ids bigint[], tokens bigint[])
RETURNS TABLE (id bigint, token bigint, ord bigint, "position" bigint, slot smallint, state_id smallint)
LANGUAGE sql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.id, g.token, g.ord, f."position", f.slot, f.state_id
      FROM (SELECT DISTINCT ON (u.id) u.id, u.token, u.ord
              FROM unnest($1, $2) WITH ORDINALITY u (id, token, ord)
             ORDER BY u.id, u.ord) g
      JOIN jobstate.queue_find($1) f ON f.id = g.id
     ORDER BY g.id
$$;
COMMENT ON FUNCTION jobstate.queue_held(bigint[], bigint[])
    IS 'internal: where the given jobs are, with the token that was given for each';

-- queue_refuse: why a token does not hold a job, from what the job is now; without a
-- token, why the job is not one for the verb.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_refuse(id bigint, token bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
DECLARE
    job record;
BEGIN
    SELECT jobstate.queue_state_name(f.state_id) AS state, j.token INTO job
      FROM jobstate.queue_find(ARRAY[$1]) f
      JOIN jobstate.job j ON j.slot = f.slot AND j."position" = f."position";
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse('not found', $1);
    ELSIF $2 IS NOT NULL AND (job.token IS DISTINCT FROM $2 OR job.state IN ('available', 'deferred')) THEN
        PERFORM jobstate.queue_refuse('lease lost', $1, job.state);
    ELSE
        PERFORM jobstate.queue_refuse('wrong state', $1, job.state);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_refuse(bigint, bigint)
    IS 'internal: raises JS001, JS002 or JS003 for a job and a token';

-- complete: the attempts' good end.  What its token completed before is told again,
-- and nothing is written.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.complete(ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_complete';
COMMENT ON FUNCTION jobstate.complete(bigint[], bigint[], jsonb[])
    IS 'completes jobs, with their results, and returns those that the tokens held';

CREATE FUNCTION jobstate.complete(id bigint, token bigint, result jsonb DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_complete_one';
COMMENT ON FUNCTION jobstate.complete(bigint, bigint, jsonb)
    IS 'completes a job; raises JS001, JS002 or JS003 where the token does not hold it';

-- heartbeat: keeps leases, and tells whether somebody wants the job cancelled.  No
-- lease goes beyond the job's timeout.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.heartbeat(ids bigint[], tokens bigint[], lease interval DEFAULT NULL)
RETURNS TABLE (id bigint, lease_until timestamptz, cancel_requested boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.require_positive('lease', coalesce(lease, '1 s') > '0');
    PERFORM jobstate.queue_hold(ids);
    RETURN QUERY
        UPDATE jobstate.job j
           SET lease_until = least(j.claimed_at + j.timeout, clock_timestamp()
                   + coalesce($3, (SELECT q.lease FROM jobstate.queue q WHERE q.queue = j.queue)))
          FROM jobstate.queue_held(ids, tokens) h
         WHERE j.slot = h.slot AND j."position" = h."position"
           AND j.state_id = 2 AND j.token = h.token
        RETURNING j.id, j.lease_until, j.cancel_requested;
END
$$;
COMMENT ON FUNCTION jobstate.heartbeat(bigint[], bigint[], interval)
    IS 'extends the leases that the tokens hold, and tells which jobs are to be cancelled';

CREATE FUNCTION jobstate.heartbeat(id bigint, token bigint, lease interval DEFAULT NULL,
    OUT lease_until timestamptz, OUT cancel_requested boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    SELECT h.lease_until, h.cancel_requested INTO lease_until, cancel_requested
      FROM jobstate.heartbeat(ARRAY[$1], ARRAY[$2], $3) h;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.heartbeat(bigint, bigint, interval)
    IS 'extends a lease; raises JS001, JS002 or JS003 where the token does not hold the job';

-- queue_errors: a job's errors with one more: the newest ten are kept, and 8192
-- characters of each.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_errors(errors jsonb, attempt integer, error text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_path_query_array(coalesce($1, '[]') || jsonb_build_object(
        'attempt', $2, 'at', clock_timestamp(),
        'error', CASE WHEN length($3) > 8192
                      THEN format('%s (cut, %s characters)', left($3, 8192), length($3)) ELSE $3 END),
        '$[last - 9 to last]')
$$;
COMMENT ON FUNCTION jobstate.queue_errors(jsonb, integer, text)
    IS 'internal: appends an error, keeping the newest ten';

-- queue_backoff: how long the next attempt waits: doubled each time, a quarter more
-- or less so that what failed together does not come back together, a day at most.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_backoff(backoff interval, attempt integer)
RETURNS interval
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT make_interval(secs => least(86400,
        extract(epoch FROM $1)::float8 * 2 ^ least($2 - 1, 60) * (0.75 + random() / 2)))
$$;
COMMENT ON FUNCTION jobstate.queue_backoff(interval, integer)
    IS 'internal: the delay after a failed attempt';

-- queue_put_back: ends a running attempt that did not complete, on the row that
-- the caller has locked.
-- Writes: job.  Locks nothing more.
CREATE FUNCTION jobstate.queue_put_back(slot smallint, "position" bigint, outcome text, errors jsonb,
    due timestamptz, attempt integer)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.job j
       SET state_id = CASE $3 WHEN 'deferred' THEN 3 WHEN 'failed' THEN 5 WHEN 'cancelled' THEN 6 END,
           slot = CASE $3 WHEN 'deferred' THEN -1::smallint ELSE j.slot END,
           run_at = CASE $3 WHEN 'deferred' THEN $5 ELSE j.run_at END,
           finished_at = CASE $3 WHEN 'deferred' THEN NULL ELSE clock_timestamp() END,
           attempt = $6, errors = $4, lease_until = NULL
     WHERE j.slot = $1 AND j."position" = $2;
END
$$;
COMMENT ON FUNCTION jobstate.queue_put_back(smallint, bigint, text, jsonb, timestamptz, integer)
    IS 'internal: moves a running job to deferred, failed or cancelled';

-- queue_end_attempts: what fail(), snooze() and rescue() have in common.  A job
-- that somebody wants cancelled does not run again.  A null error is a snooze: the
-- attempt is given back.
-- Writes: job, dead_letter.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.queue_end_attempts(ids bigint[], tokens bigint[], errors text[],
    delays interval[], retryables boolean[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    job record;
    history jsonb;
BEGIN
    PERFORM jobstate.queue_hold(ids);
    FOR job IN
        SELECT j.id, j.slot, j."position", j.attempt, j.errors, j.cancel_requested, q.dead_letters,
               ($3)[h.ord] AS error, j.attempt < j.max_attempts AND coalesce(($5)[h.ord], true) AS again,
               coalesce(($4)[h.ord], jobstate.queue_backoff(coalesce(q.backoff, '1 s'), j.attempt)) AS delay
          FROM jobstate.queue_held(ids, tokens) h
          JOIN jobstate.job j ON j.slot = h.slot AND j."position" = h."position"
          LEFT JOIN jobstate.queue q ON q.queue = j.queue
         WHERE j.state_id = 2 AND j.token = h.token
         ORDER BY j.id
    LOOP
        id := job.id;
        outcome := CASE WHEN job.cancel_requested THEN 'cancelled'
                        WHEN job.again OR job.error IS NULL THEN 'deferred'
                        WHEN coalesce(job.dead_letters, true) THEN 'dead'
                        ELSE 'failed' END;
        history := CASE WHEN job.error IS NULL THEN job.errors
                        ELSE jobstate.queue_errors(job.errors, job.attempt, job.error) END;
        IF outcome = 'dead' THEN
            PERFORM jobstate.queue_bury(ARRAY[id], ARRAY[history]);
        ELSE
            PERFORM jobstate.queue_put_back(job.slot, job."position", outcome, history,
                clock_timestamp() + job.delay, job.attempt - (job.error IS NULL AND outcome = 'deferred')::integer);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.queue_end_attempts(bigint[], bigint[], text[], interval[], boolean[])
    IS 'internal: ends attempts that did not complete, and tells what became of each job';

-- queue_ended: what these tokens brought about before, for a caller that says it again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_ended(ids bigint[], tokens bigint[], but bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT h.id, s.name
          FROM jobstate.queue_held(ids, tokens) h
          JOIN jobstate.job j ON j.slot = h.slot AND j."position" = h."position"
          JOIN jobstate.state s ON s.machine = 'job' AND s.state_id = j.state_id
         WHERE j.state_id > 2 AND j.token = h.token AND (h.id = ANY (but)) IS NOT TRUE;
END
$$;
COMMENT ON FUNCTION jobstate.queue_ended(bigint[], bigint[], bigint[])
    IS 'internal: the states that jobs have reached under these tokens';

-- fail: the attempts' bad end.  A job that may be tried again is deferred, by its
-- queue's backoff or for as long as is said here.
-- Writes: job, dead_letter.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.fail(ids bigint[], tokens bigint[], errors text[],
    retry_afters interval[] DEFAULT NULL, retryables boolean[] DEFAULT NULL)
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    done bigint[] := '{}';
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.queue_require_pairs('errors', ids, errors);
    PERFORM jobstate.queue_require_length('retry_afters', ids, retry_afters);
    PERFORM jobstate.queue_require_length('retryables', ids, retryables);
    PERFORM jobstate.queue_delay_check('retry_after', d) FROM unnest(retry_afters) d WHERE d < '0';
    FOR id, outcome IN
        SELECT e.id, e.outcome FROM jobstate.queue_end_attempts(ids, tokens, errors, retry_afters, retryables) e
    LOOP
        done := done || id;
        RETURN NEXT;
    END LOOP;
    IF cardinality(done) < cardinality(ids) THEN
        RETURN QUERY
            SELECT e.id, e.outcome FROM jobstate.queue_ended(ids, tokens, done) e WHERE e.outcome <> 'completed';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.fail(bigint[], bigint[], text[], interval[], boolean[])
    IS 'ends attempts with errors: each job is deferred, failed, dead or cancelled';

CREATE FUNCTION jobstate.fail(id bigint, token bigint, error text,
    retry_after interval DEFAULT NULL, retryable boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    SELECT f.outcome INTO said
      FROM jobstate.fail(ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5]) f;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN said;
END
$$;
COMMENT ON FUNCTION jobstate.fail(bigint, bigint, text, interval, boolean)
    IS 'ends an attempt with an error: deferred, failed, dead or cancelled; raises JS001, JS002 or JS003';

-- queue_delay_check: refuses to go back in time.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_delay_check(argument text, delay interval)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, delay);
    IF delay < '0' THEN
        RAISE EXCEPTION 'argument "%" must not be negative', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', delay),
                  HINT = 'Zero means at once.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_delay_check(text, interval)
    IS 'internal: raises 22004 or 22023 for a delay that is null or negative';

-- snooze: not now.  The attempt does not count.
-- Writes: job.  Locks: the jobs, in the order of their ids.
CREATE FUNCTION jobstate.snooze(ids bigint[], tokens bigint[], delays interval[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    PERFORM jobstate.queue_require_pairs('delays', ids, delays);
    PERFORM jobstate.queue_delay_check('delay', d) FROM unnest(delays) d WHERE d < '0';
    RETURN QUERY
        SELECT e.id, e.outcome FROM jobstate.queue_end_attempts(ids, tokens, NULL, delays, NULL) e;
END
$$;
COMMENT ON FUNCTION jobstate.snooze(bigint[], bigint[], interval[])
    IS 'defers running jobs and gives the attempts back; one that is to be cancelled is cancelled';

CREATE FUNCTION jobstate.snooze(id bigint, token bigint, delay interval)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    SELECT s.outcome INTO said FROM jobstate.snooze(ARRAY[$1], ARRAY[$2], ARRAY[$3]) s;
    IF NOT FOUND THEN
        PERFORM jobstate.queue_refuse($1, $2);
    END IF;
    RETURN said;
END
$$;
COMMENT ON FUNCTION jobstate.snooze(bigint, bigint, interval)
    IS 'defers a running job and gives the attempt back; raises JS001, JS002 or JS003';
