-- What the crew left behind, for people.
\pset border 0
\pset footer off

\echo
\echo 'The dead letter, and what became of its attempts:'
SELECT d.queue, d.payload ->> 'path' AS path, e.attempt, to_char(e.at, 'HH24:MI:SS.MS') AS at, e.error
  FROM jobstate.dead_letter d, jsonb_to_recordset(d.errors) AS e(attempt integer, at timestamptz, error text)
 ORDER BY e.attempt;

\echo 'The machine, with the live counts:'
\pset tuples_only on
\pset format unaligned
SELECT jobstate.mermaid('job', 'jobstate.job');
