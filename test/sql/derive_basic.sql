-- derive_basic: a table's state follows from all its children's; nobody writes it by hand.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting', note text);
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p, state text NOT NULL DEFAULT 'waiting', note text);
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
-- rows that are there are derived, and counted as changed where they were not that already
INSERT INTO regress_p VALUES (1, 'waiting'), (2, 'busy'), (3, 'over');
INSERT INTO regress_c VALUES (10, 1, 'waiting'), (20, 2, 'bad'), (30, 3, 'over'), (31, 3, 'over');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
SELECT id, state FROM regress_p ORDER BY id;
SELECT * FROM jobstate.derivations WHERE parent::text LIKE 'regress%';

-- one child after the other
UPDATE regress_c SET state = 'busy' WHERE id = 30;
SELECT state FROM regress_p WHERE id = 3;
UPDATE regress_c SET state = 'over' WHERE id = 30;
INSERT INTO regress_c VALUES (32, 3);
SELECT state FROM regress_p WHERE id = 3;
DELETE FROM regress_c WHERE id = 32;
SELECT state FROM regress_p WHERE id = 3;
-- not before the commit, unless asked to
BEGIN;
UPDATE regress_c SET state = 'bad' WHERE id IN (10, 31);
SELECT id, state FROM regress_p ORDER BY id;
SELECT jobstate.derive_now();
SELECT id, state FROM regress_p ORDER BY id;
SELECT jobstate.derive_now();
COMMIT;
SELECT id, state FROM regress_p ORDER BY id;
-- the counts follow
SELECT state, n FROM jobstate.counts('regress_p') ORDER BY state;
SELECT * FROM jobstate.verify('regress_p');

-- the same result is not written, and what does not matter to it is not looked at
BEGIN;
UPDATE regress_c SET state = 'over' WHERE id = 30;
UPDATE regress_c SET note = 'nothing', state = state;
SELECT jobstate.derive_now();
SELECT count(*) FROM regress_p WHERE xmin = pg_current_xact_id()::xid;
COMMIT;

-- by hand: only to where it is already
UPDATE regress_p SET state = 'over' WHERE id = 1;                                -- fails
\echo :SQLSTATE
UPDATE regress_p SET state = 'over';                                             -- fails
INSERT INTO regress_p VALUES (3) ON CONFLICT (id) DO UPDATE SET state = 'busy';  -- fails
SELECT count(*) FROM jobstate.transition('regress_p', '{1}', 'over');            -- fails
UPDATE regress_p SET note = 'free', state = state;
-- a new row is made what its children say, whatever it says itself
INSERT INTO regress_p VALUES (4, 'over'), (5, 'bad');
SELECT id, state FROM regress_p WHERE id > 3 ORDER BY id;
-- a trigger of the table's may write none of its rows by hand either, not even while one is derived
CREATE FUNCTION regress_spread() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE regress_p SET state = new.state WHERE id <> new.id AND state <> new.state; RETURN NULL; END $$;
CREATE TRIGGER spread AFTER UPDATE ON regress_p FOR EACH ROW WHEN (old.state <> new.state) EXECUTE FUNCTION regress_spread();
INSERT INTO regress_c VALUES (40, 4, 'busy');                                    -- fails
DROP TRIGGER spread ON regress_p;
-- one that turns it into something else, or keeps it from being written
CREATE FUNCTION regress_bend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.note = 'gone' THEN RETURN NULL; END IF; new.state := 'waiting'; new.note := 'bent'; RETURN new; END $$;
CREATE TRIGGER bend BEFORE UPDATE ON regress_p FOR EACH ROW WHEN (new.note IS NOT NULL) EXECUTE FUNCTION regress_bend();
UPDATE regress_c SET state = 'busy' WHERE id = 10;                               -- fails
ALTER TABLE regress_p DISABLE TRIGGER bend;
UPDATE regress_p SET note = 'gone' WHERE id = 1;
ALTER TABLE regress_p ENABLE TRIGGER bend;
UPDATE regress_c SET state = 'busy' WHERE id = 10;                               -- fails
\echo :SQLSTATE
DROP TRIGGER bend ON regress_p;
UPDATE regress_c SET state = 'busy' WHERE id = 10;
SELECT id, state FROM regress_p WHERE id = 1;

-- until underive(); then the state stays, and is anybody's
SELECT jobstate.underive('regress_p', 'regress_c');
UPDATE regress_c SET state = 'over';
SELECT id, state FROM regress_p ORDER BY id;
UPDATE regress_p SET state = 'over' WHERE id = 1;
SELECT * FROM jobstate.derivations WHERE parent::text LIKE 'regress%';
-- READ ONLY comes too late for what follows from what was written
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
BEGIN;
UPDATE regress_c SET state = 'busy' WHERE id = 20;
SET TRANSACTION READ ONLY;
COMMIT;
SELECT id, state FROM regress_p ORDER BY id;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
DROP FUNCTION regress_spread(), regress_bend();
