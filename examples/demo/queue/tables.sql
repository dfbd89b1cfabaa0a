-- What an application keeps beside its jobs: ordinary tables that know nothing of jobstate, and a role for its workers
-- that has no right on jobstate's counters, nor on the settings of queues.
CREATE EXTENSION jobstate;
SELECT jobstate.install('queue');

CREATE ROLE demo_queue_worker;
SELECT jobstate.queue_grant('demo_queue_worker');

-- What is read is claimed by priority, and once per path; packing takes memory, so few may do it at a time; a delivery
-- is tried again for as long as it may take.
SELECT jobstate.queue_define('read', '{"lease": "2 s", "max_attempts": 10, "backoff": "200 ms"}');
SELECT jobstate.queue_define('pack', '{"lease": "2 s", "max_running": 2, "backoff": "200 ms"}');
SELECT jobstate.queue_define('deliver', '{"backoff": "200 ms", "max_attempts": 50}');

CREATE SCHEMA demo;

-- The results. A job that is done twice fails here.
CREATE TABLE demo.file (
    path   text PRIMARY KEY,
    lines  integer NOT NULL,
    sha256 text NOT NULL
);

CREATE TABLE demo.packed (
    path    text PRIMARY KEY REFERENCES demo.file,
    content bytea NOT NULL,
    running integer NOT NULL
);
COMMENT ON COLUMN demo.packed.running IS 'how many were packing just then';

CREATE TABLE demo.delivered (
    path text PRIMARY KEY REFERENCES demo.packed
);

GRANT USAGE ON SCHEMA demo TO demo_queue_worker;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA demo TO demo_queue_worker;

-- Jobs, from jobstate's counters, and beside them the rows that the application has stored.
CREATE VIEW demo.live AS
SELECT q.queue,
       coalesce(sum(c.n) FILTER (WHERE c.state = 'available'), 0)::integer AS available,
       coalesce(sum(c.n) FILTER (WHERE c.state = 'running'), 0)::integer AS running,
       coalesce(sum(c.n) FILTER (WHERE c.state = 'deferred'), 0)::integer AS deferred,
       coalesce(sum(c.n) FILTER (WHERE c.state = 'completed'), 0)::integer AS completed,
       (SELECT count(*) FROM jobstate.dead_letter d WHERE d.queue = q.queue)::integer AS dead,
       CASE q.queue WHEN 'read' THEN (SELECT count(*) FROM demo.file)
                    WHEN 'pack' THEN (SELECT count(*) FROM demo.packed)
                    WHEN 'deliver' THEN (SELECT count(*) FROM demo.delivered) END::integer AS stored
  FROM jobstate.queue q LEFT JOIN jobstate.queue_counts() c USING (queue)
 GROUP BY q.queue;

-- What was seen of it while the workers were at work.
CREATE TABLE demo.look AS SELECT clock_timestamp() AS at, l.* FROM demo.live l WITH NO DATA;

-- What the crew did: how often it sent each path, and what the workers held that were killed.
CREATE TABLE demo.sent (
    id        bigint NOT NULL,
    duplicate boolean NOT NULL
);

CREATE TABLE demo.killed (
    worker text NOT NULL,
    id     bigint NOT NULL,
    token  bigint NOT NULL
);
