-- queue_altered: what an application adds to the queue's tables is respected by the
-- verbs in C, and a queue stays as long as it has jobs.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DO $$ BEGIN PERFORM jobstate.install('queue'); END $$;

-- columns with defaults, and one that is computed
ALTER TABLE jobstate.job ADD COLUMN tenant text NOT NULL DEFAULT 'ten' || 'ant';
SELECT duplicate FROM jobstate.enqueue('test altered', 'plain');
SELECT tenant FROM jobstate.job WHERE queue = 'test altered';
ALTER TABLE jobstate.job ADD COLUMN doubled integer GENERATED ALWAYS AS (attempt * 2) STORED;
SELECT duplicate FROM jobstate.enqueue('test altered', 'computed');
SELECT kind, attempt FROM jobstate.claim('test altered', 'w', 2) ORDER BY kind;
SELECT kind, tenant, doubled FROM jobstate.job WHERE queue = 'test altered' ORDER BY kind;
ALTER TABLE jobstate.job DROP COLUMN doubled, DROP COLUMN tenant;

-- a constraint
ALTER TABLE jobstate.job ADD CONSTRAINT kind_check CHECK (kind <> 'bad');
\set VERBOSITY sqlstate
SELECT * FROM jobstate.enqueue('test altered', 'bad');                            -- fails
\set VERBOSITY default
ALTER TABLE jobstate.job DROP CONSTRAINT kind_check;

-- a constraint whose function changes its mind
CREATE FUNCTION good(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT kind <> 'bad' $$;
ALTER TABLE jobstate.job ADD CONSTRAINT kind_check CHECK (good(kind));
SELECT duplicate FROM jobstate.enqueue('test altered', 'worse');
CREATE OR REPLACE FUNCTION good(kind text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT kind <> 'worse' $$;
\set VERBOSITY sqlstate
SELECT * FROM jobstate.enqueue('test altered', 'worse');                          -- fails
SELECT * FROM jobstate.claim('test altered', 'w');                                -- fails
\set VERBOSITY default
ALTER TABLE jobstate.job DROP CONSTRAINT kind_check;
DROP FUNCTION good(text);
DELETE FROM jobstate.job WHERE kind = 'worse';

-- row triggers fire for each verb, ours among them
CREATE TABLE fired (n serial, what text);
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.fired (what) VALUES (format('%s %s %s', TG_WHEN, TG_OP, jobstate.queue_state_name(NEW.state_id)));
    RETURN NEW;
END
$$;
CREATE TRIGGER a BEFORE INSERT OR UPDATE ON jobstate.job FOR EACH ROW EXECUTE FUNCTION fired();
CREATE TRIGGER z AFTER INSERT OR UPDATE ON jobstate.job FOR EACH ROW EXECUTE FUNCTION fired();
SELECT duplicate FROM jobstate.enqueue('test altered', 'watched');
SELECT count(*) FROM (SELECT jobstate.complete(array_agg(id), array_agg(token)) FROM jobstate.claim('test altered', 'w')) done;
SELECT what FROM fired ORDER BY n;
DROP TRIGGER a ON jobstate.job;
DROP TRIGGER z ON jobstate.job;
SELECT state, n FROM jobstate.queue_counts('test altered') WHERE n > 0 ORDER BY state;

-- a statement's trigger would not fire, so the verbs do not go on
CREATE FUNCTION ignored() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER s AFTER UPDATE ON jobstate.job FOR EACH STATEMENT EXECUTE FUNCTION ignored();
SELECT * FROM jobstate.claim('test altered', 'w');                                -- fails
\echo :SQLSTATE
DROP TRIGGER s ON jobstate.job;

-- a lease is not longer than the job's timeout
SELECT duplicate FROM jobstate.enqueue('test altered', 'short', timeout => '1 min');
SELECT kind, lease_until <= clock_timestamp() + interval '1 min' AS capped FROM jobstate.claim('test altered', 'w', 1, '1 hour');

-- a queue that has jobs is neither deleted nor renamed
DELETE FROM jobstate.queue WHERE queue = 'test altered';                          -- fails
\echo :SQLSTATE
UPDATE jobstate.queue SET queue = 'test renamed' WHERE queue = 'test altered';     -- fails
\echo :SQLSTATE
SELECT * FROM jobstate.verify('jobstate.job');
DELETE FROM jobstate.job WHERE queue = 'test altered';
UPDATE jobstate.queue SET queue = 'test renamed' WHERE queue = 'test altered';
DELETE FROM jobstate.queue WHERE queue = 'test renamed';
SELECT count(*) FROM jobstate.queue WHERE queue IN ('test altered', 'test renamed');
DROP FUNCTION fired(), ignored();
DROP TABLE fired;
