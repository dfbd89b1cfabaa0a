-- read_only_refusals: a read-only transaction reads counts, and writes nothing.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, at date DEFAULT '2020-01-01');
INSERT INTO regress_t VALUES (1, 1), (2, 3);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
SET default_transaction_read_only = on;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
SELECT state, live, rolled_up FROM jobstate.totals('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
SELECT target, counted, watched FROM jobstate.attachments WHERE target = 'regress_t'::regclass;
SELECT jobstate.mermaid('regress_m', 'regress_t');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', 'state');

SELECT jobstate.rebuild('regress_t');                                            -- fails
SELECT jobstate.recount('regress_t');                                            -- fails
SELECT jobstate.fold();                                                          -- fails
CALL jobstate.maintain();                                                        -- fails
\echo :SQLSTATE
SELECT jobstate.attach('regress_t', 'regress_m', 'state');                       -- fails
SELECT jobstate.detach('regress_t');                                             -- fails
SELECT jobstate.uncount('regress_t');                                            -- fails
SELECT jobstate.prune('regress_t', '1 day', 'at');                               -- fails
SELECT * FROM jobstate.take('regress_t', 'a', 'b');                              -- fails
SELECT * FROM jobstate.transition('regress_t', '{1}', 'b');                      -- fails
\echo :SQLSTATE
SELECT jobstate.define_machine('regress_none', '{"a": 1}', '{}');                -- fails
\echo :SQLSTATE
RESET default_transaction_read_only;
-- where there are no counters, the table is read
SELECT jobstate.uncount('regress_t');
BEGIN READ ONLY;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
SELECT * FROM jobstate.verify('regress_t');
COMMIT;
SELECT jobstate.rebuild('regress_t');
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
