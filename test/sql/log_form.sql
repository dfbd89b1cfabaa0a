-- log_form: how the counter log writes a key and its changes; what is no such row is
-- refused and not guessed at.
\set SHOW_CONTEXT never
SET jobstate.auto_maintain = off;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": -32768}', '{a -> b, b -> c}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint, g text, h bigint);
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{g,h}');
CREATE VIEW regress_log AS
    SELECT l.epoch, l.group_key, l.deltas FROM (SELECT * FROM jobstate.segment_0 UNION ALL SELECT * FROM jobstate.segment_1
        UNION ALL SELECT * FROM jobstate.segment_2 UNION ALL SELECT * FROM jobstate.base_recent) l;
SELECT jobstate.fold() >= 0 AS folded;
-- null is not the text of null, commas and backslashes belong to their value, and a transaction writes its keys in order
INSERT INTO regress_t VALUES (1, 1, NULL, 1), (2, 1, '', 1), (3, 1, '\N', 1), (4, 1, 'N', NULL), (5, 1, 'a,b', 2), (6, 1, 'a\', 2),
    (7, 1, 'a\,', -2), (8, 1, E'tab\there', 3), (10, 1, ',', NULL), (11, -32768, 'a,b', 9223372036854775807);
UPDATE regress_t SET state = CASE state WHEN 1 THEN 2 ELSE state END WHERE id < 3;
SELECT group_key, deltas FROM regress_log JOIN jobstate.attachment USING (epoch) WHERE deltas <> '' AND target = 'regress_t'::regclass;
SELECT * FROM jobstate.counts('regress_t') WHERE n <> 0 ORDER BY group_key::text COLLATE "C";
SELECT n FROM jobstate.counts('regress_t', '{"g": "\\N", "h": 1}') WHERE state = 'a';
-- the same from the base, and where a header of one byte no longer does
INSERT INTO regress_t SELECT 100 + n, 1, repeat('x', n), 1 FROM generate_series(118, 128) n;
INSERT INTO regress_t SELECT 300 + n, 1, repeat('\', n), 1 FROM generate_series(60, 64) n;
SELECT jobstate.fold() > 0 AS folded;
SELECT sum(n), count(DISTINCT group_key) FROM jobstate.counts('regress_t');
SELECT * FROM jobstate.verify('regress_t');

-- many states: more than fit into a header of one byte
DO $$ BEGIN PERFORM jobstate.define_machine('regress_wide', (SELECT jsonb_object_agg('s' || n, n) FROM generate_series(1, 256) n), '{}'); END $$;
CREATE TABLE regress_w (id int PRIMARY KEY, state smallint);
SELECT jobstate.attach('regress_w', 'regress_wide', 'state');
INSERT INTO regress_w SELECT n, 1 + n % 256 FROM generate_series(1, 1000) n;
SELECT count(*), sum(n) FROM jobstate.counts('regress_w');
SELECT jobstate.fold() > 0 AS folded;
SELECT count(*), sum(n) FROM jobstate.counts('regress_w');
SELECT * FROM jobstate.verify('regress_w');
DROP TABLE regress_w;
SELECT jobstate.drop_machine('regress_wide');

-- nobody may write there by hand; where a superuser has done it, or a disk
CREATE FUNCTION regress_damaged(text, text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    ALTER TABLE jobstate.segment_0 DISABLE TRIGGER turn_away;
    INSERT INTO jobstate.segment_0 SELECT epoch, 0, $1, $2 FROM jobstate.attachment WHERE target = 'regress_t'::regclass;
    SELECT string_agg(concat_ws(' ', group_key, state, n), '; ' ORDER BY state) INTO said
      FROM jobstate.counts('regress_t') WHERE n > 50;
    RAISE EXCEPTION 'read as: %', said;
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ': ' || sqlerrm;
END $$;
SELECT regress_damaged('by hand,1', '1:100');
SELECT regress_damaged('by hand,\N', '1:100,2:51');
SELECT deltas, regress_damaged('x,1', deltas) FROM unnest('{1,1:,:1,1:1:1,"1:1,","1:1,,2:1",",1:1",1:x,1:1x,"1: 1",1:+1,1:--1,1:-,32768:1,1:9223372036854775808,1:99999999999999999999}'::text[]) deltas;
SELECT group_key, regress_damaged(group_key, '1:100') FROM unnest('{"",x,"x,1,2","x,","\\Nx,1"}'::text[]) group_key;
BEGIN;
ALTER TABLE jobstate.segment_0 DISABLE TRIGGER turn_away;
INSERT INTO jobstate.segment_0 SELECT epoch, 0, 'x,1', '1=1' FROM jobstate.attachment WHERE target = 'regress_t'::regclass;
SELECT jobstate.fold();                                                          -- fails
ROLLBACK;
DROP TABLE regress_t CASCADE;
DROP VIEW regress_log;
DROP FUNCTION regress_damaged;
SELECT jobstate.drop_machine('regress_m');
