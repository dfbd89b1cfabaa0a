-- applies: from operations to the apply ---------------------------------------------
--
-- Four rule sets.  "head" and "seed" are the fold as it is and as it began; each
-- "..._rollout" puts the policies for failures before it.  The apply's state is
-- derived by "apply_head_rollout" unless apply_use_rules() says otherwise.

-- apply_fold_rules: the fold of a profile, in order.  The states that are listed
-- last count as nothing: a lone one is pending.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_fold_rules(profile text)
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(rule ORDER BY ord)
      FROM unnest(ARRAY[
        'empty -> pending',
        'any failed -> failed',
        'any failed_retryable -> failed_retryable',
        'any cancelled -> cancelled',
        'any stopped -> stopped',
        CASE profile WHEN 'head' THEN 'any reverting -> reverting' END,
        'any reverted -> reverted',
        'all completed -> completed',
        'any recovering -> recovering',
        CASE profile WHEN 'head'
             THEN 'any cutting_over and none pending, running, catching_up, checksumming, post_checksum -> cutting_over'
             ELSE 'any cutting_over -> cutting_over' END,
        'all waiting_for_cutover, completed -> waiting_for_cutover',
        'all waiting_for_deploy, completed -> waiting_for_deploy',
        'any revert_window -> revert_window',
        'any running -> running',
        CASE profile WHEN 'head'
             THEN 'any pending and any catching_up, checksumming, post_checksum, cutting_over -> running' END,
        CASE profile WHEN 'head' THEN 'any catching_up -> catching_up' END,
        CASE profile WHEN 'head' THEN 'any checksumming -> checksumming' END,
        CASE profile WHEN 'head' THEN 'any post_checksum -> post_checksum' END,
        'always -> pending']) WITH ORDINALITY r (rule, ord)
     WHERE rule IS NOT NULL
$$;
COMMENT ON FUNCTION jobstate.apply_fold_rules(text)
    IS 'internal: the rules of a profile, head or seed';

-- apply_rollout_rules: what a failure means, by the policy of who failed.  What is
-- not settled holds its deployment; but what only waits has begun nothing, and what
-- is orphaned never will.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_rollout_rules()
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    'any failed/halt and any not completed, failed, cancelled, reverted, pending/waiting, pending/orphaned, stopped/never_started, stopped/orphaned -> running_degraded',
    'any failed/halt -> failed',
    'any failed/pause and later not completed, failed, cancelled, reverted, pending/orphaned, stopped/orphaned -> paused',
    'any failed and all completed, failed, cancelled, reverted, pending/orphaned, stopped/orphaned -> failed',
    'any failed -> running_degraded'];
COMMENT ON FUNCTION jobstate.apply_rollout_rules()
    IS 'internal: the rules that stand before the fold, for failures under halt, continue and pause';

-- apply_define_rules: defines a rule set, unless it is that already: a definition
-- keeps writers of what is derived by it out.
-- Writes: rule_set, rule.  Locks: what define_rules() locks.
CREATE FUNCTION jobstate.apply_define_rules(rule_set text, rules text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF rules IS DISTINCT FROM (SELECT array_agg(r.condition || ' -> ' || r.result ORDER BY r.ord)
                                 FROM jobstate.rules r WHERE r.rule_set = $1) THEN
        PERFORM jobstate.define_rules($1, $2, 'pending');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_define_rules(text, text[])
    IS 'internal: defines a rule set where it is not what it should be';

-- apply_install_rules: defines the rule sets.
-- Writes: rule_set, rule.  Locks: what define_rules() locks.
CREATE FUNCTION jobstate.apply_install_rules()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    profile text;
BEGIN
    FOREACH profile IN ARRAY ARRAY['head', 'seed'] LOOP
        PERFORM jobstate.apply_define_rules('apply_' || profile, jobstate.apply_fold_rules(profile));
        PERFORM jobstate.apply_define_rules('apply_' || profile || '_rollout', jobstate.apply_rollout_rules()
            || array_remove(jobstate.apply_fold_rules(profile), 'any failed -> failed'));
    END LOOP;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_rules()
    IS 'internal: defines the rule sets apply_head, apply_seed and their _rollout';

-- apply_derive: the apply follows from its operations by a rule set.  Where it has
-- none, it is from before there were operations, and follows from its tasks.
-- Writes: derivation.  Locks: the tables against writers.
CREATE FUNCTION jobstate.apply_derive(rule_set text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.derive('jobstate.apply', 'jobstate.operation', 'apply_id', rule_set,
        completed_at => 'completed_at', error => 'error_message', reason => 'reason',
        child_error => 'failure', child_variant => 'variant', child_order => '{created_at,id}');
    PERFORM jobstate.derive('jobstate.apply', 'jobstate.task', 'legacy_apply_id',
        regexp_replace(rule_set, '_rollout$', ''),
        completed_at => 'completed_at', error => 'error_message', reason => 'reason',
        child_error => 'error_message', child_order => '{created_at,id}');
END
$$;
COMMENT ON FUNCTION jobstate.apply_derive(text)
    IS 'internal: derives applies from operations, else from tasks';

-- apply_install_derivation: by the rules as they are at HEAD, unless there are
-- others already.
-- Writes: derivation.  Locks: the tables against writers, the first time.
CREATE FUNCTION jobstate.apply_install_derivation()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobstate.derivations d WHERE d.parent = 'jobstate.apply'::regclass) THEN
        PERFORM jobstate.apply_derive('apply_head_rollout');
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_install_derivation()
    IS 'internal: derives applies by the default rules, the first time';

-- apply_use_rules: derives applies by another rule set: one of the four, or one of
-- your own.  Refused with 23514 as long as that would open an apply that is settled,
-- because of operations that were left waiting; maintenance ends these.
-- Writes: derivation, and apply where the new rules give another state.
-- Locks: the tables against writers.
CREATE FUNCTION jobstate.apply_use_rules(rule_set text DEFAULT 'apply_head_rollout')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.require_argument('rule_set', rule_set);
    PERFORM jobstate.underive('jobstate.apply', 'jobstate.operation');
    PERFORM jobstate.underive('jobstate.apply', 'jobstate.task');
    PERFORM jobstate.apply_derive(rule_set);
END
$$;
COMMENT ON FUNCTION jobstate.apply_use_rules(text)
    IS 'derives applies by another rule set from here on';

-- apply_state_name: a state's name as the fold takes it: any case, old names too;
-- NULL for what is no state.  A prefix "STATE_" makes it something else.
-- task_state_name: the same for what an engine says, with the prefix taken off: what
-- nobody knows is running.
-- Write nothing, lock nothing.
CREATE FUNCTION jobstate.apply_state_name(raw text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE lower(raw) WHEN 'complete' THEN 'completed'
                       WHEN 'recovering_cutover' THEN 'recovering'
                       ELSE CASE WHEN jobstate.apply_state_ids() ? lower(raw) THEN lower(raw) END END;
COMMENT ON FUNCTION jobstate.apply_state_name(text)
    IS 'a state by any of its names, in any case; NULL if it is none';

CREATE FUNCTION jobstate.task_state_name(raw text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(jobstate.apply_state_name(regexp_replace(raw, '^STATE_', '', 'i')), 'running');
COMMENT ON FUNCTION jobstate.task_state_name(text)
    IS 'an engine''s word for a state as a state: without STATE_, running if nobody knows it';

-- apply_require_profile: refuses what is neither head nor seed.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.apply_require_profile(profile text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    PERFORM jobstate.require_argument('profile', profile);
    IF profile NOT IN ('head', 'seed') THEN
        RAISE EXCEPTION 'profile "%" does not exist', profile
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Profiles: head, seed.';
    END IF;
END
$$;
COMMENT ON FUNCTION jobstate.apply_require_profile(text)
    IS 'internal: raises 22023 unless a profile is head or seed';

-- fold_states: the state that follows from these, policies aside.  What is NULL or
-- no state counts as pending.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_states(profile text, states text[])
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM jobstate.apply_require_profile(profile);
    PERFORM jobstate.require_argument('states', states);
    RETURN jobstate.fold('apply_' || profile,
        ARRAY(SELECT jobstate.apply_state_name(s) FROM unnest(states) WITH ORDINALITY u (s, ord) ORDER BY ord));
END
$$;
COMMENT ON FUNCTION jobstate.fold_states(text, text[])
    IS 'the apply''s state for operations in these states, by profile head or seed';

-- fold_variant: what the rules know of an operation beside its state, from words: a
-- failure's policy (halt, continue, pause, released), "never_started" of one that was
-- stopped, "orphaned" of one that will never run.  What is no state is unsettled.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_variant(state text, policy text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN state IS NULL THEN 'unknown'
    WHEN state IN ('pending', 'stopped') AND policy = 'orphaned' THEN 'orphaned'
    WHEN state = 'pending' THEN 'waiting'
    WHEN state = 'stopped' THEN CASE WHEN policy = 'never_started' THEN policy ELSE 'started' END
    WHEN state = 'failed' THEN CASE WHEN policy IN ('continue', 'released') THEN 'continue'
                                    WHEN policy = 'pause' THEN 'pause' ELSE 'halt' END END;
COMMENT ON FUNCTION jobstate.fold_variant(text, text)
    IS 'internal: an operation''s variant, for fold_rollout()';

-- fold_rollout: the same with a policy for each operation, in their order.
-- Writes nothing, locks nothing.
CREATE FUNCTION jobstate.fold_rollout(profile text, states text[], policies text[])
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    names text[];
    variants text[];
BEGIN
    PERFORM jobstate.apply_require_profile(profile);
    PERFORM jobstate.require_argument('states', states);
    PERFORM jobstate.require_argument('policies', policies);
    IF cardinality(states) <> cardinality(policies) THEN
        RAISE EXCEPTION 'arguments "states" and "policies" differ in length'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('They have %s and %s elements.', cardinality(states), cardinality(policies));
    END IF;
    SELECT coalesce(array_agg(coalesce(u.name, 'pending') ORDER BY u.ord), '{}'),
           coalesce(array_agg(jobstate.fold_variant(u.name, u.policy) ORDER BY u.ord), '{}')
      INTO names, variants
      FROM (SELECT jobstate.apply_state_name(s) AS name, p AS policy, ord
              FROM unnest(states, policies) WITH ORDINALITY a (s, p, ord)) u;
    RETURN jobstate.fold('apply_' || profile || '_rollout', names, variants);
END
$$;
COMMENT ON FUNCTION jobstate.fold_rollout(text, text[], text[])
    IS 'the apply''s state for operations in these states that fail under these policies';
