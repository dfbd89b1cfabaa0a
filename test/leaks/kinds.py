"""What the one session of the leak test does besides the load of test/soak: errors, savepoints, other ways in, DDL."""

import psycopg

LOST = ("JS001", "JS002", "JS003")

SCHEMA = """
CREATE SCHEMA leak;
SELECT jobstate.define_machine('leak', '{"a": 1, "b": 2, "c": 3}', '{a -> b, b -> c, c -> a}');
CREATE TABLE leak.plain (id integer PRIMARY KEY, grp text, state text NOT NULL DEFAULT 'a', day date, n integer);
SELECT jobstate.attach('leak.plain', 'leak', 'state', '{grp,day}');
INSERT INTO leak.plain SELECT n, 'g' || n % 50, 'a', DATE '2026-01-01' + n % 3 FROM generate_series(1, 2000) n;
CREATE TYPE leak.word AS ENUM ('a', 'b', 'c');
CREATE TABLE leak.parted (id integer, zone integer NOT NULL, state leak.word NOT NULL DEFAULT 'a', parent integer,
    PRIMARY KEY (id, zone)) PARTITION BY LIST (zone);
CREATE TABLE leak.parted_0 PARTITION OF leak.parted FOR VALUES IN (0);
CREATE TABLE leak.parted_1 PARTITION OF leak.parted FOR VALUES IN (1);
CREATE TABLE leak.parent (id integer PRIMARY KEY, state text NOT NULL DEFAULT 'a', why text);
CREATE INDEX ON leak.parted (parent);
INSERT INTO leak.parent SELECT generate_series(0, 9);
SELECT jobstate.attach('leak.parted', 'leak', 'state', '{zone}'), jobstate.attach('leak.parent', 'leak', 'state');
SELECT jobstate.define_machine('leak_parent', '{"a": 1, "b": 2, "c": 3}', '{a -> b, a -> c, b -> a, b -> c, c -> a, c -> b}');
SELECT jobstate.detach('leak.parent'), jobstate.attach('leak.parent', 'leak_parent', 'state');
SELECT jobstate.define_rules('leak', '{empty -> a, all a -> a, any c -> c, always -> b}');
SELECT jobstate.derive('leak.parent', 'leak.parted', 'parent', 'leak', reason => 'why');
INSERT INTO leak.parted SELECT n, n % 2, 'a', n % 10 FROM generate_series(1, 200) n;
CREATE PROCEDURE leak.several(n integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        UPDATE leak.plain SET n = i, grp = 'g' || i % 7 WHERE id = i;
        IF i % 2 = 0 THEN COMMIT; ELSIF i % 99 = 0 THEN ROLLBACK; END IF;
    END LOOP;
END $$;
"""


def single(c):
    """One row at a time, as most statements of most applications are."""
    one = c.random.randrange(1, 2001)
    c.call("move", "UPDATE leak.plain SET state = CASE state WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END WHERE id = %s", (one,))
    c.call("regroup", "UPDATE leak.plain SET grp = %s WHERE id = %s", (f"g{one % 53}", one))
    c.call("delete", "DELETE FROM leak.plain WHERE id = %s", (one,))
    c.call("upsert", "INSERT INTO leak.plain (id, grp, day) VALUES (%s, %s, '2026-01-02') ON CONFLICT (id) DO UPDATE SET n = 1",
           (one, f"g{one % 50}"))
    c.call("child", "UPDATE leak.parted SET state = CASE state WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END::leak.word WHERE id = %s",
           (one % 200 + 1,))


def readers(c):
    key = f'{{"grp": "g{c.random.randrange(50)}"}}'
    c.call("counts", "SELECT * FROM jobstate.counts('leak.plain', %s)", (key,))
    c.call("counts of all", "SELECT * FROM jobstate.counts('leak.parted')")
    c.call("totals", "SELECT * FROM jobstate.totals('leak.plain', %s)", (key,))
    c.call("half read", "SELECT * FROM jobstate.counts('leak.plain') LIMIT 1")
    if c.chance(0.05):
        c.call("verify", "SELECT * FROM jobstate.verify('leak.plain')")
        c.call("mermaid", "SELECT jobstate.mermaid('leak', 'leak.plain'), jobstate.dot('leak')")


def verbs(c):
    ids = [row[0] for row in c.call("take", "SELECT jobstate.take('leak.plain', 'a', 'b', NULL, 5)")]
    c.call("transition", "SELECT jobstate.transition('leak.plain', %s, 'c')", (ids,))
    c.call("back", "UPDATE leak.plain SET state = 'a' WHERE state = 'c'")
    if c.chance(0.01):
        c.call("recount", "SELECT jobstate.rebuild('leak.plain')")


def savepoints(c):
    one = c.random.randrange(1, 2000)
    move = ("UPDATE leak.plain SET grp = grp || 'x', n = 1 WHERE id IN (%s, %s)", (one, one + 1))
    child = ("UPDATE leak.parted SET parent = (parent + 1) %% 10 WHERE id = %s", (one % 200 + 1,))
    end = c.random.choice(("COMMIT", "ROLLBACK", "PREPARE TRANSACTION 'leak'"))
    for sql, parameters in (("BEGIN", ()), move, ("SAVEPOINT a", ()), child, ("SAVEPOINT b", ()), move, ("ROLLBACK TO a", ()), move,
                            ("SAVEPOINT c", ()), child, ("SELECT jobstate.derive_now()", ()),
                            ("SELECT * FROM jobstate.counts('leak.plain', '{\"grp\": \"g1\"}')", ()),
                            ("ROLLBACK TO c", ()), ("RELEASE a", ()), ("UPDATE leak.plain SET grp = 'g' || id %% 50 WHERE id IN (%s, %s)", (one, one + 1)),
                            (end, ())):
        c.call("in a transaction", sql, parameters)
    if end.startswith("PREPARE"):
        c.call("prepared", c.random.choice(("COMMIT PREPARED 'leak'", "ROLLBACK PREPARED 'leak'")))


# each is refused, some of them late
REFUSED = (
    "UPDATE leak.plain SET state = 'c' WHERE state = 'a' AND id < 500",
    "UPDATE leak.plain SET state = 'nothing' WHERE id < 100",
    "INSERT INTO leak.plain (id, state) VALUES (-1, NULL)",
    "UPDATE leak.parted SET zone = 7 WHERE id = 1",
    "UPDATE leak.parent SET state = 'nothing'",
    "INSERT INTO leak.plain (id) SELECT n / (n - 5) FROM generate_series(-100, 100) n",
    "SELECT * FROM jobstate.counts('leak.plain', '{\"nothing\": 1}')",
    "SELECT * FROM jobstate.counts('leak.parted', '{\"zone\": \"x\"}')",
    "SELECT * FROM jobstate.counts('pg_class')",
    "SELECT jobstate.take('leak.plain', 'a', 'nothing')",
    "SELECT jobstate.transition('leak.plain', '{1,NULL}', 'c', 'a')",
    "SELECT jobstate.prune('leak.plain', '1 s', 'nothing')",
    "SELECT jobstate.attach('leak.plain', 'leak', 'state')",
    "SELECT jobstate.attach('leak.parent', 'leak', 'why')",
    "SELECT jobstate.define_machine('leak', '{\"a\": 1}', '{a -> x}')",
    "SELECT jobstate.define_rules('leak', '{bad bad}')",
    "SELECT jobstate.derive('leak.parent', 'leak.parent', 'id', 'leak')",
    "SELECT jobstate.enqueue('nothing', 'k')",
    "SELECT jobstate.enqueue('fast', NULL)",
    "SELECT jobstate.enqueue_many('fast', '{a,b}', ARRAY['{}', NULL]::jsonb[], run_ats => '{infinity,NULL}'::timestamptz[])",
    "SELECT * FROM jobstate.claim('nothing', 'w', 1)",
    "SELECT * FROM jobstate.claim('fast', 'w', -1)",
    "SELECT jobstate.complete(1, 1)",
    "SELECT jobstate.complete(ids => '{1,2}', tokens => '{1}')",
    "SELECT jobstate.store_update('nothing', '{\"a\": 1}')",
    "SELECT jobstate.store_create('x', '{\"status\": \"nothing\"}')",
    "SELECT jobstate.store_create('x', '{\"progress\": {\"percent_complete\": \"x\"}}')",
    "SELECT jobstate.ledger_mark('nothing', 'x', token => gen_random_uuid())",
    "SELECT jobstate.ledger_begin_run(NULL)",
    "SELECT jobstate.schedule_define('x', 'never')",
    "SELECT jobstate.apply_create('d', 'mysql', 'e', '[{}]')",
    "SELECT jobstate.operation_complete(-1, gen_random_uuid())",
    "SELECT jobstate.upload_finish(-1, true)",
    "SELECT jobstate.install('nothing')",
)


def refused(c):
    """Statements that fail: alone, in a block that goes on, in a transaction that goes on, and in one that ends."""
    for sql in c.random.sample(REFUSED, 4):
        c.call("alone", sql, expect="any")
        c.call("in a block", "DO $do$ BEGIN UPDATE leak.plain SET n = 2 WHERE id = 1; " + sql.replace("SELECT", "PERFORM", 1)
               .replace("PERFORM n", "SELECT n") + "; EXCEPTION WHEN others THEN NULL; END $do$", expect="any")
    c.call("begin", "BEGIN")
    c.call("some", "UPDATE leak.plain SET grp = 'y' WHERE id < 10")
    c.call("savepoint", "SAVEPOINT a")
    c.call("refused", c.random.choice(REFUSED), expect="any")
    c.call("back to it", "ROLLBACK TO a")
    if c.chance(0.5):
        c.call("refused again", c.random.choice(REFUSED), expect="any")
    c.call("end", "COMMIT")


def ways_in(c):
    """Cursors, COPY, procedures that commit, holdable portals, temporary tables."""
    c.call("procedure", "CALL leak.several(600)")
    c.statements += 900                 # two thirds of these are UPDATE, the others COMMIT or ROLLBACK
    with c.db.cursor() as cursor, cursor.copy("COPY leak.parted (id, zone, state, parent) FROM STDIN") as copy:
        for n in range(1000, 1020):
            copy.write_row((n, n % 2, "b", n % 10))
    c.call("delete", "DELETE FROM leak.parted WHERE id >= 1000")
    c.call("begin", "BEGIN")
    c.call("cursor", "DECLARE brief CURSOR FOR SELECT * FROM jobstate.counts('leak.plain')")
    c.call("held", "DECLARE held CURSOR WITH HOLD FOR SELECT * FROM jobstate.totals('leak.parted')")
    c.call("fetch", "FETCH 3 FROM brief")
    c.call("moved", "UPDATE leak.parted SET zone = 1 - zone WHERE id = 5")
    c.call("end", "COMMIT" if c.chance(0.7) else "ROLLBACK")
    if c.call("portals", "SELECT 1 FROM pg_cursors WHERE name = 'held'"):
        c.call("fetch held", "FETCH ALL FROM held")
        c.call("close", "CLOSE held")


def ddl(c):
    """What invalidates what is kept of tables, machines and rules; it leaves nothing."""
    dice = c.random.randrange(9)
    if dice == 0:
        c.call("create", "CREATE TABLE leak.fleeting (id integer PRIMARY KEY, state smallint NOT NULL DEFAULT 1, grp integer)")
        c.call("attach", "SELECT jobstate.attach('leak.fleeting', 'leak', 'state', '{grp}')")
        c.call("fill", "INSERT INTO leak.fleeting SELECT n, 1, n % 3 FROM generate_series(1, 20) n")
        c.call("take", "SELECT jobstate.take('leak.fleeting', 'a', 'b', NULL, 2)")
        c.call("rename", "ALTER TABLE leak.fleeting RENAME COLUMN state TO stage")
        c.call("counts", "SELECT * FROM jobstate.counts('leak.fleeting')")
        c.call("truncate", "TRUNCATE leak.fleeting")
        if c.chance(0.5):
            c.call("detach", "SELECT jobstate.detach('leak.fleeting')")
        c.call("drop", "DROP TABLE leak.fleeting")
    elif dice == 1:
        c.call("partition", "CREATE TABLE leak.parted_7 PARTITION OF leak.parted FOR VALUES IN (7)")
        c.call("fill", "INSERT INTO leak.parted SELECT n, 7, 'a', n % 10 FROM generate_series(2001, 2010) n")
        if c.chance(0.5):
            c.call("truncate", "TRUNCATE leak.parted_7")
        if c.chance(0.5):
            c.call("detach", "ALTER TABLE leak.parted DETACH PARTITION leak.parted_7")
        c.call("drop", "DROP TABLE leak.parted_7")
        c.call("recount", "SELECT jobstate.rebuild('leak.parted')")
    elif dice == 2:
        c.call("column", "ALTER TABLE leak.plain ADD COLUMN extra integer DEFAULT 5")
        single(c)
        c.call("column away", "ALTER TABLE leak.plain DROP COLUMN extra")
    elif dice == 3:
        more = c.random.choice(("", ", a -> c"))
        c.call("machine", f"SELECT jobstate.define_machine('leak', '{{\"a\": 1, \"b\": 2, \"c\": 3}}', '{{a -> b, b -> c, c -> a{more}}}')")
        single(c)
    elif dice == 4:
        c.call("rules", "SELECT jobstate.define_rules('leak', '{empty -> a, all a -> a, any c -> c, always -> b}')")
        c.call("rederive", "SELECT jobstate.rederive('leak.parent')")
        single(c)
    elif dice == 5:
        c.call("analyze", "ANALYZE leak.parted_0, leak.parted_1, leak.plain")
        c.call("option", "ALTER TABLE leak.parted_0 SET (fillfactor = %d)" % c.random.randrange(50, 100))
        single(c)
    elif dice == 6:
        c.call("rolled back", "DO $$ BEGIN ALTER TABLE leak.plain RENAME state TO other; UPDATE leak.plain SET n = 3 WHERE id < 9; "
               "RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN UPDATE leak.plain SET n = 4 WHERE id < 9; END $$")
    elif dice == 7:
        c.call("underive", "SELECT jobstate.underive('leak.parent', 'leak.parted')")
        c.call("alone", "UPDATE leak.parted SET parent = 3 WHERE id = 3")
        c.call("derive", "SELECT jobstate.derive('leak.parent', 'leak.parted', 'parent', 'leak', reason => 'why')")
    else:
        c.call("temporary", "CREATE TEMPORARY TABLE passing (id integer PRIMARY KEY, state text NOT NULL)")
        c.call("drop", "DROP TABLE passing")
        c.call("label", "ALTER TYPE leak.word RENAME VALUE 'c' TO 'd'", expect="any")
        c.call("type", "ALTER TYPE leak.word RENAME TO sign")
        c.call("type back", "ALTER TYPE leak.sign RENAME TO word")
        single(c)


def upkeep(c):
    c.call("maintain", "CALL jobstate.maintain()")
    c.call("fold", "SELECT jobstate.fold()")
    c.call("health", "SELECT * FROM jobstate.health()")


# what, and how often against the others
KINDS = ((single, 60), (readers, 8), (verbs, 8), (savepoints, 6), (refused, 6), (ways_in, 6), (ddl, 1), (upkeep, 0.5))
