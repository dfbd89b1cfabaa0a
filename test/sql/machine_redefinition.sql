-- machine_redefinition: the counters know a state by its id, so under tables that
-- hold states by name a state keeps its id for as long as rows know it.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 4}', '{a -> b, b -> done}');
CREATE TABLE regress_t (id int PRIMARY KEY, state text, at timestamptz DEFAULT '2020-01-01');
INSERT INTO regress_t VALUES (1, 'a'), (2, 'a'), (3, 'b'), (4, 'done'), (5, 'done');
SELECT jobstate.attach('regress_t', 'regress_m', 'state');

-- another id; ids that change places; an id that goes to another state
SELECT jobstate.define_machine('regress_m', '{"a": 7, "b": 2, "done": 3}', '{a -> b, b -> done}');          -- fails
SELECT jobstate.define_machine('regress_m', '{"a": 2, "b": 1, "done": 3}', '{a -> b, b -> done}');          -- fails
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "x": 3}', '{a -> b}');                        -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;

-- nobody is in x
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 9}', '{a -> b, b -> done}');
INSERT INTO regress_t VALUES (6, 'x');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- rows that were rolled up know it as well
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 9}', '{a -> b, b -> done, x -> a}');
SELECT jobstate.prune('regress_t', '1 day', 'at');
SELECT * FROM jobstate.totals('regress_t') ORDER BY state;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 8, "x": 9}', '{a -> b, b -> done}');  -- fails
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "x": 9}', '{a -> b}');                        -- fails

-- a row that left in this very transaction does not hinder, one that came does
BEGIN;
DELETE FROM regress_t WHERE state = 'x';
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 5}', '{a -> b, b -> done, x -> a}');
INSERT INTO regress_t VALUES (7, 'x');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SAVEPOINT a;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 6}', '{a -> b, b -> done}');  -- fails
ROLLBACK TO a;
UPDATE regress_t SET state = 'a' WHERE id = 7;
COMMIT;
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- the same under REPEATABLE READ
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM regress_t;
INSERT INTO regress_t VALUES (8, 'x');
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3, "x": 6}', '{a -> b, b -> done}');  -- fails
ROLLBACK;

-- a table that holds ids needs nothing but the ids
SELECT jobstate.detach('regress_t');
ALTER TABLE regress_t ALTER state TYPE int USING 1;
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
SELECT jobstate.define_machine('regress_m', '{"first": 1, "a": 2, "finished": 3}', '{first -> a, a -> finished}');
SELECT * FROM jobstate.totals('regress_t') ORDER BY state;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
