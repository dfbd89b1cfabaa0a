-- attach_group_types: group columns of any type that can be hashed and sorted; equal
-- values are one group, however they are spelled, and every group key that counts()
-- gives is one that counts() takes.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TYPE regress_colour AS ENUM ('red', 'green');
CREATE TYPE regress_pair AS (x int, y text);
CREATE DOMAIN regress_short AS varchar(10) CHECK (VALUE <> '');
CREATE COLLATION regress_nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- one value comes before the attach, all after it, and all again under other settings;
-- tells the groups as counts() spells them or, where there are several spellings of
-- one value, what each finds; and what does not come back or drifts
CREATE FUNCTION regress_try(type text, VARIADIC literals text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    literal text;
    found   jsonb;
BEGIN
    EXECUTE format('CREATE TABLE regress_t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state int DEFAULT 1, g %s)', type);
    EXECUTE format('INSERT INTO regress_t (g) VALUES (%L)', literals[1]);
    PERFORM jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
    FOREACH literal IN ARRAY literals LOOP
        EXECUTE format('INSERT INTO regress_t (g) VALUES (%L)', literal);
    END LOOP;
    SET LOCAL timezone = 'Asia/Kolkata';
    SET LOCAL datestyle = 'German';
    SET LOCAL intervalstyle = 'sql_standard';
    SET LOCAL bytea_output = 'escape';
    SET LOCAL extra_float_digits = -10;
    INSERT INTO regress_t (g) SELECT g FROM regress_t;
    UPDATE regress_t SET state = 2 WHERE id % 2 = 0;
    CREATE TEMP TABLE regress_groups AS SELECT group_key, sum(n) AS n FROM jobstate.counts('regress_t') GROUP BY 1;
    FOR found IN SELECT group_key FROM regress_groups r
                  WHERE n IS DISTINCT FROM (SELECT sum(c.n) FROM jobstate.counts('regress_t', r.group_key) c) LOOP
        RETURN NEXT 'does not come back: ' || found;
    END LOOP;
    PERFORM jobstate.uncount('regress_t');
    FOR found IN SELECT group_key FROM regress_groups r
                  WHERE n IS DISTINCT FROM (SELECT sum(c.n) FROM jobstate.counts('regress_t', r.group_key) c)
                     OR (SELECT c.n FROM jobstate.counts('regress_t', r.group_key) c WHERE state = 'a')
                        <> (SELECT count(*) FROM jobstate.take('regress_t', 'a', 'b', r.group_key, 1000)) LOOP
        RETURN NEXT 'is not found in the table: ' || found;
    END LOOP;
    PERFORM jobstate.recount('regress_t');
    RESET timezone; RESET datestyle; RESET intervalstyle; RESET bytea_output; RESET extra_float_digits;
    RETURN QUERY SELECT string_agg(format('%s = %s', r.group_key -> 'g', r.n), ', ' ORDER BY r.group_key::text COLLATE "C")
                   FROM regress_groups r HAVING count(*) = cardinality(literals);
    RETURN QUERY SELECT (SELECT count(*) FROM regress_groups) || ' groups: ' || string_agg(format('%L = %s', l, c.n), ', ' ORDER BY i)
                   FROM unnest(literals) WITH ORDINALITY u (l, i),
                        LATERAL (SELECT sum(n) AS n FROM jobstate.counts('regress_t', jsonb_build_object('g', l))) c
                 HAVING (SELECT count(*) FROM regress_groups) < cardinality(literals);
    RETURN QUERY SELECT 'drift: ' || v FROM jobstate.verify('regress_t') v;
    PERFORM jobstate.rebuild('regress_t');
    RETURN QUERY SELECT 'drift: ' || v FROM jobstate.verify('regress_t') v;
    DROP TABLE regress_t, regress_groups;
END
$$;
\pset tuples_only on
SELECT regress_try('smallint', '1', '-1', NULL);
SELECT regress_try('bigint', '9223372036854775807', '0');
SELECT regress_try('boolean', 't', 'f', NULL);
SELECT regress_try('numeric', '1.0', '1.00', '1', '-0.0', '0', 'NaN', 'Infinity', '1e-20');
SELECT regress_try('numeric(6,2)', '1', '1.00', '-7.5');
SELECT regress_try('float8', '-0.0', '0', 'NaN', '-Infinity', '0.1', '1e20');
SELECT regress_try('float4', '-0.0', '0', 'NaN', '0.1', '16777216');
SELECT regress_try('money', '1', '$1.00', '-2');                            -- fails
SELECT regress_try('text', 'a', 'A', '', 'null', '1', 'e"\', NULL);
SELECT regress_try('text COLLATE regress_nocase', 'abc', 'ABC', 'aBc', 'd');
SELECT regress_try('char(5)', 'a', 'a  ', 'a b');
SELECT regress_try('regress_short', 'a', 'b', NULL);
SELECT regress_try('name', 'a', 'b');
SELECT regress_try('"char"', 'a', '');
SELECT regress_try('bytea', '\x00ff', 'a', '');
SELECT regress_try('uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}');
SELECT regress_try('date', '2024-02-29', 'infinity', '4713-01-01 BC');
SELECT regress_try('timestamp', '2024-02-29 12:00', '-infinity', '2024-02-29 12:00:00.5');
SELECT regress_try('timestamptz', '2024-02-29 12:00+00', '2024-02-29 13:00+01', 'infinity');
SELECT regress_try('time', '12:00', '24:00');
SELECT regress_try('timetz', '12:00+00', '13:00+01', '12:00+00:00');
SELECT regress_try('interval', '1 day', '24:00:00', '-1 day 2 hours', '1 mon', '30 days');
SELECT regress_try('inet', '10.0.0.1', '10.0.0.1/32', '10.0.0.0/8');
SELECT regress_try('macaddr', '08:00:2b:01:02:03', '08-00-2b-01-02-03');
SELECT regress_try('regress_colour', 'red', 'green', NULL);
SELECT regress_try('int[]', '{1,2}', '[0:1]={1,2}', '{}', '{NULL}', '{{1},{2}}');
SELECT regress_try('numeric[]', '{1.0}', '{1.00}');
SELECT regress_try('timestamptz[]', '{2024-02-29 12:00+00}', '{2024-02-29 13:00+01}');
SELECT regress_try('int4range', '[1,3)', '[1,2]', 'empty');
SELECT regress_try('regress_pair', '(1,a)', '(1,)', '(,)');
SELECT regress_try('jsonb', '{"a": 1}', '{"a": 1.0}', '[]', '"text"', '1', 'null', NULL);

-- an enum's label is known by more than its text
CREATE TABLE regress_t (id int PRIMARY KEY, state int DEFAULT 1, g regress_colour, at date DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t VALUES (1, 2, 'red'), (2, 1, 'red'), (3, 1, 'green');
SELECT jobstate.prune('regress_t', '1 day', 'at');
ALTER TYPE regress_colour RENAME VALUE 'red' TO 'crimson';
INSERT INTO regress_t VALUES (4, 1, 'crimson');
SELECT * FROM jobstate.totals('regress_t', '{"g": "crimson"}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"g": "red"}');            -- fails
SELECT * FROM jobstate.verify('regress_t');
DROP TABLE regress_t;
-- within another type it is text only, and so is the name of an object
CREATE TYPE regress_painted AS (what text, colour regress_colour);
SELECT regress_try('regress_colour[]', '{green}');                     -- fails
SELECT regress_try('regress_painted', '(a,green)');                    -- fails
SELECT regress_try('regclass', 'pg_class');                            -- fails
SELECT regress_try('regrole', 'pg_monitor');                           -- fails
DROP TYPE regress_painted;
DROP FUNCTION regress_try;
DROP COLLATION regress_nocase;
DROP DOMAIN regress_short;
DROP TYPE regress_colour, regress_pair;
SELECT jobstate.drop_machine('regress_m');
