-- counts_filter: a group key names all, some or none of the group columns.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"a": 1, "b": 2}', '{a -> b}');
CREATE TABLE regress_t (id int PRIMARY KEY, state smallint DEFAULT 1, repo int, branch text, amount numeric(6,2), code varchar(3));
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{repo,branch}');
INSERT INTO regress_t SELECT n, 1 + n % 2, n % 3, CASE n % 4 WHEN 0 THEN NULL ELSE 'b' || n % 2 END FROM generate_series(1, 24) n;

SELECT * FROM jobstate.counts('regress_t') ORDER BY group_key, state;
SELECT * FROM jobstate.counts('regress_t', NULL) EXCEPT SELECT * FROM jobstate.counts('regress_t', '{}');
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1}') ORDER BY group_key, state;
SELECT * FROM jobstate.counts('regress_t', '{"branch": "b1"}') ORDER BY group_key, state;
SELECT * FROM jobstate.counts('regress_t', '{"branch": null}') ORDER BY group_key, state;
SELECT * FROM jobstate.counts('regress_t', '{"branch": "b1", "repo": 2}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"branch": null, "repo": 0}') ORDER BY state;
-- a group that was never seen: zeros where it is named in full, nothing where not
SELECT * FROM jobstate.counts('regress_t', '{"branch": "b9", "repo": 9}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"repo": 9}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"repo": null}') ORDER BY state;
-- one that has no rows any more
DELETE FROM regress_t WHERE repo = 1;
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1}');
SELECT * FROM jobstate.counts('regress_t', '{"repo": 1, "branch": "b1"}') ORDER BY state;
-- the same after a fold
SELECT jobstate.fold() > 0 AS folded;
SELECT * FROM jobstate.counts('regress_t', '{"branch": "b1", "repo": 2}') ORDER BY state;
SELECT * FROM jobstate.counts('regress_t', '{"branch": null}') ORDER BY group_key, state;
-- values are read by the column's type: a number may come as text
SELECT sum(n) FROM jobstate.counts('regress_t', '{"repo": "2"}');
SELECT sum(n) FROM jobstate.counts('regress_t', '{"repo": 2.0}');                -- fails
SELECT sum(n) FROM jobstate.counts('regress_t', '{"repo": "two"}');              -- fails
SELECT sum(n) FROM jobstate.counts('regress_t', '{"repo": 99999999999}');        -- fails
-- but not rounded or cut to its length: such a group cannot be
SELECT jobstate.detach('regress_t');
SELECT jobstate.attach('regress_t', 'regress_m', 'state', '{amount,code}');
INSERT INTO regress_t (id, amount, code) VALUES (101, 1.01, 'abc');
SELECT sum(n) FROM jobstate.counts('regress_t', '{"amount": 1.010}');
SELECT sum(n) FROM jobstate.counts('regress_t', '{"amount": 1.005}');
SELECT sum(n) FROM jobstate.counts('regress_t', '{"code": "abc"}');
SELECT sum(n) FROM jobstate.counts('regress_t', '{"code": "abcd"}');
SELECT * FROM jobstate.counts('regress_t', '{"amount": 5, "code": "abcd"}') ORDER BY state;

-- what is no group key
SELECT * FROM jobstate.counts('regress_t', '{"id": 1}');                         -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('regress_t', '{"state": "a"}');                    -- fails
SELECT * FROM jobstate.counts('regress_t', '[1]');                               -- fails
SELECT * FROM jobstate.counts('regress_t', '"repo"');                            -- fails
SELECT * FROM jobstate.counts('regress_t', 'null');                              -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts(NULL);                                             -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.counts('pg_class');                                       -- fails
SELECT * FROM jobstate.counts(0::regclass);                                      -- fails
\echo :SQLSTATE
-- joined with a list of keys
SELECT k.amount, sum(c.n) FROM (VALUES (1.01), (2.02)) k (amount)
       LEFT JOIN LATERAL jobstate.counts('regress_t', jsonb_build_object('amount', k.amount)) c ON true GROUP BY 1 ORDER BY 1;
DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress_m');
