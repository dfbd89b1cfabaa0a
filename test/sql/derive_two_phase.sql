-- derive_two_phase: a prepared transaction has derived its parents; they are as it ends.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p ON DELETE CASCADE ON UPDATE CASCADE, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
-- parents with the states of their children, and what by hand they should be
CREATE VIEW regress_v AS
    SELECT p.id, p.state, string_agg(c.state, ',' ORDER BY c.id) AS children,
           CASE WHEN count(c.id) = 0 THEN 'waiting' WHEN bool_or(c.state = 'bad') THEN 'bad' WHEN bool_and(c.state = 'over') THEN 'over'
                WHEN bool_and(c.state = 'waiting') THEN 'waiting' ELSE 'busy' END = p.state AS is_right
      FROM regress_p p LEFT JOIN regress_c c ON c.p = p.id GROUP BY p.id ORDER BY p.id;
INSERT INTO regress_p SELECT n FROM generate_series(1, 3) n;
INSERT INTO regress_c SELECT n, (n + 1) / 2 FROM generate_series(1, 6) n;
BEGIN;
UPDATE regress_c SET state = 'over' WHERE p = 1;
UPDATE regress_c SET state = 'busy' WHERE id = 3;
SAVEPOINT a;
UPDATE regress_c SET state = 'bad' WHERE id = 4;
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_a';
TABLE regress_v;
-- others who change its parents wait for it; those of other parents do not
SET lock_timeout = '50ms';
UPDATE regress_c SET state = 'bad' WHERE id = 4;                                 -- fails
\echo :SQLSTATE
RESET lock_timeout;
UPDATE regress_c SET state = 'over' WHERE p = 3;
TABLE regress_v;
COMMIT PREPARED 'regress_a';
TABLE regress_v;
-- rolled back
BEGIN;
DELETE FROM regress_c WHERE p = 1;
INSERT INTO regress_p VALUES (4);
INSERT INTO regress_c VALUES (7, 4, 'bad');
PREPARE TRANSACTION 'regress_b';
ROLLBACK PREPARED 'regress_b';
TABLE regress_v;
-- a parent that is only prepared, and has no foreign key: who has a child of it waits
ALTER TABLE regress_c DROP CONSTRAINT regress_c_p_fkey;
BEGIN;
INSERT INTO regress_p VALUES (4);
PREPARE TRANSACTION 'regress_c';
SET lock_timeout = '50ms';
INSERT INTO regress_c VALUES (7, 4, 'bad');                                      -- fails
\echo :SQLSTATE
RESET lock_timeout;
COMMIT PREPARED 'regress_c';
INSERT INTO regress_c VALUES (7, 4, 'bad');
-- and the other way round
BEGIN;
INSERT INTO regress_c VALUES (8, 5, 'bad');
PREPARE TRANSACTION 'regress_d';
SET lock_timeout = '50ms';
INSERT INTO regress_p VALUES (5);                                                -- fails
RESET lock_timeout;
COMMIT PREPARED 'regress_d';
INSERT INTO regress_p VALUES (5);
TABLE regress_v;
-- an error while deriving keeps it from being prepared
CREATE FUNCTION regress_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_refuse();
BEGIN;
UPDATE regress_c SET state = 'busy';
PREPARE TRANSACTION 'regress_e';                                                 -- fails
SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'regress%';
SELECT bool_and(is_right) FROM regress_v;
DROP VIEW regress_v;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
DROP FUNCTION regress_refuse();
