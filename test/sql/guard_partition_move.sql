-- guard_partition_move: an UPDATE that moves a row to another partition comes to
-- AFTER triggers as a delete and an insert, and is judged as the one move it is.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"new": 1, "busy": 2, "done": 3}', '{new -> busy, busy -> done}', '{new}');
CREATE TABLE regress_p (id int, state smallint, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
CREATE TABLE regress_p2 PARTITION OF regress_p FOR VALUES IN (2) PARTITION BY LIST (part);
CREATE TABLE regress_p2_leaf PARTITION OF regress_p2 FOR VALUES IN (2);
-- by the state itself as well
CREATE TABLE regress_s (id int, state smallint, PRIMARY KEY (id, state)) PARTITION BY LIST (state);
CREATE TABLE regress_s_open PARTITION OF regress_s FOR VALUES IN (1, 2);
CREATE TABLE regress_s_done PARTITION OF regress_s FOR VALUES IN (3);
SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{part}'), jobstate.attach('regress_s', 'regress_m', 'state');

INSERT INTO regress_p SELECT n, 1, 1 FROM generate_series(1, 6) n;
INSERT INTO regress_p VALUES (7, 2, 2);                                          -- fails
-- moves with and without another state, one and many at a time
UPDATE regress_p SET part = 2, state = 2 WHERE id = 1;
UPDATE regress_p SET part = 2, state = 3 WHERE id = 2;                           -- fails
\echo :SQLSTATE
UPDATE regress_p SET part = 2 WHERE id = 2;
UPDATE regress_p SET part = 3 - part, state = state + 1 WHERE id <= 4;
UPDATE regress_p SET part = 3 - part, state = 1 WHERE id >= 4;                   -- fails
UPDATE regress_p SET part = 3 - part, state = 77 WHERE id = 5;                   -- fails
SELECT id, state, part FROM regress_p ORDER BY id;
SELECT * FROM jobstate.counts('regress_p') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_p');

-- the insert that follows a move is an insert
UPDATE regress_p SET part = 3 - part WHERE id = 3;
INSERT INTO regress_p VALUES (8, 2, 1);                                          -- fails
BEGIN;
UPDATE regress_p SET part = 3 - part WHERE id = 3;
INSERT INTO regress_p VALUES (8, 2, 1);                                          -- fails
ROLLBACK;
-- in one statement as well
WITH moved AS (UPDATE regress_p SET part = 3 - part WHERE id = 3 RETURNING id)
INSERT INTO regress_p SELECT id + 10, 2, 1 FROM moved;                           -- fails
WITH gone AS (DELETE FROM regress_p WHERE id = 6 RETURNING id)
INSERT INTO regress_p SELECT id, 2, 2 FROM gone;                                 -- fails
MERGE INTO regress_p t USING (VALUES (5, 2), (9, 1)) v (id, state) ON t.id = v.id
 WHEN MATCHED THEN UPDATE SET state = v.state, part = 3 - t.part WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state, 1);
MERGE INTO regress_p t USING (VALUES (5, 3), (10, 3)) v (id, state) ON t.id = v.id
 WHEN MATCHED THEN UPDATE SET state = v.state, part = 3 - t.part WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state, 1); -- fails

-- other triggers in between, that insert and move themselves
CREATE FUNCTION regress_between() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
    INSERT INTO regress_p VALUES (100 + (SELECT count(*) FROM regress_p), 1, 1);
    UPDATE regress_p SET part = 3 - part WHERE id = (SELECT max(id) FROM regress_p);
    RETURN NULL;
END $$;
CREATE TRIGGER a_first AFTER INSERT OR UPDATE OR DELETE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_between();
CREATE TRIGGER z_last AFTER INSERT OR UPDATE OR DELETE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_between();
UPDATE regress_p SET part = 3 - part, state = state + 1 WHERE id IN (5, 6);
SELECT id, state FROM regress_p WHERE id IN (5, 6) ORDER BY id;
UPDATE regress_p SET part = 3 - part, state = 3 WHERE id = 6;
UPDATE regress_p SET part = 3 - part, state = 2 WHERE id = 6;                    -- fails
SELECT * FROM jobstate.verify('regress_p');
DROP TRIGGER a_first ON regress_p;
DROP TRIGGER z_last ON regress_p;
-- a move whose second half a trigger swallows leaves nothing for the next insert
CREATE FUNCTION regress_swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN new.id = 4 THEN NULL ELSE new END; END';
CREATE TRIGGER swallow BEFORE INSERT ON regress_p2_leaf FOR EACH ROW EXECUTE FUNCTION regress_swallow();
CREATE TRIGGER swallow BEFORE INSERT ON regress_p1 FOR EACH ROW EXECUTE FUNCTION regress_swallow();
BEGIN;
UPDATE regress_p SET part = 3 - part WHERE id = 4;
INSERT INTO regress_p VALUES (44, 2, 1);                                         -- fails
ROLLBACK;
UPDATE regress_p SET part = 3 - part WHERE id = 4;
INSERT INTO regress_p VALUES (44, 2, 1);                                         -- fails
SELECT * FROM jobstate.verify('regress_p');

INSERT INTO regress_s VALUES (1, 1), (2, 1), (3, 3);                             -- fails
INSERT INTO regress_s VALUES (1, 1), (2, 1);
UPDATE regress_s SET state = state + 1;
UPDATE regress_s SET state = 3 WHERE id = 1;
UPDATE regress_s SET state = 1 WHERE id = 1;                                     -- fails
SELECT state, n FROM jobstate.counts('regress_s') ORDER BY state;
SELECT * FROM jobstate.transition('regress_s', '{1,2}', 'done');                 -- fails
DROP TABLE regress_p, regress_s;
DROP FUNCTION regress_between, regress_swallow;
SELECT jobstate.drop_machine('regress_m');
