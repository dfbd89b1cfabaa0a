-- attach_basic: one call puts a table with rows under guard and counts.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"todo": 1, "busy": 2, "done": 3}', '{todo -> busy, busy -> done}', '{todo}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint, repo int, "odd ""Name" text);
INSERT INTO regress_t SELECT n, 1 + n % 3, n % 2, 'x' || n % 2 FROM generate_series(1, 60) n;

-- the rows that are there may be in any state of the machine
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{repo,"odd \"Name"}');
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'regress_t'::regclass ORDER BY tgname;

-- guarded and counted from here on
INSERT INTO regress_t VALUES (61, 2, 0, 'x0');                                -- fails
INSERT INTO regress_t VALUES (61, 1, 0, 'x0');
UPDATE regress_t SET state = 1 WHERE id = 1;                                  -- fails
DELETE FROM regress_t WHERE id <= 30;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');

-- detached, it is an ordinary table again
SELECT jobstate.detach('regress_t');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'regress_t'::regclass;
INSERT INTO regress_t VALUES (62, 77, 0, 'x0');
SELECT * FROM jobstate.counts('regress_t');                                   -- fails
SELECT jobstate.detach('regress_t');                                          -- fails
\echo :SQLSTATE

-- and may come back, otherwise; what it was counts for nothing
DELETE FROM regress_t WHERE id = 62;
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;

-- attach and detach are part of their transaction
BEGIN;
SELECT jobstate.detach('regress_t');
UPDATE regress_t SET state = 1;
ROLLBACK;
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
UPDATE regress_t SET state = 1 WHERE state = 3;                               -- fails
SELECT jobstate.detach('regress_t');
BEGIN;
INSERT INTO regress_t VALUES (63, 1, 1, 'x1');
SAVEPOINT a;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{repo}');
UPDATE regress_t SET state = 2 WHERE id = 63;
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1}') ORDER BY state;
ROLLBACK TO a;
UPDATE regress_t SET state = 3 WHERE id = 63;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{repo}');
INSERT INTO regress_t VALUES (64, 1, 1, 'x1');
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1}') ORDER BY state;
COMMIT;
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1}') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');

-- an empty table has no groups yet; one without group columns is one group
CREATE TABLE regress_empty (id int PRIMARY KEY, state smallint);
SELECT jobstate.attach('regress_empty', 'regress_m', 'state');
SELECT * FROM jobstate.counts('regress_empty') ORDER BY state;
TRUNCATE regress_t;
SELECT * FROM jobstate.counts('regress_t');
DROP TABLE regress_t, regress_empty;
SELECT jobstate.drop_machine('regress_m');
