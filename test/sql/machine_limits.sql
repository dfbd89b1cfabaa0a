-- machine_limits: the largest machine and the outermost ids, in use.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_large',
    (SELECT jsonb_object_agg('s' || n, n) FROM generate_series(0, 255) n),
    (SELECT array_agg(format('s%s -> s%s', n, (n + 1) % 256)) FROM generate_series(0, 255) n), '{s0}', '{s255}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 0, at date DEFAULT '2020-01-01');
SELECT jobstate.attach('regress_t', 'regress_large', 'state');
INSERT INTO regress_t SELECT generate_series(1, 300);
-- every row walks along the chain, as far as its id says
DO $$
BEGIN
    FOR i IN 1..255 LOOP
        UPDATE regress_t SET state = i WHERE id > i;
        COMMIT;
    END LOOP;
END $$;
UPDATE regress_t SET state = state + 2 WHERE id = 100;                           -- fails
SELECT count(*), sum(n), min(n), max(n) FROM jobstate.counts('regress_t');
SELECT state, n FROM jobstate.counts('regress_t') WHERE state IN ('s0', 's1', 's128', 's255') ORDER BY state;
SELECT * FROM jobstate.take('regress_t', 's255', 's0', n => 2);
SELECT jobstate.prune('regress_t', '1 day', 'at', 10);
SELECT jobstate.fold() > 0 AS folded;
SELECT count(*), sum(live), sum(rolled_up), sum(total) FROM jobstate.totals('regress_t');
SELECT * FROM jobstate.verify('regress_t');
SELECT length(jobstate.mermaid('regress_large', 'regress_t')) > 256 * 20 AS drawn;
\set VERBOSITY terse
INSERT INTO regress_t VALUES (400, 256);                                         -- fails
\set VERBOSITY default

-- ids at both ends, zero and below it
SELECT jobstate.define_machine('regress_wide', '{"low": -32768, "minus": -1, "zero": 0, "high": 32767}',
                               '{low -> minus, minus -> zero, zero -> high}', '{low}');
CREATE TABLE regress_s (id bigint PRIMARY KEY, state smallint, at date DEFAULT '2020-01-01');
CREATE TABLE regress_i (id smallint PRIMARY KEY, state int);
SELECT jobstate.attach('regress_s', 'regress_wide', 'state'), jobstate.attach('regress_i', 'regress_wide', 'state');
INSERT INTO regress_s VALUES (-9223372036854775808, -32768), (9223372036854775807, -32768), (0, -32768);
INSERT INTO regress_i VALUES (-32768, -32768), (32767, -32768);
INSERT INTO regress_i VALUES (1, 32768);                                         -- fails
INSERT INTO regress_i VALUES (1, -2147483648);                                   -- fails
INSERT INTO regress_i VALUES (1, 65535);                                         -- fails
SELECT * FROM jobstate.transition('regress_s', '{-9223372036854775808,9223372036854775807,0}', 'minus');
SELECT * FROM jobstate.take('regress_s', 'minus', 'zero', n => 2);
SELECT * FROM jobstate.transition('regress_s', '{-9223372036854775808}', 'high', 'zero');
SELECT * FROM jobstate.transition('regress_i', '{-32768,-9223372036854775808,65535,32767}', 'minus');
SELECT jobstate.prune('regress_s', '1 day', 'at');
SELECT * FROM jobstate.totals('regress_s') ORDER BY state;
SELECT * FROM jobstate.counts('regress_i') ORDER BY state;
SELECT jobstate.mermaid('regress_wide', 'regress_i');
SELECT v.* FROM unnest('{regress_t,regress_s,regress_i}'::regclass[]) t, jobstate.verify(t) v;
DROP TABLE regress_t, regress_s, regress_i;
SELECT jobstate.drop_machine('regress_large'), jobstate.drop_machine('regress_wide');
