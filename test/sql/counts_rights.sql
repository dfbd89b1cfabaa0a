-- counts_rights: whoever may read the table may read its counts, and needs nothing
-- on jobstate's own tables; whoever writes it needs nothing either.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}', '{a}');
CREATE ROLE regress_reader;
CREATE ROLE regress_writer;
CREATE ROLE regress_worker;
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, g int, at timestamptz DEFAULT '2020-01-01');
CREATE TABLE regress_other (id int PRIMARY KEY, state smallint DEFAULT 1);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}'), jobstate.attach('regress_other', 'regress_m', 'state');
GRANT SELECT ON regress_t TO regress_reader;
GRANT INSERT, UPDATE, DELETE, TRUNCATE ON regress_t TO regress_writer;
GRANT SELECT, UPDATE, DELETE ON regress_t TO regress_worker;

-- a writer without any right to read
SET ROLE regress_writer;
INSERT INTO regress_t VALUES (1, 1, 1), (2, 1, 1), (3, 1, 2);
TRUNCATE regress_t;
INSERT INTO regress_t VALUES (1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 2);
SELECT * FROM jobstate.counts('regress_t');                                      -- fails
SELECT * FROM jobstate.segment_0;                                                -- fails
INSERT INTO jobstate.segment_0 VALUES (1, 1, '', '');                        -- fails
SELECT * FROM jobstate.base_recent;                                              -- fails
SELECT * FROM jobstate.rollup;                                                   -- fails
TRUNCATE jobstate.segment_1;                                                     -- fails
DELETE FROM jobstate.state;                                                      -- fails

-- a reader
SET ROLE regress_reader;
SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.totals('regress_t', '{"g": 1}') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
SELECT * FROM jobstate.counts('regress_other');                                  -- fails
SELECT name, states FROM jobstate.machines WHERE name = 'regress_m';
SELECT from_state, to_state FROM jobstate.transitions WHERE machine = 'regress_m';
SELECT jobstate.mermaid('regress_m');
SELECT jobstate.dot('regress_m', 'regress_other');                               -- fails
-- everybody may see what is attached
SELECT target, machine, counted, watched FROM jobstate.attachments WHERE machine = 'regress_m' ORDER BY target::text COLLATE "C";
-- what writes is not for everybody
SELECT jobstate.define_machine('regress_mine', '{"a": 1}', '{}');                -- fails
SELECT jobstate.drop_machine('regress_m');                                       -- fails
SELECT jobstate.attach('regress_t', 'regress_m', 'state');                       -- fails
SELECT jobstate.detach('regress_t');                                             -- fails
SELECT jobstate.rebuild('regress_t');                                            -- fails
SELECT jobstate.recount('regress_t');                                            -- fails
SELECT jobstate.uncount('regress_t');                                            -- fails
SELECT jobstate.fold();                                                          -- fails
CALL jobstate.maintain();                                                        -- fails
SELECT jobstate.prune('regress_t', '1 day', 'at');                               -- fails
SELECT jobstate.transition('regress_t', '{1}', 'b');                             -- fails
SELECT jobstate.take('regress_t', 'a', 'b');                                     -- fails
\echo :SQLSTATE

-- a worker: EXECUTE on the verbs, and its rights on its own table
RESET ROLE;
GRANT EXECUTE ON FUNCTION jobstate.transition, jobstate.take, jobstate.prune TO regress_worker;
SET ROLE regress_worker;
SELECT * FROM jobstate.take('regress_t', 'a', 'b', '{"g": 1}');
SELECT * FROM jobstate.transition('regress_t', '{2,3,4}', 'b');
SELECT jobstate.prune('regress_t', '1 day', 'at', 3);
SELECT * FROM jobstate.totals('regress_t') ORDER BY group_key, state;
SELECT jobstate.take('regress_other', 'a', 'b');                                 -- fails
SELECT jobstate.transition('regress_other', '{1}', 'b');                         -- fails
SELECT jobstate.prune('regress_other', '1 day', 'id');                           -- fails
RESET ROLE;
REVOKE UPDATE, DELETE ON regress_t FROM regress_worker;
SET ROLE regress_worker;
SELECT jobstate.take('regress_t', 'a', 'b');                                     -- fails
SELECT jobstate.transition('regress_t', '{4}', 'b');                             -- fails
SELECT jobstate.prune('regress_t', '1 day', 'at');                               -- fails
\echo :SQLSTATE
RESET ROLE;
SELECT v.* FROM unnest('{regress_t,regress_other}'::regclass[]) t, jobstate.verify(t) v;
DROP OWNED BY regress_worker;
DROP TABLE regress_t, regress_other;
DROP ROLE regress_reader, regress_writer, regress_worker;
SELECT jobstate.drop_machine('regress_m');
