-- tally_two_phase: a prepared transaction counts when it is committed, and by nobody before.
\set SHOW_CONTEXT never
SELECT setting = '0' AS impossible FROM pg_settings WHERE name = 'max_prepared_transactions' \gset
\if :impossible
    \echo needs max_prepared_transactions
    \quit
\endif
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t SELECT n, 1, n % 2 FROM generate_series(1, 6) n;

BEGIN;
UPDATE regress_t SET state = 2 WHERE g = 0;
SAVEPOINT a;
INSERT INTO regress_t VALUES (10, 1, 2);
ROLLBACK TO a;
INSERT INTO regress_t VALUES (11, 1, 3);
PREPARE TRANSACTION 'regress_one';
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
-- this session goes on counting meanwhile, and so does the fold
INSERT INTO regress_t VALUES (12, 1, 3);
SELECT jobstate.fold() >= 0 AS folded;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');
COMMIT PREPARED 'regress_one';
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT jobstate.fold() > 0 AS folded;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');

-- one that is rolled back was none
BEGIN;
DELETE FROM regress_t;
PREPARE TRANSACTION 'regress_two';
INSERT INTO regress_t VALUES (13, 1, 4);
ROLLBACK PREPARED 'regress_two';
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;

-- attach and detach themselves can be prepared
CREATE TABLE regress_u (id int PRIMARY KEY, state smallint DEFAULT 1);
INSERT INTO regress_u VALUES (1), (2);
BEGIN;
SELECT jobstate.attach('regress_u', 'regress_m', 'state');
INSERT INTO regress_u VALUES (3);
SELECT jobstate.detach('regress_t');
PREPARE TRANSACTION 'regress_three';
SELECT * FROM jobstate.counts('regress_u');                                      -- fails
COMMIT PREPARED 'regress_three';
SELECT * FROM jobstate.counts('regress_u') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
UPDATE regress_u SET state = 2 WHERE id = 1;
SELECT * FROM jobstate.counts('regress_u') ORDER BY state;

-- an error while preparing leaves nothing behind
BEGIN;
INSERT INTO regress_u VALUES (4);
CREATE TEMP TABLE regress_temp ();
PREPARE TRANSACTION 'regress_four';                                              -- fails
SELECT * FROM jobstate.counts('regress_u') ORDER BY state;
SELECT * FROM jobstate.verify('regress_u');
DROP TABLE regress_t, regress_u;
SELECT jobstate.drop_machine('regress_m');
