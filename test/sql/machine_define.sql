-- machine_define: a machine is data; one statement makes it, and one changes it.
\set SHOW_CONTEXT never
SELECT jobstate.define_machine('regress_job',
    '{"uploaded": 1, "processed": 2, "merged": 3, "error": 4}',
    ARRAY['uploaded -> processed: parsed', 'uploaded->error:failed', '  processed   ->  merged  ', 'error -> uploaded:  retry: later '],
    ARRAY['uploaded'], ARRAY['merged', 'error']);
SELECT * FROM jobstate.machines WHERE name = 'regress_job';
SELECT * FROM jobstate.transitions WHERE machine = 'regress_job' ORDER BY from_state, to_state;

-- the arguments that may be left out: every state is initial, and terminal is
-- what no other state follows; ids may be any smallint
SELECT jobstate.define_machine('regress_open', '{"up": -32768, "down": 32767, "idle": 0}',
                               ARRAY['up -> down', 'down -> down', 'idle -> up']);
SELECT * FROM jobstate.machines WHERE name = 'regress_open';
-- nothing is terminal where that is said
SELECT jobstate.define_machine('regress_open', '{"up": -32768, "down": 32767, "idle": 0}',
                               ARRAY['up -> down'], terminal => '{}');
SELECT name, initial, terminal FROM jobstate.machines WHERE name = 'regress_open';

-- a second definition replaces the first: states and edges come and go
SELECT jobstate.define_machine('regress_job',
    '{"uploaded": 1, "processed": 2, "merged": 3, "lost": 5}',
    '{uploaded -> processed: read, processed -> merged, processed -> lost}', '{uploaded}');
SELECT * FROM jobstate.machines WHERE name = 'regress_job';
SELECT * FROM jobstate.transitions WHERE machine = 'regress_job' ORDER BY from_state, to_state;

-- an edge that is given twice is one edge, and no edges at all are a machine too
SELECT jobstate.define_machine('regress_open', '{"up": 1, "down": 2}', '{up -> down, up -> down: stop}');
SELECT * FROM jobstate.transitions WHERE machine = 'regress_open';
SELECT jobstate.define_machine('regress_open', '{"up": 1, "down": 2}', '{}');
SELECT count(*) FROM jobstate.transitions WHERE machine = 'regress_open';
SELECT name, terminal FROM jobstate.machines WHERE name = 'regress_open';

-- names are any text without blanks and colons
SELECT jobstate.define_machine('Regress "quoted" machine', '{"Über-mäßig": 1, "it''s\"": 2, "a-b": 3}',
                               ARRAY['Über-mäßig -> it''s"', 'a-b->it''s"']);
SELECT from_state, to_state FROM jobstate.transitions
 WHERE machine = 'Regress "quoted" machine' ORDER BY from_state COLLATE "C";

-- 256 states are a machine, one more is none
SELECT jobstate.define_machine('regress_large', (SELECT jsonb_object_agg('s' || n, n) FROM generate_series(1, 256) n), '{s1 -> s256}');
SELECT count(*) FROM jobstate.state WHERE machine = 'regress_large';
SELECT jobstate.define_machine('regress_large', (SELECT jsonb_object_agg('s' || n, n) FROM generate_series(1, 257) n), '{}'); -- fails

-- a definition that is rolled back was none
BEGIN;
SELECT jobstate.define_machine('regress_gone', '{"a": 1}', '{}');
ROLLBACK;
SELECT count(*) FROM jobstate.machines WHERE name = 'regress_gone';

SELECT jobstate.drop_machine(name) FROM jobstate.machines WHERE name ILIKE 'regress%' ORDER BY name;
SELECT count(*) FROM jobstate.state WHERE machine ILIKE 'regress%';
