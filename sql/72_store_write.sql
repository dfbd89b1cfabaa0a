-- store: writing ----------------------------------------------------------------------
--
-- Problem: two workers update one record.  What either read before may be old.
-- Solution: every write is one UPDATE that computes the new fields from the row as it is
-- when it is locked, so fields that differ are both kept, of the same field the last
-- committer's stays, and at REPEATABLE READ the second one fails with 40001.
--
-- A record that is replaced, or begins anew, is a new row.  Who waited for the old one
-- finds it gone, and looks again before saying so.

-- store_given: the fields of an update that are not null, which leaves a field as it is.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_given(argument text, fields jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_json(argument, fields, 'object');
    RETURN coalesce((SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(fields) f WHERE f.value <> 'null'), '{}');
END
$$;
COMMENT ON FUNCTION jobstate.store_given(text, jsonb)
    IS 'internal: the members of an object that are not null';

-- store_state: the state that a status means.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_state(status jsonb)
RETURNS smallint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_id smallint := CASE jsonb_typeof(status) WHEN 'string' THEN jobstate.store_status_id(status #>> '{}') END;
BEGIN
    IF state_id IS NULL THEN
        RAISE EXCEPTION 'unknown status %', status
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Statuses: %s.', (SELECT string_agg(jobstate.store_status_name(i::smallint), ', ' ORDER BY i)
                                                    FROM generate_series(1, 7) i));
    END IF;
    RETURN state_id;
END
$$;
COMMENT ON FUNCTION jobstate.store_state(jsonb)
    IS 'internal: the state id of a status, or an error that lists the statuses';

-- store_check_id: the member "id" of a record is the record's own, if it is there.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_check_id(id text, fields jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF fields ? 'id' AND fields -> 'id' IS DISTINCT FROM to_jsonb(id) THEN
        RAISE EXCEPTION 'a record cannot have another''s id'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('The record is "%s", its member "id" is %s.', id, fields -> 'id');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_check_id(text, jsonb)
    IS 'internal: refuses a member "id" that is not the record''s';

-- store_put_aside: a record that expired makes room, and waits under another name for
-- the prune that counts it.
-- Writes: store.  Locks: the record, if it expired.
CREATE FUNCTION jobstate.store_put_aside(id text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE jobstate.store s
       SET id = 'expired ' || gen_random_uuid(), expired_at = s.expires_at, check_at = NULL
     WHERE s.id COLLATE "default" = $1 AND s.expires_at <= clock_timestamp();
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION jobstate.store_put_aside(text)
    IS 'internal: takes an expired record out of the way; true if it did';

-- store_lifetime: a time to live as it is kept: of seconds, because a day is 24 hours
-- whatever the session's zone is, and no longer than a point in time can tell.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_lifetime(ttl interval)
RETURNS interval
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    longest CONSTANT numeric := 10000 * 31557600.0;
BEGIN
    PERFORM jobstate.require_positive('ttl', ttl > '0');
    IF extract(epoch FROM ttl) > longest THEN
        RAISE EXCEPTION 'argument "ttl" is too long'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It is %s.', ttl),
                  HINT = 'A record lives for at most 10000 years.';
    END IF;
    RETURN make_interval(secs => extract(epoch FROM ttl)::float8);
END
$$;
COMMENT ON FUNCTION jobstate.store_lifetime(interval)
    IS 'internal: a time to live in seconds; raises 22004 or 22023 for one that makes no sense';

-- store_insert: a new record, unless there is one with this id.  40001 if the snapshot
-- is older than the end of the one before.
-- Writes: store.  Locks nothing else.
CREATE FUNCTION jobstate.store_insert(id text, record jsonb, ttl interval)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    state CONSTANT smallint := CASE WHEN coalesce(record -> 'status', 'null') = 'null' THEN 1
                                    ELSE jobstate.store_state(record -> 'status') END;
BEGIN
    INSERT INTO jobstate.store (id, state_id, fields, percent, ttl, created_at, expires_at, check_at)
    VALUES (id, state, record - 'status', coalesce(jobstate.store_percent(record), 0), ttl, now, now + ttl, now + ttl)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- a snapshot that is kept still sees a record that was removed since
    IF (SELECT count(*) FROM jobstate.store s WHERE s.id COLLATE "default" = $1) > 1 THEN
        RAISE EXCEPTION 'could not serialize access due to concurrent delete'
            USING ERRCODE = 'serialization_failure', HINT = 'The transaction might succeed if retried.';
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION jobstate.store_insert(text, jsonb, interval)
    IS 'internal: inserts a record, or tells that there is one';

-- store_create: a record, instead of whatever had its id: nothing of that is left.
-- Writes: store.  Locks: the record that is replaced.
CREATE FUNCTION jobstate.store_create(id text, record jsonb, ttl interval DEFAULT jobstate.store_ttl())
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lives interval;
BEGIN
    PERFORM jobstate.require_argument('id', id);
    PERFORM jobstate.store_given('record', record);
    lives := jobstate.store_lifetime(ttl);
    PERFORM jobstate.store_check_id(id, record);
    WHILE NOT jobstate.store_insert(id, record, lives) LOOP
        IF NOT jobstate.store_put_aside(id) THEN
            DELETE FROM jobstate.store s WHERE s.id COLLATE "default" = $1;
        END IF;
    END LOOP;
    RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s WHERE s.id COLLATE "default" = $1);
END
$$;
COMMENT ON FUNCTION jobstate.store_create(text, jsonb, interval)
    IS 'puts a record, in place of one with the same id; returns it';

-- store_look: a write found nothing: raises why, or returns if it should look again,
-- because the record was replaced meanwhile.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_look(id text, token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present record;
BEGIN
    SELECT s.token, s.attempt INTO present FROM jobstate.store s
     WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp();
    IF NOT FOUND THEN
        PERFORM jobstate.require_argument('id', id);
        PERFORM jobstate.store_missing(id);
    ELSIF present.token IS DISTINCT FROM coalesce(token, present.token) THEN
        RAISE EXCEPTION 'attempt at job "%" is over', id
            USING ERRCODE = 'JS001',
                  DETAIL = CASE WHEN present.token IS NULL THEN 'The record was created anew since.'
                                ELSE format('Attempt %s has begun since.', present.attempt) END,
                  HINT = 'Drop the result: the job is somebody else''s.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.store_look(text, uuid)
    IS 'internal: raises JS001 or JS002 for a record, or returns';

-- store_lock: locks a record for a write that depends on what is in it.
-- Writes nothing.  Locks: the record.
CREATE FUNCTION jobstate.store_lock(INOUT id text, INOUT token uuid, OUT state_id smallint, OUT fields jsonb)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    expires timestamptz;
BEGIN
    LOOP
        SELECT s.state_id, s.fields, s.expires_at INTO state_id, fields, expires FROM jobstate.store s
         WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp() AND ($2 IS NULL OR s.token = $2)
           FOR NO KEY UPDATE;
        -- it may have waited, for one who wrote nothing in the end
        IF FOUND AND expires > clock_timestamp() THEN
            RETURN;
        END IF;
        PERFORM jobstate.store_look($1, $2);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.store_lock(text, uuid)
    IS 'internal: locks a record and returns it, or raises JS001 or JS002';

-- store_write: writes fields as they are given, null included, of a record that the
-- caller has locked.  What tells less than the attempt told before comes late, and
-- is left out.
-- Writes: store.  Locks nothing more.
CREATE FUNCTION jobstate.store_write(id text, changes jsonb, state_id smallint DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    told CONSTANT numeric := jobstate.store_percent(changes);
    written jsonb;
BEGIN
    UPDATE jobstate.store s
       SET fields = s.fields || CASE WHEN told < s.percent THEN changes - 'progress' ELSE changes END,
           state_id = coalesce($3, s.state_id),
           percent = greatest(s.percent, told),
           expires_at = clock_timestamp() + s.ttl
     WHERE s.id COLLATE "default" = $1
    RETURNING jobstate.store_record(s.fields, s.state_id) INTO written;
    RETURN written;
END
$$;
COMMENT ON FUNCTION jobstate.store_write(text, jsonb, smallint)
    IS 'internal: writes fields of a record that is locked, and returns it';

-- store_leave: the answer of an update that has nothing to write.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_leave(id text, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present jsonb;
BEGIN
    LOOP
        present := (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s
                     WHERE s.id COLLATE "default" = $1 AND s.expires_at > clock_timestamp() AND ($2 IS NULL OR s.token = $2));
        IF present IS NOT NULL OR (upsert AND jobstate.store_get(id) IS NULL) THEN
            RETURN coalesce(present, '{}');
        END IF;
        PERFORM jobstate.store_look(id, token);
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.store_leave(text, uuid, boolean)
    IS 'internal: the record as it is, or {} where an upsert finds none';

-- store_miss: what an update does that found no record: nothing but to say why, or, if
-- it is told to, a record of only these fields.  NULL: the update should look again.
-- Writes: store.  Locks nothing else.
CREATE FUNCTION jobstate.store_miss(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('id', id);
    PERFORM jobstate.require_argument('upsert', upsert);
    IF NOT upsert OR jobstate.store_get(id) IS NOT NULL THEN
        PERFORM jobstate.store_look(id, token);
    ELSIF jobstate.store_insert(id, jobstate.store_given('fields', fields),
                                jobstate.store_lifetime(jobstate.store_ttl())) THEN
        RETURN (SELECT jobstate.store_record(s.fields, s.state_id) FROM jobstate.store s WHERE s.id COLLATE "default" = $1);
    ELSE
        PERFORM jobstate.store_put_aside(id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_miss(text, jsonb, uuid, boolean)
    IS 'internal: what an update does that found no record';

-- store_unusual: what an update does that has nothing to write, or is given what makes no
-- sense: the record as it is, or an error.  NULL: nothing speaks against it after all.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_unusual(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    given CONSTANT jsonb := jobstate.store_given('fields', fields);
BEGIN
    PERFORM jobstate.require_argument('id', id);
    IF given = '{}' THEN
        RETURN jobstate.store_leave(id, token, upsert);
    END IF;
    IF given ? 'status' THEN
        PERFORM jobstate.store_state(given -> 'status');
    END IF;
    PERFORM jobstate.store_check_id(id, given);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_unusual(text, jsonb, uuid, boolean)
    IS 'internal: what an update does that has nothing to write';

-- store_gone: a record expired while an update waited for it: the update is undone.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.store_gone(id text, fields jsonb, token uuid, upsert boolean)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.store_missing(id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION jobstate.store_gone(text, jsonb, uuid, boolean)
    IS 'internal: raises JS002 for a record that expired while an update waited';

-- store_update: the fields that are given and not null, and nothing else.
-- Writes: store.  Locks: the record.
CREATE FUNCTION jobstate.store_update(id text, fields jsonb, token uuid DEFAULT NULL, upsert boolean DEFAULT false)
    RETURNS jsonb LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_store_update';
COMMENT ON FUNCTION jobstate.store_update(text, jsonb, uuid, boolean)
    IS 'writes the given fields that are not null and returns the record as of this write; upsert: makes a record where there is none';
