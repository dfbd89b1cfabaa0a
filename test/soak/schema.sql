-- What the load works on.  Times are short, so that a minute holds whole lives.
CREATE EXTENSION jobstate;
CREATE SCHEMA soak;

-- an attached table of an application, 64 groups
SELECT jobstate.define_machine('soak_task', '{"queued": 1, "running": 2, "done": 3, "failed": 4}',
    '{queued -> running, running -> queued, running -> done, running -> failed}');
CREATE TABLE soak.task (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    grp        integer NOT NULL,
    state      smallint NOT NULL DEFAULT 1,
    payload    text NOT NULL DEFAULT repeat('x', 100),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX ON soak.task (grp, id);
SELECT jobstate.attach('soak.task', 'soak_task', 'state', '{grp}');

CREATE TABLE soak.flood (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, grp text NOT NULL, state smallint NOT NULL DEFAULT 1);
SELECT jobstate.attach('soak.flood', 'soak_task', 'state', '{grp}');

-- parents that follow from their children
SELECT jobstate.define_machine('soak_batch', '{"open": 1, "done": 2, "failed": 3}',
    '{open -> done, open -> failed, failed -> open, failed -> done, done -> open, done -> failed}', terminal => '{done, failed}');
SELECT jobstate.define_rules('soak_batch',
    ARRAY['any failed and none queued, running -> failed', 'all done -> done', 'always -> open']);
CREATE TABLE soak.batch (id bigint PRIMARY KEY, kind integer NOT NULL, state text NOT NULL DEFAULT 'open', done_at timestamptz);
CREATE TABLE soak.item (
    batch bigint NOT NULL REFERENCES soak.batch ON DELETE CASCADE,
    nth   integer NOT NULL,
    state smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (batch, nth)
);
SELECT jobstate.attach('soak.batch', 'soak_batch', 'state', '{kind}');
SELECT jobstate.attach('soak.item', 'soak_task', 'state');
SELECT jobstate.derive('soak.batch', 'soak.item', 'batch', 'soak_batch', completed_at => 'done_at');
CREATE SEQUENCE soak.batch_id;

SELECT jobstate.install(family) FROM unnest('{queue,uploads,store,ledger,schedule,apply}'::text[]) family;

SELECT jobstate.queue_ring_define('{"slots": 24, "slot_jobs": 2000, "slot_length": "30 s", "retention": "45 s",
    "failed_retention": "1 min", "dead_letter_retention": "1 min"}');
SELECT jobstate.queue_define('fast', '{"lease": "20 s"}');
SELECT jobstate.queue_define('mixed', '{"max_attempts": 3, "backoff": "2 s", "lease": "5 s", "shards": 2}');
SELECT jobstate.queue_define('limited', '{"max_running_per_key": 4, "lease": "5 s"}');
CREATE TABLE soak.result (job bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());

UPDATE jobstate.upload_follow_up SET delay = '5 s' WHERE kind = 'sweep';
UPDATE jobstate.upload_follow_up SET delay = '10 s' WHERE kind = 'watchdog';
UPDATE jobstate.ledger_policy SET delay = '1 min';
SELECT jobstate.ledger_define('processor ' || n, '{"lease": "20 s", "max_failures": 3, "cap": 20}') FROM generate_series(0, 3) n;
SELECT jobstate.schedule_define('every ' || n, 'every 4s') FROM generate_series(1, 8) n;
SELECT jobstate.schedule_define('report ' || n, 'every 5s', 'mixed', 'report') FROM generate_series(1, 2) n;
UPDATE jobstate.apply_policy SET quiet = '20 s', task_grace = '10 s';

-- what the others are compared with: nobody watches it
CREATE TABLE soak.control (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0);
