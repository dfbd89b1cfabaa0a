-- apply_ways_out: wherever an operation can rest, somebody or something brings it on, and
-- so the apply to its end (C.5: every state that can be dwelt in has a way out).
\set SHOW_CONTEXT never
SELECT jobstate.install('apply');

-- over the rule tables: what can be reached at all, and from where there is no end
CREATE TEMP TABLE reached AS
    WITH RECURSIVE r (machine, state) AS (
        SELECT s.machine, s.name FROM jobstate.state s WHERE s.machine IN ('operation', 'apply_task') AND s.is_initial
        UNION SELECT t.machine, t.to_state FROM r JOIN jobstate.transitions t ON t.machine = r.machine AND t.from_state = r.state)
    SELECT * FROM r;
SELECT s.machine, string_agg(s.name, ', ' ORDER BY s.state_id) AS never_reached FROM jobstate.state s
 WHERE s.machine IN ('operation', 'apply_task') AND (s.machine, s.name) NOT IN (SELECT * FROM reached) GROUP BY s.machine ORDER BY 1;
WITH RECURSIVE ends (machine, state) AS (
    SELECT s.machine, s.name FROM jobstate.state s WHERE s.machine IN ('apply', 'operation', 'apply_task') AND s.is_terminal
    UNION SELECT t.machine, t.from_state FROM ends e JOIN jobstate.transitions t ON t.machine = e.machine AND t.to_state = e.state)
SELECT s.machine, s.name AS no_way_out FROM jobstate.state s
 WHERE s.machine IN ('apply', 'operation', 'apply_task') AND (s.machine, s.name) NOT IN (SELECT * FROM ends);
-- nothing leads out of an end, except, for an apply, to another end, or as long as somebody is at work
SELECT t.machine, t.from_state, string_agg(t.to_state, ', ' ORDER BY t.to_state) AS leads_to FROM jobstate.transitions t JOIN jobstate.state s ON s.machine = t.machine AND s.name = t.from_state
 WHERE t.machine IN ('apply', 'operation', 'apply_task') AND s.is_terminal GROUP BY 1, 2 ORDER BY 1, 2;

-- in practice: two operations, each anywhere it can rest, without a driver, under each
-- policy; brought there by plain statements
CREATE TEMP TABLE place AS
    SELECT state, CASE WHEN state = 'pending' THEN '{}'::text[]
                       WHEN state = 'running' THEN '{running}'
                       WHEN state = 'revert_window' THEN '{running,cutting_over,revert_window}'
                       WHEN state IN ('reverting', 'skipping_revert') THEN ARRAY['running', 'cutting_over', 'revert_window', state]
                       WHEN state = 'reverted' THEN '{running,cutting_over,revert_window,reverting,reverted}'
                       WHEN state = 'resuming' THEN '{running,stopped,resuming}'
                       ELSE ARRAY['running', state] END AS way FROM reached WHERE machine = 'operation'
    UNION ALL SELECT 'stopped, never started', '{stopped}';
CREATE FUNCTION pg_temp.put(op bigint, way text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s text;
BEGIN
    FOREACH s IN ARRAY way LOOP
        UPDATE jobstate.operation SET state = s, started_at = CASE WHEN 'running' = ANY (way) THEN clock_timestamp() END WHERE id = op;
    END LOOP;
END $$;
-- all that drivers do: claim, take one step towards an end, until nobody claims any more
CREATE FUNCTION pg_temp.drive(whose bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    FOR i IN 1 .. 20 LOOP
        SELECT * INTO c FROM jobstate.operation_claim('driver', only_apply => whose);
        IF NOT FOUND THEN
            SELECT * INTO c FROM jobstate.operation_claim_cutover('driver', only_apply => whose);
        END IF;
        EXIT WHEN NOT FOUND;
        IF EXISTS (SELECT FROM jobstate.apply_control_request r WHERE r.apply_id = whose AND r.status = 'pending')
           AND EXISTS (SELECT FROM jobstate.transitions t WHERE t.machine = 'operation' AND t.from_state = c.state AND t.to_state = 'stopped') THEN
            PERFORM jobstate.operation_stop(c.operation_id, c.token);
        ELSIF c.state = 'reverting' THEN
            PERFORM jobstate.operation_revert(c.operation_id, c.token);
        ELSE
            PERFORM jobstate.operation_complete(c.operation_id, c.token);
        END IF;
    END LOOP;
    PERFORM jobstate.derive_now();
END $$;
-- people: release, start, and if that does not help, cancel; and maintenance, much later
CREATE FUNCTION pg_temp.end_it(whose bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a jobstate.apply;
BEGIN
    FOR i IN 1 .. 4 LOOP
        SELECT * INTO a FROM jobstate.apply WHERE id = whose;
        EXIT WHEN a.completed_at IS NOT NULL;
        CASE i WHEN 1 THEN NULL;
               WHEN 2 THEN PERFORM jobstate.apply_release(whose);
               WHEN 3 THEN PERFORM jobstate.apply_start(whose);
               WHEN 4 THEN PERFORM jobstate.apply_cancel(whose); END CASE;
        PERFORM pg_temp.drive(whose);
    END LOOP;
    UPDATE jobstate.operation SET updated_at = updated_at - interval '1 h' WHERE apply_id = whose;
    UPDATE jobstate.apply SET completed_at = completed_at - interval '1 h' WHERE id = whose;
    PERFORM jobstate.apply_reap(1000);
    RETURN (SELECT CASE WHEN p.completed_at IS NULL THEN 'apply left ' || p.state WHEN p.reaped_at IS NULL THEN 'operations left' ELSE 'ended' END
              FROM jobstate.apply p WHERE p.id = whose);
END $$;
CREATE FUNCTION pg_temp.try(first text[], second text[], policy text, cutover text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    whose bigint;
    said text;
BEGIN
    whose := (jobstate.apply_create('ways', 'mysql', 'ways', '[{"deployment": "a"}, {"deployment": "b"}]', on_failure => policy, cutover_policy => cutover)).apply_id;
    PERFORM pg_temp.put(min(id), first), pg_temp.put(max(id), second) FROM jobstate.operation WHERE apply_id = whose;
    PERFORM jobstate.derive_now();
    said := pg_temp.end_it(whose);
    DELETE FROM jobstate.apply WHERE id = whose;
    RETURN said;
END $$;
SELECT count(*) AS places FROM place;
CREATE TEMP TABLE outcome (first text, second text, policy text, cutover text, said text);
DO $$
DECLARE
    p record;
BEGIN
    FOR p IN SELECT f.state AS first, s.state AS second, f.way AS first_way, s.way AS second_way,
                    (ARRAY['halt', 'continue', 'pause'])[1 + n % 3] AS policy, (ARRAY['rolling', 'barrier', 'parallel'])[1 + n / 3 % 3] AS cutover
               FROM place f, place s, LATERAL (SELECT abs(hashtext(f.state || s.state)) AS n) h
    LOOP
        INSERT INTO outcome VALUES (p.first, p.second, p.policy, p.cutover, pg_temp.try(p.first_way, p.second_way, p.policy, p.cutover));
        COMMIT;
    END LOOP;
END $$;
SELECT said, count(*) FROM outcome GROUP BY said;
SELECT * FROM outcome WHERE said <> 'ended' ORDER BY 1, 2, 3 LIMIT 5;
DELETE FROM jobstate.apply_target WHERE environment = 'ways';
SELECT * FROM jobstate.verify();
