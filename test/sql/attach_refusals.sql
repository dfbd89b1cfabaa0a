-- attach_refusals: what cannot be watched is refused with a reason, and nothing is left behind.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint, f float8, p point, j json, g1 int, g2 int, g3 int, g4 int,
                        g5 int, g6 int, g7 int, g8 int, g9 int);
CREATE VIEW regress_view AS SELECT * FROM regress_t;
CREATE MATERIALIZED VIEW regress_mat AS SELECT * FROM regress_t;
CREATE SEQUENCE regress_seq;
CREATE TEMP TABLE regress_temp (id int PRIMARY KEY, state smallint);
CREATE UNLOGGED TABLE regress_unlogged (id int PRIMARY KEY, state smallint);

-- no table
SELECT jobstate.attach('regress_none', 'regress_m', 'state');                        -- fails
SELECT jobstate.attach(0::regclass, 'regress_m', 'state');                           -- fails
\echo :SQLSTATE
SELECT jobstate.attach('regress_view', 'regress_m', 'state');                        -- fails
SELECT jobstate.attach('regress_mat', 'regress_m', 'state');                         -- fails
SELECT jobstate.attach('regress_seq', 'regress_m', 'last_value');                    -- fails
\echo :SQLSTATE
SELECT jobstate.attach('regress_temp', 'regress_m', 'state');                        -- fails
SELECT jobstate.attach('regress_unlogged', 'regress_m', 'state');                    -- fails
\echo :SQLSTATE
-- no machine, no column
SELECT jobstate.attach('regress_t', 'regress_none', 'state');                        -- fails
\echo :SQLSTATE
SELECT jobstate.attach('regress_t', 'regress_m', 'nostate');                         -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'ctid');                            -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{nogroup}');              -- fails
\echo :SQLSTATE
-- columns of the wrong type
SELECT jobstate.attach('regress_t', 'regress_m', 'f');                               -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{p}');                    -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{j}');                    -- fails
\echo :SQLSTATE
-- too many columns, or one twice
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g1,g2,g3,g4,g5,g6,g7,g8,g9}'); -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g1,g2,g1}');             -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{state}');                -- fails
\echo :SQLSTATE
-- nulls
SELECT jobstate.attach(NULL, 'regress_m', 'state');                                  -- fails
SELECT jobstate.attach('regress_t', NULL, 'state');                                  -- fails
SELECT jobstate.attach('regress_t', 'regress_m', NULL);                              -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', NULL);                     -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g1,NULL}');              -- fails
\echo :SQLSTATE
-- rows that are in no state
INSERT INTO regress_t (id, state) VALUES (1, 1), (2, 9), (3, 9), (4, 2);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g1}');                   -- fails
\echo :SQLSTATE
UPDATE regress_t SET state = NULL WHERE id > 1;
SELECT jobstate.attach('regress_t', 'regress_m', 'state');                           -- fails
UPDATE regress_t SET state = 2 WHERE id > 1;
SELECT count(*) FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'regress_t'::regclass;

-- once only
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g1,g2,g3,g4,g5,g6,g7,g8}');
SELECT jobstate.attach('regress_t', 'regress_m', 'state');                           -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_t', '{"g1": null, "g2": null}') ORDER BY state;

-- another one's table
CREATE ROLE regress_other;
GRANT EXECUTE ON FUNCTION jobstate.attach, jobstate.detach, jobstate.rebuild, jobstate.recount TO regress_other;
GRANT ALL ON regress_t TO regress_other;
SET ROLE regress_other;
SELECT jobstate.detach('regress_t');                                                 -- fails
SELECT jobstate.rebuild('regress_t');                                                -- fails
SELECT jobstate.recount('regress_t');                                                -- fails
SELECT jobstate.attach('pg_class', 'regress_m', 'state');                            -- fails
\echo :SQLSTATE
RESET ROLE;
-- what works by call refuses null, what is not attached, and what is no table
SELECT jobstate.detach(NULL);                                                        -- fails
SELECT jobstate.rebuild(NULL);                                                       -- fails
SELECT jobstate.recount(NULL);                                                       -- fails
SELECT jobstate.detach('pg_class');                                                  -- fails
SELECT jobstate.rebuild('regress_temp');                                             -- fails
SELECT jobstate.recount('regress_temp');                                             -- fails
SELECT jobstate.rebuild(0::regclass);                                                -- fails
DROP VIEW regress_view;
DROP MATERIALIZED VIEW regress_mat;
DROP SEQUENCE regress_seq;
DROP OWNED BY regress_other;
DROP TABLE regress_t, regress_temp, regress_unlogged;
DROP ROLE regress_other;
SELECT jobstate.drop_machine('regress_m');
