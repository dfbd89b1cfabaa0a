-- derive_ddl: names are followed, what a state depends on is not dropped, and what is dropped leaves nothing behind.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, state text NOT NULL DEFAULT 'waiting', ended timestamptz, err text, why text, free int);
CREATE TABLE regress_c (id int PRIMARY KEY, p int, state text NOT NULL DEFAULT 'waiting', msg text, kind text, place int, free int);
CREATE INDEX regress_i ON regress_c (p);
SELECT jobstate.attach('regress_p', 'regress_m', 'state') \g /dev/null
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', 'ended', 'err', 'why', 'msg', 'kind', '{place,id}');
INSERT INTO regress_p VALUES (1);
INSERT INTO regress_c VALUES (1, 1, 'bad', 'first', NULL, 1);
-- every name
ALTER TABLE regress_p RENAME id TO id2; ALTER TABLE regress_p RENAME state TO state2; ALTER TABLE regress_p RENAME ended TO ended2;
ALTER TABLE regress_p RENAME err TO err2; ALTER TABLE regress_p RENAME why TO why2;
ALTER TABLE regress_c RENAME id TO "Id 2"; ALTER TABLE regress_c RENAME state TO "State 2"; ALTER TABLE regress_c RENAME p TO "P 2";
ALTER TABLE regress_c RENAME msg TO msg2; ALTER TABLE regress_c RENAME kind TO kind2; ALTER TABLE regress_c RENAME place TO place2;
ALTER TABLE regress_p RENAME TO "regress P"; ALTER TABLE regress_c RENAME TO "regress C";
SELECT * FROM jobstate.derivations WHERE parent::text LIKE '%regress%';
UPDATE "regress C" SET msg2 = 'second';
SELECT id2, state2, ended2 IS NOT NULL AS ended, err2, why2 FROM "regress P";
-- in one transaction with a change before
BEGIN;
UPDATE "regress C" SET "State 2" = 'over';
ALTER TABLE "regress P" RENAME state2 TO state;
ALTER TABLE "regress C" RENAME "P 2" TO p;
UPDATE "regress C" SET msg2 = 'third';
COMMIT;
SELECT id2, state, ended2 IS NOT NULL AS ended, err2, why2 FROM "regress P";
ALTER TABLE "regress P" RENAME TO regress_p; ALTER TABLE "regress C" RENAME TO regress_c;
-- drops
ALTER TABLE regress_p DROP ended2;                                               -- fails
\echo :SQLSTATE
ALTER TABLE regress_p DROP why2;                                                 -- fails
ALTER TABLE regress_c DROP p;                                                    -- fails
ALTER TABLE regress_c DROP place2;                                               -- fails
ALTER TABLE regress_c DROP kind2;                                                -- fails
ALTER TABLE regress_p DROP free;
ALTER TABLE regress_c DROP free;
-- without the index children are found all the same, slowly; without the parent's key they are not
DROP INDEX regress_i;
UPDATE regress_c SET "State 2" = 'busy';
SELECT state FROM regress_p;
ALTER TABLE regress_p DROP CONSTRAINT regress_p_pkey;
UPDATE regress_c SET "State 2" = 'over';                                         -- fails
\echo :SQLSTATE
ALTER TABLE regress_p ADD PRIMARY KEY (id2);
UPDATE regress_c SET "State 2" = 'over';
SELECT state FROM regress_p;
-- copies of the tables are not derived
CREATE TABLE regress_like (LIKE regress_p INCLUDING ALL);
INSERT INTO regress_like (id2, state) VALUES (1, 'bad');
DROP TABLE regress_like;
-- the definitions are in a dump
SELECT extconfig @> ARRAY['jobstate.rule_set'::regclass, 'jobstate.rule'::regclass, 'jobstate.derivation'::regclass]::oid[] AS dumped
  FROM pg_extension WHERE extname = 'jobstate';
-- a table that goes takes its derivation along, and may be taken back
BEGIN;
UPDATE regress_c SET "State 2" = 'busy';
SAVEPOINT a;
DROP TABLE regress_c;
SELECT count(*) FROM jobstate.derivations WHERE parent::text LIKE '%regress%';
ROLLBACK TO a;
COMMIT;
SELECT state FROM regress_p;
SELECT count(*) FROM jobstate.derivations WHERE parent::text LIKE '%regress%';
BEGIN;
UPDATE regress_c SET "State 2" = 'over';
DROP TABLE regress_c;
COMMIT;
SELECT state FROM regress_p;
UPDATE regress_p SET state = 'bad';
-- one that is made, derived and dropped in a savepoint
CREATE TABLE regress_c (id int PRIMARY KEY, p int, state text NOT NULL DEFAULT 'waiting');
CREATE INDEX ON regress_c (p);
BEGIN;
SAVEPOINT a;
SELECT jobstate.attach('regress_c', 'regress_m', 'state') \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');
INSERT INTO regress_c VALUES (1, 1, 'busy');
ROLLBACK TO a;
INSERT INTO regress_c VALUES (1, 1, 'busy');
COMMIT;
SELECT state FROM regress_p;
SELECT count(*) FROM jobstate.derivation WHERE parent::text LIKE '%regress%';
DROP TABLE regress_c, regress_p;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
