-- apply_derive: an apply's state, end, error and reason follow from all its operations,
-- whoever writes them (C.6, scenarios 2 to 7, 10, 11, 22).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');
SELECT setval('jobstate.apply_id_seq', 80100, false), setval('jobstate.operation_id_seq', 80100, false);
-- an apply and its operations by name, with what they are under
CREATE FUNCTION pg_temp.new(name text, policy text, VARIADIC deployments text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT apply_id FROM jobstate.apply_create(name, 'mysql', 'derive',
        (SELECT jsonb_agg(jsonb_build_object('deployment', d)) FROM unnest(deployments) d),
        apply_identifier => name, on_failure => policy, cutover_policy => 'parallel', max_drivers => 9)
$$;
-- by plain statements, as an ORM would
CREATE FUNCTION pg_temp.put(name text, deployment text, VARIADIC states text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s text;
BEGIN
    FOREACH s IN ARRAY states LOOP
        UPDATE jobstate.operation o SET state = s, started_at = CASE WHEN s <> 'pending' THEN coalesce(o.started_at, clock_timestamp()) END
          FROM jobstate.apply a WHERE a.id = o.apply_id AND a.apply_identifier = name AND o.deployment = put.deployment;
    END LOOP;
END $$;
CREATE TEMP VIEW applies AS
    SELECT apply_identifier AS apply, state, completed_at IS NOT NULL AS ended, error_message AS error, reason, completed_at, id
      FROM jobstate.apply WHERE environment = 'derive' ORDER BY id;

-- C.6 scenario 2: one operation
SELECT pg_temp.new('done', 'halt', 'a'), pg_temp.new('stopped', 'halt', 'a'), pg_temp.new('retry', 'halt', 'a');
SELECT pg_temp.put('done', 'a', 'running', 'completed'), pg_temp.put('stopped', 'a', 'running', 'stopped'),
       pg_temp.put('retry', 'a', 'running', 'failed_retryable');
SELECT apply, state, ended, error, reason FROM applies;

-- C.6 scenario 3: two operations; one of them is never the whole
SELECT pg_temp.new('two', 'halt', 'a', 'b');
SELECT pg_temp.put('two', 'a', 'running', 'completed');
SELECT state, ended FROM applies WHERE apply = 'two';
SELECT pg_temp.put('two', 'b', 'running');
SELECT state, ended FROM applies WHERE apply = 'two';
SELECT pg_temp.put('two', 'b', 'completed');
SELECT state, ended FROM applies WHERE apply = 'two';

-- C.6 scenario 4: a failure under halt, while another one runs
SELECT pg_temp.new('halt', 'halt', 'us-east', 'b');
SELECT pg_temp.put('halt', 'us-east', 'running'), pg_temp.put('halt', 'b', 'running');
UPDATE jobstate.operation SET state = 'failed', error_message = 'disk full' WHERE deployment = 'us-east' AND apply_id = (SELECT id FROM applies WHERE apply = 'halt');
SELECT state, ended, error FROM applies WHERE apply = 'halt';
SELECT clock_timestamp() AS b_ends \gset
SELECT pg_temp.put('halt', 'b', 'completed');
SELECT state, ended, error, completed_at >= :'b_ends' AS at_the_end FROM applies WHERE apply = 'halt';

-- C.6 scenario 5: under continue, and under pause
SELECT pg_temp.new('continue', 'continue', 'a', 'c');
SELECT pg_temp.put('continue', 'a', 'running', 'failed');
SELECT state, ended, reason FROM applies WHERE apply = 'continue';
SELECT pg_temp.put('continue', 'c', 'running', 'completed');
SELECT state, ended, reason FROM applies WHERE apply = 'continue';
SELECT pg_temp.new('pause', 'pause', 'a', 'b') AS pause \gset
SELECT pg_temp.put('pause', 'a', 'running', 'failed');
SELECT state, ended, reason FROM applies WHERE apply = 'pause';
SELECT jobstate.apply_release(:pause), jobstate.apply_release(:pause);
SELECT state, ended, reason FROM applies WHERE apply = 'pause';
SELECT pg_temp.put('pause', 'b', 'running', 'completed');
SELECT state, ended, reason FROM applies WHERE apply = 'pause';

-- C.6 scenario 7: no end while a sibling is open, nor while it is stopped; one end
SELECT pg_temp.new('end', 'halt', 'a', 'b');
SELECT pg_temp.put('end', 'a', 'running', 'completed'), pg_temp.put('end', 'b', 'running', 'stopped');
SELECT state, ended FROM applies WHERE apply = 'end';
SELECT pg_temp.put('end', 'b', 'resuming');
SELECT state, ended FROM applies WHERE apply = 'end';
SELECT pg_temp.put('end', 'b', 'running', 'completed');
SELECT completed_at AS first_end, id AS end_id FROM applies WHERE apply = 'end' \gset
SELECT pg_temp.put('end', 'b', 'completed');
UPDATE jobstate.operation SET error_message = 'too late' WHERE apply_id = :end_id;
SELECT state, ended, error, completed_at = :'first_end' AS same FROM applies WHERE apply = 'end';
-- the error is that of the first that failed with one, not of the last
SELECT pg_temp.new('errors', 'halt', 'a', 'b', 'c');
SELECT pg_temp.put('errors', d, 'running') FROM unnest('{a,b,c}'::text[]) d;
UPDATE jobstate.operation SET state = 'failed', error_message = CASE deployment WHEN 'a' THEN '' ELSE 'of ' || deployment END
 WHERE apply_id = (SELECT id FROM applies WHERE apply = 'errors');
SELECT state, error FROM applies WHERE apply = 'errors';

-- C.6 scenario 10: a row that is moved or deleted counts where it is
SELECT pg_temp.new('from', 'halt', 'a', 'b') AS "from", pg_temp.new('to', 'halt', 'c') AS "to" \gset
SELECT pg_temp.put('from', 'a', 'running'), pg_temp.put('to', 'c', 'running', 'catching_up');
SELECT apply, state FROM applies WHERE apply IN ('from', 'to');
UPDATE jobstate.operation SET apply_id = :to WHERE apply_id = :from AND deployment = 'a';
SELECT apply, state FROM applies WHERE apply IN ('from', 'to');
DELETE FROM jobstate.operation WHERE apply_id = :to AND deployment = 'a';
SELECT apply, state FROM applies WHERE apply IN ('from', 'to');
-- the last one that goes leaves a pending apply; a settled one keeps its last
DELETE FROM jobstate.operation WHERE apply_id = :to;
SELECT apply, state, reason FROM applies WHERE apply = 'to';
DELETE FROM jobstate.operation WHERE apply_id = (SELECT id FROM applies WHERE apply = 'done');   -- fails
-- and what would open it again is refused
INSERT INTO jobstate.operation (apply_id, deployment) SELECT id, 'late' FROM jobstate.apply WHERE apply_identifier = 'done';   -- fails

-- C.6 scenario 11: nobody writes what is derived
UPDATE jobstate.apply SET state = 'completed' WHERE apply_identifier = 'two' OR apply_identifier = 'from';         -- fails
INSERT INTO jobstate.apply (database_name, database_type, environment, state) VALUES ('x', 'mysql', 'derive', 'running');   -- fails

-- C.6 scenario 22: the same state again writes nothing to the apply
SELECT pg_temp.put('from', 'b', 'running');
SELECT xmin AS before FROM jobstate.apply WHERE apply_identifier = 'from' \gset
SELECT pg_temp.put('from', 'b', 'running');
UPDATE jobstate.operation SET progress = '{"rows": 1}' WHERE apply_id = :from;
SELECT xmin = :'before' AS untouched FROM jobstate.apply WHERE apply_identifier = 'from';

-- rolled back, it never was; deleted, all goes
BEGIN;
SELECT pg_temp.put('from', 'b', 'completed');
SELECT jobstate.derive_now();
SELECT state FROM applies WHERE apply = 'from';
ROLLBACK;
SELECT state FROM applies WHERE apply = 'from';
DELETE FROM jobstate.apply WHERE environment = 'derive';
DELETE FROM jobstate.apply_target WHERE environment = 'derive';
SELECT count(*) FROM jobstate.operation o WHERE NOT EXISTS (SELECT FROM jobstate.apply a WHERE a.id = o.apply_id);
SELECT * FROM jobstate.verify();
