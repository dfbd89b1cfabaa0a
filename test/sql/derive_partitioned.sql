-- derive_partitioned: children and parents in partitions, rows that move between them, partitions that come and go.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting') PARTITION BY RANGE (id);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES FROM (0) TO (10);
CREATE TABLE regress_p2 (state text NOT NULL DEFAULT 'waiting', id int NOT NULL);
ALTER TABLE regress_p ATTACH PARTITION regress_p2 FOR VALUES FROM (10) TO (20);
CREATE TABLE regress_c (id int, zone int, p int, state text NOT NULL DEFAULT 'waiting', place int, PRIMARY KEY (id, zone)) PARTITION BY LIST (zone);
CREATE TABLE regress_c1 PARTITION OF regress_c FOR VALUES IN (1);
CREATE TABLE regress_c2 (state text NOT NULL DEFAULT 'waiting', gone int, zone int NOT NULL, place int, p int, id int NOT NULL);
ALTER TABLE regress_c2 DROP gone;
ALTER TABLE regress_c ATTACH PARTITION regress_c2 FOR VALUES IN (2);
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_order => '{place}');
CREATE VIEW regress_v AS
    SELECT p.tableoid::regclass AS part, p.id, p.state, string_agg(c.state, ',' ORDER BY c.id) AS children,
           CASE WHEN count(c.id) = 0 THEN 'waiting' WHEN bool_or(c.state = 'bad') THEN 'bad' WHEN bool_and(c.state = 'over') THEN 'over'
                WHEN bool_and(c.state = 'waiting') THEN 'waiting' ELSE 'busy' END = p.state AS is_right
      FROM regress_p p LEFT JOIN regress_c c ON c.p = p.id GROUP BY p.id, p.state, p.tableoid ORDER BY p.id;
INSERT INTO regress_p VALUES (1), (2), (11), (12);
INSERT INTO regress_c VALUES (1, 1, 1, 'over'), (2, 2, 1, 'over'), (3, 1, 11, 'busy'), (4, 2, 11, 'over'), (5, 2, 12, 'bad');
TABLE regress_v;
-- children move, parents move
UPDATE regress_c SET zone = 3 - zone;
TABLE regress_v;
UPDATE regress_c SET zone = 3 - zone, state = 'over', p = 2 WHERE id = 5;
UPDATE regress_p SET id = 13 WHERE id = 2;
UPDATE regress_p SET id = 2 WHERE id = 12;
TABLE regress_v;
-- partitions of children that are detached, attached, emptied and dropped
ALTER TABLE regress_c DETACH PARTITION regress_c2;
TABLE regress_v;
UPDATE regress_c2 SET state = 'bad';
ALTER TABLE regress_c ATTACH PARTITION regress_c2 FOR VALUES IN (2);
TABLE regress_v;
ALTER TABLE regress_c DETACH PARTITION regress_c2 CONCURRENTLY;
TABLE regress_v;
ALTER TABLE regress_c ATTACH PARTITION regress_c2 FOR VALUES IN (2);
TRUNCATE regress_c2;
TABLE regress_v;
INSERT INTO regress_c VALUES (8, 2, 1, 'bad');
DROP TABLE regress_c2;
TABLE regress_v;
CREATE TABLE regress_c3 PARTITION OF regress_c DEFAULT;
INSERT INTO regress_c VALUES (9, 7, 13, 'busy');
TABLE regress_v;
-- partitions of parents: what is attached is derived, whatever it says
ALTER TABLE regress_p DETACH PARTITION regress_p2;
UPDATE regress_p2 SET state = 'bad';
INSERT INTO regress_p2 VALUES ('over', 19);
UPDATE regress_c SET state = 'over', p = 19 WHERE id = 9;
TABLE regress_v;
ALTER TABLE regress_p ATTACH PARTITION regress_p2 FOR VALUES FROM (10) TO (20);
TABLE regress_v;
TRUNCATE regress_p1;
INSERT INTO regress_p VALUES (1, 'bad');
TABLE regress_v;
SELECT * FROM jobstate.verify();
SELECT jobstate.rederive('regress_p');
DROP VIEW regress_v;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
