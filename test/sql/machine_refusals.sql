-- machine_refusals: a definition that is not sound changes nothing.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b}');

-- null where it means nothing, and names that are none
SELECT jobstate.define_machine(NULL, '{"a": 1}', '{}');                     -- fails
SELECT jobstate.define_machine('regress_kept', NULL, '{}');                 -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1}', NULL);           -- fails
\echo :SQLSTATE
SELECT jobstate.define_machine('', '{"a": 1}', '{}');                       -- fails

-- states
SELECT jobstate.define_machine('regress_kept', '{}', '{}');                 -- fails
SELECT jobstate.define_machine('regress_kept', '["a"]', '{}');              -- fails
SELECT jobstate.define_machine('regress_kept', 'null', '{}');               -- fails
\echo :SQLSTATE
SELECT jobstate.define_machine('regress_kept', '{"a": "1"}', '{}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": null}', '{}');        -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1.5}', '{}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 32768}', '{}');       -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1e30}', '{}');        -- fails
SELECT jobstate.define_machine('regress_kept', '{"": 1}', '{}');            -- fails
SELECT jobstate.define_machine('regress_kept', '{"a b": 1}', '{}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a:b": 1}', '{}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a->b": 1}', '{}');        -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 1}', '{}');   -- fails
\echo :SQLSTATE

-- transitions
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a}');            -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a => b}');       -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b -> a}');  -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{""}');           -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{NULL}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> c}');       -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{A -> b}');       -- fails
\echo :SQLSTATE

-- initial and terminal states
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b}', '{c}');         -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b}', '{a}', '{d}');  -- fails
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b}', '{NULL}');      -- fails
\echo :SQLSTATE
-- a machine that no row could ever enter
SELECT jobstate.define_machine('regress_kept', '{"a": 1, "b": 2}', '{a -> b}', '{}');          -- fails
\echo :SQLSTATE

-- dropping
SELECT jobstate.drop_machine(NULL);                                         -- fails
\echo :SQLSTATE
SELECT jobstate.drop_machine('regress_none');                               -- fails
\echo :SQLSTATE
CREATE TABLE regress_user (state smallint);
SELECT jobstate.attach('regress_user', 'regress_kept', 'state');
SELECT jobstate.drop_machine('regress_kept');                               -- fails
\echo :SQLSTATE
DROP TABLE regress_user;

-- after all of this it is what it was
SELECT * FROM jobstate.machines WHERE name LIKE 'regress%';
SELECT * FROM jobstate.transitions WHERE machine LIKE 'regress%';
SELECT jobstate.drop_machine('regress_kept');
