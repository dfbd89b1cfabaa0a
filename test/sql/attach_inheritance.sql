-- attach_inheritance: inheritance is no partitioning.  What is attached is the one
-- table: its children's rows are not guarded, not counted, not moved and not pruned.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}', '{a}');
CREATE TABLE regress_parent (id int PRIMARY KEY, state smallint DEFAULT 1, at date DEFAULT '2020-01-01');
CREATE TABLE regress_child () INHERITS (regress_parent);
INSERT INTO regress_parent VALUES (1, 3), (2, 1), (3, 1);
INSERT INTO regress_child VALUES (1, 3), (2, 1), (4, 3), (5, 77);
SELECT * FROM jobstate.check('regress_parent', 'regress_m', 'state');
SELECT jobstate.attach('regress_parent', 'regress_m', 'state');
SELECT state, n FROM jobstate.counts('regress_parent') ORDER BY state;

-- changes that come by the parent reach the child, unseen
UPDATE regress_parent SET at = '2020-02-02';
INSERT INTO regress_child VALUES (6, 2);
SELECT state, n FROM jobstate.counts('regress_parent') ORDER BY state;
-- the verbs keep to the table itself
SELECT * FROM jobstate.transition('regress_parent', '{1,2,4,6}', 'b');
SELECT * FROM jobstate.take('regress_parent', 'a', 'b', n => 10);
SELECT jobstate.prune('regress_parent', '1 day', 'at');
SELECT * FROM jobstate.totals('regress_parent') ORDER BY state;
SELECT tableoid::regclass::text AS relation, id, state FROM regress_parent ORDER BY 1, 2;
-- a rebuild, a scan, TRUNCATE and a fresh attach agree
SELECT jobstate.rebuild('regress_parent');
SELECT jobstate.uncount('regress_parent');
SELECT state, n FROM jobstate.counts('regress_parent') ORDER BY state;
SELECT jobstate.recount('regress_parent');
TRUNCATE ONLY regress_parent;
SELECT state, n FROM jobstate.counts('regress_parent') ORDER BY state;
SELECT * FROM jobstate.verify('regress_parent');

-- the child on its own
DELETE FROM regress_child WHERE state = 77;
SELECT jobstate.attach('regress_child', 'regress_m', 'state');
INSERT INTO regress_parent VALUES (9);
UPDATE regress_parent SET state = 3 WHERE state = 2;
DELETE FROM regress_parent WHERE id = 1;
SELECT state, n FROM jobstate.counts('regress_child') ORDER BY state;
SELECT state, n FROM jobstate.counts('regress_parent') ORDER BY state;
-- what is altered above is noticed below
ALTER TABLE regress_parent RENAME state TO status;
ALTER TABLE regress_parent ALTER status TYPE int;
UPDATE regress_parent SET status = 2 WHERE status = 1;
SELECT state, n FROM jobstate.counts('regress_child') ORDER BY state;
SELECT target, counted FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text;
TRUNCATE regress_parent;
SELECT state, n FROM jobstate.counts('regress_child') ORDER BY state;
SELECT v.* FROM unnest('{regress_parent,regress_child}'::regclass[]) t, jobstate.verify(t) v;
DROP TABLE regress_parent CASCADE;
SELECT count(*) FROM jobstate.attachment WHERE machine = 'regress_m';
SELECT jobstate.drop_machine('regress_m');
