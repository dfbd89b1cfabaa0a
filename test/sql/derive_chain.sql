-- derive_chain: a parent's state may be the child of another's, and so on; and two tables may be children of one.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
SELECT jobstate.define_rules('regress_s', '{any bad -> bad, always -> busy}') \g /dev/null
CREATE TABLE regress_g (id int PRIMARY KEY, state smallint NOT NULL DEFAULT 1);
CREATE TABLE regress_p (id int PRIMARY KEY, g int REFERENCES regress_g, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_d (id int PRIMARY KEY, p int REFERENCES regress_p, g int REFERENCES regress_g, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_p (g); CREATE INDEX ON regress_c (p); CREATE INDEX ON regress_d (p); CREATE INDEX ON regress_d (g);
SELECT jobstate.attach(t, 'regress_m', 'state') FROM unnest('{regress_g,regress_p,regress_c,regress_d}'::regclass[]) t \g /dev/null
INSERT INTO regress_g SELECT n FROM generate_series(1, 3) n;
INSERT INTO regress_p SELECT n, (n + 1) / 2 FROM generate_series(1, 6) n;
INSERT INTO regress_c SELECT n, (n + 1) / 2, 'over' FROM generate_series(1, 8) n;
-- from the top, so that what comes later must go up through all
SELECT jobstate.derive('regress_g', 'regress_p', 'g', 'regress_r');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
CREATE VIEW regress_v AS SELECT (SELECT string_agg(state::text, ' ' ORDER BY id) FROM regress_g) AS g,
    (SELECT string_agg(state, ' ' ORDER BY id) FROM regress_p) AS p;
TABLE regress_v;
UPDATE regress_c SET state = 'bad' WHERE id = 1;
TABLE regress_v;
UPDATE regress_c SET state = 'over' WHERE id = 1;
TABLE regress_v;
-- a parent in the middle goes elsewhere, comes and goes
UPDATE regress_p SET g = 3 WHERE id IN (3, 4);
TABLE regress_v;
BEGIN;
INSERT INTO regress_g VALUES (4);
INSERT INTO regress_p VALUES (7, 4);
INSERT INTO regress_c VALUES (9, 7, 'busy');
DELETE FROM regress_p WHERE id = 5;
COMMIT;
TABLE regress_v;
TRUNCATE regress_c;
TABLE regress_v;
-- a second table for the same parents is asked where the first has no rows
SELECT jobstate.derive('regress_p', 'regress_d', 'p', 'regress_s');
SELECT jobstate.derive('regress_g', 'regress_d', 'g', 'regress_s');
TABLE regress_v;
INSERT INTO regress_d VALUES (1, 1, NULL, 'over'), (2, 2, NULL, 'bad'), (3, NULL, 4, 'bad');
TABLE regress_v;
INSERT INTO regress_c VALUES (2, 2, 'over');
TABLE regress_v;
DELETE FROM regress_c;
TABLE regress_v;
SELECT parent, child, rule_set FROM jobstate.derivations WHERE parent::text LIKE 'regress%';
-- other rules, for all that go by them
SELECT jobstate.define_rules('regress_s', '{any bad -> over, always -> waiting}');
TABLE regress_v;
-- the first table is let go, or dropped: the second is asked for all
INSERT INTO regress_c VALUES (2, 2, 'busy');
TABLE regress_v;
SELECT jobstate.underive('regress_p', 'regress_c');
TABLE regress_v;
SELECT jobstate.underive('regress_p', 'regress_d'), jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r'),
       jobstate.derive('regress_p', 'regress_d', 'p', 'regress_s');
TABLE regress_v;
DROP TABLE regress_c;
TABLE regress_v;
SELECT parent, child, rule_set FROM jobstate.derivations WHERE parent::text LIKE 'regress%';
DROP VIEW regress_v;
DROP TABLE regress_d, regress_p, regress_g;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
SELECT jobstate.drop_rules('regress_s');
