-- machine_diagram: a machine prints itself, with a table's live counts on request.
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SELECT jobstate.define_machine('regress_upload', '{"uploaded": 1, "processed": 2, "merged": 3, "error": 4}',
    '{uploaded -> processed: parsed, uploaded -> error: failed, processed -> merged}', '{uploaded}');
SELECT jobstate.mermaid('regress_upload');
SELECT jobstate.dot('regress_upload');

CREATE TABLE regress_t (id int PRIMARY KEY, state_id smallint DEFAULT 1, repo int);
SELECT jobstate.attach('regress_t', 'regress_upload', 'state_id', '{repo}');
SELECT jobstate.mermaid('regress_upload', 'regress_t');
INSERT INTO regress_t (id, repo) SELECT n, n % 3 FROM generate_series(1, 10) n;
UPDATE regress_t SET state_id = 2 WHERE repo > 0;
SELECT jobstate.mermaid('regress_upload', 'regress_t');
SELECT jobstate.dot('regress_upload', 'regress_t');

-- a machine where every row may begin anywhere has no arrows from outside; ids
-- below zero and names with quotes are names of nodes, too
SELECT jobstate.define_machine('regress "odd"', '{"a\"b": -1, "c": 2}', ARRAY['a"b -> c: say "go"']);
SELECT jobstate.mermaid('regress "odd"');
SELECT jobstate.dot('regress "odd"');
SELECT jobstate.define_machine('regress "odd"', '{"lonely": 1}', '{}');
SELECT jobstate.mermaid('regress "odd"');
SELECT jobstate.dot('regress "odd"');

-- refusals
SELECT jobstate.mermaid(NULL);                              -- fails
SELECT jobstate.dot(NULL);                                  -- fails
\echo :SQLSTATE
SELECT jobstate.mermaid('regress_none');                    -- fails
SELECT jobstate.dot('regress_none');                        -- fails
\echo :SQLSTATE
SELECT jobstate.mermaid('regress_upload', 'pg_class');      -- fails
-- the table is another machine's
SELECT jobstate.mermaid('regress "odd"', 'regress_t');      -- fails
\echo :SQLSTATE

DROP TABLE regress_t;
SELECT jobstate.drop_machine('regress "odd"'), jobstate.drop_machine('regress_upload');
