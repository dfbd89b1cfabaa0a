-- upload_edges: the guard lets an upload take exactly the edges of the contract,
-- whatever statement moves it.
\set SHOW_CONTEXT never
SELECT jobstate.install('uploads');

CREATE FUNCTION pg_temp.may_move(from_id integer, to_id integer) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    -- from uploaded, a way into each state
    way integer[] := CASE from_id WHEN 1 THEN '{}' WHEN 2 THEN '{2}' WHEN 3 THEN '{3}'
                         WHEN 4 THEN '{2,4}' WHEN 5 THEN '{2,5}' WHEN 6 THEN '{2,6}' END;
    new_id bigint;
    step integer;
BEGIN
    INSERT INTO jobstate.upload (repo_id, commit_sha) VALUES (2, 'edges') RETURNING id INTO new_id;
    FOREACH step IN ARRAY way LOOP
        UPDATE jobstate.upload SET state_id = step WHERE id = new_id;
    END LOOP;
    UPDATE jobstate.upload SET state_id = to_id WHERE id = new_id;
    RETURN true;
EXCEPTION WHEN check_violation THEN
    RETURN false;
END $$;

SELECT f.name AS "from",
       string_agg(t.name, ', ' ORDER BY t.state_id) FILTER (WHERE pg_temp.may_move(f.state_id, t.state_id)) AS "to"
  FROM jobstate.state f, jobstate.state t
 WHERE f.machine = 'upload' AND t.machine = 'upload' AND f.state_id <> t.state_id
 GROUP BY f.state_id, f.name ORDER BY f.state_id;

-- the refusals left nothing behind
SELECT group_key ->> 'commit_sha' AS commit_sha, state, n
  FROM jobstate.counts('jobstate.upload', '{"repo_id": 2}') ORDER BY 2;
SELECT * FROM jobstate.verify('jobstate.upload');

-- the refusal names the row, the move and what would be legal
INSERT INTO jobstate.upload (id, repo_id, commit_sha) VALUES (1000000000, 2, 'edges');
UPDATE jobstate.upload SET state_id = 6 WHERE id = 1000000000;          -- fails
\echo :SQLSTATE
DELETE FROM jobstate.upload WHERE repo_id = 2;
SELECT * FROM jobstate.verify('jobstate.upload');
