-- derive_statements: however children come and go, their parents know.
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p ON DELETE CASCADE ON UPDATE CASCADE, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
-- parents with the states of their children, and what by hand they should be
CREATE VIEW regress_v AS
    SELECT p.id, p.state, string_agg(c.state, ',' ORDER BY c.id) AS children,
           CASE WHEN count(c.id) = 0 THEN 'waiting' WHEN bool_or(c.state = 'bad') THEN 'bad' WHEN bool_and(c.state = 'over') THEN 'over'
                WHEN bool_and(c.state = 'waiting') THEN 'waiting' ELSE 'busy' END = p.state AS is_right
      FROM regress_p p LEFT JOIN regress_c c ON c.p = p.id GROUP BY p.id ORDER BY p.id;
INSERT INTO regress_p SELECT n FROM generate_series(1, 6) n;
INSERT INTO regress_c VALUES (1, 1, 'bad'), (2, 1, 'over'), (3, 2, 'over'), (4, 2, 'over'), (5, 3, 'busy'), (6, NULL, 'bad');
TABLE regress_v;
-- to another parent, to none, from none; several at once
UPDATE regress_c SET p = 3 WHERE id = 1;
UPDATE regress_c SET p = NULL WHERE id = 5;
UPDATE regress_c SET p = 4, state = 'busy' WHERE id = 6;
TABLE regress_v;
-- COPY
COPY regress_c FROM stdin;
7	5	over
8	5	over
\.
-- ON CONFLICT: inserted, nothing, updated
INSERT INTO regress_c VALUES (8, 5, 'bad'), (9, 6, 'over') ON CONFLICT (id) DO NOTHING;
INSERT INTO regress_c VALUES (9, 6, 'over'), (10, 6, 'bad') ON CONFLICT (id) DO UPDATE SET p = 4;
TABLE regress_v;
-- MERGE
MERGE INTO regress_c c USING (VALUES (9, 'busy'), (10, NULL), (11, 'bad')) v (id, state) ON c.id = v.id
    WHEN MATCHED AND v.state IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET state = v.state, p = 2
    WHEN NOT MATCHED THEN INSERT VALUES (v.id, 5, v.state);
TABLE regress_v;
-- a statement that writes both, in CTEs
WITH gone AS (DELETE FROM regress_c WHERE p = 5 RETURNING *), new AS (INSERT INTO regress_p VALUES (7))
INSERT INTO regress_c SELECT id + 20, 7, state FROM gone;
TABLE regress_v;
-- foreign keys: the parent's key changes, the parent goes, both ways
UPDATE regress_p SET id = 70 WHERE id = 7;
DELETE FROM regress_p WHERE id IN (2, 3);
SELECT count(*) FROM regress_c WHERE p IN (2, 3);
ALTER TABLE regress_c DROP CONSTRAINT regress_c_p_fkey,
    ADD FOREIGN KEY (p) REFERENCES regress_p ON DELETE SET NULL;
DELETE FROM regress_p WHERE id = 70;
INSERT INTO regress_p VALUES (2), (70);
UPDATE regress_c SET p = 70 WHERE p IS NULL;
TABLE regress_v;
-- without a foreign key: a parent that comes late, is called by another's name, or is not there
ALTER TABLE regress_c DROP CONSTRAINT regress_c_p_fkey;
UPDATE regress_c SET p = 8 WHERE p = 70;
BEGIN;
INSERT INTO regress_c VALUES (40, 2, 'bad');
INSERT INTO regress_p VALUES (8);
UPDATE regress_p SET id = 0 WHERE id = 2;
INSERT INTO regress_p VALUES (2);
COMMIT;
TABLE regress_v;
UPDATE regress_p SET id = 9 WHERE id = 8;
TABLE regress_v;
-- a prune, and TRUNCATE, alone or with the parents
ALTER TABLE regress_c ADD at timestamptz DEFAULT now() - interval '2 days';
SELECT jobstate.prune('regress_c', interval '1 day', 'at');
TABLE regress_v;
UPDATE regress_c SET p = 9;
TABLE regress_v;
BEGIN;
TRUNCATE regress_c;
INSERT INTO regress_c VALUES (50, 1, 'over');
COMMIT;
TABLE regress_v;
ALTER TABLE regress_c ADD FOREIGN KEY (p) REFERENCES regress_p;
TRUNCATE regress_p CASCADE;
INSERT INTO regress_p VALUES (1, 'over');
TABLE regress_v;
SELECT jobstate.rederive('regress_p');
SELECT * FROM jobstate.verify();
DROP VIEW regress_v;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
