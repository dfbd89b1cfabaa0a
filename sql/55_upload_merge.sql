-- uploads: from "processed" into the report -----------------------------------------

-- upload_take_for_merging: a batch of processed coverage uploads for one merger,
-- under a lease and one fresh token.  Concurrent mergers get different uploads; a
-- batch whose lease ran out is given again under another token.  Failed uploads
-- are in the batch too: marking it merged is what makes them errors.
-- Commit before merging: the lease only protects what others can see.
-- An empty batch means that there is nothing, because whoever was told to merge would
-- not be told again: where all there is is locked, as upload_take() leaves what was
-- finished before it came to it, this waits for the first that becomes free.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for one if there is
-- no other.
CREATE FUNCTION jobstate.upload_take_for_merging(repo_id bigint, commit_sha text,
    batch_size integer DEFAULT 10, lease interval DEFAULT '300 s')
RETURNS TABLE (upload_id bigint, token uuid, lease_until timestamptz, success boolean, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    fresh CONSTANT uuid := gen_random_uuid();
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_positive('batch_size', batch_size > 0);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    FOR turn IN 1 .. 2 LOOP
        RETURN QUERY
            WITH batch AS MATERIALIZED (
                SELECT u.id FROM jobstate.upload u
                 WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 2
                   AND coalesce(u.report_type, 'coverage') = 'coverage'
                   AND (u.merge_until IS NULL OR u.merge_until <= clock_timestamp())
                 ORDER BY u.id LIMIT batch_size
                   FOR NO KEY UPDATE SKIP LOCKED),
            taken AS (
                UPDATE jobstate.upload u
                   SET merge_token = fresh, merge_until = clock_timestamp() + lease
                  FROM batch b
                 WHERE u.repo_id = repo AND u.commit_sha = sha AND u.id = b.id
                RETURNING u.id, u.merge_token, u.merge_until,
                          u.succeeded IS NOT FALSE, u.storage_path)
            SELECT t.* FROM taken t ORDER BY t.id;
        EXIT WHEN FOUND;
        PERFORM FROM jobstate.upload u
          WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 2
            AND coalesce(u.report_type, 'coverage') = 'coverage'
            AND (u.merge_until IS NULL OR u.merge_until <= clock_timestamp())
          ORDER BY u.id LIMIT 1
            FOR NO KEY UPDATE;
        EXIT WHEN NOT FOUND;
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.upload_take_for_merging(bigint, text, integer, interval)
    IS 'leases a batch of processed uploads of a commit to the caller, for merging';

-- upload_check_batch: the uploads are, or were until they were merged, of the
-- batch with this token.  The caller holds the uploads.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_check_batch(upload_ids bigint[], token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given ALIAS FOR token;
    stale bigint;
BEGIN
    SELECT min(i) INTO stale
      FROM unnest(upload_ids) i
     WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                        WHERE u.id = i AND u.merge_token = given);
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.upload_check_batch(bigint[], uuid)
    IS 'internal: refuses a token that is not the uploads'' last batch''s';

-- upload_settle: processed -> merged, or -> error where the upload failed.
-- Whoever was told to merge has done so, so the next decision may tell somebody
-- again.  The caller holds the uploads and their scopes.
-- Writes: upload, upload_error, upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_settle(upload_ids bigint[], OUT merged bigint, OUT failed bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.upload_note_error(ARRAY(
        SELECT u.id FROM jobstate.upload u
         WHERE u.id = ANY (upload_ids) AND u.state_id = 2 AND NOT u.succeeded
           AND NOT EXISTS (SELECT FROM jobstate.upload_error e
                            WHERE e.repo_id = u.repo_id AND e.commit_sha = u.commit_sha
                              AND e.upload_id = u.id)), 'unknown_processing');
    WITH moved AS (
        UPDATE jobstate.upload u
           SET state_id = CASE WHEN u.succeeded IS FALSE THEN 3 ELSE 6 END,
               merge_until = NULL, updated_at = clock_timestamp()
         WHERE u.id = ANY (upload_ids) AND u.state_id = 2
        RETURNING u.repo_id, u.commit_sha, u.state_id),
    released AS (
        UPDATE jobstate.upload_scope s
           SET merge_until = NULL
         WHERE s.merge_until IS NOT NULL
           AND (s.repo_id, s.commit_sha) IN (SELECT m.repo_id, m.commit_sha FROM moved m))
    SELECT count(*) FILTER (WHERE m.state_id = 6), count(*) FILTER (WHERE m.state_id = 3)
      INTO merged, failed FROM moved m;
END
$$;
COMMENT ON FUNCTION jobstate.upload_settle(bigint[])
    IS 'internal: moves held processed uploads to merged, or to error';

-- upload_mark_merged: the batch is in the report.  With its token, a batch that
-- somebody else has taken meanwhile is refused as a whole; without, the caller is
-- trusted and only what is processed moves.  A repeated call moves nothing.
-- Writes: upload, upload_error, upload_scope.
-- Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_mark_merged(upload_ids bigint[], token uuid DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.upload_hold_all(upload_ids);
    IF token IS NOT NULL THEN
        PERFORM jobstate.upload_check_batch(upload_ids, token);
    END IF;
    RETURN (SELECT s.merged FROM jobstate.upload_settle(upload_ids) s);
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_merged(bigint[], uuid)
    IS 'moves processed uploads to merged, failed ones to error, and tells how many are merged';

-- upload_apply_results: the same with what the merge found out about each upload:
-- [{"upload_id": 7, "order_number": 3, "totals": {"files": 1, ...}},
--  {"upload_id": 8, "error_code": "report_empty", "error_params": {...}}]
-- Totals that are there stay.  Only what is processed takes part.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_apply_results(results jsonb, token uuid DEFAULT NULL,
    OUT merged bigint, OUT failed bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    upload_ids bigint[];
    failure record;
BEGIN
    PERFORM jobstate.require_json('results', results, 'array');
    upload_ids := ARRAY(SELECT (r ->> 'upload_id')::bigint FROM jsonb_array_elements(results) r);
    PERFORM jobstate.upload_hold_all(upload_ids);
    IF token IS NOT NULL THEN
        PERFORM jobstate.upload_check_batch(upload_ids, token);
    END IF;
    UPDATE jobstate.upload u
       SET succeeded = u.succeeded IS NOT FALSE AND r.error_code IS NULL,
           order_number = CASE WHEN u.succeeded IS NOT FALSE AND r.error_code IS NULL THEN r.order_number END
      FROM jsonb_to_recordset(results) AS r(upload_id bigint, order_number integer, error_code text)
     WHERE u.id = r.upload_id AND u.state_id = 2;
    INSERT INTO jobstate.upload_totals (repo_id, commit_sha, upload_id,
                files, lines, hits, misses, partials, branches, methods, coverage)
    SELECT u.repo_id, u.commit_sha, u.id,
           t.files, t.lines, t.hits, t.misses, t.partials, t.branches, t.methods, t.coverage
      FROM jsonb_to_recordset(results) AS r(upload_id bigint, totals jsonb)
      JOIN jobstate.upload u ON u.id = r.upload_id AND u.state_id = 2 AND u.succeeded,
           jsonb_to_record(r.totals) AS t(files integer, lines integer, hits integer, misses integer,
               partials integer, branches integer, methods integer, coverage numeric)
     WHERE r.totals IS NOT NULL
        ON CONFLICT DO NOTHING;
    FOR failure IN
        SELECT r.* FROM jsonb_to_recordset(results)
               AS r(upload_id bigint, error_code text, error_params jsonb)
          JOIN jobstate.upload u ON u.id = r.upload_id AND u.state_id = 2
         WHERE r.error_code IS NOT NULL
    LOOP
        PERFORM jobstate.upload_note_error(ARRAY[failure.upload_id], failure.error_code, failure.error_params);
    END LOOP;
    SELECT s.merged, s.failed INTO merged, failed FROM jobstate.upload_settle(upload_ids) s;
END
$$;
COMMENT ON FUNCTION jobstate.upload_apply_results(jsonb, uuid)
    IS 'moves processed uploads to merged or error by the merge''s results, and keeps these';

-- upload_mark_overwritten: a later upload replaces these, wholly or in part.
-- Writes: upload, upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_mark_overwritten(upload_ids bigint[], fully boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_argument('fully', fully);
    PERFORM jobstate.upload_hold_all(upload_ids);
    UPDATE jobstate.upload u
       SET state_id = CASE WHEN fully THEN 4 ELSE 5 END, merge_until = NULL,
           updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id IN (2, 6);
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_overwritten(bigint[], boolean)
    IS 'moves processed and merged uploads to fully or partially overwritten, and tells how many';

-- upload_replace_carriedforward: carried-forward uploads whose sessions the
-- merge replaced leave, with their errors and totals.  Ids of a later call that
-- are gone by then are passed over like any other unknown id.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope row, then the uploads by id.
CREATE FUNCTION jobstate.upload_replace_carriedforward(repo_id bigint, commit_sha text,
    order_numbers integer[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    gone bigint[];
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('order_numbers', order_numbers);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    gone := ARRAY(SELECT u.id FROM jobstate.upload u
                   WHERE u.repo_id = repo AND u.commit_sha = sha
                     AND u.upload_type = 'carriedforward' AND u.order_number = ANY (order_numbers)
                   ORDER BY u.id FOR UPDATE);
    DELETE FROM jobstate.upload u WHERE u.id = ANY (gone);
    RETURN cardinality(gone);
END
$$;
COMMENT ON FUNCTION jobstate.upload_replace_carriedforward(bigint, text, integer[])
    IS 'deletes the carried-forward uploads of these sessions, and tells how many';

-- upload_reprocess: a whole commit again, from any state, where there is
-- something stored to process.  What is being processed goes on.  Sessions,
-- totals and errors of the round before leave, and so does whoever was told to
-- merge it: a batch of that round is refused.
-- Writes: upload, upload_error, upload_totals, upload_scope.
-- Locks: the scope row, then the uploads by id.
CREATE FUNCTION jobstate.upload_reprocess(repo_id bigint, commit_sha text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    again bigint[];
    coverage boolean;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    SELECT array_agg(u.id), bool_or(coalesce(u.report_type, 'coverage') = 'coverage')
      INTO again, coverage
      FROM (SELECT u.id, u.report_type FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha
               AND u.state_id <> 1 AND u.storage_path IS NOT NULL
             ORDER BY u.id FOR NO KEY UPDATE) u;
    PERFORM jobstate.upload_requeue(again, NULL);
    PERFORM jobstate.upload_withdraw_merge(repo, sha);
    PERFORM jobstate.upload_reopen(repo, sha, coverage);
    RETURN coalesce(cardinality(again), 0);
END
$$;
COMMENT ON FUNCTION jobstate.upload_reprocess(bigint, text)
    IS 'brings all stored uploads of a commit back to uploaded, and tells how many';
