-- store_rights: who may do what with records, and whose operators are used.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT jobstate.install('store');
SELECT fn, for_workers FROM jobstate.store_functions() WHERE NOT for_workers;
-- what reads is everybody's, what writes nobody's at first
SELECT p.oid::regprocedure FROM pg_proc p
 WHERE p.pronamespace = 'jobstate'::regnamespace AND p.proname ~ '^(store_|(install|maintain)_store$)'
   AND (p.provolatile = 'v') = EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0);
CREATE ROLE regress_store_client;
CREATE ROLE regress_store_other;
SET ROLE regress_store_client;
SELECT jobstate.store_update('w1', '{"a": 1}');                                  -- fails
RESET ROLE;
SELECT jobstate.store_grant('regress_store_client');
-- a client can do all that it needs, and nothing to the settings
SET ROLE regress_store_client;
SELECT jobstate.store_create('w1', '{"status": "queued"}');
SELECT attempt FROM jobstate.store_begin('w1');
SELECT jobstate.store_update('w1', '{"n": 1}'), jobstate.store_incr('w1', 'n'), jobstate.store_put('w1', 'o', 'k', '1') IS NOT NULL;
SELECT jobstate.store_append('w1', 'l', '1') IS NOT NULL, jobstate.store_cas('w1', 'n', '2', '3'), jobstate.store_clear('w1', '{n}') IS NOT NULL;
SELECT jobstate.store_complete('w1', '{}', '{"transcript.txt": "x"}') IS NOT NULL;
SELECT jobstate.store_artifact('w1', 'transcript.txt');
SELECT status FROM jobstate.store_records;
SELECT jobstate.store_update('w2', '{"n": 1}', upsert => true), jobstate.store_delete('w2');
UPDATE jobstate.store_setting SET ttl = '1 s';                                   -- fails
SELECT jobstate.store_prune();                                                   -- fails
SELECT jobstate.maintain_store(0);                                               -- fails
RESET ROLE;
SET ROLE regress_store_other;
SELECT jobstate.store_get('w1');                                                 -- fails
SELECT count(*) FROM jobstate.store_records;                                     -- fails
RESET ROLE;
-- who can call but may not write is told so
GRANT EXECUTE ON FUNCTION jobstate.store_update(text, jsonb, uuid, boolean) TO regress_store_other;
SET ROLE regress_store_other;
SELECT jobstate.store_update('w1', '{"a": 1}');                                  -- fails
RESET ROLE;

-- operators and functions that somebody planted are not taken for the server's
CREATE SCHEMA regress_planted;
CREATE FUNCTION regress_planted.wrong(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"planted": true}'::jsonb $$;
CREATE FUNCTION regress_planted.wrong(jsonb, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"planted": true}'::jsonb $$;
CREATE FUNCTION regress_planted.yes(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
CREATE FUNCTION regress_planted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2000-01-01' $$;
CREATE OPERATOR regress_planted.|| (leftarg = jsonb, rightarg = jsonb, function = regress_planted.wrong);
CREATE OPERATOR regress_planted.- (leftarg = jsonb, rightarg = text, function = regress_planted.wrong);
CREATE OPERATOR regress_planted.= (leftarg = text, rightarg = text, function = regress_planted.yes);
SET search_path = regress_planted, pg_catalog;
SELECT jobstate.store_update('w1', '{"b": 2, "status": "completed", "progress": {"percent_complete": 3}}') OPERATOR(pg_catalog.-) '{progress,completed_at}'::text[];
SELECT jobstate.store_get('w1') OPERATOR(pg_catalog.->) 'b', (SELECT count(*) FROM jobstate.store_records);
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA regress_planted CASCADE;
DELETE FROM jobstate.store;
DROP OWNED BY regress_store_client, regress_store_other;
DROP ROLE regress_store_client, regress_store_other;
