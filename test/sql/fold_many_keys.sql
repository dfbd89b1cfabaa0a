-- fold_many_keys: many groups go to the settled base; keys that are zero leave it
-- when it is rewritten into its twin.
\set SHOW_CONTEXT never
SET jobstate.auto_maintain = off;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int, h text);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');
CREATE TABLE regress_few (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_few', 'regress_m', 'state');
INSERT INTO regress_few VALUES (1), (2), (3);
CREATE VIEW regress_settled AS
    SELECT pg_relation_size('jobstate.base_settled_0') + pg_relation_size('jobstate.base_settled_1') AS bytes;
CREATE FUNCTION regress_exact() RETURNS TABLE (groups bigint, rows numeric, difference numeric, few text) LANGUAGE sql AS $$
    SELECT count(DISTINCT group_key), sum(n), sum(n) - (SELECT count(*) FROM regress_t),
           (SELECT string_agg(n::text, ' ' ORDER BY state) FROM jobstate.counts('regress_few'))
      FROM jobstate.counts('regress_t')
$$;

INSERT INTO regress_t SELECT n, 1, n % 6000, 'group ' || n % 6000 FROM generate_series(1, 18000) n;
SELECT * FROM regress_exact();
SELECT jobstate.fold() > 6000 AS folded;
SELECT * FROM regress_exact();
SELECT * FROM jobstate.counts('regress_t', '{"g": 77, "h": "group 77"}') ORDER BY state;
-- the second fold finds the recent base too large and settles it
INSERT INTO regress_t VALUES (20001, 1, 77, 'group 77');
SELECT jobstate.fold();
SELECT bytes > 0 AS settled FROM regress_settled;
SELECT * FROM regress_exact();
SELECT * FROM jobstate.counts('regress_t', '{"g": 77, "h": "group 77"}') ORDER BY state;
SELECT n FROM jobstate.counts('regress_t', '{"g": 78, "h": "group 77"}') ORDER BY state;

-- folds that settle again and again; one of them is taken back
DO $$
BEGIN
    FOR i IN 1..5 LOOP
        UPDATE regress_t SET state = 2 WHERE state = 1 AND id % 5 = i - 1;
        COMMIT;
        PERFORM jobstate.fold();
        COMMIT;
        PERFORM jobstate.fold();
        ROLLBACK;
    END LOOP;
END $$;
BEGIN;
SAVEPOINT a;
UPDATE regress_t SET h = h || '!' WHERE id < 5000;
SELECT jobstate.fold() >= 0 AS folded;
ROLLBACK TO a;
DELETE FROM regress_t WHERE id > 17000;
COMMIT;
SELECT * FROM regress_exact();
SELECT * FROM jobstate.verify('regress_t');

-- groups that come and go cost nothing later
DO $$
BEGIN
    FOR i IN 1..4 LOOP
        INSERT INTO regress_t SELECT 100000 + n, 1, -i * 10000 - n, 'short-lived' FROM generate_series(1, 6000) n;
        COMMIT;
        PERFORM jobstate.fold();
        COMMIT;
        DELETE FROM regress_t WHERE id > 100000;
        COMMIT;
        PERFORM jobstate.fold();
        COMMIT;
    END LOOP;
END $$;
SELECT bytes AS before FROM regress_settled \gset
CALL jobstate.maintain();
SELECT bytes < :before AS smaller, bytes > 0 AS some FROM regress_settled;
SELECT count(*) BETWEEN 6000 AND 6100 AS only_those_that_live
  FROM (SELECT FROM jobstate.base_settled_0 UNION ALL SELECT FROM jobstate.base_settled_1) r;
SELECT pg_relation_size('jobstate.base_settled_0') = 0 OR pg_relation_size('jobstate.base_settled_1') = 0 AS one_is_empty;
SELECT * FROM regress_exact();
SELECT * FROM jobstate.counts('regress_t', '{"h": "short-lived"}');
SELECT * FROM jobstate.counts('regress_t', '{"g": 77, "h": "group 77"}') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- more keys in one transaction than the tally keeps in memory
INSERT INTO regress_t SELECT 200000 + n, 1, n, 'many' FROM generate_series(1, 70000) n;
SELECT * FROM regress_exact();
BEGIN;
UPDATE regress_t SET state = 2 WHERE h = 'many';
SELECT sum(n) FILTER (WHERE state = 'b') AS b FROM jobstate.counts('regress_t', '{"h": "many"}');
SAVEPOINT a;
DELETE FROM regress_t WHERE h = 'many' AND g > 10;
SELECT sum(n) FROM jobstate.counts('regress_t', '{"h": "many"}');
ROLLBACK TO a;
SELECT sum(n) FILTER (WHERE state = 'b') AS b FROM jobstate.counts('regress_t', '{"h": "many"}');
ROLLBACK;
SELECT * FROM jobstate.counts('regress_t', '{"g": 70000, "h": "many"}') ORDER BY state;
SELECT jobstate.fold() > 0 AS folded;
SELECT * FROM jobstate.verify('regress_t');
DROP FUNCTION regress_exact;
DROP VIEW regress_settled;
DROP TABLE regress_t, regress_few;
CALL jobstate.maintain();
SELECT jobstate.drop_machine('regress_m');
