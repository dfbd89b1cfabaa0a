-- hostile_arguments: numbers of objects that are not there, JSON of another kind and
-- names that are none are refused by name, not by an internal error.
\set SHOW_CONTEXT never
-- roles and relations by number
SELECT jobstate.queue_grant(0::regrole);                                        -- fails
\echo :SQLSTATE
SELECT jobstate.upload_grant(4294967295::regrole);                              -- fails
SELECT jobstate.store_grant(0::regrole);                                        -- fails
SELECT jobstate.ledger_grant(0::regrole);                                       -- fails
SELECT jobstate.schedule_grant(0::regrole);                                     -- fails
SELECT jobstate.apply_grant(NULL);                                              -- fails
SELECT jobstate.validate(0::regclass, 'm', 'state', '{}');                      -- fails
\echo :SQLSTATE
SELECT jobstate.attach(4294967295::regclass, 'm', 'state');                     -- fails
SELECT * FROM jobstate.check(1::regclass, 'm', 'state');
-- a table that is no parent has no wrong children
SELECT jobstate.health_underived('pg_class') IS NULL AS no_parent;

-- nor has one that is not there a low end
SELECT jobstate.low_end(1::regclass, 'at', 'true', 1), jobstate.low_end('pg_class', 'no such', 'true', 1), jobstate.low_ends(1::regclass, 'at', 'true', 1);

-- an attached table is looked at by a column that it has
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state text, "odd ""name" text);
SELECT jobstate.attach('regress_t', 'regress_m', 'state');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', '');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', 'ctid');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', 'missing', '{state}');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', 'odd "name', '{state}');
SELECT problem FROM jobstate.check('regress_t', 'regress_m', 'state');
DROP TABLE regress_t;

-- JSON of another kind
SELECT jobstate.define_machine('regress_m', '["a"]', '{}');                     -- fails
SELECT jobstate.define_machine('regress_m', '1', '{}');                         -- fails
SELECT jobstate.queue_define('q', '[1]');                                       -- fails
SELECT jobstate.queue_ring_define('"slots"');                                   -- fails
SELECT jobstate.ledger_define('p', 'null');                                     -- fails
SELECT jobstate.ledger_check_stats('[]');                                       -- fails
SELECT jobstate.store_given('fields', 'true');                                  -- fails
SELECT jobstate.upload_apply_results('{}');                                     -- fails
SELECT jobstate.drop_machine('regress_m');
-- the ring has no slot below zero
SELECT jobstate.queue_slot_empty(-1, true);                                     -- fails
SELECT jobstate.queue_install_changed(NULL);                                    -- fails
SELECT jobstate.queue_install_changed('pg_class; SELECT 1');                    -- fails
