-- What PostgreSQL 18 has and earlier servers have not; there is nothing to see on those.
SELECT current_setting('server_version_num')::int < 180000 AS earlier \gset
\if :earlier
\quit
\endif
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}',
                               '{a -> b, b -> c, a -> c, b -> a, c -> a, c -> b}', '{a,b,c}');
SELECT jobstate.define_rules('regress_r', '{empty -> a, any c -> c, always -> b}');
-- a virtual column has no value where a trigger sees the row: not the state, not a group, not a child's key
CREATE TABLE regress_p (id int PRIMARY KEY, state int NOT NULL DEFAULT 1, weight int, note text,
    twice int GENERATED ALWAYS AS (weight * 2) VIRTUAL NOT NULL CHECK (twice < 100),
    half int GENERATED ALWAYS AS (weight / 2) STORED);
SELECT jobstate.attach('regress_p', 'regress_m', 'twice');                  -- fails
SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{twice}');       -- fails
SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{half}');
CREATE TABLE regress_c (id int PRIMARY KEY, p int, v int GENERATED ALWAYS AS (p) VIRTUAL, state int NOT NULL DEFAULT 1);
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_c', 'regress_m', 'state');
SELECT jobstate.derive('regress_p', 'regress_c', 'v', 'regress_r');         -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
-- beside the columns in use it may be
INSERT INTO regress_p (id, weight) VALUES (1, 10), (2, 20), (3, 49) RETURNING old, new.state, new.twice;
INSERT INTO regress_p (id, weight) VALUES (4, 50);                          -- fails
INSERT INTO regress_p (id) VALUES (4);                                      -- fails
INSERT INTO regress_c (id, p) VALUES (10, 1), (20, 2), (30, 3);
UPDATE regress_c SET state = 3 WHERE id = 30 RETURNING old.state, new.state;
SELECT id, state, twice, half FROM regress_p ORDER BY id;
SELECT group_key, state, n FROM jobstate.counts('regress_p') ORDER BY 1, 2;
DELETE FROM regress_c WHERE id = 20 RETURNING old.state, new.state;
UPDATE regress_c SET p = 2 WHERE id = 30 RETURNING old.p, new.p;
SELECT id, state, twice, half FROM regress_p ORDER BY id;
SELECT * FROM jobstate.verify('regress_p');
SELECT * FROM jobstate.transition('regress_c', '{10,30}', 'b');
SELECT * FROM jobstate.take('regress_c', 'b', 'c');
SELECT id, state, twice, half FROM regress_p ORDER BY id;
-- constraints that are not enforced, or not yet valid: ours asks for no more than a statement does
ALTER TABLE regress_p ADD CONSTRAINT wish CHECK (state <> 3) NOT ENFORCED;
ALTER TABLE regress_c ADD CONSTRAINT one FOREIGN KEY (p) REFERENCES regress_p NOT ENFORCED;
UPDATE regress_c SET state = 3;
SELECT id, state FROM regress_p ORDER BY id;
ALTER TABLE regress_p DROP CONSTRAINT wish, ADD CONSTRAINT noted NOT NULL note NOT VALID;
UPDATE regress_c SET state = 2;                                             -- fails
ALTER TABLE regress_p DROP CONSTRAINT noted;
UPDATE regress_c SET state = 2;
SELECT id, state FROM regress_p ORDER BY id;
SELECT * FROM jobstate.verify('regress_p');
-- a key that may still be null in old rows identifies those that have one
CREATE TABLE regress_k (id int UNIQUE, state int NOT NULL DEFAULT 1);
INSERT INTO regress_k VALUES (NULL), (1);
ALTER TABLE regress_k ADD CONSTRAINT k NOT NULL id NOT VALID;
SELECT jobstate.attach('regress_k', 'regress_m', 'state');
SELECT * FROM jobstate.transition('regress_k', '{1}', 'b');
SELECT * FROM jobstate.verify('regress_k');
SET client_min_messages = warning;
DROP TABLE regress_c, regress_p, regress_k CASCADE;
SELECT jobstate.drop_rules('regress_r');
SELECT jobstate.drop_machine('regress_m');
