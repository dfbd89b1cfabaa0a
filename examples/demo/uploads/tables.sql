-- What an application keeps beside the uploads: ordinary tables that know nothing of jobstate, and a role for its
-- workers that has no right on jobstate's counters.
CREATE EXTENSION jobstate;
SELECT jobstate.install('uploads');

CREATE ROLE demo_worker;
SELECT jobstate.upload_grant('demo_worker');

CREATE SCHEMA demo;

-- A parsed report, waiting to be merged: [{"file": "src/tally.c", "line": 7, "hits": 3}, ...].
CREATE TABLE demo.intermediate (
    upload_id bigint PRIMARY KEY REFERENCES jobstate.upload (id),
    lines     jsonb NOT NULL
);

CREATE TABLE demo.merged (
    file text,
    line integer,
    hits bigint NOT NULL,
    PRIMARY KEY (file, line)
);

-- What post-processing makes. One row per commit: a second post-processing fails here.
CREATE TABLE demo.postprocessed (
    commit_sha text PRIMARY KEY,
    worker     integer NOT NULL,
    coverage   jsonb NOT NULL
);

-- What the workers saw and when, with the live counts of that moment.
CREATE TABLE demo.event (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    worker integer NOT NULL,
    kind   text NOT NULL,
    detail text NOT NULL,
    counts jsonb NOT NULL
);

GRANT USAGE ON SCHEMA demo TO demo_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA demo TO demo_worker;
