-- attach_columns: generated columns, tables of one name, many tables in one
-- transaction, owners under forced row security.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c}', '{a}');
-- state and group computed from other columns
CREATE TABLE regress_g (id int PRIMARY KEY, raw int, gone text, state int GENERATED ALWAYS AS (raw % 10) STORED,
                        grp int GENERATED ALWAYS AS (raw / 10) STORED);
ALTER TABLE regress_g DROP COLUMN gone;
SELECT jobstate.attach('regress_g', 'regress_m', 'state', '{grp}');
INSERT INTO regress_g (id, raw) VALUES (1, 11), (2, 21), (3, 31);
UPDATE regress_g SET raw = raw + 1 WHERE id < 3;
UPDATE regress_g SET raw = 34 WHERE id = 3;                                      -- fails
UPDATE regress_g SET raw = 33 WHERE id = 3;                                      -- fails
UPDATE regress_g SET raw = 12 WHERE id = 2;
SELECT * FROM jobstate.counts('regress_g') ORDER BY group_key, state;
-- a column that comes later, with a default for the rows that are there
SELECT jobstate.detach('regress_g');
ALTER TABLE regress_g ADD late text DEFAULT 'old';
SELECT jobstate.attach('regress_g', 'regress_m', 'state', '{late}');
ALTER TABLE regress_g ADD later int DEFAULT 5;
INSERT INTO regress_g (id, raw, late) VALUES (4, 41, 'new');
DELETE FROM regress_g WHERE id = 1;
SELECT * FROM jobstate.counts('regress_g') ORDER BY group_key, state;

-- the same name in another schema, and in front of it a temporary table
CREATE SCHEMA regress_s;
CREATE TABLE regress_s.regress_g (state text DEFAULT 'a');
SELECT jobstate.attach('regress_s.regress_g', 'regress_m', 'state');
CREATE TEMP TABLE regress_g (id int, state int);
INSERT INTO regress_s.regress_g VALUES ('a'), ('a');
INSERT INTO regress_g VALUES (1, 77);
SELECT state, n FROM jobstate.counts('regress_s.regress_g') ORDER BY state;
SELECT state, n FROM jobstate.counts('public.regress_g', '{"late": "new"}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_g');                                      -- fails
SELECT jobstate.uncount('regress_s.regress_g'), jobstate.uncount('public.regress_g');
SELECT state, n FROM jobstate.counts('regress_s.regress_g') ORDER BY state;
SELECT jobstate.recount('regress_s.regress_g'), jobstate.recount('public.regress_g');
SELECT * FROM jobstate.verify() v;

-- many tables, all written by one transaction, some of it taken back
DO $$
BEGIN
    FOR i IN 1..60 LOOP
        EXECUTE format('CREATE TABLE regress_s.t%s (id int PRIMARY KEY, state smallint DEFAULT 1, g int)', i);
        PERFORM jobstate.attach(format('regress_s.t%s', i)::regclass, 'regress_m', 'state', '{g}');
    END LOOP;
    FOR i IN 1..60 LOOP
        BEGIN
            EXECUTE format('INSERT INTO regress_s.t%s SELECT n, 1, n %% 5 FROM generate_series(1, %1$s) n', i);
            IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END $$;
SELECT count(*) AS tables, sum(t.n) AS rows, sum(t.n) = (SELECT sum(i) FROM generate_series(1, 60) i WHERE i % 3 > 0) AS exact
  FROM jobstate.attachments a, LATERAL (SELECT sum(c.n) AS n FROM jobstate.counts(a.target) c) t
 WHERE a.target::text ~ '^regress_s\.t\d';
SELECT * FROM jobstate.verify();

-- an owner whom row security holds back: what is counted is the table
CREATE ROLE regress_owner;
CREATE TABLE regress_f (id int PRIMARY KEY, state smallint DEFAULT 1);
INSERT INTO regress_f VALUES (1), (2), (3);
ALTER TABLE regress_f OWNER TO regress_owner;
ALTER TABLE regress_f ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY regress_policy ON regress_f USING (id = 1);
GRANT EXECUTE ON FUNCTION jobstate.attach, jobstate.rebuild TO regress_owner;
SET ROLE regress_owner;
SELECT count(*) FROM regress_f;
SELECT jobstate.attach('regress_f', 'regress_m', 'state');
DELETE FROM regress_f;
SELECT jobstate.rebuild('regress_f');
SELECT * FROM jobstate.counts('regress_f');                                      -- fails
RESET ROLE;
SELECT * FROM jobstate.counts('regress_f') ORDER BY state;
SELECT * FROM jobstate.verify('regress_f');
DROP OWNED BY regress_owner;
DROP ROLE regress_owner;
DROP SCHEMA regress_s CASCADE;
DROP TABLE regress_g;
DROP TABLE regress_g;
SELECT jobstate.drop_machine('regress_m');
