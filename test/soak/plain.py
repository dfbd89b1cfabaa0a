"""Twins: what the load's calls would be by hand, in plain SQL on tables that nobody watches.

Where a snapshot is held every UPDATE leaves a version behind that nobody may remove, and whoever looks for the row passes
it.  How much that costs is the server's; what a call costs above its twin is ours.  A twin's client does as many calls of
each kind as the one that it stands beside, and has bursts as it has."""

# the call of the load: its twin
TWINS = {
    ("kernel", "insert 10 rows"): ("plain kernel", "insert 10 rows"),
    ("kernel", "take"): ("plain kernel", "take"),
    ("kernel", "update one row"): ("plain kernel", "update one row"),
    ("kernel", "transition"): ("plain kernel", "transition"),
    ("monitor", "prune soak.task"): ("plain keeper", "delete task"),
    ("monitor", "prune soak.batch"): ("plain keeper", "delete task"),
    ("monitor", "prune jobstate.upload"): ("plain keeper", "delete upload"),
    ("monitor", "prune jobstate.apply"): ("plain keeper", "delete upload"),
    ("uploads", "upload_create"): ("plain uploads", "create"),
    ("uploads", "upload_take"): ("plain uploads", "take"),
    ("uploads", "upload_finish"): ("plain uploads", "finish"),
    ("uploads", "upload_take_for_merging"): ("plain uploads", "take for merging"),
    ("uploads", "upload_mark_merged"): ("plain uploads", "mark merged"),
    ("uploads", "upload_decide"): ("plain uploads", "decide"),
    ("ledger", "ledger_begin_run"): ("plain ledger", "begin run"),
    ("ledger", "ledger_take"): ("plain ledger", "take"),
    ("ledger", "ledger_mark"): ("plain ledger", "mark"),
    ("ledger", "ledger_fail"): ("plain ledger", "mark"),
    ("ledger", "ledger_end_run"): ("plain ledger", "end run"),
    ("ledger", "schedule_due"): ("plain schedule", "due"),
    ("ledger", "schedule_finish"): ("plain schedule", "finish"),
    ("queue", "enqueue unique"): ("plain queue", "key"),
}

SCHEMA = """
CREATE TABLE soak.plain_task (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    grp        integer NOT NULL,
    state      smallint NOT NULL DEFAULT 1,
    payload    text NOT NULL DEFAULT repeat('x', 100),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX ON soak.plain_task (grp, id);

CREATE TABLE soak.plain_scope (repo bigint, commit_sha text, told_at timestamptz, uploads integer NOT NULL DEFAULT 0,
    PRIMARY KEY (repo, commit_sha)) WITH (fillfactor = 70);
CREATE TABLE soak.plain_upload (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repo       bigint NOT NULL,
    commit_sha text NOT NULL,
    state      smallint NOT NULL DEFAULT 1,
    token      uuid,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX ON soak.plain_upload (repo, commit_sha, id);

CREATE TABLE soak.plain_runner (name text PRIMARY KEY, token uuid, busy_until timestamptz) WITH (fillfactor = 70);
INSERT INTO soak.plain_runner SELECT 'processor ' || n FROM generate_series(0, 3) n;
CREATE TABLE soak.plain_item (
    runner      text NOT NULL,
    item        text NOT NULL,
    state       text NOT NULL,
    token       uuid,
    fingerprint text,
    PRIMARY KEY (runner, item)
) WITH (fillfactor = 70);

CREATE TABLE soak.plain_schedule (name text PRIMARY KEY, state text NOT NULL DEFAULT 'idle',
    next_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 70);
INSERT INTO soak.plain_schedule SELECT 'every ' || n FROM generate_series(1, 8) n;
CREATE TABLE soak.plain_key (key text PRIMARY KEY, id bigint NOT NULL DEFAULT 0) WITH (fillfactor = 70);
"""


def task(c):
    """load.task"""
    group = int(64 * c.random.random() ** 3)
    c.call("insert 10 rows", "INSERT INTO soak.plain_task (grp) SELECT %s FROM generate_series(1, 10)", (group,))
    ids = [row[0] for row in c.call(
        "take", "UPDATE soak.plain_task SET state = 2 WHERE id IN (SELECT id FROM soak.plain_task WHERE grp = %s AND state = 1"
                " ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED) RETURNING id", (group,))]
    for one in ids[:4]:
        c.call("update one row", "UPDATE soak.plain_task SET state = 3, updated_at = clock_timestamp() WHERE id = %s", (one,))
    c.call("transition", "UPDATE soak.plain_task SET state = 3 WHERE id = ANY (%s) AND state = 2 RETURNING id", (ids[4:],))


def upload(c):
    """load.upload: whoever moves something has the commit's row first."""
    which = (10 + c.number, f"commit {c.random.randrange(400)}")
    scope = ("UPDATE soak.plain_scope SET uploads = uploads + 1 WHERE repo = %s AND commit_sha = %s", which)
    for _ in range(5):
        c.together("create", ("INSERT INTO soak.plain_scope (repo, commit_sha) VALUES (%s, %s) ON CONFLICT DO NOTHING", which), scope,
                   ("INSERT INTO soak.plain_upload (repo, commit_sha) VALUES (%s, %s) RETURNING id", which))
    taken = ("UPDATE soak.plain_upload SET token = gen_random_uuid() WHERE id IN (SELECT id FROM soak.plain_upload"
             " WHERE repo = %s AND commit_sha = %s AND state = %s ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id")
    for one, in c.call("take", taken, (*which, 1, 5)):
        c.together("finish", scope, ("UPDATE soak.plain_upload SET state = 2 WHERE id = %s", (one,)),
                   ("SELECT count(*) FROM soak.plain_upload WHERE repo = %s AND commit_sha = %s AND state = 1", which))
    ids = [row[0] for row in c.call("take for merging", taken, (*which, 2, 10))]
    c.together("mark merged", scope, ("UPDATE soak.plain_upload SET state = 3, updated_at = clock_timestamp() WHERE id = ANY (%s)", (ids,)))
    c.together("decide", scope, ("UPDATE soak.plain_scope SET told_at = clock_timestamp() WHERE repo = %s AND commit_sha = %s", which))


def ledger(c):
    """load.ledger"""
    runner = f"processor {c.number}"
    c.call("begin run", "UPDATE soak.plain_runner SET token = gen_random_uuid(), busy_until = clock_timestamp() + interval '20 s'"
                        " WHERE name = %s RETURNING token", (runner,))
    first = c.random.randrange(1000)
    items = [f"user{n % 7}/session-{n}.jsonl" for n in range(first, first + 10)]
    prints = [f"{c.random.getrandbits(32):x}" for _ in items]
    c.call("take", "INSERT INTO soak.plain_item (runner, item, state, token) SELECT %s, i, 'claimed', gen_random_uuid() FROM unnest(%s::text[]) i"
                   " ORDER BY i ON CONFLICT (runner, item) DO UPDATE SET state = 'claimed', token = excluded.token", (runner, sorted(items)))
    for item, fingerprint in zip(items, prints):
        c.call("mark", "UPDATE soak.plain_item SET state = 'processed', fingerprint = %s WHERE runner = %s AND item = %s",
               (fingerprint, runner, item))
    c.call("end run", "UPDATE soak.plain_runner SET busy_until = NULL WHERE name = %s", (runner,))


def schedule(c):
    """load.schedule"""
    for name, in c.call("due", "UPDATE soak.plain_schedule SET state = 'running', next_at = clock_timestamp() + interval '4 s' WHERE name IN"
                               " (SELECT name FROM soak.plain_schedule WHERE next_at <= clock_timestamp() ORDER BY next_at FOR UPDATE SKIP LOCKED)"
                               " RETURNING name"):
        c.call("finish", "UPDATE soak.plain_schedule SET state = 'idle' WHERE name = %s", (name,))


def key(c):
    """What load.producer does with its unique keys."""
    c.call("key", "INSERT INTO soak.plain_key AS k VALUES (%s) ON CONFLICT (key) DO UPDATE SET id = k.id + 1", (f"key {c.random.randrange(40)}",))


def keeper(c):
    """load.keeper"""
    for table in ("task", "upload"):
        c.call(f"delete {table}", f"DELETE FROM soak.plain_{table} WHERE id IN (SELECT id FROM soak.plain_{table} WHERE state = 3"
                                  " AND updated_at < clock_timestamp() - interval '45 s' ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)")


CLIENTS = (
    ("plain kernel", task, 30), ("plain kernel", task, 15),
    ("plain uploads", upload, 30), ("plain uploads", upload, 15),
    ("plain ledger", ledger, 58), ("plain ledger", ledger, 29),     # with what the ledger's client does in its bursts
    ("plain schedule", schedule, 4), ("plain queue", key, 2.5), ("plain keeper", keeper, 0.4),
)
BURSTING = ("plain kernel", "plain uploads")
