-- tally_savepoints: what a savepoint takes back was never counted.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TABLE regress_t (id serial PRIMARY KEY, state smallint DEFAULT 1, g int);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
-- the groups' counts of the states a, b, c beside a recount; they must be equal
CREATE VIEW regress_seen AS
    SELECT (SELECT string_agg(n::text, ' ' ORDER BY group_key, state) FROM jobstate.counts('regress_t') WHERE (group_key ->> 'g')::int < 3) AS counted,
           (SELECT string_agg((SELECT count(*) FROM regress_t t WHERE t.g = k.g AND t.state = s)::text, ' ' ORDER BY k.g, s)
              FROM (SELECT DISTINCT g FROM regress_t WHERE g < 3) k, generate_series(1, 3) s) AS actual;
INSERT INTO regress_t (g) SELECT n % 2 FROM generate_series(1, 8) n;

BEGIN;
INSERT INTO regress_t (g) VALUES (0), (1);
SAVEPOINT a;
UPDATE regress_t SET state = 2 WHERE g = 0;
SELECT * FROM regress_seen;
SAVEPOINT b;
UPDATE regress_t SET state = 3 WHERE g = 0 AND id < 5;
DELETE FROM regress_t WHERE g = 1;
INSERT INTO regress_t (g) VALUES (2);
SELECT * FROM regress_seen;
ROLLBACK TO b;
SELECT * FROM regress_seen;
INSERT INTO regress_t (g) VALUES (2), (2);
ROLLBACK TO b;
SELECT * FROM regress_seen;
UPDATE regress_t SET g = 2 WHERE id = 1;
RELEASE b;
SELECT * FROM regress_seen;
ROLLBACK TO a;
SELECT * FROM regress_seen;
UPDATE regress_t SET g = 2 WHERE id = 2;
COMMIT;
SELECT * FROM regress_seen;

-- a released one goes with its parent
BEGIN;
SAVEPOINT a;
INSERT INTO regress_t (g) VALUES (0);
SAVEPOINT b;
INSERT INTO regress_t (g) VALUES (0);
SAVEPOINT c;
INSERT INTO regress_t (g) VALUES (0);
RELEASE c;
ROLLBACK TO b;
INSERT INTO regress_t (g) VALUES (0);
RELEASE a;
SAVEPOINT d;
INSERT INTO regress_t (g) VALUES (0);
ROLLBACK TO d;
SELECT * FROM regress_seen;
COMMIT;
SELECT * FROM regress_seen;
BEGIN;
SAVEPOINT a;
INSERT INTO regress_t (g) VALUES (0);
ROLLBACK TO a;
ROLLBACK TO a;
SELECT * FROM regress_seen;
ROLLBACK;

-- exception blocks are savepoints: a loop that fails every third time
DO $$
BEGIN
    FOR i IN 1..300 LOOP
        BEGIN
            INSERT INTO regress_t (g) VALUES (i % 7);
            BEGIN
                UPDATE regress_t SET state = state + 1 WHERE g = i % 7 AND state < 3;
                IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
            EXCEPTION WHEN division_by_zero THEN
                UPDATE regress_t SET g = (g + 1) % 7 WHERE id = i % 50;
            END;
            IF i % 3 = 0 THEN RAISE numeric_value_out_of_range; END IF;
        EXCEPTION WHEN numeric_value_out_of_range THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT counted = actual AS exact FROM regress_seen;
SELECT * FROM jobstate.verify('regress_t');

-- many levels, many keys in each; half of them are taken back
BEGIN;
DO $$
DECLARE
    sql text := '';
BEGIN
    FOR i IN REVERSE 60..1 LOOP
        sql := format('BEGIN INSERT INTO regress_t (g) SELECT n %% %s FROM generate_series(1, 40) n; %s %s EXCEPTION WHEN division_by_zero THEN NULL; END;',
                      i + 1, sql, CASE WHEN i % 2 = 0 THEN 'RAISE division_by_zero;' ELSE '' END);
    END LOOP;
    EXECUTE format('DO %L', 'BEGIN ' || sql || ' END');
END $$;
SELECT counted = actual AS exact FROM regress_seen;
SELECT sum(n) - (SELECT count(*) FROM regress_t) AS difference FROM jobstate.counts('regress_t');
COMMIT;
SELECT * FROM jobstate.verify('regress_t');
-- what was undone altogether leaves nothing in the log
SELECT jobstate.fold() >= 0 AS folded;
BEGIN;
SAVEPOINT a;
UPDATE regress_t SET g = g + 100;
ROLLBACK TO a;
INSERT INTO regress_t (g) VALUES (1);
DELETE FROM regress_t WHERE id = (SELECT max(id) FROM regress_t);
COMMIT;
SELECT jobstate.fold();
DROP VIEW regress_seen;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
