-- guard_hides_values: what a role may not read is not in an error's detail.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"new": 1, "busy": 2, "done": 3}', '{new -> busy, busy -> done}', '{new}');
CREATE ROLE regress_writer;
CREATE TABLE regress_t (id int, tenant text, state smallint, PRIMARY KEY (tenant, id));
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{tenant}');
INSERT INTO regress_t VALUES (1, 'secret', 1);
GRANT INSERT, UPDATE, DELETE ON regress_t TO regress_writer;

-- no right to read: neither states nor keys
SET ROLE regress_writer;
UPDATE regress_t SET state = 3;                                                  -- fails
UPDATE regress_t SET state = 9;                                                  -- fails
INSERT INTO regress_t VALUES (2, 'secret', 3);                                   -- fails
INSERT INTO regress_t VALUES (2, 'secret', 9);                                   -- fails
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
SELECT * FROM jobstate.totals('regress_t');                                      -- fails
SELECT * FROM jobstate.verify('regress_t');                                      -- fails
SELECT jobstate.mermaid('regress_m', 'regress_t');                               -- fails
\echo :SQLSTATE
-- the state only
RESET ROLE;
GRANT SELECT (state, id) ON regress_t TO regress_writer;
SET ROLE regress_writer;
UPDATE regress_t SET state = 3;                                                  -- fails
INSERT INTO regress_t VALUES (2, 'secret', 9);                                   -- fails
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
-- the key only
RESET ROLE;
REVOKE SELECT (state, id) ON regress_t FROM regress_writer;
GRANT SELECT (tenant, id) ON regress_t TO regress_writer;
SET ROLE regress_writer;
UPDATE regress_t SET state = 3;                                                  -- fails
UPDATE regress_t SET state = 9;                                                  -- fails
INSERT INTO regress_t VALUES (2, 'secret', 3);                                   -- fails
-- all of it
RESET ROLE;
GRANT SELECT ON regress_t TO regress_writer;
SET ROLE regress_writer;
UPDATE regress_t SET state = 3;                                                  -- fails
SELECT * FROM jobstate.counts('regress_t') ORDER BY state;
-- row security hides even from those who may read the table
RESET ROLE;
ALTER TABLE regress_t ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_policy ON regress_t USING (tenant = current_user OR id = 1) WITH CHECK (true);
SET ROLE regress_writer;
UPDATE regress_t SET state = 3;                                                  -- fails
INSERT INTO regress_t VALUES (2, 'other', 3);                                    -- fails
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
SELECT * FROM jobstate.totals('regress_t');                                      -- fails
SELECT * FROM jobstate.verify('regress_t');                                      -- fails
\echo :SQLSTATE
-- the guard and the tally see every row nevertheless
INSERT INTO regress_t VALUES (2, 'other', 1);
UPDATE regress_t SET state = 2 WHERE id = 1;
RESET ROLE;
SELECT * FROM jobstate.counts('regress_t') WHERE n > 0 ORDER BY group_key, state;
SELECT * FROM jobstate.verify('regress_t');
-- who may see all rows may count them
ALTER TABLE regress_t DISABLE ROW LEVEL SECURITY;

-- a partition's rows may be read by who may read the table it is part of
CREATE TABLE regress_p (id int PRIMARY KEY, state smallint) PARTITION BY RANGE (id);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES FROM (1) TO (100);
SELECT jobstate.attach('regress_p', 'regress_m', 'state');
INSERT INTO regress_p VALUES (1, 1);
GRANT SELECT, INSERT, UPDATE ON regress_p TO regress_writer;
SET ROLE regress_writer;
UPDATE regress_p SET state = 3;                                                  -- fails
INSERT INTO regress_p VALUES (2, 2);                                             -- fails
RESET ROLE;
GRANT SELECT ON regress_p1 TO regress_writer;
ALTER TABLE regress_p ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_policy ON regress_p USING (true);
SET ROLE regress_writer;
UPDATE regress_p SET state = 3;                                                  -- fails
RESET ROLE;
ALTER TABLE regress_p DISABLE ROW LEVEL SECURITY;
REVOKE SELECT ON regress_p, regress_p1 FROM regress_writer;
SET ROLE regress_writer;
UPDATE regress_p SET state = 3;                                                  -- fails
RESET ROLE;
DROP TABLE regress_t, regress_p;
DROP ROLE regress_writer;
SELECT jobstate.drop_machine('regress_m');
