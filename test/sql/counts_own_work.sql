-- counts_own_work: counts include what the caller has not committed, at every level
-- of isolation, from functions and views, and nothing that it took back.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int DEFAULT 0);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t VALUES (1), (2), (3);
PREPARE seen AS SELECT g, string_agg(n::text, ' ' ORDER BY state) FROM jobstate.counts('regress_t') c, LATERAL (SELECT c.group_key ->> 'g' AS g) k GROUP BY 1 ORDER BY 1;

BEGIN;
INSERT INTO regress_t VALUES (4, 1, 0), (5, 2, 7);
EXECUTE seen;
DELETE FROM regress_t WHERE id = 4;
EXECUTE seen;
UPDATE regress_t SET g = 7;
EXECUTE seen;
SELECT * FROM jobstate.counts('regress_t', '{"g": 0}') ORDER BY state;
COMMIT;
EXECUTE seen;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO regress_t VALUES (6);
EXECUTE seen;
UPDATE regress_t SET state = 2 WHERE id = 6;
EXECUTE seen;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
EXECUTE seen;
DELETE FROM regress_t WHERE id = 5;
INSERT INTO regress_t VALUES (6, 2, 8);
EXECUTE seen;
COMMIT;
EXECUTE seen;
-- one's own fold, count and TRUNCATE in a transaction that keeps its snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM regress_t;
INSERT INTO regress_t VALUES (7);
SELECT jobstate.fold() >= 0 AS folded;
EXECUTE seen;
SELECT jobstate.rebuild('regress_t');
EXECUTE seen;
UPDATE regress_t SET g = 9;
EXECUTE seen;
COMMIT;
EXECUTE seen;

-- a function sees the work of the statements before it; a trigger that of its rows so far
CREATE FUNCTION regress_n() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT sum(n)::bigint FROM jobstate.counts('regress_t') $$;
BEGIN;
DO $$
BEGIN
    FOR i IN 20..22 LOOP
        INSERT INTO regress_t VALUES (i);
        RAISE NOTICE '% rows', regress_n();
    END LOOP;
END $$;
CREATE VIEW regress_view AS SELECT state, sum(n) AS n FROM jobstate.counts('regress_t') GROUP BY state;
SELECT * FROM regress_view ORDER BY state;
ROLLBACK;
CREATE FUNCTION regress_last() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% rows when statement ends', regress_n();
    RETURN NULL;
END $$;
CREATE TRIGGER z_last AFTER INSERT ON regress_t FOR EACH STATEMENT EXECUTE FUNCTION regress_last();
INSERT INTO regress_t SELECT generate_series(30, 34);
DROP TRIGGER z_last ON regress_t;
-- a read-only transaction reads
BEGIN READ ONLY;
EXECUTE seen;
SELECT * FROM jobstate.verify('regress_t');
SELECT state, total FROM jobstate.totals('regress_t', '{"g": 9}') ORDER BY state;
COMMIT;
-- nothing is left of an aborted one, whatever ended it
BEGIN;
INSERT INTO regress_t VALUES (40);
SELECT 1 / 0;                                                                    -- fails
EXECUTE seen;                                                                    -- fails
ROLLBACK;
EXECUTE seen;
SET statement_timeout = '50ms';
INSERT INTO regress_t SELECT 41 FROM pg_sleep(5);                                -- fails
RESET statement_timeout;
INSERT INTO regress_t VALUES (40), (40);                                         -- fails
EXECUTE seen;
DROP FUNCTION regress_n, regress_last CASCADE;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
