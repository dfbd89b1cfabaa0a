#!/usr/bin/env python3
"""All families at once, on a server that is killed with -9 at random instants, whole or in part: after each recovery the
clients' journals say what must be there, and in the end everything is brought to an end.

usage: crash_all.py --pgdata DIR --bindir DIR [--seed N] [--cycles N] [--seconds S] [--families A,B] [--vary] [--dsn DSN]

Connects as libpq's environment says, as a superuser, to a database of its own, on a server that it may kill and start.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter

import psycopg

from crashes.applies import Applies
from crashes.client import LOST, Client
from crashes.derived import Derived
from crashes.kernel import Kernel
from crashes.ledger import Ledger
from crashes.queue import Queue
from crashes.store import Store
from crashes.uploads import Uploads
from crashes.upkeep import Upkeep
from killing import Server

FAMILIES = {family.name: family for family in (Kernel, Derived, Queue, Uploads, Store, Ledger, Applies, Upkeep)}
SETTINGS = ("", "-c checkpoint_timeout=30s", "-c wal_level=minimal -c max_wal_senders=0", "-c wal_level=logical", "-c wal_compression=on",
            "-c shared_buffers=16MB -c wal_buffers=64kB")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2, help="from one crash to the next")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--vary", action="store_true", help="start the server with other settings each time")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--pgdata", required=True)
    parser.add_argument("--bindir", default="")
    parser.add_argument("--dsn", default="")
    return parser.parse_args()


EXPECTED = ("queue dead letters", "queue lagging", "apply lagging")  # what is poisoned, and what waits for clients
# in the midst of what moves much at a time
MIDST = {"worker": "backend_type = 'jobstate maintain'",
         "fold": r"state = 'active' AND pid <> pg_backend_pid() AND query ~ '(fold|maintain)\('",
         "upkeep": r"state = 'active' AND pid <> pg_backend_pid() AND query ~ '(prune|prune_slots|rotate|rebuild|recount)\('"}


class Stage:
    """What all clients share."""

    def __init__(self, options):
        self.dsn = options.dsn
        self.lock = threading.RLock()
        self.over = threading.Event()
        self.cycle = 0
        self.may_prepare = False
        self.trouble = []
        self.helpers = {}
        self.done, self.undone, self.refused, self.unknown = Counter(), Counter(), Counter(), Counter()

    def fail(self, why):
        with self.lock:
            self.trouble.append(why)
        self.over.set()

    def helper(self, family, db):
        """Brings to an end what clients would, on the harness's own connection."""
        if family not in self.helpers:
            self.helpers[family] = Client(self, family, 99, self.cycle)
        self.helpers[family].db, self.helpers[family].reliable = db, True
        return self.helpers[family]


class Crash:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.server = Server(options.pgdata, options.bindir, options.dsn)
        self.stage = Stage(options)
        self.families = [FAMILIES[name](self.stage) for name in options.families.split(",")]
        self.clients = [Client(self.stage, family, number, options.seed) for family in self.families for number in range(family.clients)]
        self.killed = Counter()
        self.connect()

    def connect(self):
        self.db = self.server.connect()
        # what hangs is a failure
        self.db.execute("SET client_min_messages = warning; SET statement_timeout = '60s'")

    def build(self):
        self.db.execute("CREATE EXTENSION jobstate; CREATE TABLE witness (cycle int, key text)")
        for family in self.families:
            family.build(self.db)
        self.stage.may_prepare = self.db.execute("SHOW max_prepared_transactions").fetchone()[0] != "0"

    # a cycle

    def cycle(self):
        stage = self.stage
        stage.over.clear()
        for client in self.clients:
            client.start()
        start, before = time.monotonic(), stage.done.copy()
        seconds = self.random.uniform(0.4, 1.6) * self.options.seconds
        while time.monotonic() < start + seconds or not self.something_done(before):
            time.sleep(self.random.uniform(0.02, 0.2))
            yield from self.tend()
            if stage.trouble:
                break
            if time.monotonic() > start + seconds + 120:
                yield f"some get nothing done: {stage.done - before}"
                break
        if not stage.trouble:
            self.crash()
        stage.over.set()
        for client in self.clients:
            client.thread.join(90)
            if client.thread.is_alive():
                yield f"{client.name} hangs"
        yield from stage.trouble

    def something_done(self, before):
        return all(self.stage.done[family.name] > before[family.name] + 2 for family in self.families if family.name != "upkeep")

    def tend(self):
        """Now and then a backend is terminated; whoever has lost his connection learns what became of it, and goes on."""
        if self.random.random() < 0.1:
            self.killed["terminated"] += 1
            self.db.execute("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
                AND backend_type IN ('client backend', 'jobstate maintain')
                ORDER BY random() - 0.4 * (state = 'active' AND query ~ '(fold|maintain|prune)')::int LIMIT 1""")
        for client in self.clients:
            if not client.thread.is_alive() and not self.stage.trouble:
                self.server.wait_until_gone([client.pid], 20)
                yield from client.resolve(*self.witnesses())
                client.start()

    def witnesses(self):
        return ({key for key, in self.db.execute("SELECT key FROM witness WHERE cycle = %s OR key = ANY (%s)",
                                                 (self.stage.cycle, [work.key for client in self.clients for work in client.works]))},
                {gid for gid, in self.db.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")})

    # crashes

    def crash(self):
        how = self.random.choices(("postmaster", "all", "backend", *MIDST), (2, 2, 2, 2, 4, 2))[0]
        pid = None
        if how in MIDST:
            pid = self.find(MIDST[how])
            how = how if pid else "backend"
        if how == "backend":
            pid = self.random.choice([client.pid for client in self.clients if client.thread.is_alive()] or [self.db.info.backend_pid])
        if pid and not self.server.kill_one(pid):
            how, pid = "all", None  # it was quicker
        self.killed[how] += 1
        if pid:
            self.wait_for_loss()
        else:
            self.server.kill(children_too=how == "all")
            self.server.start(self.random.choice(SETTINGS) if self.options.vary else "")
        self.connect()

    def find(self, which):
        """The background worker that folds comes and goes, and so do statements."""
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for pid, in self.db.execute(f"SELECT pid FROM pg_stat_activity WHERE {which}"):
                time.sleep(self.random.choice((0, 0.002, 0.02)))
                return pid
            time.sleep(0.002)
        return None

    def wait_for_loss(self):
        """The postmaster takes all others along."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                self.db.execute("SELECT 1")
            except psycopg.OperationalError as error:
                if (error.sqlstate or "57P02").startswith(LOST):
                    return
                raise
            time.sleep(0.01)
        raise RuntimeError("one was killed and the others live on")

    # what must be

    def check(self):
        present, prepared = self.witnesses()
        for client in self.clients:
            yield from client.resolve(present, prepared)
        yield from self.check_all("after the crash")
        # some of what is prepared waits through another crash
        for client in self.clients:
            while client.prepared and (client.family.name != "kernel" or self.random.random() < 0.6):
                client.finish_prepared(self.db)
        if self.random.random() < 0.5:
            self.db.execute("SELECT jobstate.fold()")
            yield from self.check_all("after a fold")

    def check_all(self, when):
        drift = self.db.execute("SELECT * FROM jobstate.verify()").fetchall()
        if drift:
            yield f"verify {when}: {drift[:5]}"
        uncounted = self.db.execute("SELECT target FROM jobstate.attachments WHERE NOT counted").fetchall()
        if uncounted:
            yield f"uncounted {when}: {uncounted}"
        for family in self.families:
            for wrong in family.check(self.db):
                yield f"{family.name} {when}: {wrong}"
        yield from self.check_health(when)

    def check_health(self, when):
        """Once maintenance has come by: a crash leaves what is due."""
        self.db.execute("CALL jobstate.maintain()")
        for row in self.db.execute("SELECT * FROM jobstate.health(deep => true) WHERE status = 'warning'"):
            if row[0] not in EXPECTED:
                yield f"health {when}: {row}"

    def settle(self):
        self.stage.cycle += 1
        for client in self.clients:
            while client.prepared:
                client.finish_prepared(self.db)
        for family in self.families:
            for wrong in family.settle(self.db):
                yield f"{family.name} in the end: {wrong}"
        self.db.execute("SELECT jobstate.fold()")
        yield from self.check_all("in the end")

    @staticmethod
    def told(wrong):
        """A question that the server cannot answer is a failure, too."""
        found = []
        try:
            found.extend(wrong)
        except psycopg.Error as error:
            found.append(f"{error.sqlstate} {error} {error.diag.context or ''}")
        return found

    def run(self):
        self.build()
        failures, started = [], time.monotonic()
        while self.stage.cycle < self.options.cycles and not failures:
            self.stage.cycle += 1
            failures = self.told(self.cycle()) or self.told(self.check())
            if self.options.verbose:
                print(f"cycle {self.stage.cycle} at {time.monotonic() - started:.1f} s: {dict(self.killed)}", flush=True)
        failures = failures or self.told(self.settle())
        stage = self.stage
        print(f"{'FAILED' if failures else 'ok'}: seed {self.options.seed}, {stage.cycle - (not failures)} cycles, killed {dict(self.killed)},"
              f" acknowledged {dict(stage.done)}, came to nothing {dict(stage.undone)}, sent and not acknowledged: {stage.unknown[True]} there,"
              f" {stage.unknown[False]} not, refused {dict(stage.refused)}", *failures[:20], sep="\n", flush=True)
        return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(Crash(arguments()).run())
