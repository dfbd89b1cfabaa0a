-- prune_rollup: old terminal rows become numbers, batch by batch, and none is lost.
\set SHOW_CONTEXT never
SET timezone = 'America/New_York';
SELECT jobstate.define_machine('regress_m', '{"new": 1, "busy": 2, "done": 3, "failed": 4}',
                               '{new -> busy, busy -> done, busy -> failed}');
CREATE TABLE regress_t (id bigint, shard int, state smallint, g text, finished timestamptz, local_time timestamp, day date, n int,
                        PRIMARY KEY (shard, id));
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
INSERT INTO regress_t
SELECT n, n % 2, 1 + n % 4, CASE WHEN n % 3 > 0 THEN 'g' || n % 3 END, ts, ts AT TIME ZONE 'UTC', ts::date
  FROM generate_series(1, 40) n, LATERAL (SELECT timestamptz '2024-03-01 12:00Z' + n * interval '6 hours' AS ts) t;
INSERT INTO regress_t VALUES (41, 1, 3, 'g1', now()), (42, 0, 4, 'g2', NULL), (43, 1, 4, 'g2', 'infinity'), (44, 1, 3, 'g2', '-infinity');
SELECT * FROM jobstate.totals('regress_t') ORDER BY group_key, state;

-- a batch, in the order of the key
SELECT jobstate.prune('regress_t', '1 day', 'finished', 7);
SELECT shard, count(*) FROM regress_t GROUP BY 1 ORDER BY 1;
SELECT group_key, state_id, day, n FROM jobstate.rollup WHERE target = 'regress_t'::regclass ORDER BY group_key, state_id, day;
-- taken back, it has not been
BEGIN;
SELECT jobstate.prune('regress_t', '1 day', 'finished');
SELECT * FROM jobstate.totals('regress_t', '{"g": "g1"}') ORDER BY state;
ROLLBACK;
SELECT jobstate.prune('regress_t', '1 day', 'finished');
SELECT jobstate.prune('regress_t', '1 day', 'finished');
-- what stays: rows in other states, young ones, and those of no age
SELECT id, state FROM regress_t WHERE state > 2 OR id > 40 ORDER BY id;
SELECT * FROM jobstate.totals('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');
-- days are UTC days
SELECT day, sum(n) FROM jobstate.rollup WHERE target = 'regress_t'::regclass GROUP BY 1 ORDER BY 1;

-- other columns that tell an age
UPDATE regress_t SET state = 3 WHERE state = 2;
BEGIN;
SELECT jobstate.prune('regress_t', '1 day', 'local_time', 100);
SELECT jobstate.prune('regress_t', '1 day', 'day', 100);
ROLLBACK;
BEGIN;
SELECT jobstate.prune('regress_t', '1 day', 'day', 100);
SELECT sum(rolled_up) FROM jobstate.totals('regress_t');
ROLLBACK;
-- everything that is finished, or nothing
BEGIN;
SELECT jobstate.prune('regress_t', '100 years', 'finished');
SELECT jobstate.prune('regress_t', '0', 'finished');
SELECT jobstate.prune('regress_t', '-1 day', 'finished');
ROLLBACK;

-- a row that a trigger keeps is not rolled up
CREATE FUNCTION regress_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN old.id % 8 = 1 THEN NULL ELSE old END; END';
CREATE TRIGGER keep BEFORE DELETE ON regress_t FOR EACH ROW EXECUTE FUNCTION regress_keep();
SELECT jobstate.prune('regress_t', '1 day', 'finished');
SELECT sum(total) FROM jobstate.totals('regress_t');
DROP TRIGGER keep ON regress_t;
-- a rebuild, a detach and another attach leave the rollup alone
SELECT jobstate.rebuild('regress_t');
SELECT jobstate.detach('regress_t');
SELECT jobstate.attach('regress_t', 'regress_m', 'state');                         -- fails
\echo :SQLSTATE
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}');
SELECT state, sum(live) AS live, sum(rolled_up) AS rolled_up FROM jobstate.totals('regress_t') GROUP BY 1 ORDER BY 1;

-- refusals
SELECT jobstate.prune(NULL, '1 day', 'finished');                                  -- fails
SELECT jobstate.prune('regress_t', NULL, 'finished');                              -- fails
SELECT jobstate.prune('regress_t', '1 day', NULL);                                 -- fails
SELECT jobstate.prune('regress_t', '1 day', 'finished', NULL);                     -- fails
\echo :SQLSTATE
SELECT jobstate.prune('regress_t', '1 day', 'finished', 0);                        -- fails
\echo :SQLSTATE
SELECT jobstate.prune('regress_t', '1 day', 'nocolumn');                           -- fails
SELECT jobstate.prune('regress_t', '1 day', 'n');                                  -- fails
\echo :SQLSTATE
SELECT jobstate.prune('pg_class', '1 day', 'finished');                            -- fails
ALTER TABLE regress_t DROP CONSTRAINT regress_t_pkey;
SELECT jobstate.prune('regress_t', '1 day', 'finished');                           -- fails
\echo :SQLSTATE
DROP TABLE regress_t;
SELECT count(*) FROM jobstate.rollup r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.target);
DROP FUNCTION regress_keep;
RESET timezone;
SELECT jobstate.drop_machine('regress_m');
