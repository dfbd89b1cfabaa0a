-- fold_rollout: what a failure means for the apply, held against the steps of C.3 as
-- they are written there, for every list of up to three operations and policies.
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');

-- C.3, step by step.  An operation is (state, policy); the base is the fold, which has
-- a test of its own.
CREATE FUNCTION pg_temp.c3(profile text, states text[], policies text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    base text := jobstate.fold_states(profile, states);
    settled boolean[];
    idle boolean[];         -- pending, or stopped before it was ever claimed
    orphan boolean[];
    hard boolean := false;
    held boolean := false;
    i int;
BEGIN
    IF base <> 'failed' THEN
        RETURN base;
    END IF;
    FOR i IN 1 .. cardinality(states) LOOP
        orphan[i] := states[i] IN ('pending', 'stopped') AND policies[i] = 'orphaned';
        settled[i] := states[i] IN ('completed', 'failed', 'cancelled', 'reverted') OR orphan[i];
        idle[i] := states[i] = 'pending' OR states[i] = 'stopped' AND policies[i] = 'never_started';
    END LOOP;
    FOR i IN 1 .. cardinality(states) LOOP
        CONTINUE WHEN states[i] <> 'failed';
        IF policies[i] IN ('continue', 'released') THEN
            CONTINUE;
        ELSIF policies[i] = 'pause' THEN
            held := held OR EXISTS (SELECT FROM generate_series(i + 1, cardinality(states)) later WHERE NOT settled[later]);
        ELSE
            hard := true;
        END IF;
    END LOOP;
    IF hard THEN
        RETURN CASE WHEN EXISTS (SELECT FROM generate_subscripts(states, 1) k WHERE NOT settled[k] AND NOT idle[k])
                    THEN 'running_degraded' ELSE 'failed' END;
    END IF;
    IF held THEN
        RETURN 'paused';
    END IF;
    RETURN CASE WHEN true = ALL (settled) THEN 'failed' ELSE 'running_degraded' END;
END $$;

-- the 26 states, one that is none, and what a state has beside it
CREATE TEMP TABLE kind AS
    SELECT key AS state, '' AS policy FROM jsonb_each_text(jobstate.apply_state_ids()) WHERE key <> 'failed'
    UNION ALL SELECT 'of another system', ''
    UNION ALL SELECT 'failed', unnest('{halt,continue,pause,released,whatever}'::text[])
    UNION ALL SELECT 'stopped', unnest('{never_started,orphaned}'::text[])
    UNION ALL SELECT 'pending', 'orphaned';
CREATE TEMP TABLE list AS
    SELECT '{}'::text[] AS states, '{}'::text[] AS policies
    UNION ALL SELECT ARRAY[state], ARRAY[policy] FROM kind
    UNION ALL SELECT ARRAY[a.state, b.state], ARRAY[a.policy, b.policy] FROM kind a, kind b
    UNION ALL SELECT ARRAY[a.state, b.state, c.state], ARRAY[a.policy, b.policy, c.policy]
      FROM kind a, kind b, kind c WHERE 'failed' IN (a.state, b.state, c.state);
SELECT count(*) AS lists,
       count(*) FILTER (WHERE jobstate.fold_rollout('head', states, policies) = pg_temp.c3('head', states, policies)) AS as_in_c3
  FROM list;
SELECT states, policies, jobstate.fold_rollout('head', states, policies) AS is, pg_temp.c3('head', states, policies) AS should_be
  FROM list WHERE cardinality(states) < 3 AND jobstate.fold_rollout('head', states, policies) IS DISTINCT FROM pg_temp.c3('head', states, policies) LIMIT 5;
-- over the seed's fold likewise
SELECT count(*) AS differ FROM list
 WHERE cardinality(states) < 3 AND jobstate.fold_rollout('seed', states, policies) <> pg_temp.c3('seed', states, policies);
-- without a failure the policies mean nothing: the same as the fold, three long
SELECT count(*) AS lists, count(*) FILTER (WHERE jobstate.fold_rollout('head', s, '{pause,pause,pause}') = jobstate.fold_states('head', s)) AS as_the_fold
  FROM (SELECT ARRAY[a.state, b.state, c.state] AS s FROM kind a, kind b, kind c
         WHERE 'failed' NOT IN (a.state, b.state, c.state) AND a.policy || b.policy || c.policy = ''
           AND a.state <= b.state AND b.state <= c.state) q;

-- the table that C.3 selects: failed under a policy, then what else there is
CREATE TEMP TABLE selected (states text[], policies text[], result text);
INSERT INTO selected VALUES
    ('{failed,pending}', '{halt,""}', 'failed'), ('{failed,running}', '{halt,""}', 'running_degraded'),
    ('{failed,waiting_for_cutover}', '{halt,""}', 'running_degraded'), ('{failed,failed_retryable}', '{halt,""}', 'running_degraded'),
    ('{failed,stopped}', '{halt,""}', 'running_degraded'), ('{failed,cancelled}', '{halt,""}', 'failed'),
    ('{failed,completed,pending}', '{halt,"",""}', 'failed'),
    ('{failed,pending}', '{continue,""}', 'running_degraded'), ('{failed,completed}', '{continue,""}', 'failed'),
    ('{failed,stopped}', '{continue,""}', 'running_degraded'), ('{failed,failed}', '{continue,continue}', 'failed'),
    ('{failed,pending}', '{pause,""}', 'paused'), ('{failed,running}', '{pause,""}', 'paused'),
    ('{failed,stopped}', '{pause,""}', 'paused'), ('{failed,completed}', '{pause,""}', 'failed'),
    ('{failed,cancelled}', '{pause,""}', 'failed'), ('{failed}', '{pause}', 'failed'),
    ('{running,failed}', '{"",pause}', 'running_degraded'), ('{failed,pending,failed}', '{pause,"",pause}', 'paused'),
    ('{failed,failed,pending}', '{pause,halt,""}', 'failed'), ('{failed,failed,running}', '{pause,halt,""}', 'running_degraded'),
    ('{failed,stopped}', '{halt,never_started}', 'failed'), ('{failed,stopped}', '{pause,never_started}', 'paused'),
    ('{failed,stopped}', '{continue,never_started}', 'running_degraded'), ('{failed,pending}', '{continue,orphaned}', 'failed'),
    ('{failed,stopped}', '{halt,orphaned}', 'failed'), ('{FAILED,STATE_COMPLETED}', '{continue,""}', 'running_degraded');
SELECT count(*) AS selected, count(*) FILTER (WHERE jobstate.fold_rollout('head', states, policies) = result) AS as_said FROM selected;
SELECT *, jobstate.fold_rollout('head', states, policies) AS is FROM selected
 WHERE jobstate.fold_rollout('head', states, policies) IS DISTINCT FROM result;

SELECT jobstate.fold_rollout('head', '{}', '{}');
SELECT jobstate.fold_rollout('head', '{failed,running}', '{halt}');      -- fails
SELECT jobstate.fold_rollout('head', '{failed}', NULL);                  -- fails
SELECT jobstate.fold_rollout('tail', '{failed}', '{halt}');              -- fails

-- the rules themselves, to review
SELECT rule_set, ord, condition, result FROM jobstate.rules WHERE rule_set IN ('apply_head_rollout', 'apply_seed') ORDER BY 1, 2 \g (format=unaligned)
