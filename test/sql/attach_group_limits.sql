-- attach_group_limits: up to eight group columns, keys of up to 2000 bytes; a key
-- that is longer is refused where it arises, and the session goes on.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g text, h text);
INSERT INTO regress_t VALUES (1, 1, 'short');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');

INSERT INTO regress_t VALUES (2, 1, repeat('x', 1900));
INSERT INTO regress_t VALUES (3, 1, repeat('x', 2000));                                    -- fails
\echo :SQLSTATE
INSERT INTO regress_t VALUES (3, 1, repeat('x', 1000), repeat('y', 1000));                 -- fails
UPDATE regress_t SET h = repeat('y', 2000) WHERE id = 1;                                   -- fails
SELECT length(group_key ->> 'g'), n FROM jobstate.counts('regress_t') WHERE n > 0 ORDER BY 1;
SELECT n FROM jobstate.counts('regress_t', jsonb_build_object('g', repeat('x', 1900), 'h', NULL)) ORDER BY state;
-- within a transaction a savepoint saves the rest
BEGIN;
INSERT INTO regress_t VALUES (4, 1, 'short');
SAVEPOINT a;
INSERT INTO regress_t VALUES (5, 1, 'short'), (6, 1, repeat('x', 3000));                   -- fails
ROLLBACK TO a;
INSERT INTO regress_t VALUES (7, 1, 'short');
COMMIT;
SELECT * FROM jobstate.counts('regress_t', '{"g": "short"}') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- rows that are there already: attach tells, and leaves nothing
SELECT jobstate.detach('regress_t');
INSERT INTO regress_t VALUES (8, 1, repeat('x', 5000));
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');                          -- fails
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'regress_t'::regclass;
-- a hash of the long column will do
ALTER TABLE regress_t ADD digest text GENERATED ALWAYS AS (md5(g)) STORED;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{digest}');
INSERT INTO regress_t VALUES (9, 1, repeat('x', 5000));
SELECT * FROM jobstate.counts('regress_t', jsonb_build_object('digest', md5(repeat('x', 5000)))) ORDER BY state;

-- values that are stored out of line or compressed are values like others
SELECT jobstate.detach('regress_t');
DELETE FROM regress_t WHERE length(g) > 1900;
ALTER TABLE regress_t ALTER g SET STORAGE EXTERNAL;
UPDATE regress_t SET g = repeat('z', 1900), h = repeat('w', 4000) WHERE id = 1;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
UPDATE regress_t SET state = 2 WHERE id IN (1, 2);
UPDATE regress_t SET g = repeat('z', 1900) WHERE id = 2;
DELETE FROM regress_t WHERE id = 1;
SELECT left(group_key ->> 'g', 5), state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_t');

-- eight columns of eight types
CREATE TABLE regress_eight (state smallint DEFAULT 1, a int, b text, c date, d boolean, e numeric, f uuid, g timestamptz, h int[]);
SELECT jobstate.attach('regress_eight', 'regress_m', 'state', '{h,a,b,c,d,e,f,g}');
INSERT INTO regress_eight VALUES (1, 1, 'x', '2024-01-01', true, 1.50, md5('x')::uuid, '2024-01-01 00:00Z', '{1,2}'),
                                 (1, 1, 'x', '2024-01-01', true, 1.5, md5('x')::uuid, '2024-01-01 01:00+01', '{1,2}');
INSERT INTO regress_eight DEFAULT VALUES;
SELECT group_key, n FROM jobstate.counts('regress_eight') WHERE n > 0 ORDER BY n;
SELECT count(*) FROM jobstate.counts('regress_eight', '{"b": "x", "e": 1.5, "h": "{1,2}"}');
SELECT n FROM jobstate.counts('regress_eight', (SELECT group_key FROM jobstate.counts('regress_eight') WHERE n = 2)) ORDER BY state;
DROP TABLE regress_t, regress_eight;
SELECT jobstate.drop_machine('regress_m');
