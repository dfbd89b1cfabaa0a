-- store_record: what is put in comes out: create, get, update.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
SELECT jobstate.install('store');

-- B.5 scenario 1: a record is what was created, explicit nulls and all
SELECT jobstate.store_create('r1', r) = r AS returned
  FROM (VALUES ('{"id": "r1", "status": "queued", "input": {"file_path": "/a", "language": "en", "callback_url": null},
                  "progress": null, "result": null, "error": null, "created_at": "2026-01-01T00:00:00.5Z"}'::jsonb)) v (r);
SELECT jobstate.store_get('r1') =
    '{"id": "r1", "status": "queued", "input": {"file_path": "/a", "language": "en", "callback_url": null},
      "progress": null, "result": null, "error": null, "created_at": "2026-01-01T00:00:00.5Z"}' AS same;
-- the status is in one place only
SELECT state_id, fields ? 'status' AS twice FROM jobstate.store WHERE id = 'r1';
-- without a status a record is pending
SELECT jobstate.store_create('r0', '{}'), jobstate.store_create('r00', '{"status": null}');

-- B.5 scenario 2: what is not there is nothing, and no error
SELECT jobstate.store_get('nope') IS NULL, (SELECT count(*) FROM jobstate.store_status('nope'));

-- B.5 scenario 3: other fields stay, and the record comes back whole
SELECT jobstate.store_update('r1', '{"status": "preprocessing", "progress": {"stage": "preprocessing", "percent_complete": 0}}');
SELECT jobstate.store_get('r1');

-- B.5 scenario 4: null leaves as is
SELECT jobstate.store_update('r1', '{"status": null, "error": "x"}') - 'input';

-- B.5 scenario 5, and the bug of dropped falsy values: they are values
SELECT jobstate.store_update('r1', '{"progress": {}, "error": "", "n": 0, "f": false, "a": [], "o": {}}') - 'input';
-- a null within a value is part of the value
SELECT jobstate.store_update('r1', '{"a": [null], "o": {"x": null}}') - 'input';
-- B.3 bug 5: a field is replaced whole; store_put() writes a part of it
SELECT jobstate.store_update('r1', '{"progress": {"stage": "a", "percent_complete": 10}}') -> 'progress';
SELECT jobstate.store_update('r1', '{"progress": {"stage": "b"}}') -> 'progress';
SELECT jobstate.store_put('r1', 'progress', 'percent_complete', '20') -> 'progress';

-- all null, or nothing: no write, the record as it is
SELECT xmin AS before FROM jobstate.store WHERE id = 'r1' \gset
SELECT jobstate.store_update('r1', '{"error": null, "zzz": null}') = jobstate.store_get('r1'),
       jobstate.store_update('r1', '{}') = jobstate.store_get('r1');
SELECT xmin::text = :'before' AS untouched FROM jobstate.store WHERE id = 'r1';

-- B.5 scenario 7: a record that is created again has nothing of the one before
SELECT jobstate.store_complete('r1', '{"text": "hi"}', '{"transcript.txt": "hi"}') ? 'artifacts';
UPDATE jobstate.store SET expires_at = expires_at - interval '1 hour' WHERE id = 'r1';
SELECT jobstate.store_create('r1', '{"status": "queued"}');
SELECT jobstate.store_get('r1');
SELECT expires_at - created_at AS ttl, attempt, token, percent FROM jobstate.store WHERE id = 'r1';

-- B.5 scenario 14: the record that an update returns is the row as of the write
WITH one AS MATERIALIZED (SELECT jobstate.store_update('r1', '{"n": 1}') AS r),
     two AS MATERIALIZED (SELECT jobstate.store_update('r1', '{"n": 2}') AS r FROM one WHERE one.r IS NOT NULL)
SELECT one.r -> 'n' AS one, two.r -> 'n' AS two FROM one, two;

-- B.5 scenario 20: an update that is rolled back leaves record and expiry
SELECT expires_at AS before FROM jobstate.store WHERE id = 'r1' \gset
BEGIN;
SELECT jobstate.store_update('r1', '{"n": 3}') -> 'n';
ROLLBACK;
SELECT jobstate.store_get('r1') -> 'n', expires_at = :'before' AS same_expiry FROM jobstate.store WHERE id = 'r1';

-- the upsert of the old contract is asked for
SELECT jobstate.store_update('u1', '{"error": "x"}');                            -- fails
SELECT jobstate.store_update('u1', '{"error": null}');                           -- fails
SELECT jobstate.store_update('u1', '{"error": null}', upsert => true);
SELECT jobstate.store_update('u1', '{"error": "x", "result": null}', upsert => true);
SELECT jobstate.store_update('u1', '{"status": "queued"}', upsert => true);
-- B.3 bug 7: it has a time to live from its first instant
SELECT expires_at - created_at BETWEEN ttl AND ttl + interval '1 min' AS has_one FROM jobstate.store WHERE id = 'u1';

-- the view has what there is
SELECT id, status, record, attempt, updated_at >= created_at AS written, expires_at > updated_at AS lives
  FROM jobstate.store_records WHERE id IN ('r0', 'r1', 'u1') ORDER BY id;
SELECT jobstate.store_delete('u1'), jobstate.store_delete('u1');
SELECT jobstate.store_get('u1') IS NULL;
SELECT * FROM jobstate.verify('jobstate.store');
DELETE FROM jobstate.store WHERE id ~ '^[ru][0-9]';
