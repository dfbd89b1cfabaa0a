-- The tables of random statements: attached, and each with an ordinary trigger that writes down which moves were let through.
CREATE EXTENSION jobstate;
CREATE SCHEMA s;
SET search_path = s, public;
SELECT jobstate.define_machine('m', '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}',
    '{new -> ready, new -> failed, ready -> busy, ready -> failed, busy -> done, busy -> failed, busy -> ready, failed -> ready}',
    '{new,ready}', '{done,failed}');
SELECT jobstate.define_machine('free', '{"new": 1, "ready": 2, "busy": 3, "done": 10, "failed": -3}',
    ARRAY(SELECT a || ' -> ' || b FROM unnest('{new,ready,busy,done,failed}'::text[]) a, unnest('{new,ready,busy,done,failed}'::text[]) b WHERE a <> b));
SELECT jobstate.define_rules('r', '{empty -> new, any failed -> failed, all done -> done, "any busy, done -> busy", always -> ready}');
CREATE FUNCTION next(text, int DEFAULT 0) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$ SELECT coalesce((CASE $1 WHEN 'new' THEN '{ready,failed}' WHEN 'ready' THEN '{busy,failed}' WHEN 'busy' THEN '{done,failed,ready}'
                                WHEN 'failed' THEN '{ready}' END::text[])[1 + abs($2) % 3], $1) $$;
CREATE FUNCTION wanted(states text[]) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$ SELECT CASE WHEN states IS NULL THEN 'new' WHEN 'failed' = ANY (states) THEN 'failed' WHEN 'done' = ALL (states) THEN 'done'
                   WHEN states && '{busy,done}' THEN 'busy' ELSE 'ready' END $$;

CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TABLE plain (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text, made integer GENERATED ALWAYS AS (h * 2) STORED);
CREATE TABLE other (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text, UNIQUE (g, h) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE listed (id bigint, state text NOT NULL DEFAULT 'new', g text, h integer, note text, PRIMARY KEY (id, state)) PARTITION BY LIST (state);
CREATE TABLE listed_open PARTITION OF listed FOR VALUES IN ('new', 'ready', 'busy');
CREATE TABLE listed_over PARTITION OF listed FOR VALUES IN ('done', 'failed') PARTITION BY RANGE (id);
CREATE TABLE listed_over_low PARTITION OF listed_over FOR VALUES FROM (MINVALUE) TO (20);
CREATE TABLE listed_over_high PARTITION OF listed_over DEFAULT;
CREATE TABLE ranged (id bigint, state text NOT NULL DEFAULT 'new', g text, h integer, note text) PARTITION BY RANGE (h);
CREATE TABLE ranged_low (gone int, note text, h integer, g text, state text NOT NULL DEFAULT 'new', id bigint);
ALTER TABLE ranged_low DROP COLUMN gone;
ALTER TABLE ranged ATTACH PARTITION ranged_low FOR VALUES FROM (0) TO (3);
CREATE TABLE ranged_rest PARTITION OF ranged DEFAULT PARTITION BY HASH (id);
CREATE TABLE ranged_rest_0 PARTITION OF ranged_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ranged_rest_1 PARTITION OF ranged_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE mother (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text);
CREATE TABLE daughter (extra integer, PRIMARY KEY (id)) INHERITS (mother);
CREATE TABLE tree (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text,
    up bigint REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE);
CREATE TABLE leaf (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text,
    up bigint REFERENCES plain ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE loose (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text,
    up bigint DEFAULT 1 REFERENCES plain ON DELETE SET NULL ON UPDATE SET DEFAULT DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE moody (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text);
CREATE TABLE root (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text);
CREATE TABLE run (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text, up bigint REFERENCES root ON DELETE CASCADE);
CREATE TABLE step (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new', g text, h integer, note text, up bigint REFERENCES run ON DELETE CASCADE ON UPDATE CASCADE);
CREATE INDEX ON run (up);
CREATE INDEX ON step (up);
CREATE VIEW v_plain AS SELECT * FROM plain WHERE h < 5 WITH CHECK OPTION;
CREATE VIEW v_instead AS SELECT id, state, g, h, note FROM other;
CREATE VIEW v_rule AS SELECT id, state, g, h, note FROM ranged;

CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO s.other (id, state, g, h, note) VALUES (NEW.*);
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE s.other SET id = NEW.id, state = NEW.state, g = NEW.g, h = NEW.h, note = NEW.note WHERE id = OLD.id;
        RETURN NEW;
    END IF;
    DELETE FROM s.other WHERE id = OLD.id;
    RETURN OLD;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON v_instead FOR EACH ROW EXECUTE FUNCTION instead();
CREATE RULE ins AS ON INSERT TO v_rule DO INSTEAD INSERT INTO ranged VALUES (NEW.*);
CREATE RULE upd AS ON UPDATE TO v_rule DO INSTEAD (UPDATE ranged SET state = NEW.state, h = NEW.h WHERE id = OLD.id; UPDATE ranged SET g = NEW.g WHERE id = OLD.id);
CREATE RULE del AS ON DELETE TO v_rule DO INSTEAD DELETE FROM ranged WHERE id = OLD.id;
CREATE RULE also AS ON UPDATE TO mother DO ALSO UPDATE plain SET h = h + 1 WHERE id = OLD.id % 5;

-- rewrites rows, swallows them, and writes others
CREATE FUNCTION mood() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RETURN CASE WHEN OLD.h % 5 <> 0 OR OLD.h IS NULL THEN OLD END;
    ELSIF NEW.h % 7 = 6 THEN
        RETURN NULL;
    ELSIF NEW.h % 7 = 5 THEN
        NEW.g := 'rewritten';
        NEW.state := CASE WHEN TG_OP = 'INSERT' THEN 'ready' ELSE s.next(OLD.state) END;
    ELSIF NEW.h % 7 = 4 AND pg_trigger_depth() < 3 THEN
        UPDATE s.moody SET state = s.next(state), h = h + 1 WHERE id = NEW.id + 1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER mood BEFORE INSERT OR UPDATE OR DELETE ON moody FOR EACH ROW EXECUTE FUNCTION mood();
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 3 THEN
        UPDATE s.moody SET state = s.next(state, 1) WHERE id IN (SELECT id + 2 FROM fresh WHERE h % 3 = 0);
        UPDATE s.loose SET h = h + 1 WHERE id IN (SELECT id FROM fresh);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER echo_i AFTER INSERT ON moody REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION echo();
CREATE TRIGGER echo_u AFTER UPDATE ON moody REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION echo();

CREATE TABLE seen (what text, op text, id bigint, before text, after text, xid text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- what is replayed was let through elsewhere
    IF current_setting('session_replication_role') <> 'replica' THEN
        INSERT INTO s.seen VALUES (TG_ARGV[0], TG_OP, coalesce(NEW.id, OLD.id), OLD.state, NEW.state, pg_current_xact_id());
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY '{plain,other,listed,ranged,mother,daughter,tree,leaf,loose,moody,root,run,step}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER zz_see AFTER INSERT OR UPDATE OR DELETE ON s.%I FOR EACH ROW EXECUTE FUNCTION s.see(%L)', t, t);
        EXECUTE format('ALTER TABLE s.%I ENABLE ALWAYS TRIGGER zz_see', t);
        PERFORM jobstate.attach(format('s.%I', t)::regclass, CASE WHEN t IN ('root', 'run') THEN 'free' ELSE 'm' END, 'state',
            CASE WHEN t IN ('tree', 'root') THEN '{}' WHEN t IN ('leaf', 'loose', 'step') THEN '{up}' WHEN t = 'listed' THEN '{g}' ELSE '{g,h}' END::name[]);
    END LOOP;
END $$;
SELECT jobstate.derive('root', 'run', 'up', 'r'), jobstate.derive('run', 'step', 'up', 'r');
