-- apply_rights: a database owner who is no superuser installs the family; a driver needs
-- what apply_grant() gives, and nothing on the kernel's tables.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_apply_rights;
DROP ROLE IF EXISTS regress_apply_owner, regress_apply_driver, regress_apply_reader;
RESET client_min_messages;
SELECT current_database() AS home, current_user AS superuser \gset
CREATE ROLE regress_apply_owner LOGIN;
CREATE ROLE regress_apply_driver LOGIN;
CREATE ROLE regress_apply_reader LOGIN;
CREATE DATABASE regress_apply_rights OWNER regress_apply_owner;

\c regress_apply_rights regress_apply_owner
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;
SELECT jobstate.install('apply');
SELECT DISTINCT relowner::regrole FROM pg_class
 WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^(apply|operation|task)' AND relkind = 'r';
SELECT apply_id AS mine FROM jobstate.apply_create('orders', 'mysql', 'prod', '[{"deployment": "a", "tasks": ["t"]}, {"deployment": "b"}]') \gset
GRANT SELECT ON jobstate.apply, jobstate.operation, jobstate.apply_control_request, jobstate.apply_policy TO regress_apply_reader;

-- before the grant: nothing that writes
\c - regress_apply_driver
\set SHOW_CONTEXT never
SELECT jobstate.operation_claim('driver');                               -- fails
SELECT jobstate.apply_stop(1);                                           -- fails
SELECT jobstate.apply_grant('regress_apply_driver');                     -- fails
SELECT jobstate.install('apply');                                        -- fails
SELECT jobstate.operation_blocker(1);                                    -- fails
SELECT jobstate.fold_states('head', '{running}');

-- after it: a driver's whole day
\c - regress_apply_owner
SELECT jobstate.apply_grant('regress_apply_driver');
\c - regress_apply_driver
\set SHOW_CONTEXT never
SELECT operation_id AS op, token FROM jobstate.operation_claim('driver') \gset
SELECT jobstate.operation_heartbeat(:op, :'token') IS NOT NULL AS kept;
SELECT jobstate.operation_progress(:op, :'token', 'checksumming', '{"rows": 1}');
SELECT jobstate.task_progress(id, :'token', 'completed') FROM jobstate.task;
SELECT jobstate.operation_conclude(:op, :'token');
SELECT jobstate.apply_stop(:mine), jobstate.apply_start(:mine), jobstate.apply_release(:mine), jobstate.apply_request(:mine, 'revert');
SELECT operation_id AS op, token FROM jobstate.operation_claim('driver') \gset
SELECT jobstate.operation_fail(:op, :'token', 'disk full');
SELECT state, error_message FROM jobstate.apply;
SELECT created FROM jobstate.apply_create('orders', 'mysql', 'prod', '[{"deployment": "a"}]');
-- but not the derived state, the policy, the rules, the machines
UPDATE jobstate.apply SET state = 'completed' WHERE id = :mine;          -- fails
UPDATE jobstate.apply_policy SET max_retries = 1000;                     -- fails
SELECT jobstate.apply_use_rules('apply_seed');                           -- fails
SELECT jobstate.define_rules('apply_head', '{always -> completed}');     -- fails
SELECT jobstate.apply_reap();                                            -- fails
DELETE FROM jobstate.derivation;                                         -- fails

-- who may read may ask
\c - regress_apply_reader
\set SHOW_CONTEXT never
SELECT DISTINCT jobstate.operation_blocker(id) FROM jobstate.operation WHERE apply_id = :mine ORDER BY 1;
SELECT jobstate.operation_complete(1, gen_random_uuid());                -- fails

-- the owner chooses other rules, and maintenance is his
\c - regress_apply_owner
\set SHOW_CONTEXT never
SELECT jobstate.apply_use_rules('apply_seed');
SELECT apply_id AS seed FROM jobstate.apply_create('seed', 'mysql', 'prod', '[{"deployment": "a"}, {"deployment": "b"}]', on_failure => 'continue') \gset
SELECT jobstate.operation_fail(c.operation_id, c.token, 'x') FROM jobstate.operation_claim('d', only_apply => :seed) c;
SELECT state, reason FROM jobstate.apply WHERE id = :seed;
SELECT jobstate.apply_use_rules('of another');                           -- fails
-- the other rules would open an apply that is settled; once nothing is left of it they may come
SELECT jobstate.apply_use_rules();                                       -- fails
UPDATE jobstate.operation SET state = 'cancelled' WHERE apply_id = :seed AND state = 'pending';
SELECT jobstate.apply_use_rules();
SELECT rule_set FROM jobstate.derivations WHERE parent = 'jobstate.apply'::regclass;
SELECT jobstate.maintain_apply(0), jobstate.maintain_apply(99);
\c - :superuser
SELECT * FROM jobstate.verify();
\c :home :superuser
DROP DATABASE regress_apply_rights;
DROP ROLE regress_apply_owner, regress_apply_driver, regress_apply_reader;
