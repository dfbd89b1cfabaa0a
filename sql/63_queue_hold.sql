-- queue: what the verbs of management share ---------------------------------------
--
-- A job is looked up by its id in two ways: by its position, which is its id as
-- long as it was not moved, or by the partial index on the ids of those that were.
--
-- Lock order: jobs by id, then unique keys by queue and key.  Whoever scans for
-- jobs passes over the locked ones, so only those who were told ids wait.

-- queue_state_name: the name of a state of the machine "job".
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_state_name(state_id smallint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['available', 'running', 'deferred', 'completed', 'failed', 'cancelled'])[state_id];
COMMENT ON FUNCTION jobstate.queue_state_name(smallint)
    IS 'the name of a job''s state id';

-- queue_refuse: words every refusal of a single job.  What stands in the way is
-- another job's id, where a unique key is the reason.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_refuse(reason text, id bigint, state text DEFAULT NULL,
    in_the_way bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on job % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = format('The attempt of this token is over; the job''s state is "%s".', state),
                      HINT = 'Drop the result: the job is somebody else''s, or waits to be claimed again.';
        WHEN 'not found' THEN
            RAISE EXCEPTION 'job % does not exist', id
                USING ERRCODE = 'JS002',
                      DETAIL = CASE WHEN EXISTS (SELECT FROM jobstate.dead_letter d WHERE d.id = queue_refuse.id)
                                    THEN 'It is among the dead letters.'
                                    ELSE 'It was never committed, or was deleted, or has ended and was pruned.' END,
                      HINT = 'See jobstate.job_status().';
        WHEN 'wrong state' THEN
            RAISE EXCEPTION 'job % is not in a state for this', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'See jobstate.transitions for what can become of a job.';
        WHEN 'key taken' THEN
            RAISE EXCEPTION 'job % cannot come back', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Job %s has its unique key by now.', in_the_way),
                      HINT = 'Wait until that job has ended, or cancel it.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.queue_refuse(text, bigint, text, bigint)
    IS 'internal: raises JS001, JS002 or JS003 for a job';

-- queue_require_array: refuses NULL in the place of an array, and in it.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_array(argument text, elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing integer := array_position(elements, NULL);
BEGIN
    PERFORM jobstate.require_argument(argument, elements);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'argument "%" must not contain null', argument
            USING ERRCODE = 'null_value_not_allowed',
                  DETAIL = format('Element %s is null.', missing),
                  HINT = 'Leave out what is not known.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_array(text, anyarray)
    IS 'raises 22004 with the argument''s name if the array or one of its elements is null';

-- queue_require_pairs: refuses arrays that do not belong together.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_pairs(argument text, ids bigint[], elements anyarray)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.queue_require_array(argument, elements);
    IF cardinality(ids) <> cardinality(elements) THEN
        RAISE EXCEPTION 'arguments "ids" and "%" must have the same length', argument
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(ids), cardinality(elements)),
                  HINT = 'Give one element for each id, in the same order.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_pairs(text, bigint[], anyarray)
    IS 'raises 22004 or 22023 unless there is one element for each id';

-- queue_require_filter: what works on many jobs must be told on which.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_require_filter(filtered boolean, everything boolean,
    older_than interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    PERFORM jobstate.require_argument('everything', everything);
    IF NOT filtered AND NOT everything THEN
        RAISE EXCEPTION 'no filter is given'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'Without one, the jobs of every queue would be meant.',
                  HINT = 'Name a queue or a kind, or say so with everything => true.';
    ELSIF older_than < '0' THEN
        RAISE EXCEPTION 'argument "older_than" must not be negative'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', older_than),
                  HINT = 'Give an age, such as ''30 days''.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.queue_require_filter(boolean, boolean, interval)
    IS 'internal: raises 22023 unless there is a filter or everything is meant, and the age is one';

-- queue_positions: where jobs are, as far as the statement's snapshot knows.  Two
-- scans of indexes: one condition for both would compare each row with every id.
-- A plan for just these ids would count on statistics that the ring does not have.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_positions(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    RETURN ARRAY(SELECT j.position FROM jobstate.job j
                  WHERE j.position = ANY (ids) AND j.id = j.position
                 UNION ALL
                 SELECT j.position FROM jobstate.job j
                  WHERE j.id = ANY (ids) AND j.id <> j.position);
END
$$;
COMMENT ON FUNCTION jobstate.queue_positions(bigint[])
    IS 'internal: the positions of the jobs that exist';

-- queue_hold: locks jobs and returns the positions of those that are there, by
-- which the holder finds them: nobody else moves them now.
-- Problem: while we wait for a job somebody moves it to another partition, and the
-- wait ends in an error or, where it was moved by a deletion, without the job.
-- Non-problems: a job that stays in its partition, wherever there; REPEATABLE READ
-- and above, where 40001 is the answer.
-- Solution: under READ COMMITTED each look has a new snapshot, so look again until
-- what is there is what is locked.
-- Writes nothing.  Locks: the jobs, by id.
CREATE FUNCTION jobstate.queue_hold(ids bigint[])
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    seen bigint[] := jobstate.queue_positions(ids);
    held bigint[];
BEGIN
    LOOP
        BEGIN
            held := ARRAY(SELECT j.position FROM jobstate.job j
                           WHERE j.position = ANY (seen) ORDER BY j.id FOR UPDATE);
            EXIT WHEN cardinality(held) = cardinality(ids);
            seen := jobstate.queue_positions(ids);
            EXIT WHEN cardinality(held) = cardinality(seen);
        EXCEPTION WHEN serialization_failure THEN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE;
            END IF;
            seen := jobstate.queue_positions(ids);
        END;
    END LOOP;
    IF cardinality(held) < cardinality(ids) THEN
        PERFORM jobstate.queue_whole()
          WHERE cardinality(held) < (SELECT count(DISTINCT i) FROM unnest(ids) i);
    END IF;
    RETURN held;
END
$$;
COMMENT ON FUNCTION jobstate.queue_hold(bigint[])
    IS 'internal: locks jobs, wherever they are moved to, and returns the positions of those that exist';
