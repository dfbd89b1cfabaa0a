-- store_fields: parts of a record, one by one.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
SELECT jobstate.store_create('f1', '{"status": "queued", "input": {"language": "en"}, "error": null, "n": 1, "l": [1], "t": "text"}') IS NOT NULL;

-- a path of an object, beside what else is in it; null is a value there
SELECT jobstate.store_put('f1', 'input', 'language', '"de"') -> 'input';
SELECT jobstate.store_put('f1', 'input', 'callback_url', 'null') -> 'input';
SELECT jobstate.store_put('f1', 'artifacts', 'transcript.txt', '"hi"') -> 'artifacts';
SELECT jobstate.store_put('f1', 't', 'k', '1');                                  -- fails
SELECT jobstate.store_put('f1', 'error', 'k', '1');                              -- fails
SELECT jobstate.store_put('f1', 'status', 'k', '1');                             -- fails
SELECT jobstate.store_put('f1', 'id', 'k', '1');                                 -- fails

-- counters
SELECT jobstate.store_incr('f1', 'n'), jobstate.store_incr('f1', 'n', -0.5), jobstate.store_incr('f1', 'new', 3);
SELECT jobstate.store_get('f1') -> 'n', jobstate.store_get('f1') -> 'new';
SELECT jobstate.store_incr('f1', 't');                                           -- fails
SELECT jobstate.store_incr('f1', 'n', 'NaN');                                    -- fails

-- lists
SELECT jobstate.store_append('f1', 'l', '{"a": [2]}') -> 'l';
SELECT jobstate.store_append('f1', 'l', '[3, 4]') -> 'l';
SELECT jobstate.store_append('f1', 'events', 'null') -> 'events';
SELECT jobstate.store_append('f1', 't', '1');                                    -- fails

-- compare and set
SELECT jobstate.store_cas('f1', 'n', '1.5', '7'), jobstate.store_cas('f1', 'n', '1.5', '8');
SELECT jobstate.store_cas('f1', 'owner', NULL, '"me"'), jobstate.store_cas('f1', 'owner', 'null', '"you"');
SELECT jobstate.store_cas('f1', 'owner', '"me"', NULL);
SELECT jobstate.store_get('f1') -> 'owner';
SELECT jobstate.store_cas('f1', 'status', '"queued"', '"preprocessing"'), jobstate.store_cas('f1', 'status', '"queued"', '"failed"');
SELECT jobstate.store_cas('f1', 'status', '"preprocessing"', NULL);              -- fails
SELECT jobstate.store_cas('f1', 'id', NULL, '"f2"');                             -- fails
-- what tells less than was told is not written, and not said to be
SELECT jobstate.store_create('f9', '{"progress": {"percent_complete": 50}}') IS NOT NULL;
SELECT jobstate.store_cas('f9', 'progress', '{"percent_complete": 50}', '{"percent_complete": 20}') AS less,
       jobstate.store_cas('f9', 'progress', '{"percent_complete": 50}', '{"percent_complete": 60}') AS more,
       jobstate.store_cas('f9', 'progress', '{"percent_complete": 60}', NULL) AS none;
SELECT jobstate.store_delete('f9');
-- a day is 24 hours, whatever the session's zone, also where an upsert takes the default
BEGIN;
UPDATE jobstate.store_setting SET ttl = '1 day';
SELECT jobstate.store_update('f9', '{"n": 1}', upsert => true);
SELECT ttl FROM jobstate.store WHERE id = 'f9';
ROLLBACK;

-- B.3 bug 6: a field can be cleared; what is not there is passed over
SELECT jobstate.store_update('f1', '{"error": "x", "result": {"a": 1}}') IS NOT NULL;
SELECT jobstate.store_clear('f1', '{error,result,none}');
SELECT jobstate.store_clear('f1', '{}') = jobstate.store_get('f1');
SELECT jobstate.store_clear('f1', '{error,status}');                             -- fails
SELECT jobstate.store_clear('f1', ARRAY[NULL]::text[]) = jobstate.store_get('f1');
SELECT jobstate.store_get('f1') ->> 'status';
DELETE FROM jobstate.store;
