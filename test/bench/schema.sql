-- The same table three times: bare, watched by jobstate, and counted by the customary statement trigger that
-- upserts a counter row.
CREATE EXTENSION IF NOT EXISTS jobstate;
SELECT jobstate.define_machine('toggle', '{"a": 1, "b": 2}', '{"a -> b", "b -> a"}');

CREATE TABLE bare_1 (id integer PRIMARY KEY, grp integer NOT NULL, state smallint NOT NULL, payload text)
    WITH (fillfactor = 50, autovacuum_enabled = off);
INSERT INTO bare_1 SELECT i, 1, 1, repeat('x', 100) FROM generate_series(1, 20000) i;
CREATE TABLE bare_64 (LIKE bare_1 INCLUDING ALL) WITH (fillfactor = 50, autovacuum_enabled = off);
INSERT INTO bare_64 SELECT id, id % 64, state, payload FROM bare_1;

DO $$
DECLARE
    g text;
    v text;
BEGIN
    FOREACH g IN ARRAY ARRAY['1', '64'] LOOP
        FOREACH v IN ARRAY ARRAY['jobstate', 'upsert'] LOOP
            EXECUTE format('CREATE TABLE %I (LIKE bare_1 INCLUDING ALL) WITH (fillfactor = 50, autovacuum_enabled = off)', v || '_' || g);
            EXECUTE format('INSERT INTO %I SELECT * FROM %I', v || '_' || g, 'bare_' || g);
        END LOOP;
        PERFORM jobstate.attach(('jobstate_' || g)::regclass, 'toggle', 'state', '{grp}');
    END LOOP;
END
$$;

CREATE TABLE counter (tab text, grp integer, state smallint, n bigint NOT NULL, PRIMARY KEY (tab, grp, state))
    WITH (fillfactor = 50);
INSERT INTO counter SELECT 'upsert_1', grp, state, count(*) FROM upsert_1 GROUP BY 2, 3
    UNION ALL SELECT 'upsert_64', grp, state, count(*) FROM upsert_64 GROUP BY 2, 3;
CREATE FUNCTION count_by_upsert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counter
    SELECT TG_TABLE_NAME, grp, state, sum(n) FROM (SELECT grp, state, -1 AS n FROM old_rows
                                                   UNION ALL SELECT grp, state, 1 FROM new_rows) d
     GROUP BY grp, state HAVING sum(n) <> 0 ORDER BY grp, state
    ON CONFLICT (tab, grp, state) DO UPDATE SET n = counter.n + excluded.n;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_by_upsert AFTER UPDATE ON upsert_1 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_by_upsert();
CREATE TRIGGER count_by_upsert AFTER UPDATE ON upsert_64 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_by_upsert();
VACUUM ANALYZE;
