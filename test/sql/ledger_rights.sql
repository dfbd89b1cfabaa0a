-- ledger_rights: a database owner who is no superuser installs both families; a worker
-- needs what ledger_grant() and schedule_grant() give.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_ledger_rights;
DROP ROLE IF EXISTS regress_ledger_owner, regress_ledger_worker, regress_ledger_reader;
RESET client_min_messages;
SELECT current_database() AS home, current_user AS superuser \gset
CREATE ROLE regress_ledger_owner LOGIN;
CREATE ROLE regress_ledger_worker LOGIN;
CREATE ROLE regress_ledger_reader LOGIN;
CREATE DATABASE regress_ledger_rights OWNER regress_ledger_owner;

\c regress_ledger_rights regress_ledger_owner
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;
SELECT jobstate.install('ledger'), jobstate.install('schedule');
SELECT jobstate.ledger_define('p'), jobstate.schedule_define('s', 'every 1h');
GRANT SELECT ON jobstate.ledger, jobstate.ledger_processor, jobstate.schedule TO regress_ledger_reader;

-- no queue, no schedule that needs one
SELECT jobstate.schedule_define('q', 'every 1h', 'q', 'tick');                   -- fails
CALL jobstate.maintain();

-- before the grant: nothing that writes
\c - regress_ledger_worker
\set SHOW_CONTEXT never
SELECT jobstate.ledger_mark('p', 'a');                                           -- fails
SELECT jobstate.ledger_begin_run('p');                                           -- fails
SELECT jobstate.schedule_due('w');                                               -- fails
SELECT jobstate.ledger_grant('regress_ledger_worker');                           -- fails
SELECT jobstate.install('ledger');                                               -- fails
SELECT * FROM jobstate.ledger_items('p');                                        -- fails

-- after it: a worker's whole day
\c - regress_ledger_owner
SELECT jobstate.ledger_grant('regress_ledger_worker'), jobstate.schedule_grant('regress_ledger_worker');
\c - regress_ledger_worker
\set SHOW_CONTEXT never
SELECT name, token AS tick FROM jobstate.schedule_due('w', hold => 'session') \gset
SELECT jobstate.schedule_heartbeat('s', :'tick') > now() AS kept;
SELECT token AS run FROM jobstate.ledger_begin_run('p', 'w', hold => 'session') \gset
SELECT jobstate.ledger_heartbeat_run('p', :'run') > now() AS kept, jobstate.ledger_hold_run('p', :'run');
SELECT token AS claim, count(*) FROM jobstate.ledger_take('p', '{a,b,c,d}', run => :'run') GROUP BY 1 \gset
SELECT jobstate.ledger_heartbeat('p', '{a,b}', :'claim') > now() AS kept;
SELECT jobstate.ledger_mark('p', 'a', token => :'claim') > now() AS marked, jobstate.ledger_fail('p', 'b', 'no', :'claim'),
       jobstate.ledger_release('p', 'c', :'claim');
SELECT count(*) FROM jobstate.ledger_claim('p', 'c');
SELECT jobstate.ledger_rename('p', 'a', 'e'), jobstate.ledger_reset('p', '{e}');
SELECT jobstate.ledger_end_run('p', :'run');
SELECT count(*) FROM jobstate.ledger_rescue();
SELECT jobstate.schedule_finish('s', :'tick') > now() AS later;
-- but no settings, no kernel, and nothing for ever
SELECT jobstate.ledger_define('p', '{"cap": 1}');                                -- fails
UPDATE jobstate.ledger_processor SET cap = 1;                                    -- fails
SELECT jobstate.ledger_forget('{p}');                                            -- fails
SELECT jobstate.ledger_retain('p', '{c}');                                       -- fails
DELETE FROM jobstate.ledger;                                                     -- fails
SELECT jobstate.schedule_define('s', 'every 1s');                                -- fails
UPDATE jobstate.schedule SET spec = 'every 1s';                                  -- fails
SELECT jobstate.schedule_drop('s');                                              -- fails
DELETE FROM jobstate.ledger_run;                                                 -- fails
SELECT count(*) FROM jobstate.segment_0;                                         -- fails

-- who may read the tables may ask
\c - regress_ledger_reader
\set SHOW_CONTEXT never
SELECT item, state FROM jobstate.ledger_items('p');
SELECT count(*) FROM jobstate.ledger_unprocessed('p', '{a,b,c,d,e}');
SELECT status FROM jobstate.ledger_health('p', '{a}', ARRAY[now()]);
SELECT jobstate.ledger_mark('p', 'a');                                           -- fails

\c - :superuser
SELECT * FROM jobstate.verify();
\c :home :superuser
DROP DATABASE regress_ledger_rights;
DROP ROLE regress_ledger_owner, regress_ledger_worker, regress_ledger_reader;
