#!/usr/bin/env python3
"""Many statements of all kinds in one session: its memory, locks and files stay what they were.

main.py [--statements N] [--seed N] [--warm N] [--only KIND ...]: in the cluster that PG* name, in a database of its own. What the
session has after 10 % of the statements (50 % of few) is compared with what it has at the end; before them come N rounds of
each kind, which make plans and fill caches. --only shows which kind it is.
"""

import argparse
import collections
import os
import random
import sys
import time

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "soak"))
sys.dont_write_bytecode = True
import load    # noqa: E402
import kinds   # noqa: E402

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "soak", "schema.sql")

# A context of ours may grow by nothing but its next block; the server's caches, what plans there are at the moment, and
# what malloc() keeps, by a little.
OWN, OTHER, SERVER = 64 << 10, 2 << 20, 4 << 20
FILES = 100     # the server keeps some open

LOAD = ((load.task, 6), (load.derived, 6), (load.queue, 6), (load.producer, 6), (load.worker, 8), (load.limited, 3), (load.upload, 4),
        (load.sweep, 1), (load.store, 4), (load.ledger, 3), (load.schedule, 2), (load.apply, 3), (load.orphans, 1), (load.keeper, 2),
        (load.monitor, 1))


class Client:
    """The session; what test/soak's load calls."""

    number = 1

    def __init__(self, dsn, seed):
        self.random = random.Random(seed)
        self.db = psycopg.connect(dsn, autocommit=True, application_name="leaks")
        self.db.execute("SET synchronous_commit = off")
        self.pid = self.db.info.backend_pid
        self.statements = 0
        self.refused = collections.Counter()
        self.depth = 0

    def chance(self, p):
        return self.random.random() < p

    def call(self, _verb, sql, parameters=(), expect=()):
        self.statements += 1
        try:
            cursor = self.db.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            # a transaction that failed is ended by its next COMMIT, as with psql
            if self.depth or (expect != "any" and error.sqlstate not in expect):
                raise
            self.refused[error.sqlstate] += 1
            return None

    def together(self, _verb, *calls, expect=()):
        self.depth += 1
        try:
            with self.db.transaction():
                for sql, parameters in calls:
                    self.call(_verb, sql, parameters)
        except psycopg.Error as error:
            if error.sqlstate not in expect:
                raise
            self.refused[error.sqlstate] += 1
        finally:
            self.depth -= 1


def read_status(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def sample(client, observer):
    """What the session has while it rests, all that is attached being known to it."""
    client.db.execute("SELECT count(*) FROM jobstate.attachment a, LATERAL jobstate.counts(a.target)", prepare=False)
    contexts = client.db.execute(
        "SELECT name, sum(used_bytes)::bigint FROM pg_backend_memory_contexts GROUP BY name", prepare=False).fetchall()
    return {
        "contexts": dict(contexts),
        "resident": read_status(client.pid, "RssAnon"),
        "files": len(os.listdir(f"/proc/{client.pid}/fd")),
        "locks": observer.execute("SELECT array_agg(locktype || ' ' || coalesce(relation::regclass::text, '')) FROM pg_locks "
                                  "WHERE pid = %s", (client.pid,)).fetchone()[0] or [],
    }


def compare(first, last, resident):
    """What has grown by more than it may, as lines."""
    said = [f"{name}: {first['contexts'].get(name, 0):,} -> {size:,} bytes" for name, size in sorted(last["contexts"].items())
            if size - first["contexts"].get(name, 0) > (OWN if name.startswith("jobstate") else OTHER)]
    total = [sum(s["contexts"].values()) for s in (first, last)]
    if total[1] - total[0] > SERVER:
        said.append(f"all contexts: {total[0]:,} -> {total[1]:,} bytes")
    if last["resident"] - first["resident"] > resident:
        said.append(f"resident: {first['resident']:,} -> {last['resident']:,} bytes")
    if last["locks"]:
        said.append(f"locks: {last['locks']}")
    if last["files"] - first["files"] > FILES:
        said.append(f"files: {first['files']} -> {last['files']}")
    return said


def line(statements, state):
    own = sum(size for name, size in state["contexts"].items() if name.startswith("jobstate"))
    total = sum(state["contexts"].values())
    return (f"{statements:>9,} statements: contexts {total / 1024:,.0f} kB, of these ours {own / 1024:,.0f} kB, "
            f"resident {state['resident'] / 1024:,.0f} kB, {state['files']} files, {len(state['locks'])} locks")


def prepare(dsn):
    with psycopg.connect(dsn, autocommit=True) as admin, open(SOAK, encoding="ascii") as schema:
        admin.execute("DROP DATABASE IF EXISTS leaks WITH (FORCE)")
        admin.execute("CREATE DATABASE leaks ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
        dsn = psycopg.conninfo.make_conninfo(dsn, dbname="leaks")
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(schema.read())
            db.execute(kinds.SCHEMA)
    return dsn


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--statements", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--dsn", default="")
    parser.add_argument("--resident", type=int, default=16, help="megabytes by which the process may grow; valgrind's do")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()

    dsn = prepare(options.dsn)
    client, observer = Client(dsn, options.seed), psycopg.connect(dsn, autocommit=True)
    chosen = [(kind, weight) for kind, weight in kinds.KINDS + LOAD if not options.only or kind.__name__ in options.only]
    functions, weights = zip(*chosen)
    for kind in functions:              # all plans and caches are there before the first sample
        for _ in range(options.warm):
            kind(client)
    client.statements = 0
    samples, done, spent = {}, collections.Counter(), collections.Counter()
    for percent in (10, 50, 100):
        while client.statements < options.statements * percent // 100:
            kind, = client.random.choices(functions, weights)
            begin = time.monotonic()
            kind(client)
            done[kind.__name__] += 1
            spent[kind.__name__] += time.monotonic() - begin
        samples[percent] = sample(client, observer)
        print(line(client.statements, samples[percent]), flush=True)
    print("rounds:", ", ".join(f"{name} {n:,}" for name, n in sorted(done.items())))
    print("refused:", ", ".join(f"{state} {n:,}" for state, n in sorted(client.refused.items(), key=str)))
    said = compare(samples[50], samples[100], options.resident << 20)   # what is rare is cached for the first time until then
    print("\n".join(said) or "nothing has grown")
    if os.environ.get("VERBOSE"):
        print("seconds:", ", ".join(f"{name} {t:.1f}" for name, t in spent.most_common()))
        for name, size in sorted(samples[100]["contexts"].items()):
            before = samples[first]["contexts"].get(name, 0)
            if size != before:
                print(f"  {name}: {before:,} -> {size:,}")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
