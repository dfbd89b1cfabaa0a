-- fold_basic: the fold moves the log into the base and empties it; what is counted
-- stays, and so it does when a savepoint takes a fold back.
\set SHOW_CONTEXT never
SET jobstate.auto_maintain = off;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
CREATE VIEW regress_log AS
    SELECT sum(pg_relation_size(c.oid)) AS bytes FROM pg_class c
     WHERE c.relnamespace = 'jobstate'::regnamespace AND c.relname ~ '^segment_';
PREPARE seen AS SELECT string_agg(n::text, ' ' ORDER BY group_key, state) AS counted FROM jobstate.counts('regress_t');
SELECT jobstate.fold() >= 0 AS folded;
SELECT bytes FROM regress_log;

-- one row of the log per transaction and group, whatever was done
INSERT INTO regress_t SELECT n, 1, 1 FROM generate_series(1, 100) n;
INSERT INTO regress_t SELECT n, 1, n % 2 FROM generate_series(101, 200) n;
BEGIN;
UPDATE regress_t SET state = 2 WHERE id <= 10;
DELETE FROM regress_t WHERE id > 190;
COMMIT;
UPDATE regress_t SET g = g;
EXECUTE seen;
SELECT jobstate.fold();
SELECT bytes FROM regress_log;
EXECUTE seen;
SELECT jobstate.fold();
EXECUTE seen;

-- pending work is not folded, but not lost either
BEGIN;
INSERT INTO regress_t VALUES (1000, 1, 2);
SELECT jobstate.fold();
EXECUTE seen;
COMMIT;
EXECUTE seen;
SELECT jobstate.fold();
-- a fold that is taken back
INSERT INTO regress_t VALUES (1001, 1, 2);
BEGIN;
SAVEPOINT a;
SELECT jobstate.fold();
EXECUTE seen;
ROLLBACK TO a;
EXECUTE seen;
INSERT INTO regress_t VALUES (1002, 1, 2);
COMMIT;
EXECUTE seen;
BEGIN;
SELECT jobstate.fold();
ROLLBACK;
EXECUTE seen;
SELECT jobstate.fold();
EXECUTE seen;
SELECT * FROM jobstate.verify('regress_t');

-- many folds: the base is rewritten in between and stays small
DO $$
BEGIN
    FOR i IN 1..400 LOOP
        INSERT INTO regress_t SELECT 10000 + i * 20 + n, 1, 3 + n FROM generate_series(1, 15) n;
        COMMIT;
        PERFORM jobstate.fold();
        COMMIT;
    END LOOP;
END $$;
SELECT sum(n) - (SELECT count(*) FROM regress_t) AS difference FROM jobstate.counts('regress_t');
SELECT * FROM jobstate.verify('regress_t');
SELECT pg_relation_size('jobstate.base_recent') < 100 * 8192 AS small, bytes FROM regress_log;

-- what is detached by then is not folded, what is dropped leaves with the next rewrite
SELECT count(*) AS before FROM jobstate.base_recent \gset
CREATE TABLE regress_v (id int PRIMARY KEY, state smallint DEFAULT 1, g int);
SELECT jobstate.attach('regress_v', 'regress_m', 'state', '{g}');
INSERT INTO regress_v SELECT n, 1, n FROM generate_series(1, 500) n;
SELECT jobstate.detach('regress_v');
SELECT jobstate.fold() > 500 AS folded;
SELECT count(*) - :before < 20 AS left_out FROM jobstate.base_recent;
DROP TABLE regress_v;
CREATE TABLE regress_u (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_u', 'regress_m', 'state');
INSERT INTO regress_u VALUES (1), (2);
DROP TABLE regress_t CASCADE;
SELECT jobstate.fold() > 0 AS folded;
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
-- maintain() leaves a log alone that is not worth a fold
INSERT INTO regress_u VALUES (3);
CALL jobstate.maintain();
SELECT jobstate.fold() > 0 AS was_left;
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
-- rows that others bring (a subscription, a dump) are not the log's
INSERT INTO jobstate.segment_0 SELECT epoch, 0, '', '1:100' FROM jobstate.attachment WHERE target = 'regress_u'::regclass;
COPY jobstate.base_recent FROM stdin;
1	1		1:1
\.
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
-- nothing vacuums or waits for the log
SELECT count(*) FROM pg_class c WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^(segment|base)_' AND relkind = 'r'
   AND (reltoastrelid <> 0 OR reloptions IS DISTINCT FROM '{autovacuum_enabled=off}');
DROP TABLE regress_u;
DROP VIEW regress_log;
SELECT jobstate.drop_machine('regress_m');
