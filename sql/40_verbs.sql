-- transition, take: verbs for workers ------------------------------------------------

-- Writes the target, as the caller.  Locks its rows in the order of their ids.
CREATE FUNCTION jobstate.transition(target regclass, ids bigint[], to_state text, from_state text DEFAULT NULL)
    RETURNS SETOF bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_transition';
COMMENT ON FUNCTION jobstate.transition(regclass, bigint[], text, text) IS
    'moves the rows that may go to a state, or only those in one state; returns the ids that moved';

-- Writes the target, as the caller.  Passes over rows that others have locked.
CREATE FUNCTION jobstate.take(target regclass, from_state text, to_state text,
                              group_key jsonb DEFAULT NULL, n integer DEFAULT 1)
    RETURNS SETOF bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_take';
COMMENT ON FUNCTION jobstate.take(regclass, text, text, jsonb, integer) IS
    'claims up to n rows in a state by moving them on, oldest id first, without waiting; returns their ids';

-- Reads the target, as the caller.
CREATE FUNCTION jobstate.low_end(target regclass, age_column name, condition text, every integer)
    RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_low_end';
COMMENT ON FUNCTION jobstate.low_end(regclass, name, text, integer) IS
    'internal: a time below which an indexed column has no row of a condition, as far as this session has seen; -infinity where it does not know';

-- Reads the target, as the caller.
CREATE FUNCTION jobstate.low_ends(target regclass, age_column name, condition text, every integer)
    RETURNS timestamptz[] LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_low_ends';
COMMENT ON FUNCTION jobstate.low_ends(regclass, name, text, integer) IS
    'internal: the times that an indexed column has in rows of a condition, and at last one below which it has no other, as far as this session has seen; -infinity where it does not know';

-- prune ----------------------------------------------------------------------------------

-- Deletes from the target as the caller, and writes rollup.
CREATE FUNCTION jobstate.prune(target regclass, older_than interval, age_column name, batch integer DEFAULT 1000,
                               states text[] DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_prune';
COMMENT ON FUNCTION jobstate.prune(regclass, interval, name, integer, text[]) IS
    'deletes one batch of old rows in terminal states, or in some of them, and adds them to the rollup; returns how many; the target may be a partition';

-- Truncates the partition as the caller, and writes rollup.  Locks the partition
-- against everybody.
CREATE FUNCTION jobstate.prune_partition(part regclass, age_column name)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_prune_partition';
COMMENT ON FUNCTION jobstate.prune_partition(regclass, name) IS
    'adds all rows of a partition to the rollup and truncates it; refused unless all are in terminal states; returns how many';

-- fold, maintain ---------------------------------------------------------------------------

-- Writes base and truncates segments; readers of counts wait until commit.
CREATE FUNCTION jobstate.fold()
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_fold_all';
COMMENT ON FUNCTION jobstate.fold() IS
    'folds all of the counter log that is free into the base; returns the rows folded';

CREATE PROCEDURE jobstate.maintain()
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_maintain';
COMMENT ON PROCEDURE jobstate.maintain() IS
    'folds what is full, settles the base, counts uncounted tables of the caller and does what the caller''s families need; commits between the steps';

-- rights -----------------------------------------------------------------------------------
--
-- Reading is for everybody: each function asks for SELECT on the table itself.
-- What writes is for the database's owner to hand out.

REVOKE EXECUTE ON FUNCTION
    jobstate.define_machine(text, jsonb, text[], text[], text[]), jobstate.drop_machine(text),
    jobstate.check_stranded(text, jsonb), jobstate.rows_now(regclass, smallint),
    jobstate.attach(regclass, text, name, name[]), jobstate.detach(regclass),
    jobstate.rebuild(regclass), jobstate.recount(regclass), jobstate.uncount(regclass),
    jobstate.uncount_dropped(oid), jobstate.transition(regclass, bigint[], text, text),
    jobstate.take(regclass, text, text, jsonb, integer),
    jobstate.prune(regclass, interval, name, integer, text[]),
    jobstate.prune_partition(regclass, name), jobstate.fold() FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE jobstate.maintain() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    jobstate.define_machine(text, jsonb, text[], text[], text[]), jobstate.drop_machine(text),
    jobstate.attach(regclass, text, name, name[]), jobstate.detach(regclass),
    jobstate.rebuild(regclass), jobstate.recount(regclass),
    jobstate.transition(regclass, bigint[], text, text),
    jobstate.take(regclass, text, text, jsonb, integer),
    jobstate.prune(regclass, interval, name, integer, text[]),
    jobstate.prune_partition(regclass, name), jobstate.fold() TO pg_database_owner WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE jobstate.maintain() TO pg_database_owner WITH GRANT OPTION;
