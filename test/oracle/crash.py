#!/usr/bin/env python3
"""Workers of the queue that are killed with -9, backends that are terminated, and a server that is killed with -9: what
was acknowledged to the workers holds after each recovery, and in the end every job has completed exactly once.

usage: crash.py --pgdata DIR --bindir DIR [--seed N] [--cycles N] [--workers N] [--seconds S] [--dsn DSN]

Connects as libpq's environment says, as a superuser, to a database of its own, on a server with wal_level = logical that
it may kill and start. Each worker is a process of its own and appends what was acknowledged to a file.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import psycopg

from history import AVAILABLE, DEFERRED, RUNNING
from jobs import Harness
from killing import Server
from verbs import ISOLATION


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="from one crash to the next")
    parser.add_argument("--pgdata")
    parser.add_argument("--bindir", default="")
    parser.add_argument("--dsn", default="")
    parser.add_argument("--journal", help="internal: be a worker, and write to this file")
    return parser.parse_args()


class Worker:
    """Enqueues, claims and completes for as long as there is a server; a poison job kills it."""

    def __init__(self, options):
        self.random = random.Random(options.seed)
        self.db = psycopg.connect(options.dsn, autocommit=True, prepare_threshold=None)
        self.db.execute(f"SET default_transaction_isolation = '{self.random.choice(ISOLATION)}'")
        self.file = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def acknowledged(self, *lines):
        os.write(self.file, "".join(" ".join(map(str, line)) + "\n" for line in lines).encode())

    def run(self):
        steps = (self.enqueue, self.work, self.work, self.work, self.late, self.poisoned, self.maintain)
        weights = (4, 6, 4, 3, 1, 1, 1)
        while True:
            try:
                self.random.choices(steps, weights)[0]()
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                pass  # nothing was acknowledged; what was claimed comes back when its lease is over

    def enqueue(self):
        n = self.random.choice((1, 5, 20))
        rows = self.db.execute("SELECT id FROM jobstate.enqueue_many('work', %s::text[], %s::jsonb[])", (["k"] * n, ["{}"] * n)).fetchall()
        self.acknowledged(*(("enqueue", id) for id, in rows))

    def claim(self):
        return self.db.execute("SELECT id, token FROM jobstate.claim('work', %s, %s)",
                               (f"w{os.getpid()}", self.random.choice((1, 4, 10)))).fetchall()

    def work(self):
        """The application's own row, the next job and the job's end commit together."""
        claimed = self.claim()
        if self.random.random() < 0.1:
            return  # a worker that forgets its jobs
        ids, tokens = [id for id, _ in claimed], [token for _, token in claimed]
        with self.db.transaction():
            done = self.db.execute("SELECT jobstate.complete(%s::bigint[], %s::bigint[])", (ids, tokens)).fetchall()
            done = [id for id, in done]
            self.db.execute("INSERT INTO effect SELECT unnest(%s::bigint[])", (done,))
            rows = self.db.execute("SELECT id FROM jobstate.enqueue('work', 'next')").fetchall() if self.random.random() < 0.3 else []
        self.acknowledged(*(("complete", id, token) for id, token in claimed if id in done), *(("enqueue", id) for id, in rows))

    def late(self):
        """Says it after the lease may be over, or fails it."""
        claimed = self.claim()
        time.sleep(self.random.choice((0, 0.5)))
        for id, token in claimed:
            self.db.execute("SELECT * FROM jobstate.fail(ARRAY[%s], ARRAY[%s], ARRAY['an error'], ARRAY[interval '20 ms'])", (id, token))

    def poisoned(self):
        if self.db.execute("SELECT id FROM jobstate.claim('poison', 'victim')").fetchall():
            os.kill(os.getpid(), signal.SIGKILL)

    def maintain(self):
        self.db.execute(self.random.choice(("CALL jobstate.maintain()", "SELECT jobstate.rotate()", "SELECT jobstate.prune_slots(2)")))


class Crash(Harness):
    queues = {"work": {"lease": "400 ms", "max_attempts": 10000, "backoff": "1 ms"},
              "poison": {"lease": "100 ms", "max_attempts": 3, "backoff": "1 ms"}}
    ring = "'slot_length', '300 ms', 'retention', '1 s', 'failed_retention', '1 h', 'dead_letter_retention', '1 h'"

    def __init__(self, options):
        super().__init__(options)
        self.server = Server(options.pgdata, options.bindir, options.dsn)
        self.folder = tempfile.mkdtemp(prefix="oracle-crash-")
        self.workers = []
        self.started = self.poisons = 0
        self.enqueued, self.done = set(), {}
        self.killed = {"workers": 0, "backends": 0, "servers": 0}

    # the server

    def kill_server(self):
        self.server.kill()
        self.killed["servers"] += 1
        self.reap(wait=True)
        self.server.start()
        self.db = self.server.connect()

    # the workers

    def start_workers(self):
        while len(self.workers) < self.options.workers:
            self.started += 1
            journal = os.path.join(self.folder, f"{self.started}")
            self.workers.append((journal, subprocess.Popen(
                [sys.executable, __file__, "--seed", str(self.options.seed * 1000 + self.started), "--journal", journal,
                 "--dsn", self.options.dsn], stdin=subprocess.DEVNULL)))

    def reap(self, wait=False):
        """What the workers that have ended were told goes into the journal."""
        for journal, process in list(self.workers):
            if wait:
                process.wait(60)
            if process.poll() is None:
                continue
            if process.returncode not in (0, -signal.SIGKILL):
                self.trouble.append(f"a worker ended with {process.returncode}")
            self.workers.remove((journal, process))
            with open(journal) if os.path.exists(journal) else open(os.devnull) as file:
                for line in file:
                    what, id, *token = line.split()
                    if what == "enqueue":
                        self.enqueued.add(int(id))
                    else:
                        self.acked[int(id)].add(int(token[0]))

    def mischief(self):
        choice = self.random.random()
        if choice < 0.5:
            self.random.choice(self.workers)[1].kill()
            self.killed["workers"] += 1
        elif choice < 0.9:
            self.killed["backends"] += 1
            self.db.execute("""SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
                               AND backend_type = 'client backend' ORDER BY random() LIMIT 1""")
        else:
            self.poisons += 1
            self.db.execute("SELECT jobstate.enqueue('poison', 'poison')")

    def written(self):
        """Bytes of all journals: grows while workers get something done."""
        return sum(entry.stat().st_size for entry in os.scandir(self.folder))

    def cycle(self):
        """However slow the machine: nobody is killed before somebody has got something done, and the server not before much is."""
        start = time.monotonic()
        before = last = self.written()
        while time.monotonic() < start + self.options.seconds or self.written() < before + 1000:
            self.start_workers()
            time.sleep(self.random.uniform(0.05, 0.3))
            if self.written() > last:
                self.mischief()
                last = self.written()
            self.reap()
            if time.monotonic() > start + 120 + self.options.seconds:
                return ["the workers get nothing done"]
        self.kill_server()
        return self.trouble or list(self.check())

    # what must be

    def check(self):
        yield from self.history.read(self.db)
        lost = self.enqueued - self.history.enqueued
        if lost:
            yield f"acknowledged and lost: {sorted(lost)[:5]}"
        for id, tokens in self.acked.items():
            if tokens != {self.history.completed.get(id)}:
                yield f"job {id} was completed with {tokens}, and is with {self.history.completed.get(id)}"
        yield from self.compare_tables()
        effects = [id for id, in self.db.execute("SELECT job FROM effect")]
        if sorted(effects) != sorted(self.history.completed):
            yield f"effects and completed jobs differ: {list(set(effects) ^ self.history.completed.keys())[:5]}, {len(effects)} effects"
        yield from self.find_hidden([self.db])

    def settle(self):
        """Nobody helps: leases run out, and the rest is claimed and completed."""
        history = self.history
        until = time.monotonic() + 180
        while time.monotonic() < until:
            claimed = self.db.execute("SELECT id, token FROM jobstate.claim('work', 'last', 100)").fetchall()
            ids, tokens = [id for id, _ in claimed], [token for _, token in claimed]
            with self.db.transaction():
                self.db.execute("SELECT jobstate.complete(%s::bigint[], %s::bigint[])", (ids, tokens))
                self.db.execute("INSERT INTO effect SELECT unnest(%s::bigint[])", (ids,))
            for id, token in claimed:
                self.acked[id].add(token)
            self.db.execute("SELECT jobstate.claim('poison', 'last victim')")
            if not claimed and not self.db.execute("SELECT count(*) FROM jobstate.job WHERE state_id IN (1, 2, 3)").fetchone()[0]:
                break
            time.sleep(0.02)
        yield from self.check()
        left = [row for row in history.rows.values() if row.state in (AVAILABLE, RUNNING, DEFERRED)]
        if left:
            yield f"lost for ever: {left[:3]}"
        poison = self.db.execute("SELECT attempt, jsonb_array_length(errors) FROM jobstate.dead_letter WHERE queue = 'poison'").fetchall()
        if poison != [(3, 3)] * self.poisons:
            yield f"{self.poisons} poison jobs, dead letters: {poison}"
        lost = history.enqueued - history.completed.keys() - history.dead
        if lost or history.deleted:
            yield f"neither completed nor dead: {sorted(lost)[:5]}"

    def run(self):
        self.trouble = []
        self.build()
        self.db.execute("DROP TABLE IF EXISTS effect")
        self.db.execute("CREATE TABLE effect (job bigint)")
        failures = []
        for number in range(self.options.cycles):
            # so that every run has one, from the start
            if number == 0:
                self.poisons += 1
                self.db.execute("SELECT jobstate.enqueue('poison', 'poison')")
            failures = self.cycle()
            if failures:
                break
        failures = failures or list(self.settle())
        told = f"seed {self.options.seed}: killed {self.killed}, {self.poisons} poison jobs, {len(self.enqueued)} enqueues and" \
               f" {len(self.acked)} completions acknowledged, {len(self.history.claimed)} attempts"
        print(f"{'FAILED' if failures else 'ok'}: {told}", *failures[:20], sep="\n", flush=True)
        return 1 if failures else 0


def main():
    options = arguments()
    if not options.journal:
        return Crash(options).run()
    try:
        Worker(options).run()
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        # the server is gone, or ended this connection
        if (error.sqlstate or "57")[:2] not in ("57", "08"):
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
