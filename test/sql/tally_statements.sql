-- tally_statements: every kind of statement that writes rows is counted.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c, a -> c}');
CREATE TABLE regress_parent (id int PRIMARY KEY);
CREATE TABLE regress_t (id int PRIMARY KEY, state text NOT NULL DEFAULT 'a',
                        g int REFERENCES regress_parent ON UPDATE CASCADE ON DELETE SET NULL, note text);
CREATE TABLE regress_child (id int PRIMARY KEY REFERENCES regress_t ON UPDATE CASCADE ON DELETE CASCADE, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}'), jobstate.attach('regress_child', 'regress_m', 'state');
INSERT INTO regress_parent VALUES (1), (2), (3);
CREATE VIEW regress_seen AS
    SELECT (SELECT string_agg(format('%s/%s %s', group_key -> 'g', state, n), ', ' ORDER BY group_key, state)
              FROM jobstate.counts('regress_t') WHERE n > 0) AS counted,
           (SELECT string_agg(format('%s/%s %s', g, state, n), ', ' ORDER BY g, state)
              FROM (SELECT coalesce(g::text, 'null') AS g, state, count(*) AS n FROM regress_t GROUP BY 1, 2) a) AS actual;

COPY regress_t (id, state, g) FROM stdin;
1	a	1
2	a	1
3	b	2
4	c	\N
\.
SELECT * FROM regress_seen;
COPY regress_t (id) FROM stdin WHERE id > 10;
10
11
\.
INSERT INTO regress_t VALUES (1, 'a', 3), (5, 'a', 3) ON CONFLICT (id) DO UPDATE SET state = 'b', g = excluded.g;
INSERT INTO regress_t VALUES (1, 'a', 3), (6, 'a', 3) ON CONFLICT DO NOTHING;
INSERT INTO regress_t VALUES (1, 'a', 3) ON CONFLICT (id) DO UPDATE SET state = 'c' WHERE regress_t.g = 99;
SELECT * FROM regress_seen;
MERGE INTO regress_t t USING (VALUES (1, 'c'), (2, NULL), (7, 'b')) v (id, state) ON t.id = v.id
 WHEN MATCHED AND v.state IS NULL THEN DELETE
 WHEN MATCHED THEN UPDATE SET state = v.state
 WHEN NOT MATCHED THEN INSERT (id, state, g) VALUES (v.id, v.state, 2);
SELECT * FROM regress_seen;
WITH gone AS (DELETE FROM regress_t WHERE id = 3 RETURNING *),
     changed AS (UPDATE regress_t SET state = 'b' WHERE id = 5 RETURNING *)
INSERT INTO regress_t SELECT id + 100, 'a', 1 FROM gone UNION ALL SELECT id + 100, 'a', 1 FROM changed;
SELECT * FROM regress_seen;
SELECT * INTO regress_copy FROM regress_t;
UPDATE regress_t t SET state = 'c' FROM regress_copy c WHERE t.id = c.id AND t.state = 'b';
DELETE FROM regress_t t USING regress_copy c WHERE t.id = c.id AND t.g = 3;
SELECT * FROM regress_seen;

-- foreign keys' actions
INSERT INTO regress_child SELECT id FROM regress_t;
UPDATE regress_parent SET id = id + 10 WHERE id IN (1, 2);
SELECT * FROM regress_seen;
DELETE FROM regress_parent WHERE id = 12;
SELECT * FROM regress_seen;
DELETE FROM regress_t WHERE g = 11;
SELECT state, n FROM jobstate.counts('regress_child') ORDER BY state;
SELECT count(*) FROM regress_child;

-- triggers that change the row, turn it down, or write others
CREATE FUNCTION regress_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE new.note
        WHEN 'state' THEN new.state := 'c';
        WHEN 'group' THEN new.g := 3;
        WHEN 'none' THEN RETURN NULL;
        WHEN 'more' THEN INSERT INTO regress_t VALUES (new.id + 1000, 'b', 11);
        ELSE NULL;
    END CASE;
    RETURN new;
END $$;
CREATE TRIGGER zz BEFORE INSERT OR UPDATE ON regress_t FOR EACH ROW EXECUTE FUNCTION regress_trigger();
INSERT INTO regress_t (id, note) VALUES (20, 'state'), (21, 'group'), (22, 'none'), (23, 'more');
UPDATE regress_t SET note = 'none', state = 'c' WHERE id = 21;
UPDATE regress_t SET note = 'state' WHERE id = 1023;
SELECT * FROM regress_seen;
CREATE RULE regress_rule AS ON DELETE TO regress_t WHERE old.id = 20 DO INSTEAD UPDATE regress_t SET g = 11 WHERE id = 20;
DELETE FROM regress_t WHERE id IN (20, 21);
SELECT * FROM regress_seen;
-- by a view, and by a cursor
CREATE VIEW regress_view AS SELECT id, state, g FROM regress_t;
INSERT INTO regress_view VALUES (30, 'a', 11);
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM regress_t WHERE id = 30 FOR UPDATE;
MOVE c;
UPDATE regress_t SET state = 'b' WHERE CURRENT OF c;
COMMIT;
-- a replica counts as well; the origin has judged the moves
SET session_replication_role = replica;
UPDATE regress_t SET state = 'a' WHERE id = 30;
INSERT INTO regress_t VALUES (31, 'none', 11);                            -- fails
DELETE FROM regress_t WHERE id = 20;
RESET session_replication_role;
SELECT * FROM regress_seen;
SELECT v.* FROM unnest('{regress_t,regress_child}'::regclass[]) t, jobstate.verify(t) v;
DROP VIEW regress_view, regress_seen;
DROP TABLE regress_child, regress_t, regress_parent, regress_copy;
DROP FUNCTION regress_trigger;
SELECT jobstate.drop_machine('regress_m');
