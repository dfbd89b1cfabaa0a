-- derive_refusals: what derive() refuses, before anything is written.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_m', '{"waiting": 1, "busy": 2, "bad": 3, "over": 4}',
    (SELECT array_agg(a || ' -> ' || b) FROM unnest('{waiting,busy,bad,over}'::text[]) a, unnest('{waiting,busy,bad,over}'::text[]) b WHERE a <> b),
    '{waiting,busy,bad,over}', '{bad,over}') \g /dev/null
SELECT jobstate.define_rules('regress_r', '{empty -> waiting, any bad -> bad, all over -> over, all waiting -> waiting, always -> busy}') \g /dev/null
SELECT jobstate.define_rules('regress_x', '{any gone -> waiting, always -> busy}') \g /dev/null
CREATE TABLE regress_p (id int PRIMARY KEY, other int, state text NOT NULL DEFAULT 'waiting', at timestamptz, day date,
    err text, short varchar(10), doubled text GENERATED ALWAYS AS ('x') STORED, code text UNIQUE);
CREATE TABLE regress_c (id int PRIMARY KEY, p int, pp bigint, state text NOT NULL DEFAULT 'waiting', msg text, pt point, n int);
CREATE TABLE regress_bare (id int PRIMARY KEY, p int, state text);
CREATE TABLE regress_nokey (id int, state text NOT NULL DEFAULT 'waiting');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails: not attached
\echo :SQLSTATE
SELECT jobstate.attach(t, 'regress_m', 'state') FROM unnest('{regress_p,regress_c,regress_nokey}'::regclass[]) t \g /dev/null
SELECT jobstate.derive('regress_p', 'regress_bare', 'p', 'regress_r');           -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails: no index
\echo :SQLSTATE
CREATE INDEX ON regress_c (n, p);
CREATE INDEX ON regress_c (p) WHERE state <> 'over';
CREATE INDEX ON regress_c USING hash (p);
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails
CREATE INDEX ON regress_c (p, n);
CREATE INDEX ON regress_c (pp);
-- arguments
SELECT jobstate.derive(NULL, 'regress_c', 'p', 'regress_r');                     -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', NULL, 'p', 'regress_r');                     -- fails
SELECT jobstate.derive('regress_p', 'regress_c', NULL::name, 'regress_r');       -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', NULL);                     -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_none');           -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_x');              -- fails
\echo :SQLSTATE
-- keys
SELECT jobstate.derive('regress_p', 'regress_c', 'q', 'regress_r');              -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'pp', 'regress_r');             -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', '{p,n}'::name[], 'regress_r');          -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', '{}'::name[], 'regress_r');             -- fails
SELECT jobstate.derive('regress_p', 'regress_c', '{p,p,p,p,p,p,p,p,p}'::name[], 'regress_r');  -- fails
SELECT jobstate.derive('regress_nokey', 'regress_c', 'p', 'regress_r');          -- fails
\echo :SQLSTATE
-- columns
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', completed_at => 'none');          -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', completed_at => 'day');           -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', reason => 'short');               -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', reason => 'doubled');             -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', reason => 'state');               -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', reason => 'err', error => 'err', child_error => 'msg');  -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', reason => 'code');                -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', error => 'err');                  -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_error => 'msg');            -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_variant => 'n');            -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_order => '{n,pt}');         -- fails
\echo :SQLSTATE
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_order => '{n,ctid}');       -- fails
-- an index with the state in it: FOR NO KEY UPDATE would not be enough
CREATE UNIQUE INDEX regress_u ON regress_p (other, state);
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails
DROP INDEX regress_u;
CREATE UNIQUE INDEX regress_u ON regress_p (other) WHERE state = 'busy';

-- nothing came of all this
SELECT * FROM jobstate.derivations WHERE parent::text LIKE 'regress%';
SELECT jobstate.underive('regress_p', 'regress_c');                              -- fails
\echo :SQLSTATE
SELECT jobstate.underive(NULL, 'regress_c');                                     -- fails
SELECT jobstate.underive('regress_p', NULL);                                     -- fails
SELECT jobstate.rederive('regress_p');                                           -- fails
SELECT jobstate.rederive('regress_bare');                                        -- fails
SELECT jobstate.rederive(NULL);                                                  -- fails
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r', child_order => '{n,msg,id}');
SELECT jobstate.derive('regress_p', 'regress_c', 'p', 'regress_r');              -- fails
\echo :SQLSTATE
-- round and round
SELECT jobstate.derive('regress_p', 'regress_p', 'other', 'regress_r');          -- fails
\echo :SQLSTATE
CREATE INDEX ON regress_p (other);
SELECT jobstate.derive('regress_c', 'regress_p', 'other', 'regress_r');          -- fails
-- while it is derived
SELECT jobstate.detach('regress_p');                                             -- fails
\echo :SQLSTATE
SELECT jobstate.detach('regress_c');                                             -- fails
SELECT jobstate.drop_rules('regress_r');                                         -- fails
\echo :SQLSTATE
SELECT jobstate.define_rules('regress_r', '{always -> gone}');                   -- fails
SELECT jobstate.define_rules('regress_r', '{any gone -> over, always -> busy}'); -- fails
SELECT result FROM jobstate.rules WHERE rule_set = 'regress_r';
SELECT jobstate.underive('regress_p', 'regress_c');
DROP TABLE regress_c, regress_p, regress_bare, regress_nokey;
SELECT jobstate.drop_rules('regress_r'), jobstate.drop_machine('regress_m');
SELECT jobstate.drop_rules('regress_x');
