-- derive_rights: who writes a child needs no right on the parent; row security hides nothing from its state.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE ROLE regress_owner; CREATE ROLE regress_worker; CREATE ROLE regress_other;
GRANT USAGE ON SCHEMA jobstate TO regress_owner, regress_worker, regress_other;
CREATE SCHEMA regress_s AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA regress_s TO regress_worker, regress_other;
SET ROLE regress_owner;
CREATE TABLE regress_s.p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting', who text);
CREATE TABLE regress_s.c (id int PRIMARY KEY, p int, state text NOT NULL DEFAULT 'waiting', tenant text DEFAULT 'a');
CREATE INDEX ON regress_s.c (p);
RESET ROLE;
CREATE TABLE regress_s.q (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting');
SELECT jobstate.attach(t, 'regress_m', 'state') FROM unnest('{regress_s.p,regress_s.c,regress_s.q}'::regclass[]) t \g /dev/null
-- only the owner of both
SET ROLE regress_owner;
SELECT jobstate.derive('regress_s.p', 'regress_s.c', 'p', 'regress_r');          -- fails: not granted
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA jobstate TO regress_owner, regress_other;
SET ROLE regress_other;
SELECT jobstate.derive('regress_s.p', 'regress_s.c', 'p', 'regress_r');          -- fails
\echo :SQLSTATE
SET ROLE regress_owner;
SELECT jobstate.derive('regress_s.q', 'regress_s.c', 'p', 'regress_r');          -- fails
SELECT jobstate.derive('regress_s.p', 'regress_s.q', 'id', 'regress_r');         -- fails
SELECT jobstate.derive('regress_s.p', 'regress_s.c', 'p', 'regress_r');
INSERT INTO regress_s.p VALUES (1), (2);
INSERT INTO regress_s.c VALUES (1, 1, 'over', 'b');
GRANT SELECT, INSERT, UPDATE, DELETE ON regress_s.c TO regress_worker;
SET ROLE regress_other;
SELECT jobstate.rederive('regress_s.p');                                         -- fails
SELECT jobstate.underive('regress_s.p', 'regress_s.c');                          -- fails
-- the worker; triggers of the parent's run as its owner
SET ROLE regress_owner;
CREATE FUNCTION regress_s.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.who := current_user; RETURN new; END $$;
CREATE TRIGGER note BEFORE UPDATE ON regress_s.p FOR EACH ROW EXECUTE FUNCTION regress_s.note();
SET ROLE regress_worker;
INSERT INTO regress_s.c VALUES (2, 1, 'busy');
SELECT * FROM regress_s.p;                                                       -- fails
SELECT current_user;
RESET ROLE;
SELECT * FROM regress_s.p ORDER BY id;
-- row security on both, forced upon the owner as well
ALTER TABLE regress_s.p ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE regress_s.c ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON regress_s.c USING (tenant = 'a');
SET ROLE regress_worker;
SELECT id FROM regress_s.c;
DELETE FROM regress_s.c;
RESET ROLE;
SELECT * FROM regress_s.p ORDER BY id;
SET ROLE regress_worker;
INSERT INTO regress_s.c VALUES (3, 2, 'bad');
UPDATE regress_s.c SET p = 1 WHERE id = 3;
RESET ROLE;
SELECT * FROM regress_s.p ORDER BY id;
-- who may not do something else by that: a function of a hostile name in front does not get in the way
SET ROLE regress_worker;
CREATE FUNCTION pg_temp.text_eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.text_eq, LEFTARG = text, RIGHTARG = text);
SET search_path = pg_temp, pg_catalog;
UPDATE regress_s.c SET state = 'over' WHERE id OPERATOR(pg_catalog.=) 3;
RESET search_path;
DROP OPERATOR pg_temp.= (text, text);
DROP FUNCTION pg_temp.text_eq(text, text);
RESET ROLE;
SELECT * FROM regress_s.p ORDER BY id;
-- the owner without a right of its own to write is like with foreign keys: the change fails, with the reason
REVOKE UPDATE ON regress_s.p FROM regress_owner;
SET ROLE regress_worker;
UPDATE regress_s.c SET state = 'busy' WHERE id = 3;                              -- fails
\echo :SQLSTATE
RESET ROLE;
SELECT jobstate.rederive('regress_s.p');

-- rows that are replayed are not derived: their parents come the same way
SET session_replication_role = replica;
UPDATE regress_s.c SET state = 'waiting' WHERE id = 3;
UPDATE regress_s.p SET state = 'waiting' WHERE id = 1;
SELECT id, state FROM regress_s.p ORDER BY id;
RESET session_replication_role;
SELECT id, state FROM regress_s.p ORDER BY id;
GRANT UPDATE ON regress_s.p TO regress_owner;
SELECT jobstate.rederive('regress_s.p');
SELECT id, state FROM regress_s.p ORDER BY id;
SET client_min_messages = warning;
DROP SCHEMA regress_s CASCADE;
RESET client_min_messages;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA jobstate FROM regress_owner, regress_other;
REVOKE USAGE ON SCHEMA jobstate FROM regress_owner, regress_worker, regress_other;
DROP ROLE regress_owner, regress_worker, regress_other;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
