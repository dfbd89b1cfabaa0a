-- The script runs as a superuser: no operator or function that somebody planted
-- in another schema may be meant by what stands here without a schema.
SET LOCAL search_path = pg_catalog, pg_temp;

-- The room that everything stands in.  The script makes the schema itself, so
-- that it belongs to the extension's owner and cannot be planted beforehand.
CREATE SCHEMA jobstate;
COMMENT ON SCHEMA jobstate IS 'upload and job state, kept true in the database';
GRANT USAGE ON SCHEMA jobstate TO PUBLIC;
-- The families' tables are the application's own: install() and pg_restore
-- create them here as whoever runs them.
GRANT CREATE ON SCHEMA jobstate TO pg_database_owner;

-- machines ------------------------------------------------------------------
--
-- No foreign keys among these tables: a parallel restore loads them in any
-- order.  Only the functions write here.

CREATE TABLE jobstate.machine (
    name        text PRIMARY KEY CHECK (name <> '')
);
COMMENT ON TABLE jobstate.machine IS 'the state machines; written by define_machine()';

CREATE TABLE jobstate.state (
    machine     text NOT NULL,
    state_id    smallint NOT NULL,
    name        text NOT NULL CHECK (name <> ''),
    is_initial  boolean NOT NULL,
    is_terminal boolean NOT NULL,
    PRIMARY KEY (machine, state_id),
    UNIQUE (machine, name)
);
COMMENT ON TABLE jobstate.state IS 'the states of each machine';
COMMENT ON COLUMN jobstate.state.is_initial IS 'an INSERT may bring a row in this state';
COMMENT ON COLUMN jobstate.state.is_terminal IS 'a row that reached this state is done; prune() may take it';

CREATE TABLE jobstate.transition (
    machine     text NOT NULL,
    from_state  smallint NOT NULL,
    to_state    smallint NOT NULL,
    event       text,
    PRIMARY KEY (machine, from_state, to_state)
);
COMMENT ON TABLE jobstate.transition IS 'the edges of each machine: what guard allows';

-- attachments ---------------------------------------------------------------

CREATE TABLE jobstate.attachment (
    target       regclass PRIMARY KEY,
    machine      text NOT NULL,
    state_column name NOT NULL,
    group_by     name[] NOT NULL,
    epoch        bigint NOT NULL
);
COMMENT ON TABLE jobstate.attachment IS 'the tables that are watched; written by attach() and detach()';
COMMENT ON COLUMN jobstate.attachment.epoch IS 'which rows of the counter log belong to this table now; a random number, so that a restored one means nothing here; without its marker in the log the table is uncounted';

CREATE TABLE jobstate.rollup (
    target      regclass NOT NULL,
    group_key   jsonb NOT NULL,
    state_id    smallint NOT NULL,
    day         date NOT NULL,
    n           bigint NOT NULL CHECK (n > 0),
    PRIMARY KEY (target, group_key, state_id, day)
);
COMMENT ON TABLE jobstate.rollup IS 'terminal rows that prune() took, summed per group, state and UTC day of the age column';

-- derivations ---------------------------------------------------------------

CREATE TABLE jobstate.rule_set (
    name         text PRIMARY KEY CHECK (name <> ''),
    unknown      text
);
COMMENT ON TABLE jobstate.rule_set IS 'the rule sets; written by define_rules()';
COMMENT ON COLUMN jobstate.rule_set.unknown IS 'the state that a NULL counts as';

CREATE TABLE jobstate.rule (
    rule_set     text NOT NULL,
    ord          smallint NOT NULL,
    part         smallint NOT NULL,
    quantifier   text NOT NULL CHECK (quantifier IN ('empty', 'always', 'any', 'any not', 'all', 'none', 'later', 'later not')),
    states       text[] NOT NULL,
    result       text NOT NULL,
    PRIMARY KEY (rule_set, ord, part)
);
COMMENT ON TABLE jobstate.rule IS 'the conditions of the rules, a row each: all parts of a rule must hold, the first rule that holds wins';

CREATE TABLE jobstate.derivation (
    parent        regclass NOT NULL,
    child         regclass NOT NULL,
    ord           smallint NOT NULL,
    key           name[] NOT NULL,
    rule_set      text NOT NULL,
    completed_at  name,
    error         name,
    reason        name,
    child_error   name,
    child_variant name,
    child_order   name[],
    PRIMARY KEY (parent, child)
);
CREATE INDEX derivation_child ON jobstate.derivation (child);
COMMENT ON TABLE jobstate.derivation IS 'the tables whose state follows from another table''s rows; written by derive() and underive()';
COMMENT ON COLUMN jobstate.derivation.ord IS 'of several children tables the first that has rows for the parent decides';
COMMENT ON COLUMN jobstate.derivation.key IS 'the child''s columns that refer to the parent''s primary key';

SELECT pg_catalog.pg_extension_config_dump('jobstate.machine', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.state', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.transition', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.attachment', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rollup', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rule_set', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.rule', '');
SELECT pg_catalog.pg_extension_config_dump('jobstate.derivation', '');

GRANT SELECT ON jobstate.machine, jobstate.state, jobstate.transition, jobstate.rule_set, jobstate.rule, jobstate.derivation
    TO PUBLIC;
-- A database's owner dumps and restores it.
GRANT SELECT, INSERT ON jobstate.machine, jobstate.state, jobstate.transition, jobstate.attachment, jobstate.rollup,
    jobstate.rule_set, jobstate.rule, jobstate.derivation TO pg_database_owner;

-- the counter log and its base -----------------------------------------------
--
-- Insert-only: rows leave by TRUNCATE.  Every column is NOT NULL and stored
-- plain, so that a row is one flat piece of memory and no TOAST table exists.
-- The columns come by ALTER TABLE because only that decides about TOAST after
-- the storage is known.

-- A publication FOR ALL TABLES would copy the log to the subscriber, which counts
-- for itself: there it is turned away.  The extension's own rows do not come
-- through the executor.
CREATE FUNCTION jobstate.turn_away() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN RETURN NULL; END $$;
COMMENT ON FUNCTION jobstate.turn_away() IS 'keeps rows of another database''s counter log out of this one''s';

DO $$
DECLARE
    relname text;
BEGIN
    FOREACH relname IN ARRAY ARRAY['segment_0', 'segment_1', 'segment_2', 'segment_3',
                                   'segment_4', 'segment_5', 'segment_6', 'segment_7',
                                   'base_recent', 'base_settled_0', 'base_settled_1']
    LOOP
        EXECUTE pg_catalog.format('CREATE TABLE jobstate.%I () USING heap WITH (autovacuum_enabled = off)', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I'
            ' ADD epoch bigint NOT NULL, ADD key_hash integer NOT NULL,'
            ' ADD group_key text COLLATE "C" NOT NULL, ADD deltas text COLLATE "C" NOT NULL,'
            ' ALTER group_key SET STORAGE PLAIN, ALTER deltas SET STORAGE PLAIN', relname);
        EXECUTE pg_catalog.format('CREATE TRIGGER turn_away BEFORE INSERT ON jobstate.%I'
            ' FOR EACH ROW EXECUTE FUNCTION jobstate.turn_away()', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I ENABLE ALWAYS TRIGGER turn_away', relname);
        EXECUTE pg_catalog.format('COMMENT ON TABLE jobstate.%I IS %L', relname,
            CASE WHEN relname LIKE 'segment%'
                 THEN 'counter log: one row per touched key and transaction; deltas = state_id:change,...; emptied by fold()'
                 WHEN relname LIKE 'base_recent%'
                 THEN 'counter base, recent: sums of folded segments; epoch 0 marks each fold'
                 ELSE 'counter base, settled: sums that left base_recent; epoch 0 tells its size at the last rewrite'
            END);
    END LOOP;
    FOREACH relname IN ARRAY ARRAY['base_settled_0', 'base_settled_1']
    LOOP
        EXECUTE pg_catalog.format('CREATE INDEX %I ON jobstate.%I (epoch, key_hash)', relname || '_key', relname);
    END LOOP;
END
$$;
