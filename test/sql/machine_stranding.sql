-- machine_stranding: a state that rows are in cannot be taken away.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TYPE regress_state AS ENUM ('a', 'b', 'c');
CREATE TABLE regress_by_id (id int PRIMARY KEY, state smallint);
CREATE TABLE regress_by_name (id int PRIMARY KEY, state text);
CREATE TABLE regress_by_label (id int PRIMARY KEY, state regress_state);
INSERT INTO regress_by_id VALUES (1, 1), (2, 2);
INSERT INTO regress_by_name VALUES (1, 'a'), (2, 'b');
INSERT INTO regress_by_label VALUES (1, 'a');
SELECT jobstate.attach('regress_by_id', 'regress_m', 'state');
SELECT jobstate.attach('regress_by_name', 'regress_m', 'state');
SELECT jobstate.attach('regress_by_label', 'regress_m', 'state');

-- rows are in b: by id, and by name
SELECT jobstate.define_machine('regress_m', '{"a": 1, "c": 3}', '{a -> c}');                      -- fails
\echo :SQLSTATE
-- nobody is in c
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
INSERT INTO regress_by_id VALUES (3, 3);                                                          -- fails
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');

-- a new name for an id suits tables that hold ids, and strands those with names
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2, "c": 3}', '{a -> bee, bee -> c}'); -- fails
DELETE FROM regress_by_name WHERE state = 'b';
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2, "c": 3}', '{a -> bee, bee -> c}');
SELECT * FROM jobstate.counts('regress_by_id') ORDER BY state;
INSERT INTO regress_by_name VALUES (2, 'b');                                                      -- fails
INSERT INTO regress_by_name VALUES (2, 'bee');

-- the caller's own uncommitted rows count as well
BEGIN;
INSERT INTO regress_by_label VALUES (2, 'c');
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2}', '{a -> bee}');                  -- fails
ROLLBACK;
BEGIN;
DELETE FROM regress_by_label;
DELETE FROM regress_by_name;
DELETE FROM regress_by_id WHERE state = 1;
SELECT jobstate.define_machine('regress_m', '{"bee": 2, "c": 3}', '{bee -> c}');
SELECT * FROM jobstate.counts('regress_by_id') ORDER BY state;
INSERT INTO regress_by_id VALUES (1, 1);                                                          -- fails
ROLLBACK;

-- an edge may go whenever; the guard of this session knows at once
UPDATE regress_by_id SET state = 3 WHERE id = 2;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2, "c": 3}', '{}');
UPDATE regress_by_id SET state = 2 WHERE id = 1;                                                  -- fails
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2, "c": 3}', '{a -> bee}');
UPDATE regress_by_id SET state = 2 WHERE id = 1;
-- and forgets what is taken back
BEGIN;
SAVEPOINT a;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "bee": 2, "c": 3}', '{bee -> a}');
UPDATE regress_by_id SET state = 1 WHERE id = 1;
ROLLBACK TO a;
UPDATE regress_by_id SET state = 1 WHERE id = 1;                                                  -- fails
ROLLBACK;
UPDATE regress_by_id SET state = 1 WHERE id = 1;                                                  -- fails

SELECT v.* FROM unnest('{regress_by_id,regress_by_name,regress_by_label}'::regclass[]) t, jobstate.verify(t) v;
DROP TABLE regress_by_id, regress_by_name, regress_by_label;
DROP TYPE regress_state;
SELECT jobstate.drop_machine('regress_m');
