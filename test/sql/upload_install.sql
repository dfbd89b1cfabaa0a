-- upload_install: install('uploads') makes ordinary tables of the caller's, once.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');
SELECT jobstate.install('uploads');

SELECT jobstate.install('downloads');                                   -- fails
\echo :SQLSTATE
SELECT jobstate.install(NULL);                                          -- fails
\echo :SQLSTATE

-- owned by whoever installed, and no members of the extension
SELECT c.relname, pg_get_userbyid(c.relowner) = current_user AS mine,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e') AS member
  FROM pg_class c
 WHERE c.relnamespace = 'jobstate'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^upload'
 ORDER BY 1;

SELECT target, machine, state_column, group_by
  FROM jobstate.attachments WHERE target = 'jobstate.upload'::regclass;

-- the machine, as it is reviewed
SELECT from_state, to_state, event FROM jobstate.transitions
 WHERE machine = 'upload' ORDER BY 1, 2;
SELECT state_id, name, is_initial, is_terminal FROM jobstate.state
 WHERE machine = 'upload' ORDER BY 1;

-- every key begins with the commit's repository, and no index holds a state or a
-- lease, so a change of either is a HOT update
SELECT indexrelid::regclass AS index,
       ARRAY(SELECT attname FROM unnest(indkey) WITH ORDINALITY k(attnum, ord)
               JOIN pg_attribute USING (attnum) WHERE attrelid = indrelid ORDER BY ord) AS columns
  FROM pg_index
 WHERE indrelid IN ('jobstate.upload'::regclass, 'jobstate.upload_scope'::regclass,
                    'jobstate.upload_error'::regclass, 'jobstate.upload_totals'::regclass)
 ORDER BY indexrelid::regclass::text COLLATE "C";

-- everything says what it is for
SELECT c.relname FROM pg_class c
 WHERE c.relnamespace = 'jobstate'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^upload'
   AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.proname ~ '^(upload_|install)'
   AND obj_description(p.oid, 'pg_proc') IS NULL;

-- what writes is not PUBLIC's, runs as the caller, and finds only what it names
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.proname ~ '^(upload_|install)'
   AND (p.prosecdef
        OR p.provolatile = 'v' AND has_function_privilege('public', p.oid, 'EXECUTE')
        OR p.provolatile = 'v' AND NOT has_function_privilege('pg_database_owner', p.oid, 'EXECUTE WITH GRANT OPTION')
        OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'sql')
           AND NOT 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig));

\set VERBOSITY terse
-- A.5/19: a state is never NULL, and comes by itself
INSERT INTO jobstate.upload (repo_id, commit_sha, state_id) VALUES (1, 'install', NULL);  -- fails
\echo :SQLSTATE
INSERT INTO jobstate.upload (repo_id, commit_sha) VALUES (1, 'install') RETURNING state_id, state;
INSERT INTO jobstate.upload (repo_id, commit_sha, state_id) VALUES (1, 'install', 2);     -- fails
\echo :SQLSTATE
INSERT INTO jobstate.upload (repo_id, commit_sha, state_id) VALUES (1, 'install', 7);     -- fails
\echo :SQLSTATE
INSERT INTO jobstate.upload (repo_id, commit_sha, report_type) VALUES (1, 'install', 'other');  -- fails
\echo :SQLSTATE

-- the text of the old interface follows, and cannot be written
UPDATE jobstate.upload SET state = 'merged' WHERE repo_id = 1;          -- fails
\echo :SQLSTATE
UPDATE jobstate.upload SET state_id = 2 WHERE repo_id = 1 RETURNING state_id, state;
UPDATE jobstate.upload SET state_id = 6 WHERE repo_id = 1 RETURNING state_id, state;
INSERT INTO jobstate.upload (repo_id, commit_sha, upload_type, state_id)
VALUES (1, 'install', 'carriedforward', 6) RETURNING state_id, state;

-- a row that is to be processed keeps nothing of an earlier round
UPDATE jobstate.upload SET succeeded = true WHERE repo_id = 1 AND upload_type = 'uploaded';
UPDATE jobstate.upload SET state_id = 1 WHERE repo_id = 1 AND upload_type = 'uploaded';   -- fails
\echo :SQLSTATE

DELETE FROM jobstate.upload WHERE repo_id = 1;
SELECT * FROM jobstate.verify('jobstate.upload');
