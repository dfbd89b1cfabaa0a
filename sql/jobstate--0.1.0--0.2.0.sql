\echo Use "ALTER EXTENSION jobstate UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE OR REPLACE FUNCTION jobstate.sql_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    dropped record;
BEGIN
    FOR dropped IN
        SELECT d.objid, d.object_type, d.address_names
          FROM pg_event_trigger_dropped_objects() d
         WHERE d.object_type IN ('table', 'table column', 'trigger')
    LOOP
        IF dropped.object_type = 'table' THEN
            -- a DELETE of nothing would still make every session recompile
            IF EXISTS (SELECT FROM jobstate.attachment a WHERE a.target = dropped.objid) THEN
                DELETE FROM jobstate.attachment a WHERE a.target = dropped.objid;
            END IF;
            DELETE FROM jobstate.rollup r WHERE r.target = dropped.objid;
            IF EXISTS (SELECT FROM jobstate.derivation d WHERE dropped.objid IN (d.parent, d.child)) THEN
                -- pg_restore --clean drops keys before tables: then no row of the parent can be named
                PERFORM jobstate.touch_parents(d.parent) FROM jobstate.derivation d
                  WHERE d.child = dropped.objid
                    AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = d.parent AND x.indisprimary);
                DELETE FROM jobstate.derivation d WHERE dropped.objid IN (d.parent, d.child);
            END IF;
            PERFORM jobstate.uncount_dropped(dropped.objid);
        ELSIF dropped.object_type = 'trigger' AND dropped.address_names[3] IN ('jobstate_watch', 'jobstate_truncate') THEN
            PERFORM jobstate.uncount(to_regclass(format('%I.%I', dropped.address_names[1], dropped.address_names[2])));
        ELSIF EXISTS (SELECT FROM jobstate.attachment a
                       WHERE a.target = dropped.objid
                         AND dropped.address_names[3] = ANY (a.group_by || a.state_column)
                         AND EXISTS (SELECT FROM pg_class c WHERE c.oid = dropped.objid)) THEN
            RAISE dependent_objects_still_exist USING
                MESSAGE = format('cannot drop column "%s" of table %s', dropped.address_names[3], dropped.objid::regclass),
                DETAIL = 'The table is attached by it.',
                HINT = 'Use jobstate.detach() first.';
        ELSIF EXISTS (SELECT FROM jobstate.derivation d
                       WHERE (d.parent = dropped.objid
                              AND dropped.address_names[3] IN (d.completed_at, d.error, d.reason)
                              OR d.child = dropped.objid
                              AND dropped.address_names[3] = ANY (d.key || d.child_order || d.child_error || d.child_variant))
                         AND EXISTS (SELECT FROM pg_class c WHERE c.oid = dropped.objid)) THEN
            RAISE dependent_objects_still_exist USING
                MESSAGE = format('cannot drop column "%s" of table %s', dropped.address_names[3], dropped.objid::regclass),
                DETAIL = 'A derived state depends on it.',
                HINT = 'Use jobstate.underive() first.';
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.low_end(target regclass, age_column name, condition text, every integer)
    RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_low_end';

COMMENT ON FUNCTION jobstate.low_end(regclass, name, text, integer) IS
    'internal: a time below which an indexed column has no row of a condition, as far as this session has seen; -infinity where it does not know';

CREATE OR REPLACE FUNCTION jobstate.low_ends(target regclass, age_column name, condition text, every integer)
    RETURNS timestamptz[] LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_low_ends';

COMMENT ON FUNCTION jobstate.low_ends(regclass, name, text, integer) IS
    'internal: the times that an indexed column has in rows of a condition, and at last one below which it has no other, as far as this session has seen; -infinity where it does not know';

CREATE OR REPLACE FUNCTION jobstate.keep_own() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'jobstate_keep_own';

COMMENT ON FUNCTION jobstate.keep_own() IS 'keeps what a subscription brings out of the catalogue';

DO $$
DECLARE
    relname text;
BEGIN
    FOREACH relname IN ARRAY ARRAY['machine', 'state', 'transition', 'attachment', 'rule_set', 'rule', 'derivation']
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER keep_own BEFORE INSERT OR UPDATE OR DELETE ON jobstate.%I'
            ' FOR EACH ROW EXECUTE FUNCTION jobstate.keep_own()', relname);
        EXECUTE pg_catalog.format('ALTER TABLE jobstate.%I ENABLE REPLICA TRIGGER keep_own', relname);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.require_role(argument text, role regrole)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, role);
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role with OID % does not exist', role::oid
            USING ERRCODE = 'undefined_object';
    END IF;
END
$$;

COMMENT ON FUNCTION jobstate.require_role(text, regrole)
    IS 'raises 22004 with the argument''s name if the role is null, 42704 if there is no such role';

CREATE OR REPLACE FUNCTION jobstate.require_json(argument text, value jsonb, kind text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument(argument, value);
    IF jsonb_typeof(value) <> kind THEN
        RAISE EXCEPTION 'argument "%" must be a JSON %', argument, kind
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

COMMENT ON FUNCTION jobstate.require_json(text, jsonb, text)
    IS 'raises 22004 or 22023 with the argument''s name unless the value is an object, or an array';

CREATE OR REPLACE FUNCTION jobstate.hooks(prefix text, arguments text)
RETURNS SETOF name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.proname
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
     WHERE d.deptype = 'e' AND e.extname = 'jobstate'
       AND p.pronamespace = 'jobstate'::regnamespace
       AND p.proowner = (SELECT c.relowner FROM pg_class c WHERE c.oid = 'jobstate.attachment'::regclass)
       AND starts_with(p.proname, prefix) AND oidvectortypes(p.proargtypes) = arguments
     ORDER BY p.proname
$$;

COMMENT ON FUNCTION jobstate.hooks(text, text)
    IS 'internal: the functions that install(), health() and metrics ask';

CREATE OR REPLACE FUNCTION jobstate.family_names()
RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT substr(h, length('install_') + 1) FROM jobstate.hooks('install_', '') h
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_scope_lock(repo_id bigint, commit_sha text)
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

CREATE OR REPLACE FUNCTION jobstate.upload_reopen(repo_id bigint, commit_sha text, coverage boolean)
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

CREATE OR REPLACE FUNCTION jobstate.upload_hold_all(upload_ids bigint[])
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

CREATE OR REPLACE FUNCTION jobstate.upload_merging(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    RETURN EXISTS (SELECT FROM jobstate.upload_scope s
                    WHERE s.repo_id = repo AND s.commit_sha = sha
                      AND s.merge_until > clock_timestamp())
        OR EXISTS (SELECT FROM jobstate.upload u
                    WHERE u.repo_id = repo AND u.commit_sha = sha
                      AND u.state_id = 2 AND u.merge_until > clock_timestamp());
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_grant_merge(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    IF jobstate.upload_merging(repo, sha) THEN
        RETURN false;
    END IF;
    UPDATE jobstate.upload_scope s
       SET merge_until = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_withdraw_merge(repo_id bigint, commit_sha text)
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
       SET merge_until = NULL
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.merge_until IS NOT NULL;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_grant_postprocess(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = clock_timestamp(), postprocessed_at = NULL, merge_until = NULL,
           check_at = clock_timestamp() + jobstate.upload_delay('watchdog')
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocess_at IS NULL;
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_next_check(repo_id bigint, commit_sha text)
RETURNS TABLE (kind text, delay interval, remaining bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    now_there record;
    scope record;
BEGIN
    SELECT n.processing, n.processed INTO now_there FROM jobstate.upload_numbers(repo, sha) n;
    remaining := now_there.processing + now_there.processed;
    SELECT s.postprocess_at, s.postprocessed_at INTO scope
      FROM jobstate.upload_scope s WHERE s.repo_id = repo AND s.commit_sha = sha;
    IF remaining = 0 AND scope.postprocessed_at IS NOT NULL THEN
        RETURN;
    END IF;
    kind := CASE
        WHEN remaining = 0 AND scope.postprocess_at IS NOT NULL THEN 'watchdog'
        WHEN jobstate.upload_merging(repo, sha) THEN 'watchdog'
        WHEN jobstate.upload_should_merge(now_there.processing, now_there.processed) THEN 'continuation'
        ELSE 'sweep' END;
    delay := jobstate.upload_delay(kind);
    RETURN NEXT;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_create(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_take(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_take_for_merging(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_apply_results(results jsonb, token uuid DEFAULT NULL,
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

CREATE OR REPLACE FUNCTION jobstate.upload_replace_carriedforward(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_reprocess(repo_id bigint, commit_sha text)
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

CREATE OR REPLACE FUNCTION jobstate.upload_gate_acquire(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_gate_refresh(repo_id bigint, commit_sha text,
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

CREATE OR REPLACE FUNCTION jobstate.upload_gate_release(repo_id bigint, commit_sha text, owner text DEFAULT '')
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

CREATE OR REPLACE FUNCTION jobstate.upload_reclaim(repo_id bigint, commit_sha text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    watchdog CONSTANT interval := jobstate.upload_delay('watchdog');
    max_retries CONSTANT integer := jobstate.upload_max_retries('processing_timeout');
    spent bigint[];
    again bigint[];
BEGIN
    SELECT array_agg(u.id) FILTER (WHERE u.retries >= max_retries),
           array_agg(u.id) FILTER (WHERE u.retries < max_retries)
      INTO spent, again
      FROM (SELECT u.id, u.retries FROM jobstate.upload u
             WHERE u.repo_id = repo AND u.commit_sha = sha AND u.state_id = 1
               AND CASE WHEN u.token IS NOT NULL THEN u.lease_until
                        ELSE coalesce(u.retry_at, u.updated_at) + watchdog
                   END <= clock_timestamp()
             ORDER BY u.id FOR NO KEY UPDATE SKIP LOCKED) u;
    PERFORM jobstate.upload_fail(spent, 'processing_timeout');
    PERFORM jobstate.upload_requeue(again, clock_timestamp());
    RETURN again;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_retell(repo_id bigint, commit_sha text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
BEGIN
    UPDATE jobstate.upload_scope s
       SET postprocess_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha AND s.postprocessed_at IS NULL
       AND s.postprocess_at <= clock_timestamp() - jobstate.upload_delay('watchdog');
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_sweep_answer(repo_id bigint, commit_sha text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    answer text;
BEGIN
    IF EXISTS (SELECT FROM jobstate.upload_scope s
                WHERE s.repo_id = repo AND s.commit_sha = sha AND s.gate_until > clock_timestamp())
       OR NOT EXISTS (SELECT FROM jobstate.upload_coverage(repo, sha) c WHERE c.n > 0) THEN
        RETURN 'wait';
    END IF;
    answer := jobstate.upload_answer(repo, sha);
    IF answer = 'wait' AND jobstate.upload_retell(repo, sha) THEN
        RETURN 'postprocess';
    END IF;
    RETURN answer;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_rescue(max_commits integer DEFAULT 100)
RETURNS TABLE (repo_id bigint, commit_sha text, action text, upload_ids bigint[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due CONSTANT timestamptz := clock_timestamp();
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    since := jobstate.low_end('jobstate.upload_scope', 'check_at', 'check_at IS NOT NULL', 30);
    FOR repo_id, commit_sha IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE s.check_at BETWEEN since AND due
         ORDER BY s.check_at LIMIT max_commits
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        PERFORM jobstate.upload_scope_lock(upload_rescue.repo_id, upload_rescue.commit_sha);
        upload_ids := jobstate.upload_reclaim(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF upload_ids IS NOT NULL THEN
            action := 'process';
            RETURN NEXT;
        END IF;
        upload_ids := NULL;
        action := jobstate.upload_sweep_answer(upload_rescue.repo_id, upload_rescue.commit_sha);
        IF action <> 'wait' THEN
            RETURN NEXT;
        END IF;
        UPDATE jobstate.upload_scope s
           SET check_at = clock_timestamp()
                          + jobstate.upload_sweep_delay(upload_rescue.repo_id, upload_rescue.commit_sha)
         WHERE s.repo_id = upload_rescue.repo_id AND s.commit_sha = upload_rescue.commit_sha;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_postprocessed(repo_id bigint, commit_sha text)
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
    UPDATE jobstate.upload_scope s
       SET postprocessed_at = clock_timestamp()
     WHERE s.repo_id = repo AND s.commit_sha = sha
       AND s.postprocess_at IS NOT NULL AND s.postprocessed_at IS NULL;
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_forget(max_commits integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    few CONSTANT bigint := greatest(max_commits / 16, 32);
    pages CONSTANT bigint := pg_relation_size('jobstate.upload_scope') / current_setting('block_size')::bigint;
    first CONSTANT bigint := floor(random() * greatest(pages - few + 1, 1));
    scope record;
    forgotten bigint := 0;
BEGIN
    PERFORM jobstate.require_positive('max_commits', max_commits > 0);
    FOR scope IN
        SELECT s.repo_id, s.commit_sha FROM jobstate.upload_scope s
         WHERE s.ctid >= format('(%s,0)', first)::tid AND s.ctid < format('(%s,0)', first + few)::tid
           AND (s.gate_until IS NULL OR s.gate_until <= clock_timestamp())
           -- OFFSET: each is looked up, rather than all uploads read
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha OFFSET 0)
         LIMIT max_commits
           FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM jobstate.upload_scope s
         WHERE s.repo_id = scope.repo_id AND s.commit_sha = scope.commit_sha
           AND NOT EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = s.repo_id AND u.commit_sha = s.commit_sha);
        forgotten := forgotten + CASE WHEN FOUND THEN 1 ELSE 0 END;
    END LOOP;
    RETURN forgotten;
END
$$;

COMMENT ON FUNCTION jobstate.upload_forget(integer)
    IS 'drops what is remembered of commits that have no uploads left, and tells of how many; of a large table it looks at a part, another one each time: max_commits / 16 pages, or 32';

CREATE OR REPLACE FUNCTION jobstate.upload_notify_decision(repo_id bigint, commit_sha text,
    manual_trigger boolean DEFAULT false, after_n_builds integer DEFAULT 0,
    notify_error boolean DEFAULT false, sessions bigint DEFAULT NULL, ci_skip boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    repo ALIAS FOR repo_id;
    sha CONSTANT text COLLATE "default" := commit_sha;
    report record;
    any_success boolean;
BEGIN
    PERFORM jobstate.require_argument('manual_trigger', manual_trigger);
    PERFORM jobstate.require_argument('after_n_builds', after_n_builds);
    PERFORM jobstate.require_argument('notify_error', notify_error);
    PERFORM jobstate.require_argument('ci_skip', ci_skip);
    SELECT c.* INTO report FROM jobstate.upload_completion(repo, sha) c;
    any_success := EXISTS (SELECT FROM jobstate.upload u
                            WHERE u.repo_id = repo AND u.commit_sha = sha
                              AND u.state_id IN (4, 5, 6) AND u.upload_type <> 'carriedforward'
                              AND coalesce(u.report_type, 'coverage') = 'coverage');
    RETURN CASE
        WHEN ci_skip THEN 'do_not_notify'
        WHEN report.processing > 0 THEN 'do_not_notify'
        WHEN manual_trigger THEN 'do_not_notify'
        WHEN after_n_builds > coalesce($6, report.success) THEN 'do_not_notify'
        WHEN notify_error AND (report.error > 0 OR NOT any_success) THEN 'notify_error'
        WHEN NOT any_success THEN 'do_not_notify'
        ELSE 'notify' END;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.upload_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fn regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR fn IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = 'jobstate'::regnamespace AND p.provolatile = 'v'
           AND starts_with(p.proname, 'upload_') AND NOT starts_with(p.proname, 'upload_install_')
           AND p.proname <> 'upload_grant'
         ORDER BY p.proname
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', fn, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.upload, jobstate.upload_scope,
                    jobstate.upload_error, jobstate.upload_totals TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.upload_follow_up, jobstate.upload_error_code TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_install_changed(settings text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('settings', settings);
    IF NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.tgrelid = settings::regclass AND t.tgname = 'changed' AND t.tgenabled = 'A') THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION jobstate.queue_changed()', settings::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER changed', settings::regclass);
    END IF;
    -- a subscription's rows fire no triggers of statements
    IF NOT EXISTS (SELECT FROM pg_trigger t
                    WHERE t.tgrelid = settings::regclass AND t.tgname = 'changed_row' AND t.tgenabled = 'R') THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER changed_row AFTER INSERT OR UPDATE OR DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION jobstate.queue_changed()', settings::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER changed_row', settings::regclass);
    END IF;
END
$$;

COMMENT ON FUNCTION jobstate.queue_install_changed(text)
    IS 'internal: creates the triggers that tell of a change of settings';

CREATE OR REPLACE FUNCTION jobstate.queue_define(queue text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    known CONSTANT text[] := '{shards,lease,max_attempts,backoff,aging,max_running,max_running_per_key,dead_letters,notify}';
    unknown text;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for queue "%s".', name),
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET (shards, lease, max_attempts, backoff, aging,
            max_running, max_running_per_key, dead_letters, notify) =
           (SELECT n.shards, n.lease, n.max_attempts, n.backoff, n.aging,
                   n.max_running, n.max_running_per_key, n.dead_letters, n.notify
              FROM jsonb_populate_record(q, settings) n)
     WHERE q.queue COLLATE "default" = name;
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for queue "%" are not valid', name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'Sizes, times and limits are above zero, shards at most 64; only the limits may be null, which is none.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_pause(queue text, pauses boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM jobstate.queue_require_name(name);
    INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.queue q
       SET paused_at = CASE WHEN pauses THEN clock_timestamp() END
     WHERE q.queue COLLATE "default" = name AND q.paused_at IS NOT NULL <> pauses;
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_add_lanes(queue text, priorities integer[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
BEGIN
    PERFORM FROM jobstate.queue q WHERE q.queue COLLATE "default" = name;
    IF NOT FOUND THEN
        INSERT INTO jobstate.queue (queue) VALUES (name) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO jobstate.queue_lane (queue, priority, shard)
    SELECT q.queue, p, s
      FROM jobstate.queue q, generate_series(0, q.shards - 1) s, unnest(priorities) p
     WHERE q.queue COLLATE "default" = name
       AND NOT EXISTS (SELECT FROM jobstate.queue_lane l
                        WHERE l.queue = q.queue AND l.priority = p AND l.shard = s)
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_lane_of(queue text, priority integer, shard integer DEFAULT NULL)
RETURNS smallint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    number smallint;
BEGIN
    LOOP
        SELECT l.lane INTO number
          FROM (SELECT q.queue, coalesce($3, floor(random() * q.shards)::integer) % q.shards AS shard
                  FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1) q
          JOIN jobstate.queue_lane l ON l.queue = q.queue AND l.priority = $2 AND l.shard = q.shard;
        EXIT WHEN FOUND;
        PERFORM jobstate.queue_add_lanes($1, ARRAY[$2]);
    END LOOP;
    RETURN number;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_wake(queue text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_notify('jobstate_queue', q.queue) FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1 AND q.notify;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.next_due(queue text)
RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR queue;
    look_again CONSTANT interval := '1 s';
    settings record;
    seen record;
    due interval;
BEGIN
    PERFORM jobstate.require_argument('queue', name);
    SELECT q.paused_at, q.max_running, q.max_running_per_key INTO settings FROM jobstate.queue q WHERE q.queue COLLATE "default" = name;
    IF settings.paused_at IS NOT NULL THEN
        RETURN NULL;
    END IF;
    SELECT sum(k.running) >= settings.max_running AS is_full, bool_or(k.available > 0) AS is_some,
           bool_or(k.available > 0
                   AND (k.key IS NOT NULL AND k.running >= settings.max_running_per_key) IS NOT TRUE) AS is_free
      INTO seen
      FROM (SELECT c.group_key ->> 'limit_key' AS key, sum(c.n) FILTER (WHERE c.state = 'running') AS running,
                   sum(c.n) FILTER (WHERE c.state = 'available') AS available
              FROM jobstate.counts('jobstate.job', jsonb_build_object('queue', name)) c
             GROUP BY 1) k;
    IF seen.is_free AND seen.is_full IS NOT TRUE THEN
        RETURN interval '0';
    END IF;
    due := (SELECT min(w.run_at) - clock_timestamp() FROM jobstate.job_waiting w WHERE w.queue COLLATE "default" = name);
    RETURN CASE WHEN seen.is_full AND due < look_again THEN look_again
                WHEN seen.is_some THEN least(due, look_again)
                ELSE due END;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_key_holders(queue text, unique_keys text[])
RETURNS TABLE (unique_key text, id bigint)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    ids bigint[] := ARRAY(
        SELECT u.id FROM unnest($2) w (unique_key)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u);
BEGIN
    IF ids = '{}' THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT u.unique_key, u.id
          FROM jobstate.queue_find(ids) f
         CROSS JOIN (SELECT DISTINCT w.unique_key FROM unnest($2) w (unique_key)) w
         CROSS JOIN LATERAL (SELECT u.unique_key, u.id, u.states FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u
         WHERE u.id = f.id AND jobstate.queue_state_name(f.state_id) = ANY (u.states);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_take_keys(queue text, unique_keys text[], ids bigint[], states text[])
RETURNS TABLE (id bigint, holder bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    usual CONSTANT text[] := jobstate.queue_key_states(states);
    new_keys text[];
    wish record;
    owner bigint;
BEGIN
    WITH made AS (
        INSERT INTO jobstate.unique_job (queue, unique_key, id, states)
        SELECT DISTINCT ON (w.unique_key COLLATE "C") $1, w.unique_key, w.id, usual
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL
         ORDER BY w.unique_key COLLATE "C", w.ord
            ON CONFLICT DO NOTHING
        RETURNING unique_key)
    SELECT coalesce(array_agg(m.unique_key), '{}') INTO new_keys FROM made m;
    FOR wish IN
        SELECT DISTINCT ON (w.unique_key COLLATE "C") w.unique_key, w.id
          FROM unnest($2, $3) WITH ORDINALITY w (unique_key, id, ord)
         WHERE w.unique_key IS NOT NULL AND w.unique_key <> ALL (new_keys)
         ORDER BY w.unique_key COLLATE "C", w.ord
    LOOP
        INSERT INTO jobstate.unique_job AS u (queue, unique_key, id, states)
        VALUES ($1, wish.unique_key, wish.id, usual)
            ON CONFLICT (queue, unique_key) DO UPDATE SET id = u.id
        RETURNING u.id INTO owner;
        CONTINUE WHEN CASE WHEN owner = wish.id THEN $4 IS NULL
                           ELSE EXISTS (SELECT FROM jobstate.queue_key_holders($1, ARRAY[wish.unique_key])) END;
        UPDATE jobstate.unique_job u SET id = wish.id, states = usual
         WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = wish.unique_key;
    END LOOP;
    RETURN QUERY
        SELECT w.id, u.id
          FROM unnest($2, $3) w (unique_key, id)
         CROSS JOIN LATERAL (SELECT u.id FROM jobstate.unique_job u
                              WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = w.unique_key LIMIT 1) u;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_put_back(slot smallint, "position" bigint, outcome text, errors jsonb,
    due timestamptz, attempt integer)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.job j
       SET state_id = CASE $3 WHEN 'deferred' THEN 3 WHEN 'failed' THEN 5 WHEN 'cancelled' THEN 6 END,
           slot = CASE $3 WHEN 'deferred' THEN -1::smallint ELSE j.slot END,
           run_at = CASE $3 WHEN 'deferred' THEN $5 ELSE j.run_at END,
           finished_at = CASE $3 WHEN 'deferred' THEN NULL ELSE clock_timestamp() END,
           attempt = $6, errors = $4, lease_until = NULL
     WHERE j.slot = $1 AND j."position" = $2;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_cancel(positions bigint[])
RETURNS TABLE (id bigint, outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END FROM jobstate.job j
         WHERE j.position = ANY (positions)
           AND (j.state_id = 6 OR j.state_id = 2 AND j.cancel_requested);
    RETURN QUERY
        UPDATE jobstate.job j
           SET state_id = CASE j.state_id WHEN 1 THEN 6 ELSE 2 END,
               finished_at = CASE j.state_id WHEN 1 THEN clock_timestamp() END,
               cancel_requested = j.state_id = 2
         WHERE j.position = ANY (positions)
           AND (j.state_id = 1 OR j.state_id = 2 AND NOT j.cancel_requested)
        RETURNING j.id, CASE j.state_id WHEN 6 THEN 'cancelled' ELSE 'requested' END;
    RETURN QUERY
        WITH placed AS MATERIALIZED (
            SELECT j.position, jobstate.queue_tail(j.queue, j.priority, j.position) AS fresh
              FROM jobstate.job j
             WHERE j.position = ANY (positions) AND j.state_id = 3)
        UPDATE jobstate.job j
           SET state_id = 6, finished_at = clock_timestamp(),
               position = p.fresh, slot = jobstate.queue_slot(p.fresh)
          FROM placed p
         WHERE j.position = p.position AND j.slot = -1
        RETURNING j.id, 'cancelled';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.cancel(ids bigint[], tokens bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
BEGIN
    PERFORM jobstate.queue_require_pairs('tokens', ids, tokens);
    held := jobstate.queue_hold(ids);
    UPDATE jobstate.job j
       SET state_id = 6, finished_at = clock_timestamp()
      FROM unnest(ids, tokens) AS g (id, token)
     WHERE j.position = ANY (held)
       AND j.id = g.id AND j.token = g.token AND j.state_id = 2;
    RETURN QUERY
        SELECT DISTINCT j.id FROM jobstate.job j
          JOIN unnest(ids, tokens) AS g (id, token) ON g.id = j.id AND g.token = j.token
         WHERE j.position = ANY (held)
           AND j.state_id = 6
         ORDER BY j.id;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.cancel_unique(queue text, unique_key text, OUT id bigint, OUT outcome text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('queue', $1);
    PERFORM jobstate.require_argument('unique_key', $2);
    SELECT u.id INTO cancel_unique.id FROM jobstate.unique_job u
     WHERE u.queue COLLATE "default" = $1 AND u.unique_key COLLATE "default" = $2;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no job of queue "%" has the unique key "%"', $1, $2
            USING ERRCODE = 'JS002',
                  DETAIL = 'It was never enqueued, or has ended and was forgotten.',
                  HINT = 'See the view jobstate.jobs.';
    END IF;
    cancel_unique.outcome := jobstate.cancel(cancel_unique.id);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.cancel_all(queue text DEFAULT NULL, kind text DEFAULT NULL,
    everything boolean DEFAULT false, OUT cancelled bigint, OUT requested bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    meant bigint[];
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL, $3);
    meant := ARRAY(SELECT j.id FROM jobstate.job j
                    WHERE j.state_id IN (1, 2, 3)
                      AND ($1 IS NULL OR j.queue COLLATE "default" = $1) AND ($2 IS NULL OR j.kind = $2));
    SELECT count(*) FILTER (WHERE c.outcome = 'cancelled'), count(*) FILTER (WHERE c.outcome = 'requested')
      INTO cancel_all.cancelled, cancel_all.requested
      FROM jobstate.cancel(meant) c;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_failed(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT j.id FROM jobstate.job j
                  WHERE j.state_id = 5
                    AND ($1 IS NULL OR j.queue COLLATE "default" = $1) AND ($2 IS NULL OR j.kind = $2)
                    AND ($3 IS NULL OR j.finished_at <= clock_timestamp() - $3));
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_dead(queue text, kind text, older_than interval, everything boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.queue_require_filter($1 IS NOT NULL OR $2 IS NOT NULL OR $3 IS NOT NULL, $4, $3);
    RETURN ARRAY(SELECT d.id FROM jobstate.dead_letter d
                  WHERE ($1 IS NULL OR d.queue COLLATE "default" = $1) AND ($2 IS NULL OR d.kind = $2)
                    AND ($3 IS NULL OR d.died_at <= clock_timestamp() - $3));
END
$$;

CREATE OR REPLACE FUNCTION jobstate.discard(queue text DEFAULT NULL, kind text DEFAULT NULL,
    older_than interval DEFAULT NULL, everything boolean DEFAULT false,
    OUT failed bigint, OUT dead_letters bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    held bigint[] := jobstate.queue_hold(jobstate.queue_failed(queue, kind, older_than, everything));
BEGIN
    DELETE FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id = 5;
    GET DIAGNOSTICS failed = ROW_COUNT;
    dead_letters := jobstate.dlq_purge_all(queue, kind, older_than, everything);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_tail(queue text, priority smallint, earlier bigint)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    shard smallint := coalesce((SELECT l.shard FROM jobstate.queue_lane l WHERE l.lane = earlier >> 48), 0)
                      % coalesce((SELECT q.shards FROM jobstate.queue q WHERE q.queue COLLATE "default" = $1), 1);
BEGIN
    RETURN jobstate.queue_position(jobstate.queue_lane_of($1, $2, shard));
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_restart(positions bigint[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    woken CONSTANT text[] := ARRAY(SELECT j.queue FROM jobstate.job j WHERE j.position = ANY (positions));
BEGIN
    UPDATE jobstate.job j
       SET state_id = 3, slot = -1, attempt = 0, run_at = clock_timestamp(), cancel_requested = false,
           token = NULL, claimed_at = NULL, lease_until = NULL, finished_at = NULL, worker = NULL,
           result = NULL
     WHERE j.position = ANY (positions);
    WITH placed AS MATERIALIZED (
        SELECT w.position, jobstate.queue_tail(w.queue, w.priority, w.position) AS fresh
          FROM (SELECT j.queue, j.priority, j.position FROM jobstate.job j
                 WHERE j.position = ANY (positions) AND j.slot = -1
                 ORDER BY j.position) w)
    UPDATE jobstate.job j
       SET state_id = 1, position = p.fresh, slot = jobstate.queue_slot(p.fresh)
      FROM placed p
     WHERE j.position = p.position AND j.slot = -1;
    PERFORM jobstate.queue_wake(w.queue) FROM (SELECT DISTINCT unnest(woken) AS queue) w;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.retry(ids bigint[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    ended record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    held := jobstate.queue_hold(ids);
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(j.queue), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.unique_key IS NOT NULL;
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO ended
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (5, 6) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_restart(ended.positions);
    RETURN QUERY SELECT unnest(ended.ids);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_relocate(positions bigint[], queue text, priority smallint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    WITH gone AS (
        DELETE FROM jobstate.job j WHERE j.position = ANY (positions) RETURNING j.*),
    placed AS MATERIALIZED (
        SELECT g.*, t.queue AS new_queue, t.priority AS new_priority,
               jobstate.queue_tail(t.queue, t.priority, g.position) AS fresh
          FROM (SELECT * FROM gone ORDER BY position) g,
               LATERAL (SELECT coalesce($2, g.queue) AS queue, coalesce($3, g.priority) AS priority) t)
    INSERT INTO jobstate.job (id, position, slot, queue, priority, state_id, enqueued_at, run_at,
        max_attempts, attempt, cancel_requested, token, claimed_at, lease_until, finished_at, worker,
        kind, timeout, unique_key, limit_key, payload, errors, result)
    SELECT p.id, p.fresh, CASE p.state_id WHEN 1 THEN jobstate.queue_slot(p.fresh) ELSE p.slot END,
           p.new_queue, p.new_priority, p.state_id, p.enqueued_at, p.run_at,
           p.max_attempts, p.attempt, p.cancel_requested, p.token, p.claimed_at, p.lease_until,
           p.finished_at, p.worker, p.kind, p.timeout, p.unique_key, p.limit_key, p.payload, p.errors, p.result
      FROM placed p;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.set_priority(ids bigint[], priority integer)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('priority', $2);
    IF $2 NOT BETWEEN 1 AND 4 THEN
        RAISE EXCEPTION 'priority % does not exist', $2
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'There are the priorities 1 to 4.',
                  HINT = '1 is the most urgent, 2 the usual one.';
    END IF;
    held := jobstate.queue_hold(ids);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j
     WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.priority <> $2;
    PERFORM jobstate.queue_relocate(mover.positions, NULL, $2::smallint);
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_keys_move(positions bigint[], target text)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    refused bigint[];
BEGIN
    SELECT jobstate.queue_keys_take(array_agg(j.id), array_agg(target), array_agg(j.unique_key)) INTO refused
      FROM jobstate.job j WHERE j.position = ANY (positions) AND j.unique_key IS NOT NULL;
    PERFORM FROM jobstate.unique_job u
       JOIN jobstate.job j ON j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
      WHERE j.position = ANY (positions) AND j.id <> ALL (refused)
      ORDER BY u.queue COLLATE "C", u.unique_key COLLATE "C" FOR UPDATE OF u;
    DELETE FROM jobstate.unique_job u
     USING jobstate.job j
     WHERE j.queue = u.queue AND j.unique_key = u.unique_key AND j.id = u.id
       AND j.position = ANY (positions) AND j.id <> ALL (refused);
    RETURN coalesce(refused, '{}');
END
$$;

CREATE OR REPLACE FUNCTION jobstate.move_queue(ids bigint[], queue text)
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    refused bigint[];
    mover record;
BEGIN
    PERFORM jobstate.queue_require_array('ids', ids);
    PERFORM jobstate.require_argument('queue', $2);
    held := jobstate.queue_hold(ids);
    held := ARRAY(SELECT j.position FROM jobstate.job j
                   WHERE j.position = ANY (held) AND j.state_id IN (1, 3) AND j.queue COLLATE "default" <> $2);
    refused := jobstate.queue_keys_move(held, $2);
    SELECT array_agg(j.id ORDER BY j.id) AS ids, array_agg(j.position) AS positions INTO mover
      FROM jobstate.job j WHERE j.position = ANY (held) AND j.id <> ALL (refused);
    PERFORM jobstate.queue_relocate(mover.positions, $2, NULL);
    PERFORM jobstate.queue_wake($2) WHERE mover.ids IS NOT NULL;
    RETURN QUERY SELECT unnest(mover.ids);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_hold_due(queue text, n integer)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    LOOP
        BEGIN
            RETURN ARRAY(SELECT w.position
                           FROM (SELECT u.queue, jobstate.low_end('jobstate.job_waiting', 'run_at',
                                                     format('queue = %L', u.queue), 1) AS since
                                   FROM jobstate.queue u
                                  WHERE $1 IS NULL OR u.queue COLLATE "default" = $1 OFFSET 0) q
                          CROSS JOIN LATERAL (
                                SELECT d.position FROM jobstate.job_waiting d
                                 WHERE d.queue = q.queue AND d.run_at BETWEEN q.since AND clock_timestamp()
                                 ORDER BY d.run_at LIMIT $2 FOR UPDATE SKIP LOCKED) w
                          LIMIT $2);
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_ring_define(settings jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{slots,slot_jobs,slot_length,retention,failed_retention,dead_letter_retention}';
    unknown text;
    ring record;
    fresh record;
BEGIN
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It was given for the ring.',
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    SELECT r.* INTO ring FROM jobstate.queue_ring r;
    SELECT n.* INTO fresh FROM jobstate.queue_ring r, jsonb_populate_record(r, settings) n;
    IF (fresh.slots, fresh.slot_jobs) IS DISTINCT FROM (ring.slots, ring.slot_jobs) THEN
        LOCK TABLE jobstate.job IN ACCESS EXCLUSIVE MODE;
        IF EXISTS (SELECT FROM jobstate.job j WHERE j.slot >= 0) THEN
            RAISE EXCEPTION 'the ring cannot change its size while it holds jobs'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'Where a job lies follows from the number of slots and the jobs in a slot.',
                      HINT = 'Wait until all jobs have ended, and prune them: retention 0, then jobstate.prune_slots().';
        END IF;
    END IF;
    UPDATE jobstate.queue_ring r
       SET (slots, slot_jobs, slot_length, retention, failed_retention, dead_letter_retention) =
           (SELECT fresh.slots, fresh.slot_jobs, fresh.slot_length,
                   fresh.retention, fresh.failed_retention, fresh.dead_letter_retention);
    PERFORM jobstate.queue_add_slots();
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for the ring are not valid'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'There are 3 to 1024 slots; sizes and the slot''s length are above zero, retentions are not negative.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_slot_free(slot integer, needed boolean)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 1000;
    part CONSTANT text := format('jobstate.%I', 'job_' || slot);
    pages CONSTANT bigint := pg_relation_size(part::regclass) / current_setting('block_size')::bigint;
    old timestamptz;
    stays boolean;
BEGIN
    IF needed THEN
        EXECUTE format('SELECT count(*) > %s FROM (SELECT FROM %s j WHERE j.state_id IN (1, 2) LIMIT %s) s',
                       few, part, few + 1) INTO stays;
        RETURN NOT stays;
    END IF;
    SELECT clock_timestamp() - r.retention INTO old FROM jobstate.queue_ring r;
    -- what came last lies at the end: most slots that cannot go are known by that
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j WHERE j.ctid >= ''(%s,0)'' AND j.enqueued_at > $1)',
                   part, greatest(pages - 1, 0)) INTO stays USING old;
    IF stays THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s j
                                    WHERE j.state_id IN (1, 2) OR j.state_id <> 5 AND j.finished_at > $1)',
                   part) INTO stays USING old;
    RETURN NOT stays;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_slot_carry(slot integer, n integer)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    young timestamptz;
    stay bigint[];
BEGIN
    SELECT clock_timestamp() - r.failed_retention INTO young FROM jobstate.queue_ring r;
    WHILE stay IS NULL LOOP
        BEGIN
            EXECUTE format('SELECT array(SELECT j.position FROM jobstate.%I j
                                          WHERE j.state_id = 5 AND j.finished_at > $1
                                          LIMIT $2 FOR UPDATE SKIP LOCKED)', 'job_' || slot)
               INTO stay USING young, n;
        EXCEPTION WHEN serialization_failure THEN
            IF NOT jobstate.queue_look_again() THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    IF stay <> '{}' THEN
        UPDATE jobstate.job j SET slot = -2
         WHERE j.slot = queue_slot_carry.slot AND j.position = ANY (stay);
    END IF;
    RETURN cardinality(stay);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_slot_rest(slot integer, needed boolean)
RETURNS bigint[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    few CONSTANT integer := 2000;
    old timestamptz;
    young timestamptz;
    rest record;
BEGIN
    SELECT clock_timestamp() - r.retention, clock_timestamp() - r.failed_retention
      INTO old, young FROM jobstate.queue_ring r;
    EXECUTE format('SELECT coalesce(array_agg(s.position), ''{}'') AS positions,
                           count(*) <= %s AND bool_and($1 OR s.state_id = 5) IS NOT FALSE AS can_move
                      FROM (SELECT j.position, j.state_id FROM jobstate.%I j
                             WHERE j.state_id IN (1, 2) OR j.state_id = 5 AND j.finished_at > $2
                                   OR NOT $1 AND j.state_id <> 5 AND j.finished_at > $3
                             LIMIT %s) s', few, 'job_' || slot, few + 1)
       INTO rest USING needed, young, old;
    RETURN CASE WHEN rest.can_move THEN rest.positions END;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_slot_empty(slot integer, needed boolean, OUT carried bigint, OUT rolled_up bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10ms'
AS $$
DECLARE
    holds CONSTANT boolean := EXISTS (
        SELECT FROM pg_locks k JOIN pg_inherits i ON i.inhrelid = k.relation
         WHERE k.pid = pg_backend_pid() AND k.locktype = 'relation' AND k.mode = 'AccessExclusiveLock'
           AND i.inhparent = to_regclass('jobstate.job'));
    rest bigint[];
BEGIN
    EXECUTE format('LOCK TABLE jobstate.%I IN ACCESS EXCLUSIVE MODE %s', 'job_' || slot, CASE WHEN holds THEN 'NOWAIT' END);
    rest := jobstate.queue_slot_rest(slot, needed);
    IF rest IS NULL THEN
        RAISE lock_not_available;
    END IF;
    UPDATE jobstate.job j SET slot = -2
     WHERE j.slot = queue_slot_empty.slot AND j.position = ANY (rest);
    carried := cardinality(rest);
    rolled_up := jobstate.prune_partition(format('jobstate.job_%s', slot)::regclass, 'finished_at');
EXCEPTION
    -- this also gives the lock back
    WHEN lock_not_available OR object_not_in_prerequisite_state THEN
        carried := NULL;
        rolled_up := NULL;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_oldest(queue text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT min(head.run_at)
          FROM (SELECT l.lane::bigint << 48 AS lane_start,
                       coalesce((SELECT max(w.floor) FROM jobstate.queue_window w WHERE w.lane = l.lane), 0) AS floor
                  FROM jobstate.queue_lane l WHERE l.queue COLLATE "default" = $1) b,
               LATERAL (SELECT j.run_at FROM jobstate.job j
                         WHERE j.position >= greatest(b.lane_start, b.floor)
                           AND j.position < b.lane_start + (1::bigint << 48)
                           AND j.state_id = 1
                         ORDER BY j.position LIMIT 1) head);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.queue_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.queue_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.job, jobstate.job_waiting, jobstate.job_kept,
                    jobstate.dead_letter, jobstate.unique_job TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT ON jobstate.queue, jobstate.queue_lane, jobstate.queue_window TO %s', worker);
    EXECUTE format('GRANT UPDATE (created_at) ON jobstate.queue TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.queue_ring, jobstate.jobs, jobstate.queues TO %s', worker);
    EXECUTE format('GRANT USAGE ON SEQUENCE jobstate.job_number TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.store_get(id text)
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

CREATE OR REPLACE FUNCTION jobstate.store_status(id text,
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

CREATE OR REPLACE FUNCTION jobstate.store_given(argument text, fields jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_json(argument, fields, 'object');
    RETURN coalesce((SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(fields) f WHERE f.value <> 'null'), '{}');
END
$$;

CREATE OR REPLACE FUNCTION jobstate.store_put_aside(id text)
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

CREATE OR REPLACE FUNCTION jobstate.store_insert(id text, record jsonb, ttl interval)
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

CREATE OR REPLACE FUNCTION jobstate.store_create(id text, record jsonb, ttl interval DEFAULT jobstate.store_ttl())
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

CREATE OR REPLACE FUNCTION jobstate.store_look(id text, token uuid)
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

CREATE OR REPLACE FUNCTION jobstate.store_lock(INOUT id text, INOUT token uuid, OUT state_id smallint, OUT fields jsonb)
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

CREATE OR REPLACE FUNCTION jobstate.store_write(id text, changes jsonb, state_id smallint DEFAULT NULL)
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

CREATE OR REPLACE FUNCTION jobstate.store_leave(id text, token uuid, upsert boolean)
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

CREATE OR REPLACE FUNCTION jobstate.store_miss(id text, fields jsonb, token uuid, upsert boolean)
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

CREATE OR REPLACE FUNCTION jobstate.store_cas(id text, field text, expected jsonb, value jsonb, token uuid DEFAULT NULL)
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

CREATE OR REPLACE FUNCTION jobstate.store_delete(id text)
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

CREATE OR REPLACE FUNCTION jobstate.store_restart(id text, state_id smallint, restart boolean)
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

CREATE OR REPLACE FUNCTION jobstate.store_begin(id text, status text DEFAULT 'preprocessing', restart boolean DEFAULT true,
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

CREATE OR REPLACE FUNCTION jobstate.store_sweep(n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    looked bigint;
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    since := jobstate.low_end('jobstate.store', 'check_at', 'check_at IS NOT NULL', 30);
    UPDATE jobstate.store s
       SET check_at = CASE WHEN s.expires_at > now THEN s.expires_at END,
           expired_at = CASE WHEN s.expires_at <= now THEN s.expires_at END
     WHERE s.id = ANY (ARRAY(
           SELECT d.id FROM jobstate.store d WHERE d.check_at BETWEEN since AND now
            ORDER BY d.check_at LIMIT n FOR NO KEY UPDATE SKIP LOCKED));
    GET DIAGNOSTICS looked = ROW_COUNT;
    RETURN looked;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.store_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.store_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.store TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.store_records, jobstate.store_setting, jobstate.store_artifact_name TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_define(processor text, settings jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name ALIAS FOR processor;
    known CONSTANT text[] := '{interval,lease,max_failures,cap,budget}';
    unknown text;
BEGIN
    PERFORM jobstate.require_argument('processor', name);
    PERFORM jobstate.require_json('settings', settings, 'object');
    SELECT min(k) INTO unknown FROM jsonb_object_keys(settings) k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'setting "%" does not exist', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('It was given for processor "%s".', name),
                  HINT = format('Settings: %s.', array_to_string(known, ', '));
    END IF;
    INSERT INTO jobstate.ledger_processor (processor) VALUES (name) ON CONFLICT DO NOTHING;
    UPDATE jobstate.ledger_processor p
       SET ("interval", lease, max_failures, cap, budget) =
           (SELECT n."interval", n.lease, n.max_failures, n.cap, n.budget
              FROM jsonb_populate_record(p, settings) n)
     WHERE p.processor COLLATE "C" = name;
EXCEPTION
    WHEN check_violation OR not_null_violation OR data_exception THEN
        IF SQLSTATE IN ('22004', '22023') THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'the settings for processor "%" are not valid', name
            USING ERRCODE = 'invalid_parameter_value', DETAIL = SQLERRM || '.',
                  HINT = 'Numbers and times are above zero; only cap and budget may be null, which is none.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_max_failures(processor text)
RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT p.max_failures FROM jobstate.ledger_processor p
                      WHERE p.processor COLLATE "C" = ledger_max_failures.processor), 5);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_lease(processor text, lease interval)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF lease IS NOT NULL THEN
        PERFORM jobstate.require_positive('lease', lease > interval '0');
        RETURN lease;
    END IF;
    RETURN coalesce((SELECT p.lease FROM jobstate.ledger_processor p
                      WHERE p.processor COLLATE "C" = ledger_lease.processor), interval '900 s');
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_refuse(processor text, item text, token uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known record;
BEGIN
    SELECT l.state, l.claimed_by, l.lease_until INTO known FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2;
    IF EXISTS (SELECT FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.token = $3) THEN
        PERFORM jobstate.ledger_refuse_run($1);
    ELSIF known.state IS NULL THEN
        RAISE EXCEPTION 'item "%" is not in the ledger of processor "%"', $2, $1
            USING ERRCODE = 'JS002',
                  DETAIL = 'A token stands for an item that was claimed.',
                  HINT = 'It was forgotten meanwhile, or the name is another one.';
    ELSIF known.state = 'claimed' THEN
        RAISE EXCEPTION 'lease on item "%" of processor "%" is lost', $2, $1
            USING ERRCODE = 'JS001',
                  DETAIL = format('It is claimed by "%s" until %s.', known.claimed_by, known.lease_until),
                  HINT = 'Roll back: whoever holds the item will mark it.';
    END IF;
    RAISE EXCEPTION 'lease on item "%" of processor "%" is lost', $2, $1
        USING ERRCODE = 'JS001',
              DETAIL = format('Its state is "%s", and the token is not that of its last claim, or was used before.', known.state),
              HINT = 'Roll back, and claim the item again if it is still to be processed.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_expire(processor text DEFAULT NULL, items text[] DEFAULT NULL, n integer DEFAULT 1000)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ended record;
    expired bigint := 0;
    since timestamptz;
BEGIN
    PERFORM jobstate.require_positive('n', n > 0);
    since := jobstate.low_end('jobstate.ledger', 'lease_until', 'lease_until IS NOT NULL', 5);
    FOR ended IN
        SELECT l.processor, l.item, l.run_id FROM jobstate.ledger l
         WHERE l.lease_until BETWEEN since AND clock_timestamp()
           AND ($1 IS NULL OR l.processor COLLATE "C" = $1) AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2))
         ORDER BY l.processor, l.item LIMIT $3
           FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        UPDATE jobstate.ledger l
           SET state = CASE WHEN l.failures + 1 >= jobstate.ledger_max_failures(l.processor)
                            THEN 'dead' ELSE 'failing' END,
               failures = l.failures + 1, error = 'the lease ended', retry_at = NULL, lease_until = NULL
         WHERE l.processor COLLATE "C" = ended.processor AND l.item = ended.item;
        PERFORM jobstate.ledger_record(ended.processor, ended.run_id, 'error', ended.item, 0, 'the lease ended');
        expired := expired + 1;
    END LOOP;
    RETURN expired;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_claim_rows(processor text, items text[], modified_at timestamptz[],
    fingerprints text[], rule text, worker text, token uuid, lease_until timestamptz, run_id bigint)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    fresh text[];
    locked text[];
    again text[];
BEGIN
    WITH born AS (
        INSERT INTO jobstate.ledger (processor, item, state, attempt, claimed_by, token, lease_until, run_id)
        SELECT $1, i, 'claimed', 1, $6, $7, $8, $9 FROM unnest($2) i
         WHERE NOT EXISTS (SELECT FROM jobstate.ledger l WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = i)
         ORDER BY i COLLATE "C"
            ON CONFLICT DO NOTHING RETURNING item)
    SELECT coalesce(array_agg(b.item), '{}') INTO fresh FROM born b;
    PERFORM jobstate.ledger_expire($1, $2);
    locked := ARRAY(SELECT l.item FROM jobstate.ledger l
                     WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = ANY ($2) AND l.item COLLATE "C" <> ALL (fresh)
                     ORDER BY l.item FOR NO KEY UPDATE SKIP LOCKED);
    WITH taken AS (
        UPDATE jobstate.ledger l
           SET state = 'claimed', attempt = l.attempt + 1, claimed_by = $6, token = $7,
               lease_until = $8, run_id = $9
         WHERE l.processor COLLATE "C" = (SELECT $1)
           AND l.item COLLATE "C" IN (SELECT u.item FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
                           WHERE u.item COLLATE "C" = ANY (locked))
        RETURNING l.item)
    SELECT coalesce(array_agg(t.item), '{}') INTO again FROM taken t;
    RETURN fresh || again;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_allowance(processor text, n integer, run_id bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run record;
    used bigint;
BEGIN
    IF $3 IS NULL THEN
        SELECT p.cap INTO run FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1;
        RETURN CASE WHEN n > 0 THEN n WHEN n IS NOT NULL THEN NULL WHEN FOUND THEN run.cap ELSE 50 END;
    END IF;
    SELECT r.cap, r.stop_at INTO run FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.id = $3;
    SELECT coalesce(sum(CASE o.kind WHEN 'taken' THEN o.n ELSE -1 END), 0) INTO used
      FROM jobstate.ledger_outcome o
     WHERE o.processor COLLATE "C" = $1 AND o.run_id = $3 AND o.kind IN ('taken', 'skipped', 'released');
    RETURN CASE WHEN run.stop_at <= clock_timestamp() THEN 0
                ELSE least(CASE WHEN n > 0 THEN n END,
                           CASE WHEN run.cap IS NOT NULL THEN greatest(run.cap - used, 0) END) END;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_take(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', n integer DEFAULT NULL, worker text DEFAULT '',
    lease interval DEFAULT NULL, run uuid DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, token uuid, attempt integer, read_at timestamptz, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    until CONSTANT timestamptz := at + jobstate.ledger_lease($1, $8);
    secret CONSTANT uuid := gen_random_uuid();
    in_run bigint;
    allowed bigint;
    looked integer := 0;
    upto integer;
    found_items text[];
    nths bigint[];
    times timestamptz[];
    prints text[];
    got text[] := '{}';
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    PERFORM jobstate.require_argument('worker', worker);
    IF run IS NOT NULL THEN
        in_run := jobstate.ledger_require_run($1, run);
    END IF;
    allowed := jobstate.ledger_allowance($1, n, in_run);
    SELECT array_agg(u.item), array_agg(u.nth), array_agg(u.modified), array_agg(u.given_fingerprint)
      INTO found_items, nths, times, prints
      FROM jobstate.ledger_unprocessed($1, $2, $3, $4, $5) u
     WHERE in_run IS NULL
        OR NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = u.item AND l.run_id = in_run);
    WHILE looked < cardinality(found_items) AND (allowed IS NULL OR cardinality(got) < allowed) LOOP
        upto := least(looked + coalesce(allowed - cardinality(got), 1000), cardinality(found_items));
        got := got || jobstate.ledger_claim_rows($1, found_items[looked + 1:upto],
                          CASE WHEN $3 IS NOT NULL THEN times[looked + 1:upto] END,
                          CASE WHEN $4 IS NOT NULL THEN prints[looked + 1:upto] END,
                          $5, worker, secret, until, in_run);
        looked := upto;
    END LOOP;
    PERFORM jobstate.ledger_record($1, in_run, 'scanned', NULL, cardinality($2)),
            jobstate.ledger_record($1, in_run, 'taken', NULL, cardinality(got)),
            jobstate.ledger_record($1, in_run, 'capped', NULL, coalesce(cardinality(found_items), 0) - looked);
    RETURN QUERY
        SELECT l.item, min(c.nth), secret, l.attempt, at, until
          FROM unnest(found_items[:looked], nths[:looked]) c (item, nth)
          JOIN jobstate.ledger l ON l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item AND l.token = secret
         GROUP BY l.item, l.attempt ORDER BY 2;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_heartbeat(processor text, items text[], token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $4);
    held text[];
    lost text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    PERFORM jobstate.require_argument('token', $3);
    held := ARRAY(SELECT l.item FROM jobstate.ledger l
                   WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = ANY ($2) AND l.token = $3 AND l.state = 'claimed'
                   ORDER BY l.item FOR NO KEY UPDATE);
    SELECT min(i COLLATE "C") INTO lost FROM unnest($2) i WHERE i <> ALL (held);
    IF lost IS NOT NULL THEN
        PERFORM jobstate.ledger_refuse($1, lost);
    END IF;
    UPDATE jobstate.ledger l SET lease_until = until WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = ANY (held);
    RETURN until;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_release(processor text, item text, token uuid, skipped boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    becomes text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('token', $3);
    PERFORM jobstate.require_argument('skipped', $4);
    SELECT l.run_id, CASE WHEN l.processed_at IS NOT NULL AND (skipped OR l.failures = 0) THEN 'processed'
                          WHEN l.failures > 0 THEN 'failing' ELSE 'pending' END
      INTO run, becomes FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $3 AND l.state = 'claimed'
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_refuse($1, $2, $3);
    END IF;
    UPDATE jobstate.ledger l
       SET state = becomes, lease_until = NULL, token = NULL,
           failures = CASE becomes WHEN 'failing' THEN l.failures ELSE 0 END,
           error = CASE becomes WHEN 'failing' THEN l.error END,
           run_id = CASE WHEN skipped THEN l.run_id END
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2;
    PERFORM jobstate.ledger_record($1, run, CASE WHEN skipped THEN 'skipped' ELSE 'released' END, $2, 0);
    RETURN becomes;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_fail_claimed(processor text, item text, error text, token uuid,
    retry_at timestamptz, OUT state text, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    max_failures CONSTANT integer := jobstate.ledger_max_failures($1);
BEGIN
    UPDATE jobstate.ledger l
       SET state = CASE WHEN l.failures + 1 >= max_failures THEN 'dead' ELSE 'failing' END,
           failures = l.failures + 1, error = $3, retry_at = $5, lease_until = NULL
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $4 AND l.state = 'claimed'
    RETURNING l.state, l.run_id INTO ledger_fail_claimed.state, ledger_fail_claimed.run_id;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_reset(processor text, items text[] DEFAULT NULL, states text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    WITH locked AS (
        SELECT l.item FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = (SELECT $1) AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2)) AND ($3 IS NULL OR l.state = ANY ($3))
           AND l.state <> 'pending'
         ORDER BY l.item FOR NO KEY UPDATE)
    UPDATE jobstate.ledger l
       SET state = 'pending', processed_at = NULL, items = 0, fingerprint = NULL, failures = 0, error = NULL,
           retry_at = NULL, token = NULL, lease_until = NULL, run_id = NULL
      FROM locked k
     WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = k.item;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_forget(processors text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processors', processors);
    DELETE FROM jobstate.ledger l WHERE l.processor COLLATE "C" = ANY (processors);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_retain(processor text, items text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    n bigint;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('items', $2);
    IF array_remove($2, NULL) = '{}' THEN
        RETURN 0;
    END IF;
    DELETE FROM jobstate.ledger d
     WHERE d.processor COLLATE "C" = (SELECT $1)
       AND d.item IN (SELECT l.item FROM jobstate.ledger l
                       WHERE l.processor COLLATE "C" = (SELECT $1) AND l.state <> 'claimed'
                         AND NOT EXISTS (SELECT FROM unnest($2) i WHERE i = l.item COLLATE "C")
                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_rename(processor text, item text, new_item text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    PERFORM jobstate.require_argument('new_item', $3);
    UPDATE jobstate.ledger l SET item = $3
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.state <> 'claimed'
       AND NOT EXISTS (SELECT FROM jobstate.ledger o WHERE o.processor COLLATE "C" = $1 AND o.item COLLATE "C" = $3);
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_stuck(processor text, items text[], modified_at timestamptz[], root text,
    before timestamptz, OUT item text, OUT modified timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    SELECT c.item, c.modified_at INTO item, modified
      FROM unnest($2, $3) c (item, modified_at)
     WHERE c.modified_at < $5
       AND NOT EXISTS (SELECT FROM jobstate.ledger l
                        WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item
                          AND (l.state = 'dead' OR l.processed_at > c.modified_at))
       AND ($4 IS NULL
            OR NOT EXISTS (SELECT FROM jobstate.ledger l
                            WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = rtrim($4, '/') || '/' || c.item
                              AND (l.state = 'dead' OR l.processed_at > c.modified_at)))
     ORDER BY c.modified_at, c.item COLLATE "C" LIMIT 1;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_grace(processor text, grace interval)
RETURNS interval
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF grace > interval '0' THEN
        RETURN grace;
    END IF;
    RETURN 2 * coalesce((SELECT p."interval" FROM jobstate.ledger_processor p
                          WHERE p.processor COLLATE "C" = ledger_grace.processor), interval '900 s');
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_run_of(processor text, token uuid)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run bigint;
BEGIN
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor COLLATE "C" = ledger_run_of.processor AND p.run_token = token
       FOR KEY SHARE;
    RETURN run;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_is_processed(processor text, item text, fingerprint text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('item', $2);
    RETURN EXISTS (SELECT FROM jobstate.ledger l
                    WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.fingerprint = $3
                      AND l.processed_at IS NOT NULL);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_mark_claimed(processor text, item text, username text, items integer,
    fingerprint text, at timestamptz, token uuid, OUT marked_at timestamptz, OUT run_id bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    UPDATE jobstate.ledger l
       SET state = 'processed', username = $3, items = $4, fingerprint = $5, processed_at = $6,
           failures = 0, error = NULL, retry_at = NULL, lease_until = NULL
     WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $7 AND l.state = 'claimed'
    RETURNING l.processed_at, l.run_id INTO marked_at, run_id;
    IF NOT FOUND THEN
        SELECT l.processed_at INTO marked_at FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = $1 AND l.item COLLATE "C" = $2 AND l.token = $7 AND l.state = 'processed';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_run_busy(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
    told text;
    by_run boolean;
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT p.*, k.pid, a.application_name AS session, a.xact_start INTO held
      FROM jobstate.ledger_processor p
           LEFT JOIN pg_locks k ON k.locktype = 'transactionid' AND k.transactionid = p.xmax
                               AND k.mode = 'ExclusiveLock' AND k.granted
           LEFT JOIN pg_stat_activity a ON a.pid = k.pid
     WHERE p.processor COLLATE "C" = $1;
    by_run := held.run_id IS NOT NULL
        AND (NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
             OR held.run_hold = 'transaction' AND held.run_until > clock_timestamp()
                AND coalesce(held.pid = held.run_pid, true));
    told := CASE WHEN by_run
                 THEN format('Run %s of "%s", backend %s, holds it since %s, by its %s, until %s.', held.run_id,
                             held.run_owner, held.run_pid, held.run_since, held.run_hold, held.run_until)
                 WHEN held.pid IS NOT NULL
                 THEN format('Backend %s (%s) has it in a transaction that is open since %s.', held.pid,
                             coalesce(held.session, 'of another session'), coalesce(held.xact_start::text, 'an unknown time'))
                 ELSE 'A transaction that has not ended yet has it.' END;
    RAISE EXCEPTION 'processor "%" is already running', $1
        USING ERRCODE = 'lock_not_available', DETAIL = told,
              HINT = 'Try again later; a run that died is free when its hold has ended.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_run_sums(processor text, run_id bigint)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT jsonb_build_object(
                   'scanned', coalesce(max(o.n) FILTER (WHERE o.kind = 'scanned'), 0),
                   'processed', count(*) FILTER (WHERE o.kind = 'processed'),
                   'skipped', count(*) FILTER (WHERE o.kind = 'skipped'),
                   'capped', coalesce((array_agg(o.n ORDER BY o.id DESC) FILTER (WHERE o.kind = 'capped'))[1], 0),
                   'errors', count(*) FILTER (WHERE o.kind = 'error'),
                   'items_extracted', coalesce(sum(o.n) FILTER (WHERE o.kind = 'processed'), 0),
                   'errors_detail', coalesce(jsonb_path_query_array(
                       jsonb_agg(jsonb_build_object('item', o.item, 'error', o.error) ORDER BY o.id)
                           FILTER (WHERE o.kind = 'error'), '$[0 to 99]'), '[]'))
          FROM jobstate.ledger_outcome o
         WHERE o.processor COLLATE "C" = $1 AND o.run_id = $2);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_end_claims(processor text, run_id bigint, lost boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT l.item, l.token FROM jobstate.ledger l
         WHERE l.lease_until >= (SELECT r.started_at FROM jobstate.ledger_run r WHERE r.processor COLLATE "C" = $1 AND r.id = $2)
           -- by leases, of which there are few; the primary key would pass all of the processor's items
           AND (l.processor COLLATE "C" = $1) IS TRUE AND l.run_id = $2 AND l.state = 'claimed'
         ORDER BY l.item FOR NO KEY UPDATE
    LOOP
        IF lost THEN
            PERFORM jobstate.ledger_fail($1, held.item, 'the run was lost', held.token);
        ELSE
            PERFORM jobstate.ledger_release($1, held.item, held.token);
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_close_run(processor text, run_id bigint, lost boolean, error text,
    stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    becomes text;
BEGIN
    PERFORM jobstate.ledger_end_claims($1, $2, $3);
    UPDATE jobstate.ledger_run r
       SET (scanned, processed, skipped, capped, errors, items_extracted, errors_detail) =
           (n.scanned, n.processed, n.skipped, n.capped, n.errors, n.items_extracted, n.errors_detail),
           error = $4, ended_at = clock_timestamp(),
           state = CASE WHEN $3 THEN 'lost' WHEN $4 IS NULL AND n.errors = 0 THEN 'succeeded' ELSE 'failed' END
      FROM jsonb_populate_record(NULL::jobstate.ledger_run, jobstate.ledger_run_sums($1, $2) || $5) n
     WHERE r.processor COLLATE "C" = $1 AND r.id = $2 AND r.state = 'running'
    RETURNING r.state INTO becomes;
    UPDATE jobstate.ledger_processor p
       SET run_id = NULL, run_token = NULL, run_owner = NULL, run_since = NULL, run_until = NULL,
           run_hold = NULL, run_pid = NULL, run_backend = NULL
     WHERE p.processor COLLATE "C" = $1 AND p.run_id = $2;
    RETURN becomes = 'succeeded';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_begin_run(processor text, owner text DEFAULT '', lease interval DEFAULT NULL,
    hold text DEFAULT 'lease', OUT run_id bigint, OUT token uuid, OUT lease_until timestamptz,
    OUT stop_at timestamptz, OUT cap integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    held jobstate.ledger_processor;
BEGIN
    PERFORM jobstate.ledger_check_run($1, $2, $4);
    SELECT p.* INTO held FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_processor($1);
        PERFORM jobstate.ledger_run_busy($1);
    END IF;
    IF held.run_id IS NOT NULL THEN
        -- a run that this very transaction began is held by it, and its lock stops others only
        IF NOT jobstate.ledger_run_over(held.run_hold, held.run_until, held.run_pid, held.run_backend)
           OR held.run_hold = 'transaction' AND held.run_pid = pg_backend_pid() AND held.run_since >= now() THEN
            PERFORM jobstate.ledger_run_busy($1);
        END IF;
        PERFORM jobstate.ledger_close_run($1, held.run_id, true, 'the run ended without saying so');
    END IF;
    INSERT INTO jobstate.ledger_run AS r (processor, owner, started_at, stop_at, cap)
    VALUES ($1, $2, at, at + held.budget, held.cap)
    RETURNING r.id, r.token, r.stop_at, r.cap INTO run_id, token, stop_at, cap;
    UPDATE jobstate.ledger_processor p
       SET run_id = ledger_begin_run.run_id, run_token = ledger_begin_run.token, run_owner = $2, run_since = at,
           run_until = at + jobstate.ledger_lease($1, $3), run_hold = $4, run_pid = pg_backend_pid(),
           run_backend = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
     WHERE p.processor COLLATE "C" = $1
    RETURNING p.run_until INTO lease_until;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_require_processor(processor text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.ledger_processor p WHERE p.processor COLLATE "C" = $1) THEN
        RAISE EXCEPTION 'processor "%" does not exist', $1
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Make it with jobstate.ledger_define().';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_hold_run(processor text, token uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM FROM jobstate.ledger_processor p
      WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_heartbeat_run(processor text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := clock_timestamp() + jobstate.ledger_lease($1, $3);
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    UPDATE jobstate.ledger_processor p SET run_until = until WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2;
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN until;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_check_stats(stats jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := '{scanned,processed,skipped,capped,errors,items_extracted,errors_detail}';
    unknown text;
BEGIN
    PERFORM jobstate.require_json('stats', stats, 'object');
    SELECT min(s.key) INTO unknown FROM jsonb_each(stats) s
     WHERE s.key <> ALL (known)
        OR CASE s.key WHEN 'errors_detail' THEN jsonb_typeof(s.value) <> 'array'
                      ELSE s.value::text !~ '^\d{1,18}$' END;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'figure "%" of a run is not valid', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Figures are whole numbers, errors_detail an array: %s.', array_to_string(known, ', '));
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_end_run(processor text, token uuid, error text DEFAULT NULL, stats jsonb DEFAULT '{}')
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    run bigint;
    ended text;
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.ledger_check_stats($4);
    SELECT p.run_id INTO run FROM jobstate.ledger_processor p
     WHERE p.processor COLLATE "C" = $1 AND p.run_token = $2 FOR NO KEY UPDATE;
    IF FOUND THEN
        RETURN jobstate.ledger_close_run($1, run, false, $3, $4);
    END IF;
    SELECT r.state INTO ended FROM jobstate.ledger_run r
     WHERE r.processor COLLATE "C" = $1 AND r.token = $2 AND r.state <> 'lost';
    IF NOT FOUND THEN
        PERFORM jobstate.ledger_require_run($1, $2);
    END IF;
    RETURN ended = 'succeeded';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_unprocessed(processor text, items text[],
    modified_at timestamptz[] DEFAULT NULL, fingerprints text[] DEFAULT NULL,
    rule text DEFAULT 'head', max_items integer DEFAULT NULL)
RETURNS TABLE (item text, nth bigint, modified timestamptz, given_fingerprint text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    skew CONSTANT interval := '50 ms';
    now CONSTANT timestamptz := clock_timestamp();
    how CONSTANT text := CASE WHEN $3 IS NOT NULL THEN rule ELSE 'given' END;
BEGIN
    PERFORM jobstate.ledger_check_candidates($1, $2, $3, $4, $5);
    RETURN QUERY
        SELECT c.item, c.nth, c.modified_at, c.fingerprint
          FROM unnest($2, $3, $4) WITH ORDINALITY c (item, modified_at, fingerprint, nth)
         WHERE c.item IS NOT NULL
           AND NOT EXISTS (
               SELECT FROM jobstate.ledger l
                WHERE l.processor COLLATE "C" = (SELECT $1) AND l.item COLLATE "C" = c.item
                  AND CASE l.state
                      WHEN 'processed' THEN
                          CASE WHEN how = 'seed' THEN c.modified_at <= l.processed_at
                               WHEN how <> 'head' AND c.fingerprint IS NOT NULL THEN c.fingerprint = l.fingerprint
                               WHEN how = 'given' THEN true
                               ELSE c.modified_at < l.processed_at - skew
                                    OR c.modified_at < l.processed_at AND c.fingerprint = l.fingerprint END
                      WHEN 'claimed' THEN l.lease_until > now
                      WHEN 'failing' THEN l.retry_at > now
                      ELSE l.state = 'dead' END)
         ORDER BY c.nth
         LIMIT CASE WHEN max_items > 0 THEN max_items END;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_items(processor text, items text[] DEFAULT NULL)
RETURNS TABLE (item text, status text, state text, username text, processed_at timestamptz, extracted integer,
               fingerprint text, failures integer, error text, claimed_by text, lease_until timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN QUERY
        SELECT l.item, CASE WHEN l.processed_at IS NULL THEN 'pending'
                            WHEN l.items > 0 THEN 'extracted' ELSE 'processed' END,
               l.state, l.username, l.processed_at, l.items, l.fingerprint, l.failures, l.error,
               CASE WHEN l.state = 'claimed' THEN l.claimed_by END, l.lease_until
          FROM jobstate.ledger l
         WHERE l.processor COLLATE "C" = $1 AND ($2 IS NULL OR l.item COLLATE "C" = ANY ($2))
         ORDER BY l.item;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_activity(processor text, since timestamptz DEFAULT '-infinity',
    OUT max_processed_at timestamptz, OUT items bigint, OUT processed bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    PERFORM jobstate.require_argument('since', $2);
    SELECT max(l.processed_at), coalesce(sum(l.items), 0), count(*)
      INTO max_processed_at, items, processed
      FROM jobstate.ledger l
     WHERE l.processor COLLATE "C" = $1 AND l.processed_at >= $2;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_max_processed_at(processor text)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('processor', $1);
    RETURN (SELECT max(l.processed_at) FROM jobstate.ledger l WHERE l.processor COLLATE "C" = $1);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.metrics_ledger()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.ledger', 'jobstate.ledger_processor') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, jsonb_build_object('processor', c.processor), m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT n.group_key ->> 'processor' AS processor,
                   sum(n.n) FILTER (WHERE n.state = 'failing') AS failing, sum(n.n) FILTER (WHERE n.state = 'dead') AS dead
              FROM jobstate.counts('jobstate.ledger') n GROUP BY 1) c
     CROSS JOIN LATERAL (SELECT max(l.processed_at) AS latest FROM jobstate.ledger l WHERE l.processor COLLATE "C" = c.processor) d
      LEFT JOIN jobstate.ledger_processor p ON p.processor COLLATE "C" = c.processor
     CROSS JOIN LATERAL (VALUES
            ('jobstate_ledger_failing', c.failing, '', 'items that failed and come again'),
            ('jobstate_ledger_dead', c.dead, '', 'items that failed for good'),
            ('jobstate_ledger_running', (p.run_id IS NOT NULL)::integer, '', '1 while a run holds the processor'),
            ('jobstate_ledger_last_success_timestamp_seconds', extract(epoch FROM d.latest), 'seconds',
             'when the item was read that the processor processed last, as a Unix time'))
           AS m (name, value, unit, help)
     WHERE m.value IS NOT NULL;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.ledger_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.ledger_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON jobstate.ledger TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON jobstate.ledger_run TO %s', worker);
    EXECUTE format('GRANT SELECT, INSERT ON jobstate.ledger_outcome TO %s', worker);
    EXECUTE format('GRANT SELECT, UPDATE (run_id, run_token, run_owner, run_since, run_until, run_hold, run_pid,
                    run_backend) ON jobstate.ledger_processor TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.ledger_policy TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_drop(name text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    DELETE FROM jobstate.schedule s WHERE s.name COLLATE "C" = $1;
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_pause(name text, paused boolean DEFAULT true)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('paused', $2);
    UPDATE jobstate.schedule s SET paused_at = CASE WHEN $2 THEN clock_timestamp() END
     WHERE s.name COLLATE "C" = $1 AND (s.paused_at IS NOT NULL) <> $2;
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_due(worker text DEFAULT '', n integer DEFAULT 100, names text[] DEFAULT NULL,
    lease interval DEFAULT NULL, hold text DEFAULT 'lease')
RETURNS TABLE (name text, token uuid, due_at timestamptz, previous_run timestamptz, last_run timestamptz,
               lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    me CONSTANT timestamptz := (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid());
BEGIN
    PERFORM jobstate.schedule_check_take($1, $2, $4, $5);
    RETURN QUERY
        UPDATE jobstate.schedule s
           SET state = 'running', token = gen_random_uuid(), taken_by = $1, lease_until = now + coalesce($4, s.lease),
               hold = $5, pid = pg_backend_pid(), backend = me, runs = s.runs + 1,
               last_run = jobstate.schedule_ran(s.spec, s.last_run, s.next_at, s.catch_up, now),
               failures = s.failures + (s.state = 'running')::integer,
               last_error = CASE WHEN s.state = 'running' THEN 'it was not finished' ELSE s.last_error END
          FROM (SELECT d.name, d.next_at, d.last_run FROM jobstate.schedule d
                 WHERE d.next_at <= now AND d.queue IS NULL AND d.paused_at IS NULL
                   AND ($3 IS NULL OR d.name COLLATE "C" = ANY ($3))
                   AND NOT jobstate.schedule_in_flight(d.state, d.lease_until, d.hold, d.pid, d.backend)
                 ORDER BY d.next_at, d.name LIMIT $2
                   FOR NO KEY UPDATE SKIP LOCKED) o
         WHERE s.name = o.name
        RETURNING s.name, s.token, jobstate.schedule_became_due(o.next_at, s.catch_up, s.last_run),
                  o.last_run, s.last_run, s.lease_until;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_refuse(name text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
BEGIN
    SELECT s.state, s.taken_by, s.lease_until INTO known FROM jobstate.schedule s WHERE s.name COLLATE "C" = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'schedule "%" does not exist', $1
            USING ERRCODE = 'JS002', HINT = 'See jobstate.schedule for those that do.';
    END IF;
    RAISE EXCEPTION 'lease on schedule "%" is lost', $1
        USING ERRCODE = 'JS001',
              DETAIL = CASE known.state WHEN 'running'
                       THEN format('It was taken by "%s", until %s.', known.taken_by, known.lease_until)
                       ELSE format('Its state is "%s".', known.state) END,
              HINT = 'Roll back and stop: the lease ended, and others may take it.';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_finish(name text, token uuid, success boolean DEFAULT true, error text DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_argument('success', $3);
    UPDATE jobstate.schedule s
       SET state = CASE WHEN $3 THEN 'scheduled' ELSE 'failed' END, lease_until = NULL,
           failures = CASE WHEN $3 THEN 0 ELSE s.failures + 1 END,
           last_error = CASE WHEN NOT $3 THEN coalesce($4, 'it failed') END,
           last_ended_at = clock_timestamp(),
           last_success_at = CASE WHEN $3 THEN clock_timestamp() ELSE s.last_success_at END
     WHERE s.name COLLATE "C" = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.next_at INTO due;
    IF NOT FOUND THEN
        SELECT s.next_at INTO due FROM jobstate.schedule s
         WHERE s.name COLLATE "C" = $1 AND s.token = $2;
    END IF;
    IF due IS NULL THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN due;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_heartbeat(name text, token uuid, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz;
BEGIN
    PERFORM jobstate.require_argument('name', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 IS NULL OR $3 > interval '0');
    UPDATE jobstate.schedule s SET lease_until = clock_timestamp() + coalesce($3, s.lease)
     WHERE s.name COLLATE "C" = $1 AND s.token = $2 AND s.state = 'running'
    RETURNING s.lease_until INTO until;
    IF NOT FOUND THEN
        PERFORM jobstate.schedule_refuse($1);
    END IF;
    RETURN until;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.schedule_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.schedule_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, UPDATE (state, last_run, runs, failures, last_error, last_success_at, last_ended_at,
                    taken_by, token, lease_until, hold, pid, backend) ON jobstate.schedule TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_install_applies()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS jobstate.apply (
        id               bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        apply_identifier text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
        idempotency_key  text UNIQUE,
        database_name    text NOT NULL,
        database_type    text NOT NULL,
        environment      text NOT NULL,
        state            text NOT NULL DEFAULT 'pending',
        reason           text,
        error_message    text,
        version          bigint NOT NULL DEFAULT 1,
        max_drivers      smallint NOT NULL DEFAULT 2 CHECK (max_drivers > 0),
        options          jsonb NOT NULL DEFAULT '{}',
        created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at       timestamptz,
        completed_at     timestamptz,
        reaped_at        timestamptz
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS apply_open ON jobstate.apply (created_at, id) WHERE reaped_at IS NULL;
    -- Whoever creates looks for applies of his database alone.  The condition is not that of apply_open, or else the
    -- server would take that one for it where few applies are open, and walk over all that were.
    CREATE INDEX IF NOT EXISTS apply_database
        ON jobstate.apply (database_name, database_type, environment) WHERE coalesce(reaped_at, 'infinity') = 'infinity';

    CREATE TABLE IF NOT EXISTS jobstate.apply_target (
        database_name text NOT NULL,
        database_type text NOT NULL,
        environment   text NOT NULL,
        deployment    text NOT NULL,
        apply_id      bigint,
        version       bigint NOT NULL DEFAULT 1,
        PRIMARY KEY (database_name, database_type, environment, deployment)
    ) WITH (fillfactor = 50);

    CREATE TABLE IF NOT EXISTS jobstate.apply_control_request (
        apply_id     bigint NOT NULL REFERENCES jobstate.apply ON DELETE CASCADE,
        operation    text NOT NULL CHECK (operation IN
                         ('stop', 'start', 'cancel', 'release', 'cutover', 'revert', 'skip_revert')),
        status       text NOT NULL DEFAULT 'pending',
        note         text,
        requested_by text,
        requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at     timestamptz,
        PRIMARY KEY (apply_id, operation)
    );

    CREATE TABLE IF NOT EXISTS jobstate.apply_policy (
        singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        max_retries      integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
        retryable_for    interval NOT NULL DEFAULT '1 day' CHECK (retryable_for > '0'),
        task_grace       interval NOT NULL DEFAULT '5 minutes' CHECK (task_grace >= '0'),
        quiet            interval NOT NULL DEFAULT '10 minutes' CHECK (quiet >= '0')
    );
    INSERT INTO jobstate.apply_policy DEFAULT VALUES ON CONFLICT DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_refuse(reason text, id bigint, state text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE reason
        WHEN 'lease lost' THEN
            RAISE EXCEPTION 'lease on operation % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = 'The token is not that of the operation''s last claim.',
                      HINT = 'Drop the result: the operation is somebody else''s, or waits to be claimed again.';
        WHEN 'replaced' THEN
            RAISE EXCEPTION 'lease on operation % is lost', id
                USING ERRCODE = 'JS001',
                      DETAIL = 'It ran out, and as many other drivers are at work as the apply allows.',
                      HINT = 'Leave the operation: it is claimed again when one of them is done.';
        WHEN 'no operation' THEN
            RAISE EXCEPTION 'operation % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no task' THEN
            RAISE EXCEPTION 'task % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'no apply' THEN
            RAISE EXCEPTION 'apply % does not exist', id USING ERRCODE = 'JS002';
        WHEN 'not running' THEN
            RAISE EXCEPTION 'operation % is not running', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Claim it with operation_claim(), if it can be claimed.';
        WHEN 'settled' THEN
            RAISE EXCEPTION 'apply % is settled', id
                USING ERRCODE = 'JS003',
                      DETAIL = format('Its state is "%s".', state),
                      HINT = 'Create another one with apply_create().';
        WHEN 'no operations' THEN
            RAISE EXCEPTION 'apply % has no operations', id
                USING ERRCODE = 'JS003',
                      DETAIL = 'Its state follows from its tasks, and is pending without any.',
                      HINT = 'End its tasks with task_progress(), or delete the apply.';
    END CASE;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_holder(database_name text, database_type text, environment text,
    deployments text[], OUT apply_id bigint, OUT state text, OUT deployment text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    SELECT a.id, a.state, o.deployment INTO apply_id, state, deployment
      FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
     WHERE coalesce(a.reaped_at, 'infinity') = 'infinity'   -- not reaped, in the words of the index apply_database
       AND a.database_name COLLATE "default" = $1 AND a.database_type COLLATE "default" = $2 AND a.environment COLLATE "default" = $3
       AND o.deployment COLLATE "default" = ANY ($4)
       AND (a.completed_at IS NULL OR jobstate.apply_is_at_work(a.id))
     ORDER BY a.id, o.id LIMIT 1;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_create(database_name text, database_type text, environment text, operations jsonb,
    idempotency_key text DEFAULT NULL, cutover_policy text DEFAULT 'rolling', on_failure text DEFAULT 'halt',
    max_drivers integer DEFAULT 2, apply_identifier text DEFAULT NULL, options jsonb DEFAULT '{}',
    OUT apply_id bigint, OUT created boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    deployments text[];
    holder record;
BEGIN
    PERFORM jobstate.require_argument('database_name', $1);
    PERFORM jobstate.require_argument('database_type', $2);
    PERFORM jobstate.require_argument('environment', $3);
    PERFORM jobstate.apply_check_operations($4);
    PERFORM jobstate.require_argument('cutover_policy', $6);
    PERFORM jobstate.require_argument('on_failure', $7);
    PERFORM jobstate.require_positive('max_drivers', $8 > 0);
    PERFORM jobstate.require_argument('options', $10);
    created := false;
    apply_id := jobstate.apply_by_key($5);
    IF apply_id IS NULL THEN
        deployments := ARRAY(SELECT o ->> 'deployment' FROM jsonb_array_elements($4) o);
        PERFORM jobstate.derive_now(), jobstate.apply_lock_targets($1, $2, $3, deployments);
        apply_id := jobstate.apply_by_key($5);
    END IF;
    IF apply_id IS NOT NULL THEN
        RETURN;
    END IF;
    holder := jobstate.apply_holder($1, $2, $3, deployments);
    IF holder.apply_id IS NOT NULL THEN
        RAISE EXCEPTION 'active apply exists: %', holder.apply_id
            USING ERRCODE = 'lock_not_available',
                  DETAIL = format('Apply %s is %s and has deployment "%s" of database "%s" (%s, %s).',
                                  holder.apply_id, holder.state, holder.deployment, $1, $2, $3),
                  HINT = 'Wait until it is settled, or end it with jobstate.apply_cancel().';
    END IF;
    INSERT INTO jobstate.apply (database_name, database_type, environment, idempotency_key,
                                max_drivers, apply_identifier, options)
    VALUES ($1, $2, $3, $5, $8, coalesce($9, gen_random_uuid()::text), $10)
        ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id INTO apply_id;
    IF apply_id IS NULL THEN
        -- of another database, or the targets would have made us wait
        apply_id := jobstate.apply_by_key($5);
        RETURN;
    END IF;
    created := true;
    PERFORM jobstate.apply_add_operations(apply_id, $4, $6, $7);
    UPDATE jobstate.apply_target t
       SET apply_id = apply_create.apply_id
     WHERE t.database_name COLLATE "default" = $1 AND t.database_type COLLATE "default" = $2 AND t.environment COLLATE "default" = $3 AND t.deployment COLLATE "default" = ANY (deployments);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_full(apply_id bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN (SELECT d.drivers FROM jobstate.apply a,
                   LATERAL (SELECT count(*) AS drivers FROM jobstate.operation o
                             WHERE o.apply_id = $1 AND o.lease_until > clock_timestamp()) d
             WHERE a.id = $1 AND d.drivers >= a.max_drivers);
END
$$;

COMMENT ON FUNCTION jobstate.apply_full(bigint)
    IS 'internal: how many operations of an apply are leased, if no other may be; NULL if one may';

CREATE OR REPLACE FUNCTION jobstate.operation_blocker(operation_id bigint, cutover boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    o record;
    blocker text;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('cutover', $2);
    SELECT p.apply_id, p.state = 'pending' OR p.state = 'stopped' AND p.started_at IS NULL
                       OR $2 AND p.state = 'waiting_for_cutover' AS begins
      INTO o
      FROM jobstate.operation p
     WHERE p.id = $1;
    blocker := jobstate.operation_state_blocker(o.apply_id, $1, $2);
    IF blocker IS NULL AND o.begins THEN
        blocker := jobstate.operation_sibling_blocker(o.apply_id, $1, $2);
    END IF;
    RETURN coalesce(blocker, jobstate.apply_full(o.apply_id) || ' drivers are at work');
END
$$;

CREATE OR REPLACE FUNCTION jobstate.operation_candidates(cutover boolean, only_apply bigint, only_deployment text)
RETURNS TABLE (apply_id bigint, operation_id bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known CONSTANT timestamptz[] := CASE WHEN $2 IS NULL
        THEN jobstate.low_ends('jobstate.apply', 'created_at', 'reaped_at IS NULL', 5) ELSE '{-infinity}' END;
    since CONSTANT timestamptz := known[cardinality(known)];
BEGIN
    RETURN QUERY
        SELECT c.apply_id, c.id
          FROM (SELECT o.*, a.created_at AS apply_created_at,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'rolling', $1)) OVER earlier AS rolling,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'barrier', $1)) OVER earlier AS barrier,
                       bool_or(o.operation_kind = 'work' AND jobstate.operation_keeps_back(o.state, o.variant, 'parallel', $1)) OVER earlier AS parallel
                  FROM (SELECT a.* FROM jobstate.apply a WHERE a.reaped_at IS NULL AND a.created_at >= since
                         UNION ALL
                        SELECT a.* FROM jobstate.apply a
                         WHERE a.reaped_at IS NULL AND a.created_at < since AND a.created_at = ANY (known)) a
                  JOIN jobstate.operation o ON o.apply_id = a.id
                 WHERE a.completed_at IS NULL AND ($2 IS NULL OR a.id = $2)
                WINDOW earlier AS (PARTITION BY o.apply_id ORDER BY o.created_at, o.id
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) c
         WHERE ($3 IS NULL OR c.deployment = $3)
           AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
           AND CASE WHEN jobstate.apply_is_settled(c.state) THEN false
                    WHEN $1 AND c.state NOT IN ('waiting_for_cutover', 'cutting_over', 'revert_window') THEN false
                    WHEN c.state = 'pending' OR c.state = 'stopped' AND c.started_at IS NULL OR $1 AND c.state = 'waiting_for_cutover'
                    THEN CASE c.cutover_policy WHEN 'rolling' THEN c.rolling WHEN 'barrier' THEN c.barrier
                                               ELSE c.parallel END IS NOT TRUE
                    ELSE true END
         ORDER BY c.apply_created_at, c.apply_id, c.created_at, c.id;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.operation_hold(operation_id bigint, token uuid,
    OUT apply_id bigint, OUT state text, OUT retries integer, OUT max_retries integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM jobstate.apply_refuse('no operation', $1);
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    END IF;
    IF jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_hold(held.apply_id);
    END IF;
    apply_id := held.apply_id;
    state := held.state;
    retries := held.retries;
    max_retries := held.max_retries;
END
$$;

COMMENT ON FUNCTION jobstate.operation_hold(bigint, uuid)
    IS 'internal: locks an operation, and its apply if it is at work, for the token of the last claim';

CREATE OR REPLACE FUNCTION jobstate.operation_heartbeat(operation_id bigint, token uuid, lease interval DEFAULT '60 s',
    OUT lease_until timestamptz, OUT requests text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM jobstate.require_argument('operation_id', $1);
    PERFORM jobstate.require_argument('token', $2);
    PERFORM jobstate.require_positive('lease', $3 > interval '0');
    SELECT o.* INTO held FROM jobstate.operation o WHERE o.id = $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF held.token IS DISTINCT FROM $2 THEN
        PERFORM jobstate.apply_refuse('lease lost', $1);
    ELSIF NOT jobstate.apply_is_active(held.state) THEN
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    ELSIF held.lease_until IS NULL OR held.lease_until <= clock_timestamp() THEN
        PERFORM jobstate.apply_hold(held.apply_id);
        IF jobstate.apply_full(held.apply_id) IS NOT NULL THEN
            PERFORM jobstate.apply_refuse('replaced', $1);
        END IF;
    END IF;
    UPDATE jobstate.operation o
       SET lease_until = clock_timestamp() + $3
     WHERE o.apply_id = held.apply_id AND o.id = $1
    RETURNING o.lease_until INTO lease_until;
    requests := ARRAY(SELECT r.operation FROM jobstate.apply_control_request r
                       WHERE r.apply_id = held.apply_id AND r.status = 'pending' ORDER BY r.operation);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.operation_progress(operation_id bigint, token uuid, state text DEFAULT NULL,
    progress jsonb DEFAULT NULL, resume_context jsonb DEFAULT NULL, expected text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    next_state CONSTANT text := jobstate.apply_state_name(regexp_replace($3, '^STATE_', '', 'i'));
    expected_state CONSTANT text := jobstate.apply_state_name(regexp_replace($6, '^STATE_', '', 'i'));
    held record;
BEGIN
    PERFORM jobstate.require_json('progress', coalesce($4, '{}'), 'object');
    IF $3 IS NOT NULL AND NOT coalesce(jobstate.apply_is_active(next_state), false) THEN
        RAISE EXCEPTION 'state "%" is none of a driver at work', $3
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use operation_complete(), operation_fail(), operation_stop(), operation_cancel(), operation_revert().';
    END IF;
    held := jobstate.operation_hold($1, $2);
    IF NOT jobstate.apply_is_active(held.state) THEN
        IF $6 IS NOT NULL THEN
            RETURN false;
        END IF;
        PERFORM jobstate.apply_refuse('not running', $1, held.state);
    ELSIF $6 IS NOT NULL AND held.state IS DISTINCT FROM expected_state THEN
        RETURN false;
    END IF;
    UPDATE jobstate.operation o
       SET state = coalesce(next_state, o.state), progress = o.progress || coalesce($4, '{}'),
           resume_context = coalesce($5, o.resume_context),
           updated_at = CASE WHEN next_state <> o.state THEN clock_timestamp() ELSE o.updated_at END
     WHERE o.apply_id = held.apply_id AND o.id = $1
       AND (next_state <> o.state OR $4 IS NOT NULL OR $5 IS NOT NULL);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_deadlock(apply_id bigint)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_and(coalesce(b.claim <> '' AND b.cutover <> '', false))
                THEN (array_agg(format('operation %s cannot be claimed: %s', b.id,
                                          CASE b.state WHEN 'waiting_for_cutover' THEN b.cutover ELSE b.claim END)
                                   ORDER BY b.created_at, b.id))[1] END
      FROM (SELECT o.id, o.state, o.created_at, jobstate.operation_blocker(o.id) AS claim, jobstate.operation_blocker(o.id, true) AS cutover
              FROM jobstate.operation o
             WHERE o.apply_id = $1 AND NOT jobstate.apply_is_settled(o.state)) b
$$;

COMMENT ON FUNCTION jobstate.apply_deadlock(bigint)
    IS 'internal: why no operation of an apply can be claimed; NULL if one can';

CREATE OR REPLACE FUNCTION jobstate.health_apply(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    long_ago CONSTANT timestamptz := clock_timestamp() - patience;
    quiet interval;
BEGIN
    IF NOT jobstate.can_read('jobstate.apply', 'jobstate.operation', 'jobstate.apply_policy') THEN
        RETURN;
    END IF;
    quiet := (SELECT p.quiet FROM jobstate.apply_policy p);
    RETURN QUERY
    WITH load AS MATERIALIZED (SELECT * FROM jobstate.apply_load())
    SELECT 'apply lagging', 'apply ' || l.id, 'warning',
           format('%s "%s" has not moved since %s, and %s', l.state, l.identifier, date_trunc('second', l.quiet_since),
                  coalesce(jobstate.apply_deadlock(l.id) || '; apply_cancel() ends it',
                           CASE WHEN l.expired > 0 THEN format('%s of its operations have outlived their lease', l.expired)
                                ELSE 'nobody claims its operations' END || ': start drivers')), NULL
      FROM load l
     WHERE l.completed_at IS NULL AND l.state NOT IN ('paused', 'stopped') AND l.claimable AND l.held = 0 AND l.quiet_since < long_ago
    UNION ALL
    SELECT 'apply paused', 'apply ' || l.id, CASE WHEN l.quiet_since < long_ago THEN 'warning' ELSE 'info' END,
           format('"%s" has failed in a place and waits for a decision since %s; apply_cancel() is the other one',
                  l.identifier, date_trunc('second', l.quiet_since)),
           format('SELECT jobstate.apply_release(%s)', l.id)
      FROM load l WHERE l.state = 'paused'
    UNION ALL
    SELECT 'apply unswept', 'jobstate.apply', 'warning',
           format('%s applies have been settled for long, the first since %s, and nobody ends what they left behind',
                  count(*), date_trunc('second', min(l.completed_at))),
           'SELECT jobstate.apply_strand(10000); SELECT jobstate.apply_reap(10000)'
      FROM load l WHERE l.completed_at < long_ago - quiet AND l.held = 0 HAVING count(*) > 0
    UNION ALL
    SELECT c, NULL, 'ok', d, NULL
      FROM (VALUES ('apply lagging', 'applies move'), ('apply paused', 'no apply waits for a decision'),
                   ('apply unswept', 'settled applies leave nothing behind')) o (c, d);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.apply_grant(worker regrole)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verb regprocedure;
BEGIN
    PERFORM jobstate.require_role('worker', worker);
    FOR verb IN SELECT f.fn FROM jobstate.apply_functions() f WHERE f.for_workers LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', verb, worker);
    END LOOP;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON jobstate.apply, jobstate.operation, jobstate.task,
                    jobstate.apply_control_request, jobstate.apply_target TO %s', worker);
    EXECUTE format('GRANT SELECT ON jobstate.apply_policy TO %s', worker);
END
$$;

CREATE OR REPLACE FUNCTION jobstate.log_full_since()
    RETURNS timestamptz LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'jobstate_log_full_since_when';

COMMENT ON FUNCTION jobstate.log_full_since() IS
    'since when a segment of the counter log has been full; null where none is';

CREATE OR REPLACE FUNCTION jobstate.health_trigger_faults()
RETURNS TABLE (target regclass, relation regclass, trigger_name name, fault text, repair text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH wanted AS (
        SELECT r.target, r.relation, w.name, w.fn::regprocedure::oid AS fn, w.moment, w.level
          FROM jobstate.health_relations() r
          JOIN (VALUES ('jobstate_watch'::name, 'jobstate.watch()', 'AFTER INSERT OR UPDATE OR DELETE', 'ROW'),
                       ('jobstate_truncate', 'jobstate.watch_truncate()', 'BEFORE TRUNCATE', 'STATEMENT'))
               AS w (name, fn, moment, level) ON r.has_rows OR w.name = 'jobstate_watch'),
    found AS (
        SELECT w.*, g.tgenabled, o.tgname AS other_name
          FROM wanted w
          LEFT JOIN pg_trigger g ON g.tgrelid = w.relation AND g.tgfoid = w.fn AND g.tgname = w.name
          LEFT JOIN LATERAL (SELECT o.tgname FROM pg_trigger o
                              WHERE o.tgrelid = w.relation AND o.tgfoid = w.fn AND o.tgname <> w.name
                              ORDER BY o.tgname LIMIT 1) o ON g.oid IS NULL)
    SELECT f.target, f.relation, f.name,
           CASE WHEN f.tgenabled IN ('D', 'R') THEN 'disabled'
                WHEN f.tgenabled = 'O' AND EXISTS (SELECT FROM pg_subscription_rel s
                                                     JOIN jobstate.health_relations() r ON r.relation = s.srrelid
                                                    WHERE r.target = f.target) THEN 'subscribed'
                WHEN f.tgenabled = 'O' THEN 'not always'
                WHEN f.other_name IS NOT NULL THEN 'renamed' ELSE 'missing' END,
           CASE WHEN f.tgenabled IS NOT NULL
                THEN format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', f.relation, f.name)
                WHEN f.other_name IS NOT NULL
                THEN format('ALTER TRIGGER %I ON %s RENAME TO %I', f.other_name, f.relation, f.name)
                ELSE format('CREATE TRIGGER %I %s ON %s FOR EACH %s EXECUTE FUNCTION %s; ALTER TABLE %3$s ENABLE ALWAYS TRIGGER %1$I',
                            f.name, f.moment, f.relation, f.level, f.fn::regprocedure) END
      FROM found f
     WHERE f.tgenabled IS DISTINCT FROM 'A'
       -- a trigger of a partition is renamed, dropped and made with its parent's
       AND (f.tgenabled IS NOT NULL OR f.name <> 'jobstate_watch' OR f.relation = f.target)
$$;

CREATE OR REPLACE FUNCTION jobstate.health_triggers(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'triggers', f.target::text, CASE f.fault WHEN 'not always' THEN 'info' ELSE 'warning' END,
           format('%s of %s%s %s', f.trigger_name, f.relation,
                  CASE WHEN f.n > 1 THEN format(' and %s more', f.n - 1) ELSE '' END,
                  CASE f.fault WHEN 'disabled' THEN 'is disabled: rows change unguarded and uncounted'
                               WHEN 'subscribed' THEN 'is not ENABLE ALWAYS: rows that the subscription brings are not counted'
                               WHEN 'renamed' THEN 'has another name: what it should see is refused'
                               WHEN 'missing' THEN 'is missing: rows change unguarded and uncounted'
                               ELSE 'is not ENABLE ALWAYS: rows that are replayed are not counted' END),
           f.repairs || CASE WHEN f.fault IN ('missing', 'disabled', 'subscribed')
                             THEN format('; SELECT jobstate.%s(%L)',
                                         CASE WHEN jobstate.counted(f.target) THEN 'rebuild' ELSE 'recount' END, f.target)
                                  || coalesce((SELECT string_agg(DISTINCT format('; SELECT jobstate.rederive(%L)', d.parent), '')
                                                 FROM jobstate.derivation d WHERE f.target IN (d.parent, d.child)), '')
                             ELSE '' END
      FROM (SELECT t.target, t.fault, min(t.trigger_name) AS trigger_name, count(*) AS n,
                   (array_agg(t.relation ORDER BY t.trigger_name, t.relation::text))[1] AS relation,
                   string_agg(t.repair, '; ' ORDER BY t.relation <> t.target, t.relation::text, t.trigger_name) AS repairs
              FROM jobstate.health_trigger_faults() t GROUP BY t.target, t.fault) f
    UNION ALL
    SELECT 'triggers', s.tgrelid::regclass::text, 'warning',
           format('%s is left on a table that is not attached: what it sees is refused', s.tgname),
           format('DROP TRIGGER %I ON %s', s.tgname, s.tgrelid::regclass)
      FROM pg_trigger s
     WHERE s.tgfoid IN ('jobstate.watch()'::regprocedure, 'jobstate.watch_truncate()'::regprocedure)
       AND s.tgparentid = 0 AND jobstate.can_see(s.tgrelid)
       AND NOT EXISTS (SELECT FROM jobstate.attachment a
                        WHERE a.target = s.tgrelid
                           OR a.target IN (SELECT p.relid FROM pg_partition_ancestors(s.tgrelid) p (relid)))
    UNION ALL
    SELECT 'triggers', NULL, 'ok', 'the triggers of attached tables fire', NULL;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.health_underived(derived regclass)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own name[] := jobstate.primary_key_of(derived);
    said text;
    query text;
BEGIN
    SELECT format('SELECT format(''%%s rows are not in the state that their children give; the first is %%s'', count(*), min(w.key))
                     FROM (SELECT (%s)::text AS key, %s AS is, (coalesce(%s, ARRAY[jobstate.fold(%L, ''{}'')]))[1] AS wanted
                             FROM %s p) w
                    WHERE w.is IS DISTINCT FROM coalesce(w.wanted, w.is) HAVING count(*) > 0',
                  (SELECT string_agg(format('p.%I', k), ', ') FROM unnest(own) k), jobstate.state_name_sql(derived, 'p'),
                  string_agg(format('(SELECT ARRAY[jobstate.fold(%L, array_agg(%s%s), %s)] FROM %s c WHERE %s HAVING count(*) > 0)',
                                    d.rule_set, jobstate.state_name_sql(d.child, 'c'), o.by,
                                    CASE WHEN d.child_variant IS NULL THEN 'NULL' ELSE format('array_agg(c.%I::text%s)', d.child_variant, o.by) END, t.name, j.joined),
                             ', ' ORDER BY d.ord),
                  (array_agg(d.rule_set ORDER BY d.ord))[1],
                  (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || derived FROM pg_class c WHERE c.oid = derived))
      INTO query
      FROM jobstate.derivation d
     CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || d.child FROM pg_class c WHERE c.oid = d.child) t (name)
     CROSS JOIN LATERAL (SELECT coalesce(' ORDER BY ' || string_agg(format('c.%I', n), ', ' ORDER BY i), '')
                           FROM unnest(d.child_order) WITH ORDINALITY x (n, i)) o (by)
     CROSS JOIN LATERAL (SELECT string_agg(format('c.%I = p.%I', k, own[i]), ' AND ')
                           FROM unnest(d.key) WITH ORDINALITY x (k, i)) j (joined)
     WHERE d.parent = derived
    HAVING count(*) > 0;
    -- none where the table is no parent
    IF query IS NOT NULL THEN
        EXECUTE query INTO said;
    END IF;
    RETURN said;
END
$$;

CREATE OR REPLACE FUNCTION jobstate.health_log(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    folded CONSTANT timestamptz := jobstate.last_fold();
    overdue CONSTANT boolean := coalesce(jobstate.log_full_since() < clock_timestamp() - patience, false);
BEGIN
    RETURN QUERY
    WITH log AS MATERIALIZED (SELECT * FROM jobstate.log_tables()),
    blocked AS (
        SELECT h.who, h.ending, min(log.relation::text) AS relation, bool_or(h.mode = 'AccessExclusiveLock') AS folding
          FROM log JOIN jobstate.health_holders(patience) h ON h.relation = log.relation
         WHERE h.mode = 'AccessExclusiveLock' OR h.mode = 'RowExclusiveLock' AND log.is_full
         GROUP BY h.who, h.ending)
    SELECT 'unfolded', b.who, 'warning',
           CASE WHEN b.folding THEN format('holds %s against everybody: who asks for counts waits', b.relation)
                ELSE format('holds %s, which is full and cannot be folded meanwhile', b.relation) END, b.ending
      FROM blocked b
    UNION ALL
    SELECT 'unfolded', 'counter log', 'warning',
           format('%s segments with some %s rows are full, and %s; whoever asks for counts reads them', count(*),
                  sum(l.log_rows), coalesce('the last fold was at ' || date_trunc('second', folded), 'nobody ever folded')),
           'CALL jobstate.maintain()'
      FROM log l WHERE l.is_full AND overdue HAVING count(*) > 0
    UNION ALL
    SELECT 'unfolded', NULL, 'ok', format('some %s rows of the log wait for a fold', coalesce(sum(l.log_rows), 0)), NULL
      FROM log l WHERE l.is_full IS NOT NULL AND l.relation::text LIKE '%segment%';
END
$$;

CREATE OR REPLACE FUNCTION jobstate.health_maintenance(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    folded CONSTANT timestamptz := jobstate.last_fold();
    auto CONSTANT boolean := current_setting('jobstate.auto_maintain');
    places CONSTANT integer := current_setting('max_worker_processes');
    wanted CONSTANT boolean := coalesce(jobstate.log_full_since() < clock_timestamp() - patience, false);
BEGIN
    RETURN QUERY
    SELECT 'maintenance', 'jobstate.auto_maintain', CASE WHEN wanted THEN 'warning' ELSE 'info' END,
           CASE WHEN wanted THEN 'no worker starts, and nobody calls maintain(): the log is full'
                ELSE 'no worker starts by itself: somebody has to call maintain() regularly' END,
           format('ALTER DATABASE %I SET jobstate.auto_maintain = on', current_database())
     WHERE NOT auto AND NOT pg_is_in_recovery()
    UNION ALL
    SELECT 'maintenance', 'max_worker_processes', 'warning',
           CASE WHEN places = 0 THEN 'there is room for no worker; a new value counts from the server''s next start'
                ELSE format('a worker is wanted and does not come: there is room for %s, the server''s and its extensions'' together', places) END,
           CASE WHEN places = 0 THEN 'ALTER SYSTEM SET max_worker_processes = 8' ELSE 'CALL jobstate.maintain()' END
     WHERE auto AND NOT pg_is_in_recovery() AND (places = 0 OR wanted AND NOT jobstate.worker_is_there())
    UNION ALL
    SELECT 'maintenance', NULL, 'ok',
           CASE WHEN pg_is_in_recovery() THEN 'this is a standby; its primary folds'
                ELSE coalesce('the last fold was at ' || date_trunc('second', folded), 'nothing was to be folded yet') END, NULL;
END
$$;

-- The families that are installed: what install() makes of them since.
DO $$
BEGIN
    IF pg_catalog.to_regclass('jobstate.queue') IS NOT NULL THEN
        PERFORM jobstate.queue_install_changed('jobstate.' || t) FROM pg_catalog.unnest('{queue,queue_lane,queue_ring}'::text[]) t;
    END IF;
    IF pg_catalog.to_regclass('jobstate.apply') IS NOT NULL THEN
        CREATE INDEX IF NOT EXISTS apply_database
            ON jobstate.apply (database_name, database_type, environment) WHERE coalesce(reaped_at, 'infinity') = 'infinity';
    END IF;
END
$$;
