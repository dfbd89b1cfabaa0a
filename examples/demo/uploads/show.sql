-- What the pipeline left behind, for people.
\pset border 0
\pset footer off
\pset null ''

\echo
\echo 'What the workers did, and the live counts at each step:'
SELECT to_char(extract(epoch FROM at - min(at) OVER ()), '0.000') AS second,
       nullif(worker, 0) AS worker, detail AS what,
       c.uploaded, c.processed, c.merged, c.error
  FROM demo.event, jsonb_to_record(counts) AS c(uploaded int, processed int, merged int, error int)
 ORDER BY id;

\echo 'Merged coverage, as post-processing made it:'
SELECT f.key AS file, c.lines, c.covered, lpad(round(100.0 * c.covered / c.lines, 1) || ' %', 7) AS coverage
  FROM demo.postprocessed p, jsonb_each(p.coverage) f, jsonb_to_record(f.value) AS c(lines int, covered int)
 ORDER BY f.key;

\echo 'What is known of its health:'
\pset tuples_only on
SELECT format('SELECT sum(n) AS unfolded FROM (%s) s',
              string_agg(format('SELECT count(*) AS n FROM jobstate.%I', relname), ' UNION ALL ')) AS count_the_log
  FROM pg_class WHERE relnamespace = 'jobstate'::regnamespace AND relname LIKE 'segment\__' \gset
:count_the_log \gset before_
SELECT jobstate.fold() AS folded \gset
:count_the_log \gset after_
SELECT fact, value FROM (VALUES
    (1, 'attached tables, and those that are counted',
     (SELECT format('%s, %s', count(*), count(*) FILTER (WHERE counted)) FROM jobstate.attachments)),
    (2, 'counters that differ from a recount',
     (SELECT count(*)::text FROM jobstate.verify())),
    (3, 'rows of the counter log, and what a fold leaves of them',
     format('%s, %s', :before_unfolded, :after_unfolded)),
    (4, 'leases that ran out',
     (SELECT sum(attempt - 1)::text FROM jobstate.upload WHERE attempt > 1)),
    (5, 'uploads in error',
     (SELECT string_agg(substring(storage_path FROM 'run-.*') || ': ' || error_code, ', ')
        FROM jobstate.upload u JOIN jobstate.upload_error e ON e.upload_id = u.id)),
    (6, 'oldest snapshot, in transactions',
     (SELECT coalesce(max(age(backend_xmin)), 0)::text FROM pg_stat_activity WHERE pid <> pg_backend_pid())),
    (7, 'deadlocks',
     (SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()))
) AS facts (place, fact, value) ORDER BY place;

\echo 'The machine, with the live counts:'
\pset format unaligned
SELECT jobstate.mermaid('upload', 'jobstate.upload');
