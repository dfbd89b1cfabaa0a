-- derive_savepoints: what a savepoint takes back, it takes back from the parents as well; never more.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_p', '{"waiting": 1, "busy": 2, "over": 3}',
    '{waiting -> busy, waiting -> over, busy -> over, busy -> waiting, over -> busy, over -> waiting}');
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, all over -> over, all waiting -> waiting, always -> busy}');
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
CREATE TABLE regress_c (id int PRIMARY KEY, p int REFERENCES regress_p, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_p', 'state'), jobstate.attach('regress_c', 'regress_p', 'state');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
INSERT INTO regress_p SELECT n FROM generate_series(1, 4) n;
INSERT INTO regress_c SELECT n, (n + 1) / 2 FROM generate_series(1, 8) n;
-- a fold by hand
CREATE VIEW regress_stale AS
    SELECT p.id, p.state, f.state AS should_be FROM regress_p p,
        LATERAL (SELECT CASE WHEN count(*) = count(*) FILTER (WHERE c.state = 'waiting') THEN 'waiting'
                             WHEN count(*) = count(*) FILTER (WHERE c.state = 'over') THEN 'over'
                             ELSE 'busy' END AS state
                   FROM regress_c c WHERE c.p = p.id) f
     WHERE f.state <> p.state;

-- taken back as a whole, in part, and kept
BEGIN;
SAVEPOINT a;
UPDATE regress_c SET state = 'busy' WHERE id = 1;
ROLLBACK TO a;
COMMIT;
SELECT * FROM regress_p ORDER BY id;
BEGIN;
UPDATE regress_c SET state = 'busy' WHERE id = 3;
SAVEPOINT a;
UPDATE regress_c SET state = 'over' WHERE id IN (3, 4);
SAVEPOINT b;
DELETE FROM regress_c WHERE id = 5;
UPDATE regress_c SET p = 4 WHERE id = 6;
ROLLBACK TO a;
UPDATE regress_c SET state = 'over' WHERE id = 7;
RELEASE a;
COMMIT;
SELECT * FROM regress_p ORDER BY id;
SELECT * FROM regress_stale;

-- derived at once within a savepoint that is rolled back: the change from before it is still derived
BEGIN;
UPDATE regress_c SET state = 'over' WHERE id = 8;
SAVEPOINT a;
SELECT jobstate.derive_now();
SELECT * FROM regress_p WHERE id = 4;
ROLLBACK TO a;
SELECT * FROM regress_p WHERE id = 4;
COMMIT;
SELECT * FROM regress_p WHERE id = 4;
-- with a change within it, a table that was emptied, and released in between
BEGIN;
UPDATE regress_c SET state = 'busy' WHERE id = 1;
SAVEPOINT a;
SAVEPOINT b;
UPDATE regress_c SET state = 'over' WHERE id IN (3, 4);
SELECT jobstate.derive_now();
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT * FROM regress_p ORDER BY id;
SELECT * FROM regress_stale;
BEGIN;
TRUNCATE regress_c;
SAVEPOINT a;
DELETE FROM regress_p WHERE id = 1;
SELECT jobstate.derive_now();
ROLLBACK TO a;
COMMIT;
SELECT * FROM regress_p ORDER BY id;

-- derived within a block that fails, and one that derive itself makes fail
INSERT INTO regress_c SELECT n, (n + 1) / 2 FROM generate_series(1, 8) n;
BEGIN;
UPDATE regress_c SET state = 'busy' WHERE id = 1;
DO $$
BEGIN
    PERFORM jobstate.derive_now();
    RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN NULL;
END
$$;
COMMIT;
SELECT * FROM regress_p WHERE id = 1;
CREATE FUNCTION regress_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF current_setting('regress.refuse', true) = 'on' THEN RAISE EXCEPTION 'no'; END IF; RETURN new; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_refuse();
BEGIN;
UPDATE regress_c SET state = 'over' WHERE id <= 4;
SET LOCAL regress.refuse = 'on';
DO $$
BEGIN
    PERFORM jobstate.derive_now();
EXCEPTION WHEN raise_exception THEN RAISE NOTICE 'refused';
END
$$;
SET LOCAL regress.refuse = 'off';
COMMIT;
SELECT * FROM regress_p ORDER BY id;
SELECT * FROM regress_stale;
-- not in a block: then the whole transaction fails
BEGIN;
UPDATE regress_c SET state = 'busy' WHERE id = 1;
SET LOCAL regress.refuse = 'on';
COMMIT;                                                                          -- fails
SELECT * FROM regress_stale;

DROP VIEW regress_stale;
DROP TABLE regress_c, regress_p;
DROP FUNCTION regress_refuse();
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_p');
