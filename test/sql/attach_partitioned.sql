-- attach_partitioned: a partitioned table is watched as a whole, several levels deep.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TABLE regress_p (id int, region text, day date, state smallint NOT NULL, note text, PRIMARY KEY (id, region, day))
    PARTITION BY LIST (region);
CREATE TABLE regress_p_eu PARTITION OF regress_p FOR VALUES IN ('eu') PARTITION BY RANGE (day);
CREATE TABLE regress_p_eu_1 PARTITION OF regress_p_eu FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE regress_p_eu_2 PARTITION OF regress_p_eu FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
-- a partition whose columns stand elsewhere
CREATE TABLE regress_p_us (note text, gone int, state smallint NOT NULL, day date NOT NULL, region text NOT NULL, id int NOT NULL);
ALTER TABLE regress_p_us DROP COLUMN gone;
ALTER TABLE regress_p ATTACH PARTITION regress_p_us FOR VALUES IN ('us');
INSERT INTO regress_p SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, date '2024-07-01' + n * 30, 1 + n % 3
  FROM generate_series(1, 12) n;

SELECT jobstate.attach('regress_p', 'regress_m', 'state', '{region}');
SELECT * FROM jobstate.counts('regress_p') ORDER BY group_key, state;
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'jobstate%' AND tgrelid::regclass::text LIKE 'regress_p%'
 ORDER BY tgrelid::regclass::text COLLATE "C", tgname;
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_p'::regclass;

-- rows come by the root or by a partition, and are the root's
INSERT INTO regress_p VALUES (21, 'eu', '2024-02-02', 1), (22, 'us', '2024-02-02', 2);
INSERT INTO regress_p_eu VALUES (23, 'eu', '2025-02-02', 1);
INSERT INTO regress_p_us (id, region, day, state) VALUES (24, 'us', '2025-02-02', 3);
UPDATE regress_p_us SET state = 2 WHERE state = 1;
UPDATE regress_p SET state = state + 1 WHERE state = 1;
DELETE FROM regress_p_eu_1;
DELETE FROM regress_p WHERE day > '2025-04-01';
SELECT * FROM jobstate.counts('regress_p') ORDER BY group_key, state;
SELECT region, state, count(*) FROM regress_p GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_p');
-- the guard names the partition and the row
UPDATE regress_p SET state = 1 WHERE id = 23;                            -- fails
INSERT INTO regress_p VALUES (25, 'us', '2024-02-02', 9);                -- fails
UPDATE regress_p_us SET state = 1 WHERE id = 24;                         -- fails

-- one attachment to a tree
SELECT jobstate.attach('regress_p', 'regress_m', 'state');               -- fails
SELECT jobstate.attach('regress_p_eu', 'regress_m', 'state');            -- fails
SELECT jobstate.attach('regress_p_eu_2', 'regress_m', 'state');          -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_p_us');                           -- fails
SELECT jobstate.detach('regress_p_us');                                  -- fails
SELECT jobstate.rebuild('regress_p_us');                                 -- fails
SELECT jobstate.rebuild('regress_p');
SELECT jobstate.detach('regress_p');
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'jobstate%' AND tgrelid::regclass::text LIKE 'regress_p%';

-- or of a part of it; then the whole has one already
SELECT jobstate.attach('regress_p_eu', 'regress_m', 'state', '{day}');
SELECT jobstate.attach('regress_p', 'regress_m', 'state');               -- fails
INSERT INTO regress_p VALUES (31, 'eu', '2025-02-02', 1), (32, 'us', '2025-02-02', 2);
SELECT * FROM jobstate.counts('regress_p_eu') ORDER BY group_key, state;
-- a row that leaves the part is gone, one that comes in is new there
UPDATE regress_p SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id IN (31, 32);
SELECT * FROM jobstate.counts('regress_p_eu') ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_p_eu');

DROP TABLE regress_p;
SELECT jobstate.drop_machine('regress_m');
