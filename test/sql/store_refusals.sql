-- store_refusals: NULL and nonsense are refused by name.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
CREATE FUNCTION pg_temp.refusal(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'SELECT ' || call;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END $$;
SELECT jobstate.store_create('n1', '{"status": "queued"}') IS NOT NULL;
SELECT call, pg_temp.refusal('jobstate.' || call)
  FROM unnest(ARRAY[
    'store_create(NULL, ''{}'')', 'store_create(''n1'', NULL)', 'store_create(''n1'', ''{}'', NULL)', 'store_create(''n1'', ''{}'', ''0'')',
    'store_create(''n1'', ''{}'', ''-1 s'')', 'store_create(''n1'', ''{}'', ''100000000 years'')', 'store_create(''n1'', ''{}'', ''10001 years'')',
    'store_get(NULL)', 'store_update(NULL, ''{"a": 1}'')', 'store_update(NULL, ''{}'')', 'store_update(''n1'', NULL)',
    'store_update(''n1'', ''[]'')', 'store_update(''n1'', ''5'')', 'store_update(''n1'', ''"x"'')', 'store_update(''n1'', ''null'')',
    'store_update(''n9'', ''{"a": 1}'', NULL, NULL)',
    'store_update(''n1'', ''{"status": "nope"}'')', 'store_update(''n1'', ''{"status": 5}'')', 'store_update(''n1'', ''{"status": []}'')',
    'store_update(''n9'', ''{"status": "nope"}'', upsert => true)',
    'store_put(NULL, ''f'', ''k'', ''1'')', 'store_put(''n1'', NULL, ''k'', ''1'')', 'store_put(''n1'', ''f'', NULL, ''1'')', 'store_put(''n1'', ''f'', ''k'', NULL)',
    'store_incr(NULL, ''f'')', 'store_incr(''n1'', NULL)', 'store_incr(''n1'', ''f'', NULL)',
    'store_append(NULL, ''f'', ''1'')', 'store_append(''n1'', NULL, ''1'')', 'store_append(''n1'', ''f'', NULL)',
    'store_cas(NULL, ''f'', NULL, NULL)', 'store_cas(''n1'', NULL, NULL, NULL)',
    'store_clear(NULL, ''{}'')', 'store_clear(''n1'', NULL)', 'store_delete(NULL)',
    'store_begin(NULL)', 'store_begin(''n1'', NULL)', 'store_begin(''n1'', ''nope'')', 'store_begin(''n1'', ''completed'')', 'store_begin(''n1'', restart => NULL)',
    'store_complete(NULL, ''{}'')', 'store_complete(''n1'', ''{}'', fields => NULL)', 'store_complete(''n1'', ''{}'', fields => ''[]'')',
    'store_fail(NULL, ''x'')', 'store_fail(''n1'', NULL)', 'store_fail(''n1'', ''x'', NULL)', 'store_enqueue_failed(NULL)', 'store_enqueue_failed(''n1'', NULL)',
    'store_results(NULL)', 'store_artifact(NULL, ''x'')', 'store_artifact(''n1'', NULL)', 'store_status(NULL)',
    'store_prune(0)', 'store_prune(NULL)', 'store_grant(NULL)']) call;
-- nothing of all that was written
SELECT jobstate.store_get('n1'), attempt FROM jobstate.store;
-- the longest life, and the default that is longer
SELECT jobstate.store_create('n2', '{}', '10000 years') IS NOT NULL AS kept;
BEGIN;
UPDATE jobstate.store_setting SET ttl = '100000000 years';
SELECT pg_temp.refusal($$jobstate.store_create('n3', '{}')$$), pg_temp.refusal($$jobstate.store_update('n3', '{"a": 1}', upsert => true)$$);
ROLLBACK;
-- what SQL refuses before C writes is not written, if SQL should let it pass
BEGIN;
CREATE OR REPLACE FUNCTION jobstate.store_unusual(id text, fields jsonb, token uuid, upsert boolean)
    RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
SELECT pg_temp.refusal($$jobstate.store_update(NULL, '{"a": 1}')$$), pg_temp.refusal($$jobstate.store_update('n1', '[]')$$);
ROLLBACK;
DELETE FROM jobstate.store;
