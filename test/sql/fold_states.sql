-- fold_states: the apply's state from those of its operations, held against the table
-- of C.2 as it is written there, for everything up to three states (C.6 scenario 1).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');

-- the table of C.2, row by row; n(s) = how many are in state s
CREATE FUNCTION pg_temp.c2(profile text, states text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c jsonb := (SELECT coalesce(jsonb_object_agg(s, n), '{}') FROM (SELECT s, count(*) AS n FROM unnest(states) s GROUP BY s) q);
    total int := cardinality(states);
    head boolean := profile = 'head';
    completed int := coalesce((c ->> 'completed')::int, 0);
    wfc int := coalesce((c ->> 'waiting_for_cutover')::int, 0);
    wfd int := coalesce((c ->> 'waiting_for_deploy')::int, 0);
BEGIN
    IF total = 0 THEN RETURN 'pending'; END IF;
    IF c ? 'failed' THEN RETURN 'failed'; END IF;
    IF c ? 'failed_retryable' THEN RETURN 'failed_retryable'; END IF;
    IF c ? 'cancelled' THEN RETURN 'cancelled'; END IF;
    IF c ? 'stopped' THEN RETURN 'stopped'; END IF;
    IF head AND c ? 'reverting' THEN RETURN 'reverting'; END IF;
    IF c ? 'reverted' THEN RETURN 'reverted'; END IF;
    IF completed = total THEN RETURN 'completed'; END IF;
    IF c ? 'recovering' THEN RETURN 'recovering'; END IF;
    IF c ? 'cutting_over' AND (NOT head OR NOT c ?| '{pending,running,catching_up,checksumming,post_checksum}') THEN
        RETURN 'cutting_over';
    END IF;
    IF wfc > 0 AND wfc + completed = total THEN RETURN 'waiting_for_cutover'; END IF;
    IF wfd > 0 AND wfd + completed = total THEN RETURN 'waiting_for_deploy'; END IF;
    IF c ? 'revert_window' THEN RETURN 'revert_window'; END IF;
    IF c ? 'running' THEN RETURN 'running'; END IF;
    IF head THEN
        IF c ? 'pending' AND c ?| '{catching_up,checksumming,post_checksum,cutting_over}' THEN RETURN 'running'; END IF;
        IF c ? 'catching_up' THEN RETURN 'catching_up'; END IF;
        IF c ? 'checksumming' THEN RETURN 'checksumming'; END IF;
        IF c ? 'post_checksum' THEN RETURN 'post_checksum'; END IF;
    END IF;
    RETURN 'pending';
END $$;

-- C.6 scenario 1: the 26 states and one that is none, which counts as pending
CREATE TEMP TABLE kind AS
    SELECT key AS name, key AS counts_as, value::int AS n FROM jsonb_each_text(jobstate.apply_state_ids())
    UNION ALL SELECT 'of another system', 'pending', 27;
CREATE TEMP TABLE multiset AS
    SELECT '{}'::text[] AS names, '{}'::text[] AS counts_as
    UNION ALL SELECT ARRAY[name], ARRAY[counts_as] FROM kind
    UNION ALL SELECT ARRAY[a.name, b.name], ARRAY[a.counts_as, b.counts_as] FROM kind a JOIN kind b ON a.n <= b.n
    UNION ALL SELECT ARRAY[a.name, b.name, c.name], ARRAY[a.counts_as, b.counts_as, c.counts_as]
      FROM kind a JOIN kind b ON a.n <= b.n JOIN kind c ON b.n <= c.n;
SELECT profile, count(*) AS multisets,
       count(*) FILTER (WHERE jobstate.fold_states(profile, names) = pg_temp.c2(profile, counts_as)) AS as_in_c2
  FROM multiset, unnest('{head,seed}'::text[]) profile GROUP BY profile ORDER BY profile;
SELECT profile, names, jobstate.fold_states(profile, names) AS is, pg_temp.c2(profile, counts_as) AS should_be
  FROM multiset, unnest('{head,seed}'::text[]) profile
 WHERE jobstate.fold_states(profile, names) IS DISTINCT FROM pg_temp.c2(profile, counts_as) LIMIT 5;

-- the order means nothing
SELECT count(*) AS differ FROM kind a, kind b
 WHERE jobstate.fold_states('head', ARRAY[a.name, b.name]) <> jobstate.fold_states('head', ARRAY[b.name, a.name]);
-- each state that can come out comes out of itself; the others, alone, are pending
SELECT profile, string_agg(name, ', ' ORDER BY n) AS alone_pending FROM kind, unnest('{head,seed}'::text[]) profile
 WHERE jobstate.fold_states(profile, ARRAY[name]) = 'pending' GROUP BY profile ORDER BY profile;
SELECT count(*) AS no_round_trip FROM kind
 WHERE jobstate.fold_states('head', ARRAY[name]) NOT IN (name, 'pending');

-- the consequences that C.2 lists
SELECT states, jobstate.fold_states('seed', states) AS seed, jobstate.fold_states('head', states) AS head
  FROM (VALUES ('{completed,pending}'::text[]), ('{waiting_for_cutover,pending}'), ('{waiting_for_cutover,waiting_for_deploy}'),
               ('{waiting_for_cutover,running}'), ('{waiting_for_cutover,cutting_over}'), ('{revert_window,running}'),
               ('{stopped,completed,pending}'), ('{failed,cancelled}'), ('{cancelled,stopped}'), ('{reverted,completed}'),
               ('{reverting,reverted}'), ('{cutting_over,running}'), ('{cutting_over,pending}'), ('{cutting_over,checksumming}')) v (states);

-- old names, any case; the prefix makes it another word; NULL and '' are pending
SELECT states, jobstate.fold_states('head', states)
  FROM (VALUES ('{complete}'::text[]), ('{COMPLETED,Complete}'), ('{recovering_cutover}'), ('{STATE_COMPLETED}'),
               ('{NULL}'), ('{""}'), ('{completed,NULL}'), ('{NULL,cutting_over}'), ('{}')) v (states);
SELECT raw, jobstate.task_state_name(raw) FROM unnest('{STATE_COMPLETE,Running,copying_rows,state_failed,NULL}'::text[]) raw;

SELECT jobstate.fold_states('tail', '{running}');                        -- fails
SELECT jobstate.fold_states('head', NULL);                               -- fails
SELECT jobstate.fold_states(NULL, '{}');                                 -- fails
