-- verify_drift: what changed while a trigger was off is shown row by row, and
-- rebuild() mends it; a negative count is an error, never clamped.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int);
CREATE TABLE regress_u (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}'), jobstate.attach('regress_u', 'regress_m', 'state');
INSERT INTO regress_t SELECT n, 1 + n % 2, n % 3 FROM generate_series(1, 12) n;
INSERT INTO regress_u VALUES (1);
SELECT * FROM jobstate.verify();

-- a trigger that is switched off or dropped by ALTER and DROP is noticed: the table
-- is not counted any more, and nothing drifts
ALTER TABLE regress_t DISABLE TRIGGER jobstate_watch;
DELETE FROM regress_t WHERE g = 1;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_watch;
SELECT jobstate.rebuild('regress_t');
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
ALTER TABLE regress_t DISABLE TRIGGER jobstate_truncate;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT jobstate.rebuild('regress_t');                                            -- fails
ALTER TABLE regress_t ENABLE ALWAYS TRIGGER jobstate_truncate;
ALTER TABLE regress_u DISABLE TRIGGER ALL;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_u'::regclass;
INSERT INTO regress_u VALUES (2);
ALTER TABLE regress_u ENABLE TRIGGER ALL;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_u'::regclass;
CALL jobstate.maintain();
SELECT target, counted, watched FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text;
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
DROP TRIGGER jobstate_truncate ON regress_u;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_u'::regclass;
CALL jobstate.maintain();
TRUNCATE regress_u;
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
SELECT jobstate.detach('regress_u');
SELECT jobstate.attach('regress_u', 'regress_m', 'state');
INSERT INTO regress_u VALUES (1);

-- what goes by the catalogue goes unseen
UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid IN ('regress_t'::regclass, 'regress_u'::regclass) AND tgname = 'jobstate_watch';
\c
\set SHOW_CONTEXT never
INSERT INTO regress_t VALUES (101, 1, 0), (102, 1, 7);
UPDATE regress_t SET state = 2 WHERE id = 6;
DELETE FROM regress_t WHERE g = 2;
DELETE FROM regress_u;
SELECT * FROM jobstate.verify() ORDER BY target::text, group_key, state;
SELECT * FROM jobstate.verify('regress_t') ORDER BY group_key, state;
SELECT target, counted, watched FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text;
-- with own uncommitted work and under any snapshot the same is shown
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM jobstate.verify('regress_u');
ROLLBACK;
UPDATE pg_trigger SET tgenabled = 'A' WHERE tgrelid IN ('regress_t'::regclass, 'regress_u'::regclass) AND tgname = 'jobstate_watch';
\c
\set SHOW_CONTEXT never
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
UPDATE regress_t SET state = 2 WHERE id = 102;
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_t', '{"g": 7}');                          -- fails
SELECT * FROM jobstate.counts('regress_t', '{"g": 0}') ORDER BY state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 7}');                          -- fails
SELECT jobstate.fold() > 0 AS folded;
SELECT * FROM jobstate.counts('regress_t', '{"g": 7}');                          -- fails

SELECT jobstate.rebuild('regress_t'), jobstate.rebuild('regress_u');
SELECT * FROM jobstate.verify();
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT state, n FROM jobstate.counts('regress_u') ORDER BY state;
-- a rebuild that is taken back leaves it as it was
BEGIN;
INSERT INTO regress_t VALUES (200, 1, 7);
SELECT jobstate.rebuild('regress_t');
INSERT INTO regress_t VALUES (201, 1, 7);
SELECT * FROM jobstate.verify('regress_t');
SELECT * FROM jobstate.counts('regress_t', '{"g": 7}') ORDER BY state;
ROLLBACK;
SELECT * FROM jobstate.counts('regress_t', '{"g": 7}') ORDER BY state;
SELECT * FROM jobstate.verify();
SELECT * FROM jobstate.verify('pg_class');                                       -- fails
DROP TABLE regress_t, regress_u;
SELECT jobstate.drop_machine('regress_m');
