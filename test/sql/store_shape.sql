-- store_shape: a record that its readers could not decode cannot be written, by whatever
-- statement (the bugs of corrupted fields, B.2 and B.3).
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
CREATE FUNCTION pg_temp.said(fields jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    PERFORM jobstate.store_create('s1', fields);
    RETURN 'stored';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN sqlstate || ' ' || sqlerrm || ': ' || detail;
END $$;

-- each member of the contract: what it may be
SELECT f, pg_temp.said(f::jsonb) FROM unnest(ARRAY[
    '{"input": {}}', '{"input": null}', '{"input": []}', '{"input": "x"}',
    '{"progress": {}}', '{"progress": null}', '{"progress": 5}', '{"progress": {"stage": 1}}', '{"progress": {"message": {}}}',
    '{"progress": {"percent_complete": 0}}', '{"progress": {"percent_complete": 100.0}}', '{"progress": {"percent_complete": null}}',
    '{"progress": {"percent_complete": -1}}', '{"progress": {"percent_complete": 100.1}}', '{"progress": {"percent_complete": "5"}}',
    '{"progress": {"started_at": "2026-01-01T00:00:00Z", "more": []}}', '{"progress": {"updated_at": "soon"}}',
    '{"result": {"a": null}}', '{"result": []}', '{"error": ""}', '{"error": {"a": 1}}', '{"error": false}',
    '{"audio_info": {}}', '{"audio_info": 1}', '{"artifacts_error": "x"}', '{"artifacts_error": 1}',
    '{"artifacts": {"transcript.txt": "x", "other": null}}', '{"artifacts": {"a": {}}}', '{"artifacts": {"a": ["x"]}}', '{"artifacts": ["x"]}',
    '{"quality": 1, "whatever": [{}], "input2": "x", "inpu": 1}',
    '{"status": 1}', '{"status": "Queued"}', '{"status": ""}', '{"status": {}}',
    '[]', '"x"', '1', 'null',
    '{"id": "s1"}', '{"id": "s2"}', '{"id": null}']) f;
-- timestamps are such that everybody can parse them
SELECT t, pg_temp.said(jsonb_build_object('completed_at', t)) FROM unnest(ARRAY[
    '2026-01-01T00:00:00Z', '2026-01-01 23:59:59.123456789+05:30', '2026-01-01T10:00', '2024-02-29T00:00:00-0800', '2026-01-01t00:00:00z', '2026-12-31T00:00:00+02',
    '2026-02-29T00:00:00Z', '2026-04-31T00:00:00Z', '2026-13-01T00:00:00Z', '2026-00-01T00:00:00Z', '0000-01-01T00:00:00Z',
    '2026-01-01T24:00:00Z', '2026-01-01T00:60:00Z', '2026-01-01T00:00:60Z', '2026-01-01T00:00:00.Z', '2026-01-01T00:00:00+5', '2026-01-01T00:00:00+25:00',
    '2026-01-01', '2026-1-1T00:00:00Z', 'now', 'infinity', 'today', '', '2026-01-01T00:00:00ZZ', '2026-01-01T00:00:00Z ',
    '2026-01-01T00:00:00.0000000000000000000000000000000000000000000000000000000000000000000Z']) t;
SELECT completed_at AT TIME ZONE 'UTC' FROM jobstate.store_status('s1');
-- without a zone it is UTC, whatever the session's zone is
SET timezone = 'America/New_York';
SELECT jobstate.store_create('s1', '{"created_at": "2026-06-01T10:00:00", "completed_at": "2026-06-01 10:00:00.5-01"}') IS NOT NULL;
SELECT created_at AT TIME ZONE 'UTC', completed_at AT TIME ZONE 'UTC' FROM jobstate.store_status('s1');
RESET timezone;

-- by hand it is no different
INSERT INTO jobstate.store (id, fields) VALUES ('s2', '{"progress": []}');       -- fails
INSERT INTO jobstate.store (id, fields) VALUES ('s2', '{"status": "queued"}');   -- fails
INSERT INTO jobstate.store (id, fields) VALUES ('s2', '[]');                     -- fails
INSERT INTO jobstate.store (id, state_id) VALUES ('s2', 8);                      -- fails
UPDATE jobstate.store SET fields = fields || '{"error": 5}' WHERE id = 's1';     -- fails
\set VERBOSITY terse
UPDATE jobstate.store SET fields = NULL WHERE id = 's1';                         -- fails
\set VERBOSITY default
UPDATE jobstate.store SET ttl = '0' WHERE id = 's1';                             -- fails
-- nor by the functions
SELECT jobstate.store_update('s1', '{"result": "x"}');                           -- fails
SELECT jobstate.store_put('s1', 'artifacts', 'a', '5');                          -- fails
SELECT jobstate.store_incr('s1', 'error');                                       -- fails
SELECT jobstate.store_append('s1', 'progress', '1');                             -- fails
SELECT jobstate.store_cas('s1', 'result', NULL, '5');                            -- fails
SELECT jobstate.store_complete('s1', '5');                                       -- fails
SELECT jobstate.store_update('s1', '{"id": "s2"}');                              -- fails
SELECT jobstate.store_update('s1', '{"id": "s1"}') -> 'id';
-- a row that was loaded by hand is a record like any other
INSERT INTO jobstate.store (id, state_id, fields) VALUES ('s3', 4, '{"error": null}');
SELECT jobstate.store_get('s3');
DELETE FROM jobstate.store;
