-- store: reading ----------------------------------------------------------------------
--
-- Every read compares expires_at with clock_timestamp(): an expired record does not
-- exist, whether maintenance came by or not, and however long ago the transaction began.

-- store_status_name, store_status_id: the statuses by id and by name; NULL for none.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.store_status_name(state_id smallint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE state_id
    WHEN 1 THEN 'pending' WHEN 2 THEN 'queued' WHEN 3 THEN 'preprocessing' WHEN 4 THEN 'transcribing'
    WHEN 5 THEN 'postprocessing' WHEN 6 THEN 'completed' WHEN 7 THEN 'failed' END;
COMMENT ON FUNCTION jobstate.store_status_name(smallint)
    IS 'internal: the status of a state id';

CREATE FUNCTION jobstate.store_status_id(status text)
RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE status
    WHEN 'pending' THEN 1 WHEN 'queued' THEN 2 WHEN 'preprocessing' THEN 3 WHEN 'transcribing' THEN 4
    WHEN 'postprocessing' THEN 5 WHEN 'completed' THEN 6 WHEN 'failed' THEN 7 END::smallint;
COMMENT ON FUNCTION jobstate.store_status_id(text)
    IS 'internal: the state id of a status';

-- store_record: a record as its users know it: its fields, and the status that follows
-- from its state.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_record(fields jsonb, state_id smallint)
RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN fields || CASE state_id
    WHEN 1 THEN '{"status": "pending"}'::jsonb WHEN 2 THEN '{"status": "queued"}'::jsonb
    WHEN 3 THEN '{"status": "preprocessing"}'::jsonb WHEN 4 THEN '{"status": "transcribing"}'::jsonb
    WHEN 5 THEN '{"status": "postprocessing"}'::jsonb WHEN 6 THEN '{"status": "completed"}'::jsonb
    WHEN 7 THEN '{"status": "failed"}'::jsonb END;
COMMENT ON FUNCTION jobstate.store_record(jsonb, smallint)
    IS 'internal: fields and status together';

-- store_percent: what progress tells, or NULL.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_percent(fields jsonb)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(fields #> '{progress,percent_complete}')
    WHEN 'number' THEN (fields #> '{progress,percent_complete}')::numeric END;
COMMENT ON FUNCTION jobstate.store_percent(jsonb)
    IS 'internal: the percent_complete of the progress of a record';

-- store_ttl: how long records live for which nothing else is said.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_ttl()
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT s.ttl FROM jobstate.store_setting s), interval '86400 s');
END
$$;
COMMENT ON FUNCTION jobstate.store_ttl()
    IS 'the default time to live, from store_setting';

-- store_missing: a record is not there, or not any more.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_missing(id text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'job "%" does not exist', id
        USING ERRCODE = 'JS002',
              DETAIL = 'There is no such record, or it expired.';
END
$$;
COMMENT ON FUNCTION jobstate.store_missing(text)
    IS 'internal: raises JS002 for a record';

-- store_get: the record as it was created and updated, or NULL.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_get(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s
             WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp());
END
$$;
COMMENT ON FUNCTION jobstate.store_get(text)
    IS 'a record, or NULL if there is none or it expired';

-- store_time: a timestamp of a record; one without a zone is in UTC.  NULL where it is
-- none, which is only so for what is no member of a record.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_time(value text)
RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (CASE WHEN value ~ '[Tt ].*([Zz]|[+-]\d\d(:?\d\d)?)$' THEN value ELSE value || 'Z' END)::timestamptz
$$;
COMMENT ON FUNCTION jobstate.store_time(text)
    IS 'internal: a timestamp of a record';

-- store_status: what a client that waits wants to know; no row where there is no record.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_status(id text,
    OUT status text, OUT progress jsonb, OUT error text, OUT has_result boolean,
    OUT created_at timestamptz, OUT completed_at timestamptz, OUT attempt integer, OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('id', $1);
    RETURN QUERY
        SELECT jobstate.store_status_name(s.state_id), nullif(s.fields -> 'progress', 'null'), s.fields ->> 'error',
               s.state_id = 6 AND jsonb_typeof(s.fields -> 'result') = 'object' IS TRUE,
               coalesce(jobstate.store_time(s.fields ->> 'created_at'), s.created_at),
               jobstate.store_time(s.fields ->> 'completed_at'), s.attempt, s.expires_at
          FROM jobstate.store s
         WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp();
END
$$;
COMMENT ON FUNCTION jobstate.store_status(text)
    IS 'what a client that waits for a job wants to know: one row, or none';

-- store_completed: the record of a job that must be completed.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_completed(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found jsonb := jobstate.store_get(id);
BEGIN
    IF found IS NULL THEN
        PERFORM jobstate.store_missing(id);
    ELSIF found ->> 'status' <> 'completed' THEN
        RAISE EXCEPTION 'Job not completed. Current status: %', found ->> 'status'
            USING ERRCODE = 'JS003';
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION jobstate.store_completed(text)
    IS 'internal: the record of a completed job, or an error';

-- store_results: the result of a completed job.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_results(id text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb := jobstate.store_completed(id) -> 'result';
BEGIN
    IF coalesce(result, 'null') = 'null' THEN
        RAISE EXCEPTION 'Results not available'
            USING ERRCODE = 'no_data_found',
                  DETAIL = format('Job "%s" is completed, but has no result.', id);
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION jobstate.store_results(text)
    IS 'the result of a completed job; JS002 if there is no such record, JS003 if it is not completed, P0002 if it has none';

-- store_artifact: one artifact of a completed job.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_artifact(id text, name text)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    artifacts jsonb := jobstate.store_completed(id) -> 'artifacts';
BEGIN
    PERFORM jobstate.require_argument('name', name);
    IF NOT EXISTS (SELECT FROM jobstate.store_artifact_name n WHERE n.name = $2) THEN
        RAISE EXCEPTION 'Invalid artifact name: %', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = (SELECT format('Artifacts: %s.', string_agg(n.name, ', ' ORDER BY n.name COLLATE "C"))
                            FROM jobstate.store_artifact_name n);
    ELSIF artifacts ->> name IS NULL THEN
        RAISE EXCEPTION 'Artifact not found: %', name
            USING ERRCODE = 'no_data_found';
    END IF;
    RETURN artifacts ->> name;
END
$$;
COMMENT ON FUNCTION jobstate.store_artifact(text, text)
    IS 'an artifact of a completed job; JS002 if there is no such record, JS003 if it is not completed, 22023 if there is no such name, P0002 if the job has none';
