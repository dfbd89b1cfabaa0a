-- prune_partition: a whole partition becomes numbers, and none is lost.
\set SHOW_CONTEXT never
SET timezone = 'America/New_York';
SELECT jobstate.define_machine('regress_m', '{"new": 1, "busy": 2, "done": 3, "failed": 4}',
                               '{new -> busy, busy -> done, busy -> failed}', terminal => '{done, failed}');
CREATE TABLE regress_t (id bigint, slot int, state smallint, g text, h int, finished timestamptz, n int, PRIMARY KEY (slot, id))
    PARTITION BY LIST (slot);
CREATE TABLE regress_t0 PARTITION OF regress_t FOR VALUES IN (0);
-- its columns stand in another order
CREATE TABLE regress_t1 (n int, h int, finished timestamptz, g text, state smallint, slot int NOT NULL, id bigint NOT NULL,
                         PRIMARY KEY (slot, id));
ALTER TABLE regress_t ATTACH PARTITION regress_t1 FOR VALUES IN (1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g, h}');
INSERT INTO regress_t
SELECT n, n % 2, 3 + n % 3 / 2, CASE WHEN n % 3 > 0 THEN 'g' || n % 3 END, n % 2, timestamptz '2024-03-01 12:00Z' + n * interval '6 hours'
  FROM generate_series(1, 20) n;
INSERT INTO regress_t VALUES (21, 1, 4, 'g1', 1, NULL), (22, 0, 1, 'g1', 0, NULL);
CREATE TABLE regress_before AS SELECT * FROM jobstate.totals('regress_t');

-- taken back, nothing has happened
BEGIN;
SELECT jobstate.prune_partition('regress_t1', 'finished');
SELECT * FROM jobstate.verify('regress_t');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT jobstate.prune_partition('regress_t1', 'finished');
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM regress_t1;
SELECT count(*) FROM jobstate.rollup WHERE target = 'regress_t'::regclass;
SELECT * FROM jobstate.verify('regress_t');

-- with rows that came and went in the same transaction
BEGIN;
INSERT INTO regress_t VALUES (30, 1, 4, 'g9', 1, '2024-03-01 12:00Z'), (31, 1, 4, 'g9', 1, '2024-03-01 12:00Z');
DELETE FROM regress_t WHERE id = 31;
SELECT jobstate.prune_partition('regress_t1', 'finished');
INSERT INTO regress_t VALUES (32, 1, 3, 'g9', 1, '2024-03-01 12:00Z');
SELECT state, live, rolled_up FROM jobstate.totals('regress_t', '{"g": "g9", "h": 1}') ORDER BY state;
COMMIT;
SELECT * FROM jobstate.verify('regress_t');
SELECT t.group_key, t.state, t.live, t.rolled_up, t.total - coalesce(b.total, 0) AS more
  FROM jobstate.totals('regress_t') t LEFT JOIN regress_before b USING (group_key, state)
 WHERE t.total > 0 ORDER BY 1, 2;
-- days are UTC days; without one, that of the prune
SELECT group_key ->> 'g' AS g, state_id, CASE WHEN day > '2024-12-31' THEN 'today' ELSE day::text END AS day, n
  FROM jobstate.rollup WHERE target = 'regress_t'::regclass ORDER BY 1, 2, 3;
-- an empty one
DELETE FROM regress_t WHERE id = 32;
SELECT jobstate.prune_partition('regress_t1', 'finished');

-- a plain TRUNCATE afterwards still counts what it removes
INSERT INTO regress_t VALUES (40, 1, 3, 'g9', 1, now());
TRUNCATE regress_t1;
SELECT * FROM jobstate.verify('regress_t');
-- and so does it after a prune that failed
SELECT jobstate.prune_partition('regress_t0', 'finished');                         -- fails
\echo :SQLSTATE
BEGIN;
INSERT INTO regress_t VALUES (41, 1, 3, 'g9', 1, now());
SAVEPOINT s;
CREATE FUNCTION regress_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not this one''; END';
CREATE TRIGGER refuse BEFORE TRUNCATE ON regress_t1 EXECUTE FUNCTION regress_refuse();
SAVEPOINT t;
SELECT jobstate.prune_partition('regress_t1', 'finished');                         -- fails
ROLLBACK TO s;
TRUNCATE regress_t1;
COMMIT;
SELECT * FROM jobstate.verify('regress_t');

-- prune() of a partition, and of some states only
SELECT jobstate.prune('regress_t0', '1 day', 'finished', states => '{failed}');
SELECT jobstate.prune('regress_t', '1 day', 'finished', 2, states => '{done}');
SELECT state, count(*) FROM regress_t GROUP BY 1 ORDER BY 1;
SELECT * FROM jobstate.verify('regress_t');
SELECT state, sum(live) AS live, sum(rolled_up) AS rolled_up FROM jobstate.totals('regress_t') GROUP BY 1 ORDER BY 1;

-- rights: TRUNCATE on the partition, whatever row security hides from its holder
CREATE ROLE regress_sweeper;
GRANT EXECUTE ON FUNCTION jobstate.prune_partition(regclass, name) TO regress_sweeper;
GRANT SELECT, UPDATE, DELETE ON regress_t, regress_t0, regress_t1 TO regress_sweeper;
INSERT INTO regress_t VALUES (50, 1, 3, 'g9', 1, now());
ALTER TABLE regress_t1 ENABLE ROW LEVEL SECURITY;
SET ROLE regress_sweeper;
SELECT jobstate.prune_partition('regress_t1', 'finished');                         -- fails
\echo :SQLSTATE
RESET ROLE;
GRANT TRUNCATE ON regress_t1 TO regress_sweeper;
SET ROLE regress_sweeper;
SELECT jobstate.prune_partition('regress_t1', 'finished');
RESET ROLE;
SELECT * FROM jobstate.verify('regress_t');

-- refusals
SELECT jobstate.prune_partition(NULL, 'finished');                                 -- fails
SELECT jobstate.prune_partition('regress_t1', NULL);                               -- fails
\echo :SQLSTATE
SELECT jobstate.prune_partition('regress_t', 'finished');                          -- fails
\echo :SQLSTATE
SELECT jobstate.prune_partition('pg_class', 'finished');                           -- fails
SELECT jobstate.prune_partition('regress_t1', 'nocolumn');                         -- fails
SELECT jobstate.prune_partition('regress_t1', 'n');                                -- fails
SELECT jobstate.prune('regress_t', '1 day', 'finished', states => '{new}');        -- fails
\echo :SQLSTATE
SELECT jobstate.prune('regress_t', '1 day', 'finished', states => '{nothing}');    -- fails
SELECT jobstate.prune('regress_t', '1 day', 'finished', states => '{NULL}');       -- fails
BEGIN READ ONLY;
SELECT jobstate.prune_partition('regress_t1', 'finished');                         -- fails
ROLLBACK;
DROP TABLE regress_t, regress_before;
REVOKE EXECUTE ON FUNCTION jobstate.prune_partition(regclass, name) FROM regress_sweeper;
DROP ROLE regress_sweeper;
RESET timezone;
SELECT jobstate.drop_machine('regress_m');
