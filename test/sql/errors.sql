-- errors: what the kernel refuses, with its SQLSTATE and the fields that drivers read.
-- (A negative count is in verify_drift, an old snapshot in the isolation tests.)
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE FUNCTION regress_said(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; tab text; col text; con text;
BEGIN
    EXECUTE sql;
    RETURN 'nothing';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        tab = TABLE_NAME, col = COLUMN_NAME, con = CONSTRAINT_NAME;
    RETURN state || ' ' || message || CASE WHEN detail <> '' THEN E'\n      detail: ' || detail ELSE '' END
        || CASE WHEN hint <> '' THEN E'\n      hint: ' || hint ELSE '' END
        || CASE WHEN tab || col || con <> '' THEN format(E'\n      fields: %s, %s, %s', tab, col, con) ELSE '' END;
END $$;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, a -> c}', '{a}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint, g text, p point, at timestamptz DEFAULT '2020-01-01');
CREATE TABLE regress_p (id int, state text) PARTITION BY LIST (id);
CREATE TABLE regress_p1 PARTITION OF regress_p FOR VALUES IN (1);
CREATE TABLE regress_plain (id int PRIMARY KEY, state smallint, e information_schema.cardinal_number, r regclass);
CREATE UNLOGGED TABLE regress_unlogged (id int, state smallint);
CREATE VIEW regress_view AS SELECT 1 AS state;
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g}'), jobstate.attach('regress_p', 'regress_m', 'state');
INSERT INTO regress_t VALUES (1, 1, 'x');

-- the guard
SELECT regress_said('UPDATE regress_t SET state = 2; UPDATE regress_t SET state = 3');
SELECT regress_said('UPDATE regress_t SET state = 3; UPDATE regress_t SET state = 1');
SELECT regress_said('INSERT INTO regress_t VALUES (2, 2)');
SELECT regress_said('INSERT INTO regress_t VALUES (2, 99)');
SELECT regress_said('INSERT INTO regress_t VALUES (2, NULL)');
SELECT regress_said($$INSERT INTO regress_p VALUES (1, 'z')$$);
-- the tally
SELECT regress_said($$INSERT INTO regress_t VALUES (2, 1, repeat('y', 3000))$$);
-- attach
SELECT regress_said($$SELECT jobstate.attach(NULL, 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach(1::oid::regclass, 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_view', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_unlogged', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_t', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_p1', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_none', 'state')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_m', 'none')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_m', 'r')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_m', 'state', '{id,id}')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_m', 'state', '{1,2,3,4,5,6,7,8,9}')$$);
SELECT regress_said($$SELECT jobstate.attach('regress_plain', 'regress_m', 'state', '{r}')$$);
SELECT regress_said($$ALTER TABLE regress_plain ADD p point; SELECT jobstate.attach('regress_plain', 'regress_m', 'state', '{p}')$$);
SELECT regress_said($$INSERT INTO regress_plain VALUES (1, 9); SELECT jobstate.attach('regress_plain', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.prune('regress_t', '0', 'at'); UPDATE regress_t SET state = 3; SELECT jobstate.prune('regress_t', '0', 'at');
                      SELECT jobstate.detach('regress_t'); SELECT jobstate.attach('regress_t', 'regress_m', 'state')$$);
SELECT regress_said($$SELECT jobstate.detach('regress_plain')$$);
SELECT regress_said($$ALTER TABLE regress_t DISABLE TRIGGER jobstate_watch; SELECT jobstate.rebuild('regress_t')$$);
SELECT regress_said($$SET ROLE pg_monitor; SELECT jobstate.counts('regress_t')$$);
-- reading
SELECT regress_said($$SELECT jobstate.counts('regress_t', '[]')$$);
SELECT regress_said($$SELECT jobstate.counts('regress_t', '{"id": 1}')$$);
SELECT regress_said($$ALTER TABLE regress_t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON regress_t TO pg_monitor;
                      SET ROLE pg_monitor; SELECT jobstate.counts('regress_t')$$);
-- the verbs
SELECT regress_said($$SELECT jobstate.transition('regress_t', '{1}', 'z')$$);
SELECT regress_said($$SELECT jobstate.take('regress_t', 'b', 'c')$$);
SELECT regress_said($$SELECT jobstate.take('regress_t', 'a', 'b', n => 0)$$);
SELECT regress_said($$SELECT jobstate.transition('regress_p', '{1}', 'b')$$);
SELECT regress_said($$SELECT jobstate.prune('regress_t', '1 day', 'id')$$);
SELECT regress_said($$SELECT jobstate.prune('regress_p', '1 day', 'id')$$);
-- triggers made by hand
SELECT regress_said($$CREATE TRIGGER x AFTER INSERT ON regress_plain FOR EACH ROW EXECUTE FUNCTION jobstate.watch(); INSERT INTO regress_plain VALUES (1, 1)$$);
SELECT regress_said($$CREATE TRIGGER jobstate_watch AFTER INSERT ON regress_plain FOR EACH ROW EXECUTE FUNCTION jobstate.watch(); INSERT INTO regress_plain VALUES (1, 1)$$);
SELECT regress_said($$CREATE TRIGGER jobstate_truncate BEFORE TRUNCATE ON regress_plain EXECUTE FUNCTION jobstate.watch_truncate(); TRUNCATE regress_plain$$);
SELECT regress_said($$CREATE TRIGGER x BEFORE INSERT ON regress_plain FOR EACH ROW EXECUTE FUNCTION jobstate.watch(); INSERT INTO regress_plain VALUES (1, 1)$$);
SELECT regress_said($$CREATE TRIGGER x AFTER INSERT ON regress_plain EXECUTE FUNCTION jobstate.watch(); INSERT INTO regress_plain VALUES (1, 1)$$);
SELECT regress_said($$CREATE TRIGGER x BEFORE TRUNCATE ON regress_plain EXECUTE FUNCTION jobstate.watch_truncate(); TRUNCATE regress_plain$$);
SELECT regress_said($$CREATE TRIGGER x AFTER TRUNCATE ON regress_t EXECUTE FUNCTION jobstate.watch_truncate(); TRUNCATE regress_t$$);
SELECT regress_said($$SELECT jobstate.watch()$$);
-- what DDL would spoil
SELECT regress_said('ALTER TABLE regress_t DROP COLUMN g');
SELECT regress_said('ALTER TABLE regress_t SET UNLOGGED');
-- a catalogue that was written by hand
SELECT regress_said($$INSERT INTO jobstate.state SELECT 'regress_m', n, 's' || n, true, true FROM generate_series(10, 300) n;
                      INSERT INTO regress_t VALUES (9, 1, 'x')$$);
-- machines
SELECT regress_said($$SELECT jobstate.define_machine('regress_m', '{"b": 2}', '{}')$$);
SELECT regress_said($$SELECT jobstate.define_machine(NULL, '{"b": 2}', '{}')$$);
SELECT regress_said($$SELECT jobstate.drop_machine('regress_m')$$);
SELECT regress_said($$SELECT jobstate.drop_machine('regress_none')$$);
-- a label that is a state
SELECT regress_said($$CREATE TYPE regress_e AS ENUM ('a', 'b', 'c'); CREATE TABLE regress_u (state regress_e);
                      SELECT jobstate.attach('regress_u', 'regress_m', 'state'); ALTER TYPE regress_e RENAME VALUE 'a' TO 'z'$$);
-- nothing of all this was done
SELECT id, state, g FROM regress_t;
SELECT state, n FROM jobstate.counts('regress_t') ORDER BY state;
DROP TABLE regress_t, regress_p, regress_plain, regress_unlogged;
DROP VIEW regress_view;
DROP FUNCTION regress_said;
SELECT jobstate.drop_machine('regress_m');
