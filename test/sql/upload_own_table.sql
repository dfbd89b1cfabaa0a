-- upload_own_table: the application's own table plays the upload table; one attach
-- gives it the machine's guard, exact counts and the kernel's verbs.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');
CREATE SCHEMA regress_app;
CREATE TABLE regress_app.report_session (
    id          bigint PRIMARY KEY,
    repo_id     bigint NOT NULL,
    commit_sha  text NOT NULL,
    state_id    smallint NOT NULL DEFAULT 1
);
INSERT INTO regress_app.report_session (id, repo_id, commit_sha)
SELECT n, 42, 'abc' FROM generate_series(1, 4) n;

SELECT jobstate.attach('regress_app.report_session', 'upload', 'state_id', '{repo_id,commit_sha}');

-- the old code's statements, now guarded and counted
UPDATE regress_app.report_session SET state_id = 2 WHERE id = 1;
UPDATE regress_app.report_session SET state_id = 6 WHERE id = 2;         -- fails
\echo :SQLSTATE
-- or the kernel's verbs
SELECT * FROM jobstate.transition('regress_app.report_session', '{2,3}', 'processed', 'uploaded');
SELECT * FROM jobstate.transition('regress_app.report_session', '{1,2,3,4}', 'merged', 'processed');
SELECT * FROM jobstate.take('regress_app.report_session', 'uploaded', 'error', '{"repo_id": 42}');
SELECT state, n FROM jobstate.counts('regress_app.report_session', '{"repo_id": 42, "commit_sha": "abc"}')
 WHERE n > 0 ORDER BY state;

-- the last of several finishers: a row of the commit's own is locked AND updated
-- first, the counts are read in a statement after it
CREATE TABLE regress_app.commit (
    repo_id bigint, commit_sha text, version bigint NOT NULL DEFAULT 0, PRIMARY KEY (repo_id, commit_sha)
);
CREATE FUNCTION regress_app.finish(upload bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    open bigint;
BEGIN
    UPDATE regress_app.commit c SET version = version + 1
      FROM regress_app.report_session s
     WHERE s.id = upload AND c.repo_id = s.repo_id AND c.commit_sha = s.commit_sha;
    PERFORM jobstate.transition('regress_app.report_session', ARRAY[upload], 'processed', 'uploaded');
    SELECT k.n INTO open
      FROM regress_app.report_session s,
           jobstate.counts('regress_app.report_session',
               jsonb_build_object('repo_id', s.repo_id, 'commit_sha', s.commit_sha)) k
     WHERE s.id = upload AND k.state = 'uploaded';
    RETURN open = 0;
END $$;
INSERT INTO regress_app.commit VALUES (42, 'own');
INSERT INTO regress_app.report_session (id, repo_id, commit_sha) VALUES (11, 42, 'own'), (12, 42, 'own');
SELECT regress_app.finish(11), regress_app.finish(12);

SELECT * FROM jobstate.verify('regress_app.report_session');
SELECT jobstate.detach('regress_app.report_session');
SET client_min_messages = warning;
DROP SCHEMA regress_app CASCADE;
