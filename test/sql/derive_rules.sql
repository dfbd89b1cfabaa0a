-- derive_rules: what rules may say, and what they say then; the view is what a reviewer reads.
\set SHOW_CONTEXT never
SELECT jobstate.define_rules('regress_r', ARRAY[
    'empty -> none yet', '  any   bad/halt,worse   ->   halted  ', 'any bad and later not over, bad -> stopped',
    'any not over, bad, odd and later odd -> odd one', 'any bad->bad', 'all over, odd -> over', 'none over and any busy -> begun',
    'always -> busy'], unknown => 'waiting');
SELECT * FROM jobstate.rules WHERE rule_set = 'regress_r';
-- each rule, and the first that holds
SELECT e.states, e.variants, jobstate.fold('regress_r', e.states, e.variants)
  FROM (VALUES (1, '{}'::text[], NULL::text[]), (2, '{bad}', NULL), (3, '{bad}', '{halt}'), (4, '{bad}', '{go}'), (5, '{bad}', '{NULL}'),
               (6, '{worse}', '{anything}'), (7, '{over,bad}', '{halt,NULL}'), (8, '{over,bad,worse}', NULL),
               (9, '{bad,over,bad}', NULL), (10, '{over,busy,bad}', NULL), (11, '{bad,over,busy}', NULL), (12, '{busy,bad,over}', NULL),
               (13, '{busy,odd}', NULL), (14, '{odd,busy}', NULL), (15, '{odd,over}', NULL), (16, '{odd}', NULL), (17, '{busy}', NULL),
               (18, '{busy,over}', NULL), (19, '{waiting}', NULL), (20, '{never heard of}', NULL), (21, '{bad/halt}', NULL)) e (n, states, variants)
 ORDER BY e.n;
-- NULL counts as the state for unknowns, which is none without one; names are not folded in case
SELECT jobstate.define_rules('regress_n', '{any waiting -> w, any not waiting -> other}');
SELECT jobstate.fold('regress_n', '{NULL}'), jobstate.fold('regress_n', '{NULL,waiting}'), jobstate.fold('regress_n', '{WAITING}');
SELECT jobstate.define_rules('regress_n', '{any waiting -> w, any not waiting -> other}', 'waiting');
SELECT jobstate.fold('regress_n', '{NULL}'), jobstate.fold('regress_n', '{NULL,busy}', '{x,NULL}'), jobstate.fold('regress_n', '{}') IS NULL AS no_rule_holds;
-- "later" goes by the last "any" before it; the first of those that matched is what it is later than
SELECT jobstate.define_rules('regress_n', '{"any a and any b and later c -> yes", "always -> no"}');
SELECT s, jobstate.fold('regress_n', string_to_array(s, NULL)) FROM unnest('{abc,acb,bac,cab,bca,cba,babc,abcb}'::text[]) s;
-- arrays of more than one dimension, with other bounds, and large ones
SELECT jobstate.fold('regress_n', '{{a,b},{c,c}}'), jobstate.fold('regress_n', '[5:7]={a,b,c}');
SELECT jobstate.fold('regress_n', array_agg(CASE n WHEN 99998 THEN 'a' WHEN 99999 THEN 'b' WHEN 100000 THEN 'c' ELSE 'x' || n % 50 END ORDER BY n))
  FROM generate_series(1, 100000) n;
-- many kinds of children, and a name that is long
SELECT jobstate.define_rules('regress_n', ARRAY['all ' || repeat('ä', 300) || ' -> long', 'always -> no']);
SELECT jobstate.fold('regress_n', ARRAY[repeat('ä', 300)]), jobstate.fold('regress_n', ARRAY[repeat('ä', 299)]);

-- what is no rule
SELECT jobstate.define_rules('regress_n', '{any a}');                            -- fails
\echo :SQLSTATE
SELECT jobstate.define_rules('regress_n', '{any a ->}');                         -- fails
SELECT jobstate.define_rules('regress_n', '{-> a}');                             -- fails
SELECT jobstate.define_rules('regress_n', '{any -> a}');                         -- fails
SELECT jobstate.define_rules('regress_n', '{"any a, , b -> a"}');                -- fails
SELECT jobstate.define_rules('regress_n', '{"always b -> a"}');                  -- fails
SELECT jobstate.define_rules('regress_n', '{"some b -> a"}');                    -- fails
SELECT jobstate.define_rules('regress_n', '{"any a or any b and -> c"}');        -- fails
SELECT jobstate.define_rules('regress_n', '{always -> a,NULL}');                 -- fails
SELECT jobstate.define_rules('regress_n', '{later b -> a}');                     -- fails
SELECT jobstate.define_rules('regress_n', '{"later not b and any a -> a"}');     -- fails
SELECT jobstate.define_rules('regress_n', '{}');                                 -- fails
SELECT jobstate.define_rules('', '{always -> a}');                               -- fails
SELECT jobstate.define_rules(NULL, '{always -> a}');                             -- fails
\echo :SQLSTATE
SELECT jobstate.define_rules('regress_n', NULL);                                 -- fails
-- then the old ones are still there
SELECT count(*) FROM jobstate.rules WHERE rule_set = 'regress_n';

-- fold() itself
SELECT jobstate.fold('regress_none', '{a}');                                     -- fails
\echo :SQLSTATE
SELECT jobstate.fold(NULL, '{a}');                                               -- fails
SELECT jobstate.fold('regress_n', NULL);                                         -- fails
SELECT jobstate.fold('regress_n', '{a,b}', '{c}');                               -- fails
\echo :SQLSTATE
SELECT jobstate.drop_rules('regress_n'), jobstate.drop_rules('regress_r');
SELECT jobstate.drop_rules('regress_r');                                         -- fails
\echo :SQLSTATE
SELECT jobstate.drop_rules(NULL);                                                -- fails
SELECT jobstate.fold('regress_r', '{a}');                                        -- fails
