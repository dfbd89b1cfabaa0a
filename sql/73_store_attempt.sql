-- store: single fields, and attempts --------------------------------------------------
--
-- What depends on what is in a record locks it first, and computes in a statement after
-- that; at REPEATABLE READ the lock fails with 40001 if somebody wrote meanwhile.

-- store_refuse_field: the members that are not written one by one.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_refuse_field(field text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('field', field);
    IF field IN ('id', 'status') THEN
        RAISE EXCEPTION 'field "%" of a record cannot be written so', field
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE field WHEN 'status' THEN 'Use store_update() or store_cas().'
                                    ELSE 'A record keeps its id.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_refuse_field(text)
    IS 'internal: refuses the names "id" and "status"';

-- store_put: one member of a field that is an object, beside others who write other
-- members.  A field that is absent or null becomes an object.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_put(id text, field text, key text, value jsonb, token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('key', key);
    PERFORM jobstate.require_argument('value', value);
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '{}') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'object' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no object', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object(field, present || jsonb_build_object(key, value)));
END
$$;
COMMENT ON FUNCTION jobstate.store_put(text, text, text, jsonb, uuid)
    IS 'writes one member of a field, which stays as it is otherwise; returns the record as of this write';

-- store_incr: adds to a number; one that is absent or null counts as 0.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_incr(id text, field text, by numeric DEFAULT 1, token uuid DEFAULT NULL)
RETURNS numeric
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
    sum numeric;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('by', by);
    IF by IN ('NaN', 'Infinity', '-Infinity') THEN
        RAISE EXCEPTION 'argument "by" must be a finite number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '0') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'number' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no number', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    sum := present::numeric + by;
    PERFORM jobstate.store_write(id, jsonb_build_object(field, sum));
    RETURN sum;
END
$$;
COMMENT ON FUNCTION jobstate.store_incr(text, text, numeric, uuid)
    IS 'adds to a number and returns the sum';

-- store_append: adds an element to an array; one that is absent or null counts as empty.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_append(id text, field text, value jsonb, token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    PERFORM jobstate.store_refuse_field(field);
    PERFORM jobstate.require_argument('value', value);
    present := (SELECT coalesce(nullif(l.fields -> field, 'null'), '[]') FROM jobstate.store_lock(id, token) l);
    IF jsonb_typeof(present) <> 'array' THEN
        RAISE EXCEPTION 'field "%" of job "%" is no array', field, id
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is of type %s.', jsonb_typeof(present));
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object(field, present || jsonb_build_array(value)));
END
$$;
COMMENT ON FUNCTION jobstate.store_append(text, text, jsonb, uuid)
    IS 'adds an element at the end of an array; returns the record as of this write';

-- store_cas: compare and set: writes a field only if it is still what the caller saw.
-- NULL, null and absent are the same.  A progress that tells less than the attempt told
-- comes late, and is not written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_cas(id text, field text, expected jsonb, value jsonb, token uuid DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    IF field IS DISTINCT FROM 'status' THEN
        PERFORM jobstate.store_refuse_field(field);
    END IF;
    present := (SELECT jobstate.store_record(l.fields, l.state_id) -> field FROM jobstate.store_lock(id, token) l);
    IF nullif(present, 'null') IS DISTINCT FROM nullif(expected, 'null') THEN
        RETURN false;
    ELSIF field = 'progress' AND jobstate.store_percent(jsonb_build_object(field, value))
                                 < (SELECT s.percent FROM jobstate.store s WHERE s.id COLLATE "default" = $1) THEN
        RETURN false;
    ELSIF field = 'status' THEN
        PERFORM jobstate.store_write(id, '{}', jobstate.store_state(coalesce(value, 'null')));
    ELSE
        PERFORM jobstate.store_write(id, jsonb_build_object(field, value));
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.store_cas(text, text, jsonb, jsonb, uuid)
    IS 'writes a field if its value is the expected one; false: it is another, or comes late, and nothing was written';

-- store_clear: what an update cannot: sets fields to null.  Those that the record does
-- not have are passed over; if none is left, nothing is written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_clear(id text, names text[], token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
    nulls jsonb;
BEGIN
    PERFORM jobstate.require_argument('names', names);
    PERFORM jobstate.store_refuse_field(coalesce(n, '')) FROM unnest(names) n;
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, token) l;
    nulls := (SELECT jsonb_object_agg(n, NULL) FROM unnest(names) n WHERE present.fields ? n);
    IF nulls IS NULL OR present.fields @> nulls THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    END IF;
    RETURN jobstate.store_write(id, nulls);
END
$$;
COMMENT ON FUNCTION jobstate.store_clear(text, text[], uuid)
    IS 'sets fields to null; returns the record as of this write';

-- store_delete: a record goes on purpose: nothing counts it any more.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_delete(id text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    DELETE FROM jobstate.store s WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.store_delete(text)
    IS 'deletes a record; false if there was none';

-- store_afresh: the fields of a record for a new attempt: what an earlier one left is null.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_afresh(fields jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN fields || coalesce((
    SELECT jsonb_object_agg(n, NULL)
      FROM unnest('{progress,result,error,artifacts,artifacts_error,quality,completed_at}'::text[]) n
     WHERE fields ? n), '{}');
COMMENT ON FUNCTION jobstate.store_afresh(jsonb)
    IS 'internal: the fields of a record for a new attempt';

-- store_restart: a new attempt at what is over: a new row, because nothing leads out of
-- its state.  NULL if the record is not over.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_restart(id text, state_id smallint, restart boolean)
RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    earlier record;
    fresh CONSTANT uuid := gen_random_uuid();
    now CONSTANT timestamptz := clock_timestamp();
BEGIN
    DELETE FROM jobstate.store s
     WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp() AND s.state_id IN (6, 7)
    RETURNING * INTO earlier;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF earlier.state_id = 6 AND NOT restart THEN
        RAISE EXCEPTION 'job "%" is completed', id
            USING ERRCODE = 'JS003',
                  HINT = 'Its results stand; with "restart" a new attempt would drop them.';
    END IF;
    INSERT INTO jobstate.store (id, state_id, attempt, token, ttl, created_at, expires_at, check_at, fields)
    VALUES (id, $2, earlier.attempt + 1, fresh, earlier.ttl, earlier.created_at, now + earlier.ttl, now + earlier.ttl,
            jobstate.store_afresh(earlier.fields));
    RETURN fresh;
END
$$;
COMMENT ON FUNCTION jobstate.store_restart(text, smallint, boolean)
    IS 'internal: begins a new attempt at a record that is over; its token, or NULL';

-- store_begin: a new attempt: a fresh token, nothing told yet, nothing left of the
-- attempt before, whose token is worth nothing from here on.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_begin(id text, status text DEFAULT 'preprocessing', restart boolean DEFAULT true,
    OUT token uuid, OUT attempt integer, OUT record jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    state smallint := jobstate.store_state(coalesce(to_jsonb(status), 'null'));
BEGIN
    PERFORM jobstate.require_argument('restart', restart);
    IF state IN (6, 7) THEN
        RAISE EXCEPTION 'an attempt cannot begin as "%"', status USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        -- an update that waits in vain would bring back what expired meanwhile
        PERFORM FROM jobstate.store_lock($1, NULL);
        UPDATE jobstate.store s
           SET state_id = state, attempt = s.attempt + 1, token = gen_random_uuid(), percent = 0,
               fields = jobstate.store_afresh(s.fields), expires_at = clock_timestamp() + s.ttl
         WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp() AND s.state_id NOT IN (6, 7);
        EXIT WHEN FOUND OR jobstate.store_restart($1, state, restart) IS NOT NULL;
    END LOOP;
    SELECT s.token, s.attempt, jobstate.store_record(s.fields, s.state_id)
      INTO store_begin.token, store_begin.attempt, store_begin.record
      FROM jobstate.store s WHERE s.id COLLATE "default" = $1;
END
$$;
COMMENT ON FUNCTION jobstate.store_begin(text, text, boolean)
    IS 'begins a new attempt at a job and returns its token; that of the attempt before is refused from here on';

-- store_end: the one way by which an attempt ends.  The same attempt may say so again;
-- the answer is the record as it is.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_end(id text, state_id smallint, changes jsonb, fields jsonb, token uuid)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
    also jsonb := jobstate.store_given('fields', fields);
    stamp CONSTANT text := to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
BEGIN
    PERFORM jobstate.store_check_id(id, also);
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, token) l;
    IF present.state_id = $2 AND token IS NOT NULL THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    ELSIF present.state_id IN (6, 7) THEN
        RAISE EXCEPTION 'job "%" is over', id
            USING ERRCODE = 'JS003',
                  DETAIL = format('Its status is "%s".', jobstate.store_status_name(present.state_id)),
                  HINT = 'A new attempt begins with store_begin().';
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object('completed_at', stamp) || also - 'status' || changes, $2);
END
$$;
COMMENT ON FUNCTION jobstate.store_end(text, smallint, jsonb, jsonb, uuid)
    IS 'internal: ends an attempt, as completed or failed';

-- store_complete: the result and all that comes with it, in one write.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_complete(id text, result jsonb, artifacts jsonb DEFAULT NULL,
                                        fields jsonb DEFAULT '{}', token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN jobstate.store_end(id, 6::smallint,
        jobstate.store_given('result', jsonb_build_object('result', result, 'artifacts', artifacts)),
        '{"progress": {"stage": "completed", "percent_complete": 100}}' || fields, token);
END
$$;
COMMENT ON FUNCTION jobstate.store_complete(text, jsonb, jsonb, jsonb, uuid)
    IS 'completes a job: status, progress, result, artifacts, completed_at and further fields in one write; returns the record';

-- store_fail: the job failed, and why.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_fail(id text, error text, fields jsonb DEFAULT '{}', token uuid DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('error', error);
    RETURN jobstate.store_end(id, 7::smallint, jsonb_build_object('error', error), fields, token);
END
$$;
COMMENT ON FUNCTION jobstate.store_fail(text, text, jsonb, uuid)
    IS 'fails a job: status, error, completed_at and further fields in one write; returns the record';

-- store_enqueue_failed: the queue did not take the job, as far as its sender knows.  If
-- it did take it, and a worker has begun or ended it, nothing is written.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_enqueue_failed(id text, error text DEFAULT 'Failed to enqueue job for processing')
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
BEGIN
    PERFORM jobstate.require_argument('error', error);
    SELECT l.fields, l.state_id INTO present FROM jobstate.store_lock(id, NULL) l;
    IF present.state_id NOT IN (1, 2) THEN
        RETURN jobstate.store_record(present.fields, present.state_id);
    END IF;
    RETURN jobstate.store_write(id, jsonb_build_object('error', error), 7::smallint);
END
$$;
COMMENT ON FUNCTION jobstate.store_enqueue_failed(text, text)
    IS 'fails a job that never reached a worker, without completed_at; returns the record';
