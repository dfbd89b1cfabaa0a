-- What PostgreSQL 17 has and earlier servers have not; there is nothing to see on those.
SELECT current_setting('server_version_num')::int < 170000 AS earlier \gset
\if :earlier
\quit
\endif
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}', '{a}');
-- a generated column has another expression: no trigger sees its new values
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint NOT NULL DEFAULT 1, weight int,
    size text GENERATED ALWAYS AS (CASE WHEN weight > 10 THEN 'big' ELSE 'small' END) STORED);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', ARRAY['size']);
INSERT INTO regress_t SELECT i, 1, i FROM generate_series(1, 20) i;
SELECT group_key, state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
ALTER TABLE regress_t ALTER size SET EXPRESSION AS (CASE WHEN weight > 18 THEN 'huge' ELSE 'small' END);
SELECT group_key, state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
CALL jobstate.maintain();
SELECT counted FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
UPDATE regress_t SET state = 2 WHERE id > 15;
SELECT group_key, state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_t');
-- likewise the state, of a partition, within a savepoint that is rolled back
CREATE TABLE regress_p (id int, weight int,
    state int GENERATED ALWAYS AS (CASE WHEN weight > 10 THEN 2 ELSE 1 END) STORED) PARTITION BY RANGE (id);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES FROM (0) TO (100);
SELECT jobstate.attach('regress_p', 'regress_m', 'state');
INSERT INTO regress_p SELECT i, i FROM generate_series(6, 10) i;
BEGIN;
SAVEPOINT s;
ALTER TABLE regress_p ALTER state SET EXPRESSION AS (CASE WHEN weight > 8 THEN 2 ELSE 1 END);
SELECT state, n FROM jobstate.counts('regress_p') ORDER BY 1;
ROLLBACK TO s;
SELECT state, n FROM jobstate.counts('regress_p') ORDER BY 1;
COMMIT;
ALTER TABLE regress_p ALTER state SET EXPRESSION AS (7);       -- fails
ALTER TABLE regress_p ALTER state SET EXPRESSION AS (CASE WHEN weight > 8 THEN 2 ELSE 1 END);
SELECT state, n FROM jobstate.counts('regress_p') ORDER BY 1;
SELECT * FROM jobstate.verify('regress_p');
-- MERGE that returns rows, and one for rows that the source lacks
MERGE INTO regress_t t USING (VALUES (1), (2), (21)) v (id) ON t.id = v.id
 WHEN MATCHED THEN UPDATE SET state = 2
 WHEN NOT MATCHED THEN INSERT (id, weight) VALUES (v.id, 30)
 WHEN NOT MATCHED BY SOURCE AND t.id > 19 THEN DELETE
 RETURNING merge_action(), t.id, t.state;
SELECT group_key, state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_t');
MERGE INTO regress_t t USING (VALUES (1)) v (id) ON t.id = v.id
 WHEN NOT MATCHED BY SOURCE THEN UPDATE SET state = 3;         -- fails
-- COPY that passes over lines it cannot read
COPY regress_t (id, state, weight) FROM stdin WITH (ON_ERROR ignore);
31	1	1
32	x	1
33	1	19
\.
SELECT group_key, state, n FROM jobstate.counts('regress_t') ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_t');
-- a role that may look after a table, and no more; REINDEX is a command that event triggers see
CREATE ROLE regress_keeper;
GRANT MAINTAIN ON regress_t TO regress_keeper;
SET ROLE regress_keeper;
VACUUM (ANALYZE) regress_t;
REINDEX TABLE regress_t;
SELECT count(*) FROM jobstate.counts('regress_t');             -- fails
RESET ROLE;
SELECT * FROM jobstate.verify('regress_t');
SET client_min_messages = warning;
DROP OWNED BY regress_keeper;
DROP ROLE regress_keeper;
DROP TABLE regress_t, regress_p CASCADE;
SELECT jobstate.drop_machine('regress_m');
