-- attach_group_hostile: values that look like the log's own marks, that are equal with
-- other bytes, or whose text follows the session's settings; what is written under one
-- setting is folded and read under another.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');

-- text: marks of the log, control characters, all planes, and both columns mixed up
CREATE TABLE regress_t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state int DEFAULT 1, g text, h text);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');
CREATE VIEW regress_values AS
    SELECT v FROM unnest(ARRAY['', ' ', ',', '\', '\\', '\N', '\n', 'N', '\,', ',\N', '\N,\N', 'NULL', 'null', '"', '{}', E'\n', E'\t', E'\r\n', E'\x01', E'\x7f',
        '1:-1,2:1', E'\\.', '$$', 'e' || chr(769), chr(233), chr(65279), chr(8238) || 'x', chr(65535), chr(65536), chr(128512), chr(1114109), repeat(chr(128512), 200)]) v
    UNION ALL SELECT NULL UNION ALL SELECT chr(n) FROM generate_series(1, 1000, 333) n;
INSERT INTO regress_t (g, h) SELECT a.v, b.v FROM regress_values a, regress_values b;
SELECT jobstate.fold() > 0 AS folded;
UPDATE regress_t SET state = 2, g = h, h = g WHERE id % 3 = 0;
DELETE FROM regress_t WHERE id % 7 = 0;
CREATE FUNCTION regress_differs() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT group_key, state, n FROM jobstate.counts('regress_t') WHERE n > 0) c
      FULL JOIN (SELECT jsonb_build_object('g', g, 'h', h) AS group_key, CASE state WHEN 1 THEN 'a' ELSE 'b' END AS state, count(*) AS n
                   FROM regress_t GROUP BY 1, 2) r USING (group_key, state) WHERE c.n IS DISTINCT FROM r.n
$$;
SELECT regress_differs(), jobstate.fold() > 0 AS folded;
SELECT regress_differs(), (SELECT count(*) FROM jobstate.verify('regress_t')) AS drift;
-- each finds itself
SELECT count(*) FROM regress_values a, regress_values b
 WHERE coalesce((SELECT sum(n) FROM jobstate.counts('regress_t', jsonb_build_object('g', a.v, 'h', b.v))), 0)
       <> (SELECT count(*) FROM regress_t WHERE g IS NOT DISTINCT FROM a.v AND h IS NOT DISTINCT FROM b.v);
-- a megabyte, compressible or not, is refused as a group; beside one it is nothing
INSERT INTO regress_t (g) VALUES (repeat('x', 1000000));                                   -- fails
INSERT INTO regress_t (g) SELECT string_agg(md5(n::text), '') FROM generate_series(1, 30000) n;   -- fails
INSERT INTO regress_t (g) VALUES (repeat('\', 1500));                                      -- fails
SELECT * FROM jobstate.counts('regress_t', jsonb_build_object('g', repeat('x', 1000000)));
SELECT regress_differs();
DROP FUNCTION regress_differs;
DROP VIEW regress_values;
DROP TABLE regress_t;

-- written under one set of settings, folded under another, read under a third
CREATE TYPE regress_pair AS (x numeric, y timestamptz);
CREATE DOMAIN regress_short AS numeric CHECK (VALUE < 100);
CREATE PROCEDURE regress_set(n int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('timezone', ('{UTC,Asia/Kolkata,America/St_Johns}'::text[])[n], false),
            set_config('datestyle', ('{"ISO, MDY","German, DMY","SQL, DMY"}'::text[])[n], false),
            set_config('intervalstyle', ('{iso_8601,sql_standard,postgres_verbose}'::text[])[n], false),
            set_config('bytea_output', ('{hex,escape,escape}'::text[])[n], false),
            set_config('extra_float_digits', ('{1,-10,0}'::text[])[n], false),
            set_config('search_path', ('{public,"pg_temp, public","pg_catalog, public"}'::text[])[n], false);
END
$$;
CREATE TABLE regress_tried (type text, groups bigint, differs bigint, drift bigint);
CREATE PROCEDURE regress_try(type text, VARIADIC literals text[]) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE public.regress_t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state int DEFAULT 1, g %s)', type);
    PERFORM jobstate.attach('public.regress_t', 'regress_m', 'state', '{g}');
    CALL public.regress_set(1);
    FOR n IN 1 .. 3 LOOP
        EXECUTE format('INSERT INTO public.regress_t (g) SELECT l::%s FROM unnest($1) l', type) USING literals;
        COMMIT;
        CALL public.regress_set(1 + n % 3);
        UPDATE public.regress_t SET state = 2 WHERE id % 2 = 0;
        COMMIT;
        PERFORM jobstate.fold();
        COMMIT;
    END LOOP;
    CALL public.regress_set(3);
    INSERT INTO public.regress_tried
        SELECT type, (SELECT count(DISTINCT group_key) FROM jobstate.counts('public.regress_t')),
               (SELECT count(*) FROM (SELECT group_key, sum(n) AS n FROM jobstate.counts('public.regress_t') GROUP BY 1) k
                 WHERE k.n <> (SELECT sum(c.n) FROM jobstate.counts('public.regress_t', k.group_key) c))
               + abs((SELECT sum(c.n) FROM jobstate.counts('public.regress_t') c) - 3 * cardinality(literals)),
               (SELECT count(*) FROM jobstate.verify('public.regress_t'));
    COMMIT;
    CALL public.regress_set(1);
    DROP TABLE public.regress_t;
END
$$;
CALL regress_try('timestamptz', '2024-03-31 01:30Z', '2024-03-31 03:30+02', 'infinity', '-infinity', '0044-03-15 12:00 BC', '294276-12-31 23:59:59.999999Z');
CALL regress_try('timestamptz[]', '{2024-03-31 01:30Z}', '{2024-03-31 03:30+02}', '{infinity,NULL}');
CALL regress_try('tstzrange', '[2024-03-31 01:30Z,)', '[2024-03-31 03:30+02,)', 'empty', '(,)');
CALL regress_try('datemultirange', '{[2024-01-01,2024-01-03)}', '{[2024-01-01,2024-01-02]}', '{}', '{[2024-01-01,2024-01-02),[2024-01-02,2024-01-03)}');
CALL regress_try('timetz', '12:00+00', '13:00+01', '24:00-15');
CALL regress_try('interval', '1 mon', '30 days', '720:00:00', '-1 mon +30 days', '0', '178000000 years', '-178000000 years');
CALL regress_try('interval[]', '{1 mon}', '{30 days}');
CALL regress_try('float8', '-0', '0', 'NaN', '0.1', '0.30000000000000004', '5e-324', '1.7976931348623157e308', '-Infinity');
CALL regress_try('float4[]', '{-0}', '{0}', '{NaN}', '{0.1}', '{3.4028235e38}');
CALL regress_try('numeric', '1', '1.0', '1.00', 'NaN', 'Infinity', '-Infinity', '0', '-0.000', '1e-1000', '1e1000');
CALL regress_try('regress_short', '1', '1.0', '-1e500');
CALL regress_try('regress_pair', '(1.0,2024-03-31 01:30Z)', '(1,2024-03-31 03:30+02)', '(,)');
CALL regress_try('regress_pair[]', '{"(1.0,2024-03-31 01:30Z)"}', '{"(1,2024-03-31 03:30+02)"}', '{NULL}', '{}');
CALL regress_try('bytea', '\x', '\x00', '\x5c4e', '\x2c', '\xff', 'a\\b');
CALL regress_try('bytea[]', '{"\\x00","\\x5c"}', '{}');
CALL regress_try('char(4)', 'a', 'a   ', '\N', '');
CALL regress_try('name', 'a', '\N', '');
CALL regress_try('varbit', '', '0', '00', '1');
CALL regress_try('inet', '10.0.0.1', '10.0.0.1/32', '10.0.0.1/8', '::ffff:10.0.0.1');
CALL regress_try('cidr', '10.0.0.0/8', '10', '::/0');
CALL regress_try('macaddr8', '08:00:2b:01:02:03', '08:00:2b:ff:fe:01:02:03');
CALL regress_try('xid8', '0', '18446744073709551615');
CALL regress_try('xid', '3', '4294967295');                                                -- fails
CALL regress_try('tid', '(0,1)', '(4294967295,65535)');
CALL regress_try('oid', '0', '4294967295');
CALL regress_try('pg_lsn', '0/0', 'FFFFFFFF/FFFFFFFF');
CALL regress_try('uuid', '00000000-0000-0000-0000-000000000000', 'ffffffffffffffffffffffffffffffff');
CALL regress_try('jsonb', '{"a": 1.0}', '{"a": 1.00}', '[1e3]', '"\\N"', 'null', '{"b": {}, "a": 0}', '{"a": 0, "b": {}}');
CALL regress_try('int[]', '{}', '[5:5]={1}', '{1}', '{{1}}', '{NULL}');
CALL regress_try('text[]', '{NULL}', '{"NULL"}', '{"a,b"}', '{a,b}', '{"\\N"}');
CALL regress_try('"char"', 'a', '', '\377');
-- types without what is needed say so
CALL regress_try('point', '(1,1)');                                                        -- fails
CALL regress_try('json', '{}');                                                            -- fails
CALL regress_try('xml', '<a/>');                                                           -- fails
CALL regress_try('tsvector', 'a');                                                         -- fails
CALL regress_try('box[]', '{}');                                                           -- fails
SELECT * FROM regress_tried ORDER BY type COLLATE "C";
DROP TABLE regress_tried;
DROP PROCEDURE regress_try, regress_set;
DROP DOMAIN regress_short;
DROP TYPE regress_pair;
SELECT jobstate.drop_machine('regress_m');
