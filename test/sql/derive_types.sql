-- derive_types: keys of several columns and of any type, and every kind of state column.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TYPE regress_color AS ENUM ('red', 'green');
CREATE TYPE regress_state AS ENUM ('over', 'bad', 'more', 'busy', 'waiting');
CREATE DOMAIN regress_code AS varchar(20) CHECK (value <> '');
CREATE DOMAIN regress_code2 AS regress_code;
CREATE DOMAIN regress_small AS smallint;
CREATE TABLE regress_p (n bigint, color regress_color, code regress_code2, state smallint NOT NULL DEFAULT 1, why text, PRIMARY KEY (code, n, color));
CREATE TABLE regress_c (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), color regress_color, code varchar, n bigint,
    state regress_state NOT NULL DEFAULT 'waiting', FOREIGN KEY (color, n, code) REFERENCES regress_p (color, n, code));
CREATE INDEX ON regress_c (code, n, color, state);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', '{n,code,color}'::name[], 'regress_r');   -- fails
SELECT jobstate.derive('regress_p', 'regress_c', '{code,n,color}'::name[], 'regress_r', reason => 'why');
INSERT INTO regress_p VALUES (1, 'red', 'a'), (1, 'green', 'a'), (1, 'red', 'A'), (5000000000, 'red', 'a b''"\');
INSERT INTO regress_c (n, color, code, state) VALUES (1, 'red', 'a', 'over'), (1, 'green', 'a', 'busy'), (5000000000, 'red', 'a b''"\', 'bad'),
    (1, NULL, 'a', 'bad'), (NULL, NULL, NULL, 'bad');
SELECT * FROM regress_p ORDER BY code COLLATE "C", n, color;
UPDATE regress_c SET state = 'bad' WHERE n = 1 AND color = 'green';
SELECT color, state, why FROM regress_p WHERE n = 1 AND code = 'a' ORDER BY color;
ALTER TYPE regress_color RENAME VALUE 'red' TO 'rot';
UPDATE regress_c SET state = 'busy' WHERE color = 'rot';
SELECT * FROM regress_p ORDER BY code COLLATE "C", n, color;
DROP TABLE regress_c, regress_p;

-- one key column and one kind of state after the other; the parent with and without a trigger of its own
CREATE FUNCTION regress_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE FUNCTION regress_try(key_type text, a text, b text, state_type text, waiting text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := '';
    r text;
BEGIN
    EXECUTE format('CREATE TABLE regress_p (id %s PRIMARY KEY, state %s NOT NULL DEFAULT %L)', key_type, state_type, waiting);
    EXECUTE format('CREATE TABLE regress_c (id serial PRIMARY KEY, p %s, state %s NOT NULL DEFAULT %L)', key_type, state_type, waiting);
    CREATE INDEX ON regress_c (p);
    PERFORM jobstate.attach('regress_p', 'regress_m', 'state'), jobstate.attach('regress_c', 'regress_m', 'state'),
            jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
    FOR i IN 1 .. 2 LOOP
        EXECUTE format('INSERT INTO regress_p VALUES (%L), (%L)', a, b);
        EXECUTE format('INSERT INTO regress_c (p, state) SELECT %L, state FROM regress_p LIMIT 1', b);
        EXECUTE format('UPDATE regress_c SET state = %L', CASE WHEN waiting = '1' THEN '4' ELSE 'over' END);
        PERFORM jobstate.derive_now();
        EXECUTE 'SELECT string_agg(state::text, '' '' ORDER BY id) FROM regress_p' INTO r;
        result := result || r || '; ';
        DELETE FROM regress_c;
        DELETE FROM regress_p;
        PERFORM jobstate.derive_now();
        IF i = 1 THEN
            CREATE TRIGGER nothing BEFORE UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_nothing();
        END IF;
    END LOOP;
    DROP TABLE regress_c, regress_p;
    RETURN result;
END
$$;
SET client_min_messages = warning;
SELECT k.type, s.type, regress_try(k.type, k.a, k.b, s.type, s.waiting)
  FROM (VALUES ('smallint', '1', '-2'), ('bigint', '1', '10000000000'), ('text', 'a', repeat('ß', 700)), ('varchar(10)', 'a', 'ß'),
               ('text COLLATE "C"', 'B', 'a'), ('uuid', '0e37df36-f698-11e6-8dd4-cb9ced3df976', '00000000-0000-0000-0000-000000000000'),
               ('regress_color', 'rot', 'green'), ('regress_code2', 'x', 'y'), ('date', '2020-01-01', 'infinity'), ('timestamptz', '2020-01-01', '-infinity'),
               ('numeric', '1.00', 'NaN'), ('float8', '0', 'NaN'), ('bytea', '\x00', '\xff'), ('oid', '1', '4294967295'), ('name', 'a', 'b'),
               ('char(4)', 'a', 'b'), ('inet', '::1', '127.0.0.1'), ('int4range', '[1,2)', 'empty')) k (type, a, b),
       (VALUES ('text', 'waiting')) s (type, waiting)
 UNION ALL
SELECT 'int', s.type, regress_try('int', '1', '2', s.type, s.waiting)
  FROM (VALUES ('smallint', '1'), ('int', '1'), ('regress_small', '1'), ('varchar(10)', 'waiting'), ('regress_code2', 'waiting'), ('regress_state', 'waiting')) s (type, waiting);
RESET client_min_messages;
-- types between which an index could find rows are not enough: they must be the same
CREATE TABLE regress_p (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails
ALTER TABLE regress_c ALTER p TYPE bigint;
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
-- a type that changes later: refused until it is defined anew; in mid-transaction, too
INSERT INTO regress_p VALUES (1);
INSERT INTO regress_c VALUES (1, 1, 'over');
BEGIN;
UPDATE regress_c SET state = 'busy';
ALTER TABLE regress_p ALTER id TYPE int;
ALTER TABLE regress_c ALTER p TYPE int;
COMMIT;
SELECT * FROM regress_p;
ALTER TABLE regress_p ALTER id TYPE bigint;
UPDATE regress_c SET state = 'over';                                             -- fails
\echo :SQLSTATE
ALTER TABLE regress_c ALTER p TYPE bigint;
UPDATE regress_c SET state = 'over';
SELECT * FROM regress_p;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
DROP FUNCTION regress_try(text, text, text, text, text), regress_nothing();
DROP TYPE regress_color, regress_state;
DROP DOMAIN regress_code2, regress_code, regress_small;
