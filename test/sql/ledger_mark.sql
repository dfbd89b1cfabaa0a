-- ledger_mark: what a processor has seen, and how far it is.
SELECT jobstate.install('ledger');
SELECT jobstate.install('ledger');

-- D.5 scenario 1: the content that was processed, not the name
SELECT jobstate.ledger_mark('regress_verification', 'x/a.jsonl', 'x', 3, 'h1') > now() AS marked;
SELECT f AS fingerprint, jobstate.ledger_is_processed('regress_verification', 'x/a.jsonl', f),
       jobstate.ledger_is_processed('regress_usage', 'x/a.jsonl', f) AS elsewhere
  FROM unnest('{h1,h2,NULL}'::text[]) f;

-- D.5 scenario 2: a mark overwrites the one before; nothing is added up
SELECT processed_at AS before FROM jobstate.ledger WHERE processor = 'regress_verification' \gset
SELECT jobstate.ledger_mark('regress_verification', 'x/a.jsonl', 'y', 0, 'h2') > :'before' AS moved;
SELECT item, state, username, items, fingerprint, processed_at > :'before' AS moved
  FROM jobstate.ledger WHERE processor = 'regress_verification';
SELECT jobstate.ledger_is_processed('regress_verification', 'x/a.jsonl', f) FROM unnest('{h1,h2}'::text[]) f;

-- D.3: what is appended while an item is processed is not lost: processed as of when it was read
SELECT jobstate.ledger_mark('regress_verification', 'x/live.jsonl', 'x', 1, 'h1', read_at => '2026-01-01 10:00:00Z')
       = '2026-01-01 10:00:00Z' AS as_of_reading;
SELECT item FROM jobstate.ledger_unprocessed('regress_verification', '{x/live.jsonl}', '{2026-01-01 10:00:07Z}', '{h1+}');
-- also where it claims to have been read before: the last word counts
SELECT jobstate.ledger_mark('regress_verification', 'x/live.jsonl', 'x', 1, 'h0', read_at => '2025-01-01Z')
       = '2025-01-01Z' AS as_of_reading;
DELETE FROM jobstate.ledger WHERE item = 'x/live.jsonl';

-- D.5 scenario 6: a row without a fingerprint is not processed; nor is what nobody knows
SELECT jobstate.ledger_mark('regress_verification', 'x/null.jsonl', 'x') IS NOT NULL AS marked;
SELECT jobstate.ledger_is_processed('regress_verification', 'x/null.jsonl', f) FROM unnest('{h1,NULL}'::text[]) f;
SELECT item FROM jobstate.ledger_unprocessed('regress_verification', '{x/null.jsonl}', '{2026-01-01}', '{h1}', 'fingerprint');
SELECT * FROM jobstate.ledger_unprocessed('regress_nobody', '{}');
SELECT * FROM jobstate.ledger_items('regress_nobody');
SELECT * FROM jobstate.ledger_items('regress_verification', '{}');
SELECT jobstate.ledger_max_processed_at('regress_nobody');

-- what is known of some items; what is not known is not there
SELECT item, status, state, username, extracted, fingerprint
  FROM jobstate.ledger_items('regress_verification', '{x/a.jsonl,x/none.jsonl}');
SELECT jobstate.ledger_mark('regress_verification', 'x/b.jsonl', 'x', 2) IS NOT NULL AS marked;
SELECT item, status FROM jobstate.ledger_items('regress_verification');

-- D.5 scenario 14: activity since, with the boundary
SELECT jobstate.ledger_mark('regress_usage', n || '.jsonl', 'x', n, 'h', timestamptz '2026-03-01 12:00Z' + n * interval '1 hour')
       IS NOT NULL AS marked FROM generate_series(1, 3) n;
SELECT t, max_processed_at AT TIME ZONE 'UTC' AS max_processed_at, items, processed
  FROM (VALUES ('2026-03-01 14:00Z'::timestamptz), ('2026-03-01 14:00:00.000001Z'), ('2026-03-01 16:00Z'), ('-infinity')) v (t),
       jobstate.ledger_activity('regress_usage', t);
SELECT * FROM jobstate.ledger_activity('regress_nobody');
SELECT jobstate.ledger_max_processed_at('regress_usage') AT TIME ZONE 'UTC';
-- a failure and a claim are no activity
SELECT jobstate.ledger_fail('regress_usage', '9.jsonl', 'no');
SELECT items, processed FROM jobstate.ledger_activity('regress_usage');

-- counts are exact
SELECT group_key ->> 'processor' AS processor, state, n FROM jobstate.counts('jobstate.ledger')
 WHERE group_key ->> 'processor' ~ '^regress' AND n > 0 ORDER BY 1, 2;

-- D.3: a file that is gone leaves no row; a renamed one is not processed again
SELECT jobstate.ledger_retain('regress_usage', '{1.jsonl,2.jsonl,9.jsonl,new.jsonl}');
-- a directory that is not mounted is no reason to forget everything
SELECT jobstate.ledger_retain('regress_usage', '{}') AS none, jobstate.ledger_retain('regress_usage', '{NULL}') AS no_name,
       jobstate.ledger_retain('regress_usage', ARRAY(SELECT NULL::text WHERE false)) AS nothing_found;
SELECT jobstate.ledger_rename('regress_usage', '2.jsonl', 'dir/2.jsonl'), jobstate.ledger_rename('regress_usage', '2.jsonl', 'x'),
       jobstate.ledger_rename('regress_usage', '1.jsonl', 'dir/2.jsonl');
SELECT item, state FROM jobstate.ledger_items('regress_usage');

-- D.5 scenario 13: forgetting by processor
SELECT jobstate.ledger_forget('{regress_usage,regress_nope,NULL}'), jobstate.ledger_forget('{}');
SELECT count(*) FROM jobstate.ledger WHERE processor = 'regress_usage';
SELECT jobstate.ledger_forget('{regress_verification}');
SELECT * FROM jobstate.verify('jobstate.ledger');
