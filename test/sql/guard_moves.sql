-- guard_moves: no statement of any kind takes a row along an edge that is not there.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"new": 1, "ready": 2, "busy": 3, "done": 4}',
    '{new -> ready, ready -> busy, busy -> done, busy -> ready: retry, new -> done: skip}', '{new,ready}', '{done}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint NOT NULL DEFAULT 1, note text);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');

-- inserts
INSERT INTO regress_t (id) VALUES (1), (2), (3);
INSERT INTO regress_t VALUES (4, 2);
INSERT INTO regress_t VALUES (5, 3);                                             -- fails
\echo :SQLSTATE
INSERT INTO regress_t VALUES (5, 1), (6, 4);                                     -- fails
INSERT INTO regress_t VALUES (5, 0);                                             -- fails
COPY regress_t FROM stdin;                                                       -- fails
5	1	\N
6	3	\N
\.
WITH i AS (INSERT INTO regress_t VALUES (5, 4) RETURNING id) SELECT * FROM i;    -- fails
SELECT id, state FROM regress_t ORDER BY id;

-- updates
UPDATE regress_t SET state = 3 WHERE id = 1;                                     -- fails
UPDATE regress_t SET state = state + 1 WHERE id IN (1, 4);
UPDATE regress_t SET state = 1 WHERE id = 1;                                     -- fails
UPDATE regress_t SET state = 2 WHERE id = 4;
UPDATE regress_t SET state = 4 WHERE id = 2;
UPDATE regress_t SET state = 1 WHERE id = 2;                                     -- fails
UPDATE regress_t SET state = 99 WHERE id = 3;                                    -- fails
UPDATE regress_t SET state = 2 WHERE id <= 2;                                    -- fails
-- staying is no move, not even in a final state or with everything else changed
UPDATE regress_t SET state = state, note = 'same';
UPDATE regress_t SET id = id + 100;
UPDATE regress_t SET id = id - 100;
-- two moves in one transaction are two moves, in one statement they are one
BEGIN;
UPDATE regress_t SET state = 2 WHERE id = 3;
UPDATE regress_t SET state = 3 WHERE id = 3;
COMMIT;
INSERT INTO regress_t VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET state = 4;
INSERT INTO regress_t VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET state = 3;    -- fails
INSERT INTO regress_t VALUES (3, 4) ON CONFLICT DO NOTHING;
MERGE INTO regress_t t USING (VALUES (1, 3), (9, 1)) v (id, state) ON t.id = v.id
 WHEN MATCHED THEN UPDATE SET state = v.state WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state);
MERGE INTO regress_t t USING (VALUES (1, 4), (10, 3)) v (id, state) ON t.id = v.id
 WHEN MATCHED THEN UPDATE SET state = v.state WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.state); -- fails
SELECT id, state FROM regress_t ORDER BY id;

-- what a BEFORE trigger makes of the row is what counts
CREATE FUNCTION regress_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.note = 'finish' THEN new.state := 4; END IF;
    IF new.note = 'skip' THEN RETURN NULL; END IF;
    RETURN new;
END $$;
CREATE TRIGGER zz_before BEFORE INSERT OR UPDATE ON regress_t FOR EACH ROW EXECUTE FUNCTION regress_before();
UPDATE regress_t SET note = 'finish' WHERE id = 4;                               -- fails
UPDATE regress_t SET note = 'finish' WHERE id = 1;
INSERT INTO regress_t VALUES (11, 1, 'finish');                                  -- fails
INSERT INTO regress_t VALUES (11, 3, 'skip');
UPDATE regress_t SET state = 1, note = 'skip' WHERE id = 1;
-- a row that a savepoint or an error took back may be moved again
DO $$
BEGIN
    BEGIN
        UPDATE regress_t SET state = 3, note = NULL WHERE id = 4;
        UPDATE regress_t SET state = 1 WHERE id = 4;
    EXCEPTION WHEN check_violation THEN
        RAISE NOTICE 'still %', (SELECT state FROM regress_t WHERE id = 4);
    END;
END $$;
SELECT id, state FROM regress_t ORDER BY id;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
-- rows may always be deleted
DELETE FROM regress_t;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
DROP TABLE regress_t;
DROP FUNCTION regress_before;
SELECT jobstate.drop_machine('regress_m');
