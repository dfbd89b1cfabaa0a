-- uploads: the gate --------------------------------------------------------------
--
-- One finisher at a time per commit, for the part that the counts cannot guard.
-- A gate that is acquired in the transaction that also enqueues the finisher goes
-- with it if that fails.

-- upload_gate_acquire: true for exactly one of any number of concurrent callers.
-- An owner does not get the gate twice: two deliveries of one task are two callers.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_acquire(repo_id bigint, commit_sha text,
    owner text DEFAULT '', lease interval DEFAULT '900 s')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    PERFORM jobstate.upload_scope_lock(repo, sha);
    UPDATE jobstate.upload_scope s
       SET gate_owner = owner, gate_until = clock_timestamp() + lease
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND (s.gate_until IS NULL OR s.gate_until <= clock_timestamp());
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_acquire(bigint, text, text, interval)
    IS 'takes the gate of a commit; false if somebody holds it';

-- upload_gate_refresh: false if the gate is no longer the owner's, so that the
-- owner stops.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_refresh(repo_id bigint, commit_sha text,
    owner text DEFAULT '', lease interval DEFAULT '900 s')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    PERFORM jobstate.require_positive('lease', lease > interval '0');
    UPDATE jobstate.upload_scope s
       SET gate_until = clock_timestamp() + lease
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND s.gate_owner = owner AND s.gate_until > clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_refresh(bigint, text, text, interval)
    IS 'keeps the gate; false if it ran out or is somebody else''s';

-- upload_gate_release: false if there was nothing of the owner's to release,
-- which is no error.
-- Writes: upload_scope.  Locks: the scope row.
CREATE FUNCTION jobstate.upload_gate_release(repo_id bigint, commit_sha text, owner text DEFAULT '')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    PERFORM jobstate.require_argument('repo_id', repo);
    PERFORM jobstate.require_argument('commit_sha', sha);
    PERFORM jobstate.require_argument('owner', owner);
    UPDATE jobstate.upload_scope s
       SET gate_owner = NULL, gate_until = NULL
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.gate_owner = owner;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.upload_gate_release(bigint, text, text)
    IS 'gives the gate back; true if the owner held it';
