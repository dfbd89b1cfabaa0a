-- tally_procedures: transactions that end inside a procedure or a DO block, deferred
-- triggers, cursors that outlive their transaction, and read-only ones.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1);
CREATE TABLE regress_log (i int, counted text, actual text);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
CREATE PROCEDURE regress_look(i int) LANGUAGE sql AS $$
    INSERT INTO regress_log
    SELECT i, (SELECT string_agg(n::text, ' ' ORDER BY state) FROM jobstate.counts('regress_t')),
           (SELECT string_agg((SELECT count(*) FROM regress_t WHERE state = s)::text, ' ' ORDER BY s) FROM generate_series(1, 3) s)
$$;

DO $$
BEGIN
    FOR i IN 1..6 LOOP
        INSERT INTO regress_t VALUES (i);
        UPDATE regress_t SET state = 2 WHERE id = i - 1;
        IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
        CALL regress_look(i);
    END LOOP;
END $$;
SELECT * FROM regress_log ORDER BY i;
-- an error after a COMMIT takes back only what came after it
DO $$
BEGIN
    INSERT INTO regress_t VALUES (10), (11);
    COMMIT;
    INSERT INTO regress_t VALUES (12);
    UPDATE regress_t SET state = 3 WHERE id = 10;                                -- fails
END $$;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
CREATE PROCEDURE regress_chain() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 20..22 LOOP
        INSERT INTO regress_t VALUES (i);
        COMMIT AND CHAIN;
    END LOOP;
    CALL jobstate.maintain();
    INSERT INTO regress_t VALUES (23);
END $$;
CALL regress_chain();
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;

-- maintain() in a transaction block commits nothing
BEGIN;
INSERT INTO regress_t VALUES (30);
CALL jobstate.maintain();
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
ROLLBACK;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;

-- deferred triggers that write the table at the very end
CREATE FUNCTION regress_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE regress_t SET state = state + 1 WHERE id = new.id AND state < 3;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_end AFTER INSERT OR UPDATE ON regress_t
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION regress_deferred();
BEGIN;
INSERT INTO regress_t VALUES (40), (41);
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
COMMIT;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
-- a write, and the transaction is read only from then on
BEGIN;
UPDATE regress_t SET state = 2 WHERE id = 20;
SET TRANSACTION READ ONLY;
SET CONSTRAINTS ALL IMMEDIATE;                                                   -- fails
ROLLBACK;
DROP TRIGGER at_end ON regress_t;
BEGIN;
UPDATE regress_t SET state = 2 WHERE id = 21;
SET TRANSACTION READ ONLY;
COMMIT;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
-- a cursor WITH HOLD runs to its end at commit
BEGIN;
CREATE FUNCTION regress_add() RETURNS int LANGUAGE sql AS 'INSERT INTO regress_t SELECT max(id) + 1 FROM regress_t RETURNING id';
DECLARE c CURSOR WITH HOLD FOR SELECT regress_add() FROM generate_series(1, 4);
FETCH 2 FROM c;
COMMIT;
SELECT sum(n) = (SELECT count(*) FROM regress_t) AS exact FROM jobstate.counts('regress_t');
CLOSE c;
SELECT * FROM jobstate.verify('regress_t');
DROP TABLE regress_t, regress_log;
DROP PROCEDURE regress_look, regress_chain;
DROP FUNCTION regress_deferred, regress_add;
SELECT jobstate.drop_machine('regress_m');
