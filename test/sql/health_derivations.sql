-- health_derivations: derived states that are not what the children give, because
-- triggers were off; children that cannot be found by an index.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_p', '{"waits": 1, "fails": 2, "done": 3}',
    '{waits -> fails, waits -> done, fails -> waits, fails -> done, done -> waits, done -> fails}');
SELECT jobstate.define_machine('regress_c', '{"todo": 1, "bad": 2, "good": 3}', '{todo -> bad, todo -> good, bad -> todo}');
SELECT jobstate.define_rules('regress_rules', '{empty -> waits, any bad/halt -> fails, any todo -> waits, any good -> done}');
SELECT jobstate.define_rules('regress_more', '{any todo -> waits, all good -> done}');
CREATE TABLE regress_parent ("Id" int, part int, state text NOT NULL, PRIMARY KEY ("Id", part));
CREATE TABLE regress_child (id int PRIMARY KEY, "Parent" int, part int, state smallint NOT NULL, variant text);
CREATE TABLE regress_other (id int PRIMARY KEY, parent int, part int, state text NOT NULL) PARTITION BY LIST (id);
CREATE TABLE regress_other_rest PARTITION OF regress_other DEFAULT;
CREATE INDEX regress_of ON regress_child ("Parent", part);
CREATE INDEX regress_of_other ON regress_other (parent, part, id);
INSERT INTO regress_parent SELECT n, 0, 'waits' FROM generate_series(1, 6) n;
INSERT INTO regress_child VALUES (1, 1, 0, 3, NULL), (2, 1, 0, 2, 'halt'), (3, 2, 0, 3, NULL), (4, 2, 0, 3, NULL), (5, 3, 0, 2, 'go'), (6, 3, 0, 3, NULL);
INSERT INTO regress_other VALUES (1, 4, 0, 'good'), (2, 1, 0, 'good'), (3, 6, 0, 'bad');
SELECT jobstate.attach('regress_parent', 'regress_p', 'state'), jobstate.attach('regress_child', 'regress_c', 'state'),
       jobstate.attach('regress_other', 'regress_c', 'state');
SELECT jobstate.derive('regress_parent', 'regress_child', '{Parent,part}'::name[], 'regress_rules', child_variant => 'variant');
SELECT jobstate.derive('regress_parent', 'regress_other', '{parent,part}'::name[], 'regress_more');
SELECT * FROM regress_parent ORDER BY 1;
CREATE VIEW regress_deep AS
    SELECT check_name, object, status, detail FROM jobstate.health(deep => true) WHERE check_name IN ('derived states', 'triggers', 'health', 'counters');
SELECT * FROM regress_deep;
SELECT check_name, detail FROM jobstate.health() WHERE check_name = 'derived states';

-- a child that changes unseen; what mends the trigger derives anew
ALTER TABLE regress_child DISABLE TRIGGER jobstate_watch;
UPDATE regress_child SET state = 3 WHERE id = 2;
UPDATE regress_child SET state = 1 WHERE id = 3;
SELECT * FROM regress_deep;
SELECT fix FROM jobstate.health() WHERE check_name = 'triggers' \gexec
SELECT * FROM regress_deep;
SELECT * FROM regress_parent ORDER BY 1;
-- a parent that is written while its trigger is gone
DROP TRIGGER jobstate_watch ON regress_parent;
UPDATE regress_parent SET state = 'waits';
INSERT INTO regress_parent VALUES (7, 0, 'done');
SELECT * FROM regress_deep;
SELECT fix FROM jobstate.health() WHERE check_name = 'triggers' \gexec
SELECT * FROM regress_deep;
SELECT * FROM regress_parent ORDER BY 1;
-- only the look at all children tells
ALTER TABLE regress_other DISABLE TRIGGER ALL;
UPDATE regress_other SET state = 'todo' WHERE id = 1;
ALTER TABLE regress_other ENABLE ALWAYS TRIGGER jobstate_watch;
ALTER TABLE regress_other_rest ENABLE ALWAYS TRIGGER jobstate_truncate;
CALL jobstate.maintain();
SELECT * FROM regress_deep;
SELECT fix FROM jobstate.health(deep => true) WHERE check_name = 'derived states' \gexec
SELECT * FROM regress_deep;

-- an index that somebody dropped
DROP INDEX regress_of;
SELECT check_name, object, status, detail, fix FROM jobstate.health() WHERE check_name = 'derived states';
SELECT fix FROM jobstate.health() WHERE check_name = 'derived states' \gexec
SELECT check_name, object, status, detail, fix FROM jobstate.health() WHERE check_name = 'derived states';
-- who may not read the children is told nothing of them
CREATE ROLE regress_reader;
GRANT SELECT ON regress_parent TO regress_reader;
UPDATE jobstate.rule SET result = 'fails' WHERE rule_set = 'regress_rules' AND result = 'done';
SELECT object, detail FROM jobstate.health(deep => true) WHERE check_name = 'derived states';
SET ROLE regress_reader;
SELECT object, detail FROM jobstate.health(deep => true) WHERE check_name = 'derived states';
RESET ROLE;
DROP VIEW regress_deep;
SELECT jobstate.underive('regress_parent', 'regress_child'), jobstate.underive('regress_parent', 'regress_other');
DROP TABLE regress_parent, regress_child, regress_other;
DROP ROLE regress_reader;
SELECT jobstate.drop_rules(r), jobstate.drop_machine(m) FROM unnest('{regress_rules,regress_more}'::text[], '{regress_p,regress_c}'::text[]) x (r, m);
