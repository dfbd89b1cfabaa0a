-- derive_error_and_reason: when a parent came to its end, by which child's error, and by which rule.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting', ended timestamptz, err text, why varchar);
CREATE TABLE regress_c (id int PRIMARY KEY, p int, state text NOT NULL DEFAULT 'waiting', place int, name text,
    msg text GENERATED ALWAYS AS (CASE WHEN name = '' THEN '' WHEN name IS NOT NULL THEN 'step ' || name || ' failed' END) STORED);
CREATE INDEX ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', completed_at => 'ended', error => 'err', reason => 'why',
    child_error => 'msg', child_order => '{place,id}');
INSERT INTO regress_p (id, ended) VALUES (1, now());
INSERT INTO regress_c (id, p, place, name) VALUES (1, 1, 30, 'x'), (2, 1, 10, NULL), (3, 1, 20, ''), (4, 1, NULL, 'null is last');
CREATE VIEW regress_v AS SELECT state, ended IS NOT NULL AS ended, err, why FROM regress_p;
SELECT * FROM regress_v;
-- the first in their order that is in that state and has one; without and empty are passed over
UPDATE regress_c SET state = 'bad' WHERE id IN (2, 3, 4);
SELECT * FROM regress_v;
UPDATE regress_c SET state = 'bad' WHERE id = 1;
SELECT * FROM regress_v;
UPDATE regress_c SET place = 40, name = 'y' WHERE id = 1;
SELECT * FROM regress_v;
-- a new place or message alone is enough
UPDATE regress_c SET place = 0 WHERE id = 4;
SELECT * FROM regress_v;
UPDATE regress_c SET name = 'anew' WHERE id = 4;
SELECT * FROM regress_v;
-- set once: another end that follows at once does not move it
UPDATE regress_p SET ended = '2020-01-01 00:00Z';
UPDATE regress_c SET name = 'again' WHERE id = 4;
SELECT ended = '2020-01-01 00:00Z' AS kept FROM regress_p;
UPDATE regress_c SET state = 'over';
SELECT ended = '2020-01-01 00:00Z' AS kept, err FROM regress_p;
-- cleared when it goes on; the error stays, as nobody says another
UPDATE regress_c SET state = 'busy' WHERE id = 1;
SELECT * FROM regress_v;
-- set anew by the clock, not by the transaction's begin
BEGIN;
SELECT pg_sleep(0.01);
UPDATE regress_c SET state = 'over' WHERE id = 1;
SELECT jobstate.derive_now();
SELECT ended > now() AS by_the_clock FROM regress_p;
COMMIT;
-- quotes, long messages, and an error that was written by hand in between
UPDATE regress_c SET state = 'bad', name = E'it''s "\\ $1 %s' || repeat(md5('1'), 10000) WHERE id = 3;
SELECT left(err, 30), length(err) FROM regress_p;
UPDATE regress_c SET name = name WHERE id = 3;
UPDATE regress_p SET err = repeat('by hand ', 10000);
UPDATE regress_c SET state = 'busy' WHERE id = 2;
SELECT state, length(err) FROM regress_p;
-- a trigger of the parent's, so that it is written the other way
CREATE FUNCTION regress_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER nothing BEFORE UPDATE ON regress_p FOR EACH ROW EXECUTE FUNCTION regress_nothing();
UPDATE regress_c SET state = 'over' WHERE id = 3;
SELECT state, ended IS NULL AS open, why FROM regress_p;
UPDATE regress_c SET state = 'bad', name = 'z' WHERE id = 1;
SELECT * FROM regress_v;
UPDATE regress_p SET ended = '2020-01-01 00:00Z';
UPDATE regress_c SET state = 'over';
SELECT ended = '2020-01-01 00:00Z' AS kept, err, why FROM regress_p;
UPDATE regress_c SET state = 'waiting';
SELECT * FROM regress_v;
-- other rules say it in other words; a reason alone is reason to write
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, all waiting -> waiting, none bad -> busy, always -> bad}');
SELECT * FROM regress_v;
-- where no rule holds the row stays as it is
SELECT jobstate.define_rules('regress_r', '{all over -> over}');
UPDATE regress_c SET state = 'busy' WHERE id = 1;
SELECT * FROM regress_v;
DROP VIEW regress_v;
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
DROP FUNCTION regress_nothing();
