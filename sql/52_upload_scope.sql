-- uploads: the scope row --------------------------------------------------------
--
-- Problem: two workers finish the last two uploads of a commit at the same time,
-- each sees the other's as unfinished, and nobody merges.
-- Non-problems: taking (it moves no state and waits for nobody), reading.
-- Solution: whoever moves a state or decides first UPDATES the commit's scope
-- row, in a statement of its own, and counts afterwards.  Under READ COMMITTED
-- the count's snapshot is then younger than the wait; under REPEATABLE READ and
-- SERIALIZABLE an update of a row that has moved on fails with 40001, which a
-- mere lock would not.
--
-- Lock order: scope rows by key, then uploads by id, then what hangs on them.
-- Takers lock uploads alone, with SKIP LOCKED, and should commit before they call
-- anything else.

-- upload_refuse: words every refusal of a single upload.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_refuse(reason text, upload_id bigint, state text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on upload % is lost', upload_id
                USING ERRCODE = 'JS001',
                      DETAIL = 'The token is not that of the upload''s last taker.',
                      HINT = 'Drop the result: the upload is somebody else''s, or waits to be taken again.';
        WHEN 'not found' THEN
            RAISE EXCEPTION 'upload % does not exist', upload_id
                USING ERRCODE = 'JS002';
        WHEN 'not finishable' THEN
            RAISE EXCEPTION 'upload % cannot be finished', upload_id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Bring it back with upload_retry() first.';
        WHEN 'not retryable' THEN
            RAISE EXCEPTION 'upload % cannot be retried', upload_id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Only what is uploaded or in error can; upload_reprocess() starts a whole commit again.';
    END CASE;
END
$$;
COMMENT ON FUNCTION jobstate.upload_refuse(text, bigint, text)
    IS 'internal: raises JS001, JS002 or JS003 for an upload';

-- upload_delay: how long after a decision to look again.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.upload_delay(kind text)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT f.delay FROM jobstate.upload_follow_up f WHERE f.kind = upload_delay.kind);
END
$$;
COMMENT ON FUNCTION jobstate.upload_delay(text)
    IS 'the delay of a follow-up: continuation, sweep or watchdog';

-- upload_scope_lock: the first statement of every decision about a commit; the
-- next statement sees what earlier holders did, or this one has failed with 40001.
-- Writes: upload_scope.  Locks: the scope row, until the end of the transaction.
CREATE FUNCTION jobstate.upload_scope_lock(repo_id bigint, commit_sha text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET version = s.version + 1
     WHERE s.repo_id = repo AND s.commit_sha = sha;
    IF NOT FOUND THEN
        INSERT INTO jobstate.upload_scope AS s (repo_id, commit_sha, check_at)
        VALUES (repo, sha, clock_timestamp() + jobstate.upload_delay('sweep'))
            ON CONFLICT (repo_id, commit_sha) DO UPDATE SET version = s.version + 1;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.upload_scope_lock(bigint, text)
    IS 'internal: locks and updates a commit''s scope row';

-- upload_reopen: a commit that has something to process again gets swept again,
-- and gets postprocessed again if that is coverage.  The caller holds the scope.
-- Writes: upload_scope.  Locks nothing more.
CREATE FUNCTION jobstate.upload_reopen(repo_id bigint, commit_sha text, coverage boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = CASE WHEN coverage THEN NULL ELSE s.postprocess_at END,
           postprocessed_at = CASE WHEN coverage THEN NULL ELSE s.postprocessed_at END,
           check_at = clock_timestamp() + jobstate.upload_delay('sweep')
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND (s.check_at IS NULL OR coverage AND s.postprocess_at IS NOT NULL);
END
$$;
COMMENT ON FUNCTION jobstate.upload_reopen(bigint, text, boolean)
    IS 'internal: forgets that a commit was postprocessed';

-- upload_hold: one upload, held together with its commit's scope.  All columns
-- are NULL if there is no such upload; a token that is not its last taker's is
-- refused.
-- Writes: upload_scope.  Locks: the scope row, then the upload.
CREATE FUNCTION jobstate.upload_hold(upload_id bigint, token uuid,
    OUT repo_id bigint, OUT commit_sha text, OUT state_id smallint, OUT state text,
    OUT succeeded boolean, OUT retries integer, OUT coverage boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    given ALIAS FOR token;
    upload record;
BEGIN
    SELECT u.repo_id, u.commit_sha INTO upload
      FROM jobstate.upload u WHERE u.id = upload_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM jobstate.upload_scope_lock(upload.repo_id, upload.commit_sha);
    SELECT u.* INTO upload
      FROM jobstate.upload u
     WHERE u.repo_id = upload.repo_id AND u.commit_sha = upload.commit_sha AND u.id = upload_id
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF given IS NOT NULL AND upload.token IS DISTINCT FROM given THEN
        PERFORM jobstate.upload_refuse('lease lost', upload_id);
    END IF;
    repo_id := upload.repo_id;
    commit_sha := upload.commit_sha;
    state_id := upload.state_id;
    state := upload.state;
    succeeded := upload.succeeded;
    retries := upload.retries;
    coverage := coalesce(upload.report_type, 'coverage') = 'coverage';
END
$$;
COMMENT ON FUNCTION jobstate.upload_hold(bigint, uuid)
    IS 'internal: locks an upload and its commit''s scope';

-- upload_hold_all: the same for any number of uploads, of any commits.
-- Writes: upload_scope.  Locks: the scope rows by key, then the uploads by id.
CREATE FUNCTION jobstate.upload_hold_all(upload_ids bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    scope record;
BEGIN
    FOR scope IN
        SELECT u.repo_id, u.commit_sha FROM jobstate.upload u WHERE u.id = ANY (upload_ids)
         GROUP BY 1, 2 ORDER BY u.repo_id, u.commit_sha COLLATE "C"
    LOOP
        PERFORM jobstate.upload_scope_lock(scope.repo_id, scope.commit_sha);
    END LOOP;
    PERFORM FROM jobstate.upload u
      WHERE u.id = ANY (upload_ids) ORDER BY u.id FOR NO KEY UPDATE;
END
$$;
COMMENT ON FUNCTION jobstate.upload_hold_all(bigint[])
    IS 'internal: locks uploads and their commits'' scopes';
