-- queue: unique keys ----------------------------------------------------------------
--
-- A key's row names the last job that took the key, and the states in which that
-- job keeps others out.  Nothing is done when the job ends: whoever wants the key
-- next looks at the job itself.
--
-- Problem: two jobs may want the key at once, or one that ended may come back
-- (retry) while another takes the key.  Solution: whoever takes a key writes its
-- row before the next statement looks at the holder, so the second one waits, and
-- looks with a newer snapshot, or fails with 40001.

-- queue_key_holders: of these keys, those that a job holds now.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_key_holders(queue text, unique_keys text[])
RETURNS TABLE (unique_key text, id bigint)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    ids bigint[] := ARRAY(
        SELECT u.id FROM unnest($2) w (unique_key)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u);
BEGIN
    IF ids = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT u.unique_key, u.id
          FROM jobstate.queue_find(ids) f
         CROSS JOIN (SELECT DISTINCT w.unique_key FROM unnest($2) w (unique_key)) w
         CROSS JOIN LATERAL (SELECT u.unique_key, u.id, u.states FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u
         WHERE u.id = f.id AND jobstate.queue_state_name(f.state_id) = ANY (u.states);
END
$$;
COMMENT ON FUNCTION jobstate.queue_key_holders(text, text[])
    IS 'internal: the unique keys that are held, and by which jobs';

-- queue_take_keys: for each job the key that it wants, or the job that has it: the
-- holder is the job itself where it got the key.  Null keys have no holder.  Null
-- states are those that the job has the key with, or had it not, the usual ones.
-- Writes: unique_job.  Locks: the keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.queue_take_keys(queue text, unique_keys text[], ids bigint[], states text[])
RETURNS TABLE (id bigint, holder bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    usual CONSTANT text[] := jobstate.queue_key_states(states);
    new_keys text[];
    wish record;
    owner bigint;
BEGIN
    WITH made AS (
        INSERT INTO jobstate.unique_job (queue, unique_key, id, states)
        SELECT DISTINCT ON (w.unique_key COLLATE "C") $1, w.unique_key, w.id, usual
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL
         ORDER BY w.unique_key COLLATE "C", w.ord
            ON CONFLICT DO NOTHING
        RETURNING unique_key)
    SELECT coalesce(array_agg(m.unique_key), '{}') INTO new_keys FROM made m;
    FOR wish IN
        SELECT DISTINCT ON (w.unique_key COLLATE "C") w.unique_key, w.id
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL AND w.unique_key <> ALL (new_keys)
         ORDER BY w.unique_key COLLATE "C", w.ord
    LOOP
        INSERT INTO jobstate.unique_job AS u (queue, unique_key, id, states)
        VALUES ($1, wish.unique_key, wish.id, usual)
            ON CONFLICT (queue, unique_key) DO UPDATE SET id = u.id
        RETURNING u.id INTO owner;
        CONTINUE WHEN CASE WHEN owner = wish.id THEN $4 IS NULL
                           ELSE EXISTS (SELECT FROM jobstate.queue_key_holders($1, ARRAY[wish.unique_key])) END;
        UPDATE jobstate.unique_job u SET id = wish.id, states = usual
         WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = wish.unique_key;
    END LOOP;
    RETURN QUERY
        SELECT w.id, u.id
          FROM unnest($2, $3) w (unique_key, id)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u;
END
$$;
COMMENT ON FUNCTION jobstate.queue_take_keys(text, text[], bigint[], text[])
    IS 'internal: takes unique keys for jobs where nobody holds them';

-- queue_key_states: the states that a unique key covers, checked.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.queue_key_states(states text[])
RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{available,running,deferred,completed,failed,cancelled}';
BEGIN
    IF states IS NULL THEN
        RETURN '{available,running,deferred}';
    END IF;
    IF states = '{}' OR NOT states <@ known THEN
        RAISE EXCEPTION 'argument "unique_states" must name states of a job'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', states),
                  HINT = format('States: %s.', array_to_string(known, ', '));
    END IF;
    RETURN states;
END
$$;
COMMENT ON FUNCTION jobstate.queue_key_states(text[])
    IS 'internal: the states in which a unique key keeps others out; raises 22023';

-- queue: bringing jobs in ------------------------------------------------------------

-- enqueue_check: says what is wrong with a single job's arguments, if anything is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.enqueue_check(queue text, kind text, payload jsonb, priority integer,
    max_attempts integer, timeout interval)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.queue_require_name(queue);
    PERFORM jobstate.require_argument('kind', kind);
    PERFORM jobstate.require_argument('payload', payload);
    PERFORM jobstate.require_argument('priority', priority);
    IF priority NOT BETWEEN 1 AND 4 THEN
        RAISE EXCEPTION 'priority % does not exist', priority
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for a job of queue "%s".', queue),
                  HINT = 'Priorities are 1 (most urgent) to 4; 2 is the usual one.';
    END IF;
    PERFORM jobstate.require_positive('max_attempts', coalesce(max_attempts, 1) > 0);
    IF max_attempts > 32767 THEN
        RAISE EXCEPTION 'argument "max_attempts" is too large'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', max_attempts),
                  HINT = 'A job has 32767 attempts at most; snooze() gives an attempt back.';
    END IF;
    PERFORM jobstate.require_positive('timeout', coalesce(timeout, '1 s') > '0');
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_check(text, text, jsonb, integer, integer, interval)
    IS 'internal: raises 22004 or 22023 for a job that cannot be';

-- enqueue_rows: brings a batch in, in C, without unique keys' say.  A job for which
-- an id is given already gets no row.  NULL: the queue or one of its lanes does not
-- exist, or something is wrong with the batch, and nothing was written.
-- Writes: job.  Locks nothing.
CREATE FUNCTION jobstate.enqueue_rows(queue text, kinds text[], payloads jsonb[], priorities integer[],
    run_ats timestamptz[], unique_keys text[], shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval, known bigint[])
RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_enqueue_rows';
COMMENT ON FUNCTION jobstate.enqueue_rows(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], integer, interval, bigint[])
    IS 'internal: inserts a batch of jobs and returns their ids in the order given';

-- enqueue_slowly: one job that enqueue() could not bring in at once: it has a unique
-- key, or it is the first of its lane, or something is wrong with it.
-- Writes and locks what enqueue() says.
CREATE FUNCTION jobstate.enqueue_slowly(queue text, kind text, payload jsonb,
    priority integer, run_at timestamptz,
    unique_key text, unique_states text[],
    max_attempts integer, shard_key text,
    limit_key text, timeout interval,
    OUT id bigint, OUT duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    IF ($1 <> '' AND $2 IS NOT NULL AND $3 IS NOT NULL AND $4 BETWEEN 1 AND 4
        AND coalesce($8, 1) BETWEEN 1 AND 32767 AND coalesce($11, '1 s') > '0') IS NOT TRUE THEN
        PERFORM jobstate.enqueue_check($1, $2, $3, $4, $8, $11);
    END IF;
    IF $6 IS NOT NULL THEN
        SELECT k.id, k.duplicate INTO id, duplicate
          FROM jobstate.enqueue_keyed($1, ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5], ARRAY[$6], ARRAY[$9],
                                      ARRAY[$10], $8, $11, jobstate.queue_key_states($7)) k;
        RETURN;
    END IF;
    LOOP
        ids := jobstate.enqueue_rows($1, ARRAY[$2], ARRAY[$3], ARRAY[$4], ARRAY[$5], NULL,
                                     ARRAY[$9], ARRAY[$10], $8, $11, NULL);
        EXIT WHEN ids IS NOT NULL;
        PERFORM jobstate.queue_add_lanes($1, ARRAY[$4]);
    END LOOP;
    id := ids[1];
    duplicate := false;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_slowly(text, text, jsonb, integer, timestamptz, text, text[], integer, text, text, interval)
    IS 'internal: enqueue() where there is more to do than to insert a row';

-- enqueue: one job, in the caller's transaction.
-- Writes: job; unique_job where there is a unique key; queue and queue_lane for the
-- first job of a lane.  Locks: the unique key's row.
CREATE FUNCTION jobstate.enqueue(queue text, kind text, payload jsonb DEFAULT '{}',
    priority integer DEFAULT 2, run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL, unique_states text[] DEFAULT NULL,
    max_attempts integer DEFAULT NULL, shard_key text DEFAULT NULL,
    limit_key text DEFAULT NULL, timeout interval DEFAULT NULL,
    OUT id bigint, OUT duplicate boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobstate_enqueue';
COMMENT ON FUNCTION jobstate.enqueue(text, text, jsonb, integer, timestamptz, text, text[], integer, text, text, interval)
    IS 'adds a job and returns its id, or the id of the job that has the unique key';

-- enqueue_keyed: a batch in which some jobs have unique keys.  What a committed job
-- holds is seen before anything is written; who loses a race, or comes second in
-- the batch, takes its job back.
-- Writes: job, unique_job.  Locks: the unique keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.enqueue_keyed(queue text, kinds text[], payloads jsonb[], priorities integer[],
    run_ats timestamptz[], unique_keys text[], shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval, states text[])
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    ids bigint[];
    holders bigint[];
BEGIN
    SELECT array_agg(h.id ORDER BY u.ord) INTO held
      FROM unnest($6) WITH ORDINALITY u (unique_key, ord)
      LEFT JOIN jobstate.queue_key_holders($1, $6) h USING (unique_key);
    LOOP
        ids := jobstate.enqueue_rows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, held);
        EXIT WHEN ids IS NOT NULL;
        PERFORM jobstate.queue_add_lanes($1, coalesce(array_replace($4, NULL, 2), '{2}'));
    END LOOP;
    SELECT array_agg(coalesce(g.known, t.holder, g.id) ORDER BY g.ord) INTO holders
      FROM unnest(held, ids) WITH ORDINALITY g (known, id, ord)
      LEFT JOIN jobstate.queue_take_keys($1,
                    ARRAY(SELECT w.unique_key FROM unnest(held, $6) WITH ORDINALITY w (known, unique_key, ord)
                           WHERE w.known IS NULL ORDER BY w.ord),
                    ARRAY(SELECT w.id FROM unnest(held, ids) WITH ORDINALITY w (known, id, ord)
                           WHERE w.known IS NULL ORDER BY w.ord), $11) t ON t.id = g.id;
    IF holders <> ids THEN
        PERFORM jobstate.queue_withdraw(ARRAY(
            SELECT g.id FROM unnest(ids, holders) g (id, holder) WHERE g.id <> g.holder));
    END IF;
    RETURN QUERY
        SELECT g.holder, g.holder <> g.id OR g.known IS NOT NULL
          FROM unnest(holders, ids, held) WITH ORDINALITY g (holder, id, known, ord) ORDER BY g.ord;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_keyed(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], integer, interval, text[])
    IS 'internal: enqueue_many() with unique keys';

-- queue_withdraw: takes back jobs that the caller's transaction has just made.
-- Writes: job.  Locks nothing more.
CREATE FUNCTION jobstate.queue_withdraw(ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM jobstate.job j USING jobstate.queue_find(ids) f
     WHERE j.slot = f.slot AND j."position" = f."position";
END
$$;
COMMENT ON FUNCTION jobstate.queue_withdraw(bigint[])
    IS 'internal: deletes jobs of this transaction that lost their unique key';

-- enqueue_many_check: says what is wrong with a batch, if anything is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.enqueue_many_check(queue text, kinds text[], payloads jsonb[],
    priorities integer[], max_attempts integer, timeout interval, sizes integer[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    n CONSTANT integer := cardinality(kinds);
BEGIN
    PERFORM jobstate.require_argument('queue', queue);
    PERFORM jobstate.require_argument('kinds', kinds);
    PERFORM jobstate.require_argument('payloads', payloads);
    IF n <> ANY (sizes) THEN
        RAISE EXCEPTION 'the lists of a batch differ in length'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('There are %s kinds; the lists that were given have %s elements.',
                                  n, array_to_string(array_remove(sizes, NULL), ', ')),
                  HINT = 'Give one element per job, null where it means nothing for that job.';
    END IF;
    PERFORM jobstate.enqueue_check(queue, k.kind, k.payload, coalesce(k.priority, 2), max_attempts, timeout)
       FROM unnest(kinds, payloads, priorities) k (kind, payload, priority)
      WHERE (k.kind IS NOT NULL AND k.payload IS NOT NULL
             AND coalesce(k.priority, 2) BETWEEN 1 AND 4) IS NOT TRUE;
    PERFORM jobstate.enqueue_check(queue, '', '{}', 2, max_attempts, timeout);
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_many_check(text, text[], jsonb[], integer[], integer, interval, integer[])
    IS 'internal: raises 22004 or 22023 for a batch that cannot be';

-- enqueue_many_slowly: a batch that enqueue_many() could not bring in at once: it has
-- unique keys, or it is the first of its lanes, or something is wrong with it.
-- Writes and locks what enqueue_many() says.
CREATE FUNCTION jobstate.enqueue_many_slowly(queue text, kinds text[], payloads jsonb[],
    priorities integer[], run_ats timestamptz[],
    unique_keys text[], unique_states text[],
    shard_keys text[], limit_keys text[],
    max_attempts integer, timeout interval)
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    WHILE coalesce(num_nonnulls(VARIADIC $6), 0) = 0 LOOP
        RETURN QUERY
            SELECT r.id, false
              FROM unnest(jobstate.enqueue_rows($1, $2, $3, $4, $5, NULL, $8, $9, $10, $11, NULL)) r (id);
        IF FOUND THEN
            RETURN;
        END IF;
        -- Something is wrong with the batch, or it is the first of its lanes.
        PERFORM jobstate.enqueue_many_check($1, $2, $3, $4, $10, $11,
            ARRAY[cardinality($3), cardinality($4), cardinality($5), cardinality($6), cardinality($8), cardinality($9)]);
        IF cardinality($2) = 0 THEN
            RETURN;
        END IF;
        PERFORM jobstate.queue_add_lanes($1, coalesce(array_replace($4, NULL, 2), '{2}'));
    END LOOP;
    PERFORM jobstate.enqueue_many_check($1, $2, $3, $4, $10, $11,
        ARRAY[cardinality($3), cardinality($4), cardinality($5), cardinality($6), cardinality($8), cardinality($9)]);
    RETURN QUERY
        SELECT k.* FROM jobstate.enqueue_keyed($1, $2, $3, $4, $5, $6, $8, $9, $10, $11,
                                               jobstate.queue_key_states($7)) k;
END
$$;
COMMENT ON FUNCTION jobstate.enqueue_many_slowly(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], text[], integer, interval)
    IS 'internal: enqueue_many() where there is more to do than to insert rows';

-- enqueue_many: a batch of jobs of one queue, in the caller's transaction.
-- Writes: job; unique_job where there are unique keys; queue and queue_lane for the
-- first job of a lane.  Locks: the unique keys' rows, in the order of the keys.
CREATE FUNCTION jobstate.enqueue_many(queue text, kinds text[], payloads jsonb[],
    priorities integer[] DEFAULT NULL, run_ats timestamptz[] DEFAULT NULL,
    unique_keys text[] DEFAULT NULL, unique_states text[] DEFAULT NULL,
    shard_keys text[] DEFAULT NULL, limit_keys text[] DEFAULT NULL,
    max_attempts integer DEFAULT NULL, timeout interval DEFAULT NULL)
RETURNS TABLE (id bigint, duplicate boolean)
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10
AS 'MODULE_PATHNAME', 'jobstate_enqueue_many';
COMMENT ON FUNCTION jobstate.enqueue_many(text, text[], jsonb[], integer[], timestamptz[], text[], text[], text[], text[], integer, interval)
    IS 'adds a batch of jobs and returns their ids in the order given, or those of the jobs that have the unique keys';
