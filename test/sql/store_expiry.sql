-- store_expiry: an expired record does not exist, and is counted when it is removed.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.install('store');
CREATE FUNCTION pg_temp.expire(which text) RETURNS void LANGUAGE sql AS $$
    UPDATE jobstate.store SET expires_at = clock_timestamp() - interval '1 s', check_at = clock_timestamp() - interval '1 s'
     WHERE id ~ which
$$;
CREATE FUNCTION pg_temp.rolled() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT state || ' ' || rolled_up FROM jobstate.totals('jobstate.store') WHERE rolled_up > 0
$$;

-- B.5 scenario 8: gone at once, without any purge; the same id can be had again
SELECT jobstate.store_create('e1', '{"status": "queued"}', '0.2 s') IS NOT NULL;
SELECT pg_sleep(0.25);
SELECT jobstate.store_get('e1') IS NULL, (SELECT count(*) FROM jobstate.store_records WHERE id = 'e1');
SELECT n FROM jobstate.counts('jobstate.store') WHERE state = 'queued';
SELECT jobstate.store_create('e1', '{"status": "pending"}');

-- expiry goes by the clock, however old the transaction is
BEGIN;
SELECT jobstate.store_create('e2', '{}') IS NOT NULL;
SELECT jobstate.store_get('e2') IS NOT NULL;
UPDATE jobstate.store SET expires_at = clock_timestamp() WHERE id = 'e2';
SELECT jobstate.store_get('e2') IS NULL, (SELECT count(*) FROM jobstate.store_status('e2'));
ROLLBACK;

-- B.5 scenario 9: every effective update begins the time to live anew, and nothing else does
SELECT jobstate.store_create('e3', '{"error": null}', '2 h') IS NOT NULL;
UPDATE jobstate.store SET expires_at = expires_at - interval '1 h' WHERE id = 'e3' RETURNING expires_at AS soon \gset
SELECT jobstate.store_update('e3', '{"error": null}') IS NOT NULL, jobstate.store_get('e3') IS NOT NULL,
       jobstate.store_clear('e3', '{error,none}') IS NOT NULL, jobstate.store_cas('e3', 'error', '1', '2');
SELECT expires_at = :'soon' AS not_refreshed FROM jobstate.store WHERE id = 'e3';
SELECT jobstate.store_update('e3', '{"error": "x"}') IS NOT NULL;
SELECT expires_at > :'soon'::timestamptz + interval '30 min' AS refreshed, expires_at < clock_timestamp() + interval '2 h' AS to_its_own
  FROM jobstate.store WHERE id = 'e3';

-- B.3 bug 2: no write brings an expired record back
SELECT jobstate.store_create('e4', '{"status": "transcribing"}') IS NOT NULL;
SELECT token AS held FROM jobstate.store_begin('e4') \gset
SELECT pg_temp.expire('e4');
SELECT jobstate.store_update('e4', '{"error": "x"}');                            -- fails
SELECT jobstate.store_update('e4', '{"error": "x"}', :'held');                   -- fails
SELECT jobstate.store_update('e4', '{}');                                        -- fails
SELECT jobstate.store_put('e4', 'o', 'k', '1');                                  -- fails
SELECT jobstate.store_incr('e4', 'n');                                           -- fails
SELECT jobstate.store_append('e4', 'a', '1');                                    -- fails
SELECT jobstate.store_cas('e4', 'error', NULL, '"x"');                           -- fails
SELECT jobstate.store_clear('e4', '{error}');                                    -- fails
SELECT jobstate.store_begin('e4');                                               -- fails
SELECT jobstate.store_complete('e4', '{}');                                      -- fails
SELECT jobstate.store_fail('e4', 'x');                                           -- fails
SELECT jobstate.store_enqueue_failed('e4');                                      -- fails
SELECT jobstate.store_results('e4');                                             -- fails
SELECT jobstate.store_delete('e4');
-- an upsert makes a new one, with nothing of it
SELECT jobstate.store_update('e4', '{"error": "x"}', upsert => true);
SELECT attempt, token FROM jobstate.store WHERE id = 'e4';

-- what expired is removed by maintenance, and counted by status; also what made room for others
SELECT pg_temp.expire('^e[134]');
SELECT jobstate.store_create('e5', '{"status": "completed"}') IS NOT NULL;
CALL jobstate.maintain();
SELECT id FROM jobstate.store ORDER BY id;
SELECT * FROM pg_temp.rolled();
SELECT state, total FROM jobstate.totals('jobstate.store') WHERE total > 0;
-- a record whose expiry moved is looked at again later
SELECT pg_temp.expire('e5'), jobstate.store_create('e6', '{}', '1 s') IS NOT NULL;
UPDATE jobstate.store SET expires_at = clock_timestamp() + interval '1 h', check_at = clock_timestamp() - interval '1 s' WHERE id = 'e6';
SELECT jobstate.store_prune(), jobstate.store_prune();
SELECT id, check_at = expires_at AS looked_at_then, expired_at FROM jobstate.store;
SELECT * FROM pg_temp.rolled();
-- a batch is a batch
SELECT count(jobstate.store_create('e7' || i, '{}')) FROM generate_series(1, 5) i;
SELECT pg_temp.expire('e7');
SELECT jobstate.store_prune(2), jobstate.store_prune(2), jobstate.store_prune(2), jobstate.store_prune(2);
SELECT * FROM jobstate.verify('jobstate.store');

-- times to live: above zero, 86400 s unless another default is set
SELECT jobstate.store_create('e8', '{}', '0');                                   -- fails
SELECT jobstate.store_create('e8', '{}', '-1 s');                                -- fails
SELECT jobstate.store_create('e8', '{}', NULL);                                  -- fails
UPDATE jobstate.store_setting SET ttl = '0';                                     -- fails
SELECT jobstate.store_ttl();
UPDATE jobstate.store_setting SET ttl = '2 h';
SELECT jobstate.store_create('e8', '{}') IS NOT NULL, jobstate.store_update('e9', '{"n": 1}', upsert => true) IS NOT NULL;
SELECT id, ttl, expires_at - created_at AS lives FROM jobstate.store WHERE id IN ('e8', 'e9') ORDER BY id;
UPDATE jobstate.store_setting SET ttl = '86400 s';
-- an update writes to no index, whatever it changes
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT jobstate.store_update('e8', '{"status": "transcribing", "progress": {"percent_complete": 1}}') IS NOT NULL;
SELECT pg_stat_get_xact_tuples_updated('jobstate.store'::regclass), pg_stat_get_xact_tuples_hot_updated('jobstate.store'::regclass);
COMMIT;
DELETE FROM jobstate.store;
DELETE FROM jobstate.rollup WHERE target = 'jobstate.store'::regclass;
