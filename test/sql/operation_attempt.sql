-- operation_attempt: a driver's verbs under its token: heartbeat, progress, ends, each
-- told twice, and by somebody who lost it (C.4; C.6 scenario 23).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80500, false), setval('jobstate.operation_id_seq', 80500, false);
CREATE FUNCTION pg_temp.claim(name text) RETURNS TABLE (op bigint, token uuid) LANGUAGE sql AS $$
    SELECT c.operation_id, c.token
      FROM jobstate.apply_create(name, 'mysql', 'attempt', '[{"deployment": "us-east"}]') a,
           jobstate.operation_claim('driver', only_apply => a.apply_id) c
$$;
CREATE TEMP VIEW seen AS
    SELECT o.state, o.completed_at IS NOT NULL AS ended, o.lease_until IS NOT NULL AS leased, o.retries, o.error_message, a.state AS apply, a.error_message AS says
      FROM jobstate.operation o JOIN jobstate.apply a ON a.id = o.apply_id WHERE a.environment = 'attempt' ORDER BY o.id DESC LIMIT 1;

-- a heartbeat keeps the lease for as long as is said, and knows nothing of what is gone
SELECT op, token FROM pg_temp.claim('work') \gset
SELECT h.lease_until - clock_timestamp() BETWEEN '299 s' AND '300 s' AS five_minutes, h.requests FROM jobstate.operation_heartbeat(:op, :'token', '5 min') h;
SELECT * FROM jobstate.operation_heartbeat(-1, :'token');
SELECT jobstate.operation_heartbeat(:op, gen_random_uuid());             -- fails
SELECT jobstate.operation_heartbeat(:op, :'token', '0 s');               -- fails
SELECT jobstate.operation_heartbeat(:op, NULL);                          -- fails
SELECT started_at AS began FROM jobstate.operation WHERE id = :op \gset

-- progress: what is NULL stays; state by any name; ends are other verbs'
SELECT jobstate.operation_progress(:op, :'token', 'STATE_CATCHING_UP', '{"rows": 5, "of": 9}', '{"pos": 1}');
SELECT jobstate.operation_progress(:op, :'token', progress => '{"rows": 6}');
SELECT state, progress, resume_context, started_at = :'began' AS began_once FROM jobstate.operation WHERE id = :op;
SELECT jobstate.operation_progress(:op, :'token', 'completed');          -- fails
SELECT jobstate.operation_progress(:op, :'token', 'nonsense');           -- fails
SELECT jobstate.operation_progress(:op, :'token', 'skipping_revert');    -- fails
SELECT jobstate.operation_progress(-1, :'token', 'running');             -- fails
SELECT jobstate.operation_progress(:op, :'token', progress => '[1]');    -- fails
-- C.6 scenario 23: only from the state that is expected
SELECT jobstate.operation_progress(:op, :'token', 'running', expected => 'failed'),
       jobstate.operation_progress(:op, :'token', 'checksumming', expected => 'catching_up'),
       jobstate.operation_progress(:op, :'token', 'checksumming', expected => 'checksumming');
SELECT xmin AS before FROM jobstate.operation WHERE id = :op \gset
SELECT jobstate.operation_progress(:op, :'token', 'checksumming', expected => 'checksumming');
SELECT state, xmin = :'before' AS unwritten FROM jobstate.operation WHERE id = :op;
-- a state by any of its names; what is none is not there
SELECT jobstate.operation_progress(:op, :'token', 'running', expected => 'nonsense'),
       jobstate.operation_progress(:op, :'token', 'checksumming', expected => 'STATE_CHECKSUMMING');
SELECT state FROM jobstate.operation WHERE id = :op;

-- completed, once; nothing else follows
SELECT jobstate.operation_complete(:op, :'token'), jobstate.operation_complete(:op, :'token');
SELECT completed_at AS ended FROM jobstate.operation WHERE id = :op \gset
SELECT jobstate.operation_complete(:op, :'token');
SELECT state, completed_at = :'ended' AS ended_once FROM jobstate.operation WHERE id = :op;
SELECT jobstate.operation_fail(:op, :'token', 'after all');              -- fails
SELECT jobstate.operation_heartbeat(:op, :'token');                      -- fails
SELECT jobstate.operation_progress(:op, :'token', 'running');            -- fails
SELECT jobstate.operation_progress(:op, :'token', 'running', expected => 'running'), jobstate.operation_release(:op, :'token');
SELECT jobstate.operation_complete(-1, :'token');                        -- fails
UPDATE jobstate.operation SET state = 'running' WHERE id = :op;          -- fails
SELECT * FROM seen;

-- failed, with what it says; retryable; stopped; cancelled and reverted from outside
SELECT op, token FROM pg_temp.claim('fails') \gset
SELECT jobstate.operation_fail(:op, :'token', 'disk full'), jobstate.operation_fail(:op, :'token', 'again');
SELECT * FROM seen;
SELECT op, token FROM pg_temp.claim('fails for now') \gset
SELECT jobstate.operation_fail(:op, :'token', 'disk full', true, '1 h'), jobstate.operation_fail(:op, :'token', 'again', true);
SELECT * FROM seen;
SELECT retry_at - clock_timestamp() BETWEEN '59 min' AND '1 h' AS in_an_hour FROM jobstate.operation WHERE id = :op;
SELECT jobstate.operation_fail(:op, :'token', 'x', true, '-1 s');        -- fails
SELECT jobstate.operation_fail(:op, :'token', 'x', NULL);                -- fails
SELECT op, token FROM pg_temp.claim('stops') \gset
SELECT jobstate.operation_stop(:op, :'token'), jobstate.operation_stop(:op, :'token');
SELECT * FROM seen;
SELECT op, token FROM pg_temp.claim('is cancelled') \gset
SELECT jobstate.operation_cancel(:op, :'token'), jobstate.operation_cancel(:op, :'token');
SELECT * FROM seen;
SELECT op, token FROM pg_temp.claim('is reverted') \gset
SELECT jobstate.operation_progress(:op, :'token', s) FROM unnest('{cutting_over,revert_window,reverting}'::text[]) s;
SELECT jobstate.operation_complete(:op, :'token');                       -- fails
SELECT jobstate.operation_revert(:op, :'token'), jobstate.operation_revert(:op, :'token');
SELECT * FROM seen;
-- a cutover that has begun is not stopped
SELECT op, token FROM pg_temp.claim('cuts over') \gset
SELECT jobstate.operation_progress(:op, :'token', 'cutting_over');
SELECT jobstate.operation_stop(:op, :'token');                           -- fails
SELECT jobstate.operation_complete(:op, :'token');

-- a heartbeat after the lease has run out keeps it, unless others fill the apply meanwhile
SELECT apply_id AS crowded FROM jobstate.apply_create('crowded', 'mysql', 'attempt',
    '[{"deployment": "us-east"}, {"deployment": "us-west"}]', cutover_policy => 'parallel', max_drivers => 1) \gset
SELECT operation_id AS op, token FROM jobstate.operation_claim('late', only_apply => :crowded, only_deployment => 'us-east') \gset
UPDATE jobstate.operation SET lease_until = now() - interval '1 s' WHERE id = :op;
SELECT h.lease_until > now() AS kept FROM jobstate.operation_heartbeat(:op, :'token') h;
UPDATE jobstate.operation SET lease_until = now() - interval '1 s' WHERE id = :op;
SELECT operation_id AS west, token AS other FROM jobstate.operation_claim('other', only_apply => :crowded, only_deployment => 'us-west') \gset
SELECT jobstate.operation_heartbeat(:op, :'token');                      -- fails
SELECT jobstate.operation_complete(:west, :'other');
SELECT h.lease_until > now() AS kept FROM jobstate.operation_heartbeat(:op, :'token') h;

DELETE FROM jobstate.apply WHERE environment = 'attempt';
DELETE FROM jobstate.apply_target WHERE environment = 'attempt';
SELECT * FROM jobstate.verify();
