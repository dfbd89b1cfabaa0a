-- uploads: health and metrics ------------------------------------------------------

-- health_upload: commits that nobody sweeps, and, if asked to look deep, those that no
-- sweep would find.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.health_upload(deep boolean, patience interval)
RETURNS TABLE (check_name text, object text, status text, detail text, fix text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.upload', 'jobstate.upload_scope') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'upload overdue', 'jobstate.upload_scope', 'warning',
           format('%s commits are due for upload_rescue(), the first since %s: dead workers and mergers are not replaced',
                  CASE WHEN o.n > 1000 THEN 'over 1000' ELSE o.n::text END, date_trunc('second', o.first)),
           'SELECT * FROM jobstate.upload_rescue(10000)'
      FROM (SELECT count(*) AS n, min(s.check_at) AS first
              FROM (SELECT s.check_at FROM jobstate.upload_scope s WHERE s.check_at < clock_timestamp() - patience
                     ORDER BY s.check_at LIMIT 1001) s) o
     WHERE o.n > 0
    UNION ALL
    SELECT 'upload overdue', NULL, 'ok', 'no commit waits for upload_rescue()', NULL;
    IF deep THEN
        RETURN QUERY
        SELECT 'upload forgotten', 'jobstate.upload', 'warning',
               format('%s commits, such as %s of repository %s, have uploads that are not settled, and upload_rescue() does not look at them',
                      count(*), min(u.commit_sha), (array_agg(u.repo_id ORDER BY u.commit_sha))[1]),
               'SELECT jobstate.upload_adopt()'
          FROM (SELECT DISTINCT u.repo_id, u.commit_sha FROM jobstate.upload u
                 WHERE (u.state_id = 1 OR u.state_id = 2 AND coalesce(u.report_type, 'coverage') = 'coverage')
                   AND u.updated_at < clock_timestamp() - patience) u
         WHERE NOT EXISTS (SELECT FROM jobstate.upload_scope s
                            WHERE s.repo_id = u.repo_id AND s.commit_sha = u.commit_sha AND s.check_at IS NOT NULL)
        HAVING count(*) > 0
        UNION ALL
        SELECT 'upload forgotten', NULL, 'ok', 'every commit that is not settled is swept', NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.health_upload(boolean, interval)
    IS 'internal: what health() says of the uploads';

-- metrics_upload: open commits, by the index on those that are swept.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.metrics_upload()
RETURNS TABLE (name text, labels jsonb, value double precision, kind text, unit text, help text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT jobstate.can_read('jobstate.upload_scope') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.name, '{}'::jsonb, m.value::double precision, 'gauge', m.unit, m.help
      FROM (SELECT count(*) AS open, count(*) FILTER (WHERE s.check_at <= clock_timestamp()) AS due,
                   count(*) FILTER (WHERE s.gate_until > clock_timestamp()) AS gates,
                   count(*) FILTER (WHERE s.merge_until > clock_timestamp()) AS merging,
                   min(s.check_at) AS first
              FROM jobstate.upload_scope s WHERE s.check_at IS NOT NULL) o
     CROSS JOIN LATERAL (VALUES
            ('jobstate_upload_commits_open', o.open, '', 'commits that are not settled'),
            ('jobstate_upload_commits_due', o.due, '', 'commits that upload_rescue() would look at now'),
            ('jobstate_upload_overdue_seconds', greatest(extract(epoch FROM clock_timestamp() - o.first), 0), 'seconds',
             'for how long the first commit has been due for upload_rescue()'),
            ('jobstate_upload_gates_held', o.gates, '', 'open commits whose gate is held'),
            ('jobstate_upload_commits_merging', o.merging, '', 'open commits that somebody was told to merge, and still has time'))
           AS m (name, value, unit, help);
END
$$;
COMMENT ON FUNCTION jobstate.metrics_upload()
    IS 'internal: the uploads'' part of the view metrics';
