-- take_basic: claims rows in a state by moving them on, in the order of their ids.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"ready": 1, "busy": 2, "done": 3}', '{ready -> busy, busy -> done, busy -> ready}');
CREATE TABLE regress_t (id bigint PRIMARY KEY, state smallint DEFAULT 1, g text, h int);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');
INSERT INTO regress_t SELECT n, 1, 'g' || n % 2, nullif(n % 3, 0) FROM generate_series(12, 1, -1) n;

SELECT * FROM jobstate.take('regress_t', 'ready', 'busy');
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', n => 3);
-- of one group, of some, of none there is
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '{"g": "g0", "h": 2}', 10);
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '{"h": null}', 10);
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '{"g": "g7"}', 10);
SELECT * FROM jobstate.take('regress_t', 'busy', 'done', '{}', 2);
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', NULL, 2147483647);
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', NULL, 2147483647);
SELECT state, n FROM jobstate.counts('regress_t', '{"g": "g0", "h": 2}') ORDER BY state;
-- what it took in a transaction that ends badly is to be had again
BEGIN;
SELECT * FROM jobstate.take('regress_t', 'busy', 'ready', n => 2);
SELECT * FROM jobstate.take('regress_t', 'busy', 'ready', n => 2);
ROLLBACK;
SELECT * FROM jobstate.take('regress_t', 'busy', 'ready', n => 2);
-- a trigger that turns a row down keeps it from being returned
CREATE FUNCTION regress_no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN new.id % 2 = 0 THEN NULL ELSE new END; END';
CREATE TRIGGER no BEFORE UPDATE ON regress_t FOR EACH ROW EXECUTE FUNCTION regress_no();
SELECT * FROM jobstate.take('regress_t', 'busy', 'ready', n => 100);
DROP TRIGGER no ON regress_t;
SELECT * FROM jobstate.verify('regress_t');

-- refusals
SELECT * FROM jobstate.take('regress_t', 'ready', 'done');                       -- fails
SELECT * FROM jobstate.take('regress_t', 'done', 'busy');                        -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.take('regress_t', 'gone', 'busy');                        -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', 'gone');                       -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', n => 0);               -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', n => -1);              -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '[]');                 -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '{"id": 1}');          -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.take(NULL, 'ready', 'busy');                              -- fails
SELECT * FROM jobstate.take('regress_t', NULL, 'busy');                          -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', NULL);                         -- fails
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', NULL, NULL);           -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.take('pg_class', 'ready', 'busy');                        -- fails
\echo :SQLSTATE
-- an index on what is asked for is used: the key's equality is the column's own
CREATE INDEX ON regress_t (g, id) WHERE state = 1;
SET plan_cache_mode = force_generic_plan;
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', '{"g": "g1"}', 2);
RESET plan_cache_mode;
-- it reads and writes as the caller, under its row security
CREATE ROLE regress_worker;
GRANT EXECUTE ON FUNCTION jobstate.take, jobstate.transition TO regress_worker;
GRANT SELECT, UPDATE ON regress_t TO regress_worker;
ALTER TABLE regress_t ENABLE ROW LEVEL SECURITY;
CREATE POLICY regress_policy ON regress_t USING (g = 'g1');
UPDATE regress_t SET state = 1 WHERE state = 2;
SET ROLE regress_worker;
SELECT * FROM jobstate.take('regress_t', 'ready', 'busy', n => 100);
SELECT * FROM jobstate.transition('regress_t', '{2,4,6,8,10,12}', 'busy');
RESET ROLE;
SELECT g, state, count(*) FROM regress_t GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM jobstate.verify('regress_t');
DROP OWNED BY regress_worker;
DROP ROLE regress_worker;
DROP TABLE regress_t;
DROP FUNCTION regress_no;
SELECT jobstate.drop_machine('regress_m');
