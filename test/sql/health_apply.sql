-- health_apply: applies that nobody works on, that wait for a decision, or that are
-- settled and were not swept.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 89100, false), setval('jobstate.operation_id_seq', 89100, false);
CREATE VIEW regress_found AS
    SELECT check_name, object, status, regexp_replace(detail, '\d{4}-\d\d-\d\d [0-9:+-]+', 'TIME', 'g') AS detail, fix
      FROM jobstate.health() WHERE check_name ~ '^(apply|health)' AND (object IS NULL OR object ~ '^apply 891|^jobstate.apply$');
CREATE FUNCTION pg_temp.new(name text, policy text) RETURNS bigint LANGUAGE sql AS $$
    SELECT apply_id FROM jobstate.apply_create(name, 'mysql', 'health', '[{"deployment": "a"}, {"deployment": "b"}]',
        on_failure => policy, apply_identifier => 'regress ' || name)
$$;
UPDATE jobstate.apply SET reaped_at = now() WHERE reaped_at IS NULL;
SELECT * FROM regress_found;

SELECT pg_temp.new('nobody', 'halt') AS nobody, pg_temp.new('gone', 'halt') AS gone, pg_temp.new('pause', 'pause') AS pause,
       pg_temp.new('over', 'halt') AS over, pg_temp.new('fine', 'halt') AS fine \gset
SELECT state FROM unnest(ARRAY[:gone, :pause, :over, :fine]) i, LATERAL jobstate.operation_claim('driver', '1 hour', only_apply => i);
SELECT jobstate.operation_fail(o.id, o.token, 'broken', false) FROM jobstate.operation o
 WHERE o.apply_id IN (:pause, :over) AND o.deployment = 'a' ORDER BY o.id;
SELECT * FROM regress_found;
SELECT name, value FROM jobstate.metrics WHERE name ~ '^jobstate_apply' ORDER BY 1;
-- and all of this was a while ago
UPDATE jobstate.apply SET created_at = now() - interval '1 hour' WHERE id >= 89100;
UPDATE jobstate.operation SET updated_at = now() - interval '1 hour' WHERE apply_id >= 89100;
UPDATE jobstate.operation SET lease_until = now() - interval '11 minutes' WHERE apply_id = :gone AND lease_until IS NOT NULL;
UPDATE jobstate.apply SET completed_at = now() - interval '1 hour' WHERE id = :over;
SELECT * FROM regress_found;
SELECT name, value FROM jobstate.metrics WHERE name ~ '^jobstate_apply' ORDER BY 1;
SELECT fix FROM regress_found WHERE check_name = 'apply unswept' \gexec
SELECT fix FROM regress_found WHERE check_name = 'apply paused' \gexec
SELECT check_name, object, status FROM regress_found;
-- no SQL starts drivers; that they come is what mends it
SELECT count(*) FROM unnest(ARRAY[:nobody, :gone, :pause]) i, LATERAL jobstate.operation_claim('driver', '1 hour', only_apply => i);
SELECT * FROM regress_found;
-- nor can they come where one failed under halt and the other has come to its cutover
SELECT apply_id AS rests FROM jobstate.apply_create('rests', 'mysql', 'health', '[{"deployment": "a"}, {"deployment": "b"}]',
    cutover_policy => 'barrier', apply_identifier => 'regress rests') \gset
SELECT jobstate.operation_progress(c.operation_id, c.token, 'waiting_for_cutover') FROM jobstate.operation_claim('driver', only_apply => :rests) c;
SELECT jobstate.operation_progress(c.operation_id, c.token, 'waiting_for_cutover') FROM jobstate.operation_claim('driver', only_apply => :rests) c;
SELECT jobstate.operation_fail(id, token, 'broken') FROM jobstate.operation WHERE apply_id = :rests AND deployment = 'a';
UPDATE jobstate.operation SET lease_until = NULL WHERE apply_id = :rests;
UPDATE jobstate.apply SET created_at = now() - interval '1 hour' WHERE id = :rests;
UPDATE jobstate.operation SET updated_at = now() - interval '1 hour' WHERE apply_id = :rests;
SELECT regexp_replace(detail, 'operation \d+', 'operation N', 'g') AS detail FROM regress_found WHERE object = 'apply ' || :rests;
SELECT count(*) FROM jobstate.metrics WHERE name = 'jobstate_metrics_failed' AND value <> 0;
DROP VIEW regress_found;
DELETE FROM jobstate.apply WHERE id >= 89100;
