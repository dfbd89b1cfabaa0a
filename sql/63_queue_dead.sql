-- queue: dead letters ---------------------------------------------------------------

-- queue_bury: jobs leave the table of jobs and become dead letters.  Whoever has
-- something to add to a job's errors gives them all, in the order of the ids.
-- Writes: job, dead_letter.  Locks nothing more: the caller holds the jobs.
CREATE FUNCTION jobstate.queue_bury(ids bigint[], errors jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR errors;
BEGIN
    RETURN QUERY
        WITH gone AS (
            DELETE FROM jobstate.job j
             WHERE j.position = ANY (ids) AND j.id = j.position
                OR j.id = ANY (ids) AND j.id <> j.position
            RETURNING j.*)
        INSERT INTO jobstate.dead_letter AS d (queue, id, kind, priority, payload, attempt, max_attempts,
                                               timeout, unique_key, limit_key, errors, enqueued_at)
        SELECT g.queue, g.id, g.kind, g.priority, g.payload, g.attempt, g.max_attempts,
               g.timeout, g.unique_key, g.limit_key, coalesce(n.errors, g.errors), g.enqueued_at
          FROM gone g
          LEFT JOIN unnest(ids, given) AS n (id, errors) ON n.id = g.id
         ORDER BY g.id
        RETURNING d.id;
END
$$;
COMMENT ON FUNCTION jobstate.queue_bury(bigint[], jsonb[])
    IS 'internal: makes dead letters of jobs that the caller holds, and returns their ids';
