-- derive_late_triggers: what the parent's table puts off to the commit has its turn after the state was derived.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_p', '{"waiting": 1, "busy": 2, "over": 3}',
    '{waiting -> busy, waiting -> over, busy -> over, busy -> waiting, over -> busy, over -> waiting}');
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, all over -> over, all waiting -> waiting, always -> busy}');
CREATE TABLE regress_g (id int PRIMARY KEY);
CREATE TABLE regress_p (id int PRIMARY KEY, g int REFERENCES regress_g DEFERRABLE INITIALLY DEFERRED,
    state text NOT NULL DEFAULT 'waiting',
    CONSTRAINT one_busy EXCLUDE USING btree (g WITH =) WHERE (state = 'busy') DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p DEFERRABLE INITIALLY DEFERRED,
    state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_p', 'state'), jobstate.attach('regress_c', 'regress_p', 'state');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
INSERT INTO regress_g VALUES (1), (2);
INSERT INTO regress_p VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO regress_c VALUES (10, 1), (20, 2), (30, 3);

-- a deferred constraint on the derived state holds
UPDATE regress_c SET state = 'busy' WHERE id = 10;
UPDATE regress_c SET state = 'busy' WHERE id = 20;                               -- fails
UPDATE regress_c SET state = CASE state WHEN 'busy' THEN 'over' ELSE 'busy' END WHERE id IN (10, 20);
SELECT id, state FROM regress_p ORDER BY id;
-- deferred foreign keys
BEGIN;
INSERT INTO regress_c VALUES (40, 4, 'waiting');
UPDATE regress_c SET state = 'busy' WHERE id = 40;
INSERT INTO regress_p VALUES (4, 3);
INSERT INTO regress_g VALUES (3);
COMMIT;
BEGIN;
INSERT INTO regress_p VALUES (5, 4);
INSERT INTO regress_c VALUES (50, 5);
COMMIT;                                                                          -- fails
SELECT id, state FROM regress_p ORDER BY id;

-- a deferred trigger sees the derived state; what it changes is derived, too
CREATE TABLE regress_log (id int, was text, is_now text);
CREATE FUNCTION regress_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_log VALUES (new.id, old.state, new.state);
    UPDATE regress_c SET state = 'over' WHERE p = new.id + 1 AND state <> 'over' AND new.state = 'over';
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON regress_p DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION regress_note();
UPDATE regress_c SET state = 'over' WHERE id = 20;
SELECT * FROM regress_log;
SELECT id, state FROM regress_p ORDER BY id;
-- before a prepare as well
BEGIN;
UPDATE regress_c SET state = 'waiting' WHERE id = 10;
PREPARE TRANSACTION 'regress_late';
COMMIT PREPARED 'regress_late';
SELECT * FROM regress_log WHERE id = 1;
-- SET CONSTRAINTS IMMEDIATE, and derive_now() in the middle
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE regress_c SET state = 'busy' WHERE id IN (10, 20);
SELECT jobstate.derive_now();                                                    -- fails
ROLLBACK;

DROP TABLE regress_c, regress_p, regress_g, regress_log;
DROP FUNCTION regress_note();
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_p');
