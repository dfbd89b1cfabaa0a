-- counts_uncounted: without counters the answers are the same, by a scan; recount()
-- and maintain() bring the counters back.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g text, at timestamptz DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t SELECT n, 1 + n % 2, 'g' || n % 2 FROM generate_series(1, 10) n;
SELECT jobstate.counted('regress_t');
SELECT jobstate.recount('regress_t');

SELECT jobstate.uncount('regress_t');
SELECT jobstate.counted('regress_t');
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.counts('regress_t', '{"g": "g1"}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"g": "never"}') ORDER BY state;
SELECT state, live FROM jobstate.totals('regress_t', '{"g": "g0"}') ORDER BY state;
-- nothing drifts where nothing is counted
SELECT * FROM jobstate.verify('regress_t');
-- the guard watches, changes are counted by the scan, savepoints included
INSERT INTO regress_t VALUES (11, 9, 'g1');                                      -- fails
BEGIN;
INSERT INTO regress_t VALUES (11, 1, 'g1'), (12, 1, 'g2');
SAVEPOINT a;
DELETE FROM regress_t WHERE g = 'g1';
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
ROLLBACK TO a;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
COMMIT;
SELECT jobstate.prune('regress_t', '1 day', 'at', 2);
SELECT * FROM jobstate.totals('regress_t') ORDER BY group_key, state;

-- counted again, with changes of the same transaction before and after
BEGIN;
UPDATE regress_t SET g = 'g3' WHERE id = 12;
SELECT jobstate.recount('regress_t');
SELECT jobstate.counted('regress_t');
UPDATE regress_t SET state = 2 WHERE id = 12;
SELECT * FROM jobstate.counts('regress_t', '{"g": "g3"}') ORDER BY state;
COMMIT;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');
SELECT jobstate.recount('regress_t');
-- what was counted in a savepoint that is taken back was not
BEGIN;
SELECT jobstate.uncount('regress_t');
SAVEPOINT a;
SELECT jobstate.recount('regress_t') > 0 AS done;
ROLLBACK TO a;
SELECT jobstate.counted('regress_t');
COMMIT;
SELECT * FROM jobstate.counts('regress_t', '{"g": "g3"}') ORDER BY state;
-- maintain() counts what is uncounted
CALL jobstate.maintain();
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT * FROM jobstate.counts('regress_t', '{"g": "g3"}') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- a table whose triggers do not see everything cannot be counted
ALTER TABLE regress_t DISABLE TRIGGER jobstate_watch;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
INSERT INTO regress_t VALUES (20, 1, 'g0');
SELECT * FROM jobstate.counts('regress_t', '{"g": "g0"}') ORDER BY state;
SELECT jobstate.recount('regress_t');                                            -- fails
SELECT jobstate.rebuild('regress_t');                                            -- fails
\echo :SQLSTATE
CALL jobstate.maintain();
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_watch;
CALL jobstate.maintain();
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT * FROM jobstate.counts('regress_t', '{"g": "g0"}') ORDER BY state;
-- rows in no state came in meanwhile: no wrong count, but a plain error
ALTER TABLE regress_t DISABLE TRIGGER ALL;
INSERT INTO regress_t VALUES (21, 77, 'g0');
SELECT * FROM jobstate.counts('regress_t', '{"g": "g0"}');                       -- fails
\echo :SQLSTATE
-- maintain() warns, and goes on to the next table
CREATE TABLE regress_u (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_u', 'regress_m', 'state');
SELECT jobstate.uncount('regress_u');
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_watch;
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_truncate;
CALL jobstate.maintain();
SELECT target, counted, watched FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text COLLATE "C";
DROP TABLE regress_u;
SELECT problem, detail FROM jobstate.check('regress_t', 'regress_m', 'state') ORDER BY problem;
SELECT jobstate.rebuild('regress_t');                                            -- fails
-- such a row may only be mended, into a state that rows may begin in
UPDATE regress_t SET state = 1 WHERE id = 21;
SELECT jobstate.rebuild('regress_t');
SELECT * FROM jobstate.counts('regress_t', '{"g": "g0"}') ORDER BY state;
SELECT jobstate.uncount(NULL), jobstate.counted(NULL), jobstate.counted('pg_class');
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
