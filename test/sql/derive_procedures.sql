-- derive_procedures: what commits within a procedure is derived there, and what fails there fails.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p ON DELETE CASCADE ON UPDATE CASCADE, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
-- parents with the states of their children, and what by hand they should be
CREATE VIEW regress_v AS
    SELECT p.id, p.state, string_agg(c.state, ',' ORDER BY c.id) AS children,
           CASE WHEN count(c.id) = 0 THEN 'waiting' WHEN bool_or(c.state = 'bad') THEN 'bad' WHEN bool_and(c.state = 'over') THEN 'over'
                WHEN bool_and(c.state = 'waiting') THEN 'waiting' ELSE 'busy' END = p.state AS is_right
      FROM regress_p p LEFT JOIN regress_c c ON c.p = p.id GROUP BY p.id ORDER BY p.id;
INSERT INTO regress_p SELECT n FROM generate_series(1, 3) n;
INSERT INTO regress_c SELECT n, (n + 1) / 2 FROM generate_series(1, 6) n;
DO $$
DECLARE
    row record;
BEGIN
    FOR row IN SELECT id FROM regress_c ORDER BY id LOOP
        UPDATE regress_c SET state = 'over' WHERE id = row.id;
        COMMIT;
        RAISE NOTICE '%', (SELECT string_agg(state, ' ' ORDER BY id) FROM regress_p);
        UPDATE regress_c SET state = 'bad' WHERE id = row.id;
        ROLLBACK;
    END LOOP;
END
$$;
TABLE regress_v;
-- an error of the commit can be caught by who called, and nothing of it stays
CREATE FUNCTION regress_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF new.state = 'bad' THEN RAISE EXCEPTION 'not bad'; END IF; RETURN new; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_refuse();
DO $$
BEGIN
    UPDATE regress_c SET state = 'busy' WHERE id = 1;
    COMMIT;
    UPDATE regress_c SET state = 'bad' WHERE id = 1;
    COMMIT;
    RAISE NOTICE 'not reached';
END
$$;                                                                              -- fails
TABLE regress_v;
-- a function that derives at once sees the state, and in a block can take it back
CREATE FUNCTION regress_try(child int, wanted text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE regress_c SET state = wanted WHERE id = child;
    PERFORM jobstate.derive_now();
    RETURN (SELECT p.state FROM regress_p p JOIN regress_c c ON c.p = p.id WHERE c.id = child);
EXCEPTION WHEN raise_exception THEN RETURN SQLERRM;
END
$$;
SELECT regress_try(1, 'over'), regress_try(2, 'bad'), regress_try(3, 'waiting');
TABLE regress_v;
-- derive_now() within a trigger of the parent's, and of the child's
CREATE FUNCTION regress_now() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM jobstate.derive_now(); RETURN new; END $$;
CREATE TRIGGER now AFTER UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_now();
CREATE TRIGGER now_too AFTER UPDATE ON regress_c FOR EACH ROW EXECUTE FUNCTION regress_now();
UPDATE regress_c SET state = CASE state WHEN 'over' THEN 'busy' ELSE 'over' END;
TABLE regress_v;
-- cursors that are held, and chained transactions
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT state FROM regress_p ORDER BY id;
UPDATE regress_c SET state = 'waiting';
COMMIT AND CHAIN;
UPDATE regress_c SET state = 'over' WHERE p = 2;
COMMIT;
FETCH ALL FROM held;
CLOSE held;
TABLE regress_v;
-- the extension goes in the very transaction
BEGIN;
UPDATE regress_c SET state = 'busy';
SET LOCAL client_min_messages = warning;
DROP EXTENSION jobstate CASCADE;
SELECT string_agg(state, ' ') FROM regress_c;
ROLLBACK;
BEGIN;
UPDATE regress_c SET state = 'busy';
DISCARD PLANS;
ALTER TABLE regress_p ADD later int DEFAULT 7;
COMMIT;
TABLE regress_v;
DROP VIEW regress_v;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
DROP FUNCTION regress_refuse(), regress_now(), regress_try(int, text);
