-- machine_redefinition: counts stay exact when the ids of a machine's states
-- change under tables that hold states by name.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3}', '{a -> b, b -> done}');
CREATE TABLE regress_t (id int PRIMARY KEY, state text, at timestamptz DEFAULT '2020-01-01');
INSERT INTO regress_t VALUES (1, 'a'), (2, 'a'), (3, 'b'), (4, 'done'), (5, 'done');
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
SELECT jobstate.prune('regress_t', '1 day', 'at', 1);
SELECT * FROM jobstate.totals('regress_t') ORDER BY state;

-- another id
SELECT jobstate.define_machine('regress_m', '{"a": 7, "b": 2, "done": 3}', '{a -> b, b -> done}');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
INSERT INTO regress_t VALUES (6, 'a');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- ids that change places, the rolled-up state's among them
SELECT jobstate.define_machine('regress_m', '{"a": 3, "b": 7, "done": 2}', '{a -> b, b -> done}');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
SELECT * FROM jobstate.totals('regress_t') ORDER BY state;

-- also with changes of the same transaction before and after
BEGIN;
UPDATE regress_t SET state = 'b' WHERE id = 1;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "done": 3}', '{a -> b, b -> done}');
UPDATE regress_t SET state = 'b' WHERE id = 2;
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
COMMIT;
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
SELECT * FROM jobstate.totals('regress_t') ORDER BY state;

-- a rebuild counts them afresh in any case
SELECT jobstate.rebuild('regress_t');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
