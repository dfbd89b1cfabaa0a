-- uploads: from creation to "processed" ------------------------------------------

-- upload_create: a new upload.  A carried-forward one is part of the report
-- from the start: it is born merged and opens nothing.
-- Writes: upload, upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_create(repo_id bigint, commit_sha text,
    report_type text DEFAULT 'coverage', storage_path text DEFAULT NULL,
    upload_type text DEFAULT 'uploaded', order_number integer DEFAULT NULL,
    extras jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    kind ALIAS FOR report_type;
    carried CONSTANT boolean := upload_type = 'carriedforward';
    created bigint;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('upload_type', $5);
    PERFORM jobstate.require_argument('extras', $7);
    PERFORM jobstate.upload_scope_lock(repo, sha);
    INSERT INTO jobstate.upload (repo_id, commit_sha, report_type, storage_path,
                                 upload_type, state_id, order_number, extras)
    VALUES (repo, sha, kind, $4, $5, CASE WHEN carried THEN 6 ELSE 1 END, $6, $7)
    RETURNING id INTO created;
    IF NOT carried THEN
        PERFORM jobstate.upload_reopen(repo, sha, coalesce(kind, 'coverage') = 'coverage');
    END IF;
    RETURN created;
END
$$;
COMMENT ON FUNCTION jobstate.upload_create(bigint, text, text, text, text, integer, jsonb)
    IS 'adds an upload to a commit and returns its id';

-- upload_lease: gives uploads that the caller has locked to one worker, under
-- one fresh token.
-- Writes: upload.  Locks nothing more.
CREATE FUNCTION jobstate.upload_lease(upload_ids bigint[], lease interval)
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fresh CONSTANT uuid := gen_random_uuid();
    deadline CONSTANT timestamptz := clock_timestamp() + lease;
BEGIN
    RETURN QUERY
        WITH leased AS (
            UPDATE jobstate.upload u
               SET attempt = u.attempt + 1, token = fresh, lease_until = deadline, retry_at = NULL
             WHERE u.id = ANY (upload_ids)
            RETURNING u.id, u.token, u.attempt, u.lease_until, u.storage_path)
        SELECT l.* FROM leased l ORDER BY l.id;
END
$$;
COMMENT ON FUNCTION jobstate.upload_lease(bigint[], interval)
    IS 'internal: leases locked uploads under one fresh token';

-- upload_take: uploads of a commit for one worker to process.  What another
-- worker has, or what waits for a retry that is not yet due, is passed over.
-- Commit before processing: the lease only protects what others can see.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_take(repo_id bigint, commit_sha text,
    n integer DEFAULT 1, lease interval DEFAULT '300 s', report_type text DEFAULT 'coverage')
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    kind ALIAS FOR report_type;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_positive('n', n > 0);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM jobstate.require_argument('report_type', kind);
    RETURN QUERY
        SELECT l.* FROM jobstate.upload_lease(ARRAY(
            SELECT u.id FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 1
               AND coalesce(u.report_type, 'coverage') = kind
               AND (u.token IS NULL OR u.lease_until <= clock_timestamp())
               AND (u.retry_at IS NULL OR u.retry_at <= clock_timestamp())
             ORDER BY u.id LIMIT n
               FOR NO KEY UPDATE SKIP LOCKED), lease) l;
END
$$;
COMMENT ON FUNCTION jobstate.upload_take(bigint, text, integer, interval, text)
    IS 'leases up to n uploads of a commit to the caller, for processing';

-- upload_start: the same by id, for queues that hand out ids.  A retry may start
-- a little before it is due: the queue's clock is not the server's.
-- Writes: upload.  Locks: the uploads, with SKIP LOCKED; waits for nobody.
CREATE FUNCTION jobstate.upload_start(upload_ids bigint[], lease interval DEFAULT '300 s')
RETURNS TABLE (upload_id bigint, token uuid, attempt integer, lease_until timestamptz, storage_path text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    RETURN QUERY
        SELECT l.* FROM jobstate.upload_lease(ARRAY(
            SELECT u.id FROM jobstate.upload u
             WHERE u.id = ANY (upload_ids) AND u.state_id = 1
               AND (u.token IS NULL OR u.lease_until <= clock_timestamp())
             ORDER BY u.id
               FOR NO KEY UPDATE SKIP LOCKED), lease) l;
END
$$;
COMMENT ON FUNCTION jobstate.upload_start(bigint[], interval)
    IS 'leases the given uploads to the caller, for processing, and returns those that were free';

-- upload_heartbeat: keeps a lease, of processing or of a batch.
-- Writes: upload.  Locks: the uploads by id.
CREATE FUNCTION jobstate.upload_heartbeat(upload_ids bigint[], token uuid, lease interval DEFAULT '300 s')
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    deadline timestamptz;
    stale bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.require_argument('token', given);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM FROM jobstate.upload u
      WHERE u.id = ANY (upload_ids) ORDER BY u.id FOR NO KEY UPDATE;
    deadline := clock_timestamp() + lease;
    SELECT min(i) INTO stale
      FROM unnest(upload_ids) i
     WHERE NOT EXISTS (SELECT FROM jobstate.upload u
                        WHERE u.id = i AND (u.state_id = 1 AND u.token = given
                                         OR u.state_id = 2 AND u.merge_token = given));
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
    UPDATE jobstate.upload u
       SET lease_until = CASE WHEN u.state_id = 1 THEN deadline END,
           merge_until = CASE WHEN u.state_id = 2 THEN deadline END
     WHERE u.id = ANY (upload_ids);
    RETURN deadline;
END
$$;
COMMENT ON FUNCTION jobstate.upload_heartbeat(bigint[], uuid, interval)
    IS 'extends the caller''s lease on uploads, and tells until when';

-- upload_mark: uploaded -> processed.  The token stays, so that a repeated call
-- is told from a stale one.  The caller holds the upload.
-- Writes: upload.  Locks nothing more.
CREATE FUNCTION jobstate.upload_mark(upload_id bigint, success boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.upload u
       SET state_id = 2, succeeded = success, lease_until = NULL, retry_at = NULL,
           updated_at = clock_timestamp()
     WHERE u.id = upload_id AND u.state_id = 1;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark(bigint, boolean)
    IS 'internal: moves a held upload to processed';

-- upload_mark_processed: the mark alone, for callers that decide separately.
-- Writes: upload, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_mark_processed(upload_id bigint, token uuid DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('upload_id', upload_id);
    PERFORM jobstate.upload_hold(upload_id, token);
    RETURN jobstate.upload_mark(upload_id, true);
END
$$;
COMMENT ON FUNCTION jobstate.upload_mark_processed(bigint, uuid)
    IS 'moves an upload from uploaded to processed; false if it was not there to move';

-- upload_finish: marks an upload processed and tells the caller what it, and
-- nobody else, has to do now.  A failed parse is processed too: it becomes an
-- error when its batch is merged.  A repeated call changes nothing and asks
-- again.  An upload that was cleared to error has no result to keep.
-- Writes: upload, upload_error, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_finish(upload_id bigint, success boolean, token uuid DEFAULT NULL,
    error_code text DEFAULT NULL, error_params jsonb DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('upload_id', upload_id);
    PERFORM jobstate.require_argument('success', success);
    held := jobstate.upload_hold(upload_id, token);
    IF held.repo_id IS NULL THEN
        PERFORM jobstate.upload_refuse('not found', upload_id);
    ELSIF held.state_id = 3 AND held.succeeded IS NULL THEN
        PERFORM jobstate.upload_refuse('not finishable', upload_id, held.state);
    END IF;
    IF jobstate.upload_mark(upload_id, success) AND NOT success THEN
        PERFORM jobstate.upload_note_error(ARRAY[upload_id], error_code, error_params);
    END IF;
    IF NOT held.coverage THEN
        RETURN 'wait';
    END IF;
    RETURN jobstate.upload_answer(held.repo_id, held.commit_sha);
END
$$;
COMMENT ON FUNCTION jobstate.upload_finish(bigint, boolean, uuid, text, jsonb)
    IS 'marks an upload processed and answers wait, merge or postprocess; the last two go to one caller each';

-- upload_note_error: why uploads are, or will be, in error; once per code.
-- Writes: upload_error.  Locks nothing: the caller holds the uploads.
CREATE FUNCTION jobstate.upload_note_error(upload_ids bigint[], error_code text, error_params jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    code ALIAS FOR error_code;
    params ALIAS FOR error_params;
BEGIN
    INSERT INTO jobstate.upload_error (repo_id, commit_sha, upload_id, error_code, error_params)
    SELECT u.repo_id, u.commit_sha, u.id, code, coalesce(params, '{}')
      FROM jobstate.upload u
     WHERE u.id = ANY (upload_ids) AND code IS NOT NULL
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION jobstate.upload_note_error(bigint[], text, jsonb)
    IS 'internal: adds an error to uploads unless they have it';

-- upload_fail: uploaded -> error, with the reason.  The caller holds the uploads.
-- Writes: upload, upload_error.  Locks nothing more.
CREATE FUNCTION jobstate.upload_fail(upload_ids bigint[], error_code text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.upload u
       SET state_id = 3, lease_until = NULL, retry_at = NULL, updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1;
    PERFORM jobstate.upload_note_error(upload_ids, error_code);
END
$$;
COMMENT ON FUNCTION jobstate.upload_fail(bigint[], text)
    IS 'internal: moves held uploads to error';

-- upload_max_retries: the policy of an error code.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_max_retries(error_code text)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    code ALIAS FOR error_code;
BEGIN
    RETURN (SELECT c.max_retries FROM jobstate.upload_error_code c
             WHERE c.error_code IN (code, 'unknown_error_code')
             ORDER BY c.error_code = code DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION jobstate.upload_max_retries(text)
    IS 'how often an upload with this error may be retried';

-- upload_retry: the upload is to be processed again after a delay, by default
-- 20 seconds doubled with every retry, 5 hours at most.  Until then it stays
-- uploaded, so nobody merges without it.  With its retries used up it is in
-- error, and the caller has to ask upload_decide() in its place.
-- Writes: upload, upload_error, upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_retry(upload_id bigint, error_code text DEFAULT 'unknown_processing',
    delay interval DEFAULT NULL, token uuid DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    target ALIAS FOR upload_id;
    held record;
    due timestamptz;
BEGIN
    PERFORM jobstate.require_argument('upload_id', target);
    PERFORM jobstate.require_argument('error_code', $2);
    held := jobstate.upload_hold(target, $4);
    IF held.repo_id IS NULL THEN
        PERFORM jobstate.upload_refuse('not found', target);
    ELSIF held.state_id NOT IN (1, 3) THEN
        PERFORM jobstate.upload_refuse('not retryable', target, held.state);
    END IF;
    IF held.retries >= jobstate.upload_max_retries($2) THEN
        PERFORM jobstate.upload_fail(ARRAY[target], $2);
        RETURN NULL;
    END IF;
    due := clock_timestamp()
           + coalesce(delay, least(interval '20 s' * power(2, least(held.retries, 20)), interval '5 h'));
    PERFORM jobstate.upload_requeue(ARRAY[target], due);
    PERFORM jobstate.upload_reopen(held.repo_id, held.commit_sha, held.coverage AND held.state_id = 3);
    RETURN due;
END
$$;
COMMENT ON FUNCTION jobstate.upload_retry(bigint, text, interval, uuid)
    IS 'gives an upload back for a later attempt and tells when; NULL if its retries are used up and it is in error';

-- upload_requeue: back to uploaded, with nothing left of earlier results: for a
-- retry from the given time on, or, without a time, as if it were new.  The
-- caller holds the uploads.
-- Writes: upload, upload_error, upload_totals.  Locks nothing more.
CREATE FUNCTION jobstate.upload_requeue(upload_ids bigint[], due timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM jobstate.upload_error e USING jobstate.upload u
     WHERE u.id = ANY (upload_ids)
       AND e.repo_id = u.repo_id AND e.commit_sha = u.commit_sha AND e.upload_id = u.id;
    DELETE FROM jobstate.upload_totals t USING jobstate.upload u
     WHERE u.id = ANY (upload_ids)
       AND t.repo_id = u.repo_id AND t.commit_sha = u.commit_sha AND t.upload_id = u.id;
    UPDATE jobstate.upload u
       SET state_id = 1, succeeded = NULL, order_number = NULL,
           attempt = CASE WHEN due IS NULL THEN 0 ELSE u.attempt END,
           retries = CASE WHEN due IS NULL THEN 0 ELSE u.retries + 1 END, retry_at = due,
           token = NULL, lease_until = NULL, merge_token = NULL, merge_until = NULL,
           updated_at = CASE WHEN u.state_id = 1 THEN u.updated_at ELSE clock_timestamp() END
     WHERE u.id = ANY (upload_ids);
END
$$;
COMMENT ON FUNCTION jobstate.upload_requeue(bigint[], timestamptz)
    IS 'internal: brings held uploads back to uploaded';

-- upload_clear_in_progress: what a worker does in its clean-up with uploads that
-- it neither finished nor gave back.  An upload that waits for its retry is not
-- in progress and stays.
-- Writes: upload, upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_clear_in_progress(upload_ids bigint[], token uuid DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    stale bigint;
    moved bigint;
BEGIN
    PERFORM jobstate.require_argument('upload_ids', upload_ids);
    PERFORM jobstate.upload_hold_all(upload_ids);
    SELECT min(u.id) INTO stale
      FROM jobstate.upload u
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1 AND u.token <> given;
    IF stale IS NOT NULL THEN
        PERFORM jobstate.upload_refuse('lease lost', stale);
    END IF;
    UPDATE jobstate.upload u
       SET state_id = 3, lease_until = NULL, updated_at = clock_timestamp()
     WHERE u.id = ANY (upload_ids) AND u.state_id = 1 AND u.retry_at IS NULL;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION jobstate.upload_clear_in_progress(bigint[], uuid)
    IS 'moves uploads that are still being processed to error, and tells how many';
