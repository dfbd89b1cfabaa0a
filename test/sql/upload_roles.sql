-- upload_roles: a database owner who is no superuser installs the family; a worker
-- needs what upload_grant() gives, and nothing on the kernel's log.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_upload_roles;
DROP ROLE IF EXISTS regress_upload_owner, regress_upload_worker, regress_upload_reader;
RESET client_min_messages;
SELECT current_database() AS home, current_user AS superuser \gset
CREATE ROLE regress_upload_owner LOGIN;
CREATE ROLE regress_upload_worker LOGIN;
CREATE ROLE regress_upload_reader LOGIN;
CREATE DATABASE regress_upload_roles OWNER regress_upload_owner;

\c regress_upload_roles regress_upload_worker
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;                                               -- fails
\c - regress_upload_owner
\set SHOW_CONTEXT never
CREATE EXTENSION jobstate;
SELECT jobstate.install('uploads');
SELECT jobstate.upload_create(1, 'roles') AS id \gset
-- the owner owns the tables, and may pass on what works on them
SELECT DISTINCT relowner::regrole FROM pg_class
 WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^upload' AND relkind = 'r';
GRANT SELECT ON jobstate.upload TO regress_upload_reader;

-- before the grant: nothing that writes, whatever the tables allow
\c - regress_upload_worker
\set SHOW_CONTEXT never
SELECT jobstate.upload_finish(:id, true);                                -- fails
SELECT jobstate.install('uploads');                                      -- fails
SELECT jobstate.upload_grant('regress_upload_worker');                   -- fails
SELECT jobstate.upload_numbers(1, 'roles');                              -- fails

-- after it: a worker's whole day
\c - regress_upload_owner
SELECT jobstate.upload_grant('regress_upload_worker');
\c - regress_upload_worker
\set SHOW_CONTEXT never
SELECT jobstate.upload_create(1, 'roles', storage_path => 'raw/2') AS id2 \gset
SELECT token AS held FROM jobstate.upload_take(1, 'roles') \gset
SELECT jobstate.upload_heartbeat(ARRAY[:id], :'held') IS NOT NULL AS kept;
SELECT jobstate.upload_finish(:id, true, :'held');
SELECT jobstate.upload_retry(:id2, delay => '0 s') IS NOT NULL AS later;
SELECT jobstate.upload_finish(:id2, false, error_code => 'report_empty');
SELECT jobstate.upload_gate_acquire(1, 'roles', 'worker');
SELECT jobstate.upload_gate_refresh(1, 'roles', 'worker');
SELECT jobstate.upload_mark_merged(array_agg(upload_id)) FROM jobstate.upload_take_for_merging(1, 'roles');
SELECT jobstate.upload_decide(1, 'roles'), jobstate.upload_postprocessed(1, 'roles');
SELECT jobstate.upload_gate_release(1, 'roles', 'worker');
SELECT count(*) FROM jobstate.upload_rescue();
SELECT jobstate.upload_adopt(), jobstate.upload_replace_carriedforward(1, 'roles', '{1}'), jobstate.upload_reprocess(1, 'roles');
SELECT state, n FROM jobstate.upload_coverage(1, 'roles') WHERE n > 0 ORDER BY 1;
-- but not the kernel's, nor the policy
SELECT count(*) FROM jobstate.segment_0;                                 -- fails
DELETE FROM jobstate.attachment;                                         -- fails
SELECT jobstate.define_machine('upload', '{"a": 1}', '{}');              -- fails
UPDATE jobstate.upload_error_code SET max_retries = 1000;                -- fails

-- who may read the uploads may read the numbers
\c - regress_upload_reader
\set SHOW_CONTEXT never
SELECT jobstate.upload_numbers(1, 'roles'), jobstate.upload_completion(1, 'roles');
SELECT jobstate.upload_decide(1, 'roles');                               -- fails

\c - :superuser
SELECT * FROM jobstate.verify();
\c :home :superuser
DROP DATABASE regress_upload_roles;
DROP ROLE regress_upload_owner, regress_upload_worker, regress_upload_reader;
