-- attach_types: every kind of state column, with the guard, the counts and the verbs.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"todo": 1, "doing": 2, "done": 3}', '{todo -> doing, doing -> done}', '{todo}');
CREATE TYPE regress_label AS ENUM ('done', 'todo', 'doing', 'never');
CREATE DOMAIN regress_dint AS int CHECK (VALUE > 0);
CREATE DOMAIN regress_dtext AS text;
CREATE DOMAIN regress_dlabel AS regress_label;
CREATE DOMAIN regress_ddlabel AS regress_dlabel NOT NULL;

CREATE FUNCTION regress_try(type text, literals text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE regress_t (id int PRIMARY KEY, state %s, at timestamptz DEFAULT ''2020-01-01'')', type);
    EXECUTE format('INSERT INTO regress_t VALUES (1, %L), (2, %L), (3, %L)', literals[1], literals[2], literals[3]);
    RETURN QUERY SELECT 'check: ' || problem FROM jobstate.check('regress_t', 'regress_m', 'state');
    PERFORM jobstate.attach('regress_t', 'regress_m', 'state');
    EXECUTE format('INSERT INTO regress_t VALUES (4, %L), (5, %1$L)', literals[1]);
    EXECUTE format('UPDATE regress_t SET state = %L WHERE id = 4', literals[2]);
    BEGIN
        EXECUTE format('UPDATE regress_t SET state = %L WHERE id = 5', literals[3]);
    EXCEPTION WHEN check_violation THEN
        RETURN NEXT 'illegal: ' || SQLERRM;
    END;
    BEGIN
        EXECUTE format('INSERT INTO regress_t VALUES (6, %L)', literals[4]);
    EXCEPTION WHEN check_violation THEN
        RETURN NEXT 'unknown: ' || SQLERRM;
    END;
    RETURN QUERY SELECT 'transition: ' || m FROM jobstate.transition('regress_t', '{1,2,3,4}', 'done') m;
    RETURN QUERY SELECT 'take: ' || m FROM jobstate.take('regress_t', 'todo', 'doing') m;
    RETURN NEXT 'prune: ' || jobstate.prune('regress_t', '1 day', 'at', 2);
    RETURN QUERY SELECT format('totals: %s %s + %s', state, live, rolled_up) FROM jobstate.totals('regress_t') ORDER BY state;
    RETURN QUERY SELECT format('drift: %s', v) FROM jobstate.verify('regress_t') v;
    DROP TABLE regress_t;
END
$$;
\pset tuples_only on
SELECT regress_try('smallint', '{1,2,3,4}');
SELECT regress_try('integer', '{1,2,3,65537}');
SELECT regress_try('text', '{todo,doing,done,Done}');
SELECT regress_try('varchar(5)', '{todo,doing,done,tod}');
SELECT regress_try('text COLLATE "C"', '{todo,doing,done,""}');
SELECT regress_try('regress_label', '{todo,doing,done,never}');
SELECT regress_try('regress_dint', '{1,2,3,4}');
SELECT regress_try('regress_dtext', '{todo,doing,done,never}');
SELECT regress_try('regress_dlabel', '{todo,doing,done,never}');
SELECT regress_try('regress_ddlabel', '{todo,doing,done,never}');

-- what can hold no state
SELECT regress_try('bigint', '{1,2,3,4}');                    -- fails
SELECT regress_try('char(5)', '{todo,doing,done,never}');     -- fails
SELECT regress_try('name', '{todo,doing,done,never}');        -- fails
SELECT regress_try('boolean', '{t,t,t,f}');                   -- fails
SELECT regress_try('text[]', ARRAY['{}', '{}', '{}', '{}']);               -- fails
\echo :SQLSTATE

-- a label that is a state keeps its name, others may come and go
CREATE TABLE regress_e (id int PRIMARY KEY, state regress_label);
INSERT INTO regress_e VALUES (1, 'todo'), (2, 'done');
SELECT jobstate.attach('regress_e', 'regress_m', 'state');
ALTER TYPE regress_label RENAME VALUE 'todo' TO 'to do';     -- fails
\echo :SQLSTATE
ALTER TYPE regress_label RENAME VALUE 'never' TO 'odd';
ALTER TYPE regress_label ADD VALUE 'more';
UPDATE regress_e SET state = 'odd' WHERE id = 1;              -- fails
UPDATE regress_e SET state = 'doing' WHERE id = 1;
SELECT state, n FROM jobstate.counts('regress_e') ORDER BY state;
SELECT * FROM jobstate.verify('regress_e');
DROP TABLE regress_e;
DROP FUNCTION regress_try;
DROP DOMAIN regress_dint, regress_dtext, regress_ddlabel, regress_dlabel;
DROP TYPE regress_label;
SELECT jobstate.drop_machine('regress_m');
