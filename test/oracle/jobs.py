#!/usr/bin/env python3
"""The oracle of the queue: clients with random verbs on a tiny ring, and after each round what the tables, the counters
and the clients' own journal say must agree with the history of commits.

usage: jobs.py [--seed N] [--seconds S] [--rounds N] [--sessions K] [--length S] [--dsn DSN]

Connects as libpq's environment says, as a superuser, to a database of its own, on a server with wal_level = logical and
room for prepared transactions. What the clients try follows from the seed; how they meet does not.
"""

import argparse
import random
import re
import sys
import time
from collections import Counter, defaultdict

import psycopg

from history import AVAILABLE, CANCELLED, COMPLETED, DEFERRED, FAILED, LIVE, RUNNING, SLOT, History
from verbs import QUEUES, Client, Stage

STATES = {"available": 1, "running": 2, "deferred": 3, "completed": 4, "failed": 5, "cancelled": 6}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=10 ** 9, help="stop after so many rounds")
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--length", type=float, default=4, help="seconds of a round")
    parser.add_argument("--dsn", default="")
    return parser.parse_args()


def in_order(who, places):
    """Places in each lane in the order in which they were claimed."""
    last = {}
    for lane, position in places:
        if position < last.get(lane, 0):
            yield f"{who} claimed position {position} of lane {lane} after {last[lane]}"
        last[lane] = position


class Harness:
    queues = QUEUES
    ring = "'slot_length', '300 ms', 'retention', '200 ms', 'failed_retention', '1 s', 'dead_letter_retention', '3 s'"

    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.db = psycopg.connect(options.dsn, autocommit=True)
        limits = lambda name: {queue: settings[name] for queue, settings in self.queues.items() if name in settings}
        self.history = History(limits("max_running"), limits("max_running_per_key"), self.queues)
        self.acked = defaultdict(set)

    def build(self):
        self.db.execute("SET client_min_messages = warning")
        for gid, in self.db.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            self.db.execute(f"ROLLBACK PREPARED '{gid}'")  # of a run that a crash ended
        for sql in (f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'",
                    "DROP EXTENSION IF EXISTS jobstate CASCADE", "CREATE EXTENSION jobstate", "SELECT jobstate.install('queue')",
                    f"SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')"):
            self.db.execute(sql)
        self.db.execute(f"SELECT jobstate.queue_ring_define(jsonb_build_object('slots', %s::int, 'slot_jobs', %s::int, {self.ring}))",
                        (self.random.randint(3, 6), self.random.choice((50, 100, 200))))
        for queue, settings in self.queues.items():
            self.db.execute("SELECT jobstate.queue_define(%s, %s::jsonb)", (queue, psycopg.types.json.Jsonb(settings)))

    # a round

    def play(self, number):
        stage = self.stage
        stage.truncates = number % 4 == 3
        until = time.monotonic() + self.options.length
        clients = [Client(stage, f"{self.options.seed}/{number}/{n}", until) for n in range(self.options.sessions)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        for gid, _, journal in stage.prepared:
            self.db.execute(f"COMMIT PREPARED '{gid}'")
            stage.journal += journal
        stage.prepared = []
        return self.explain(stage.failures) if stage.failures else list(self.check())

    def explain(self, failures):
        """With the lives of the jobs that are named."""
        self.history.read(self.db)
        ids = [int(id) for failure in failures for id in re.findall(r"\d{15,}", failure)]
        return failures + [line for id in ids[:4] if id in self.history.trail for line in self.history.trail[id]]

    def check(self):
        """All is quiet: once as the clients left it, and once with the ring emptied as far as it goes."""
        yield from self.history.read(self.db)
        yield from self.compare_journal()
        yield from self.compare_tables()
        yield from self.find_hidden()
        self.db.execute("SELECT jobstate.prune_slots(100), jobstate.queue_prune_kept()")
        self.db.execute("CALL jobstate.maintain()")
        yield from self.history.read(self.db)
        yield from self.compare_tables()
        yield from self.find_hidden()
        self.stage.ids.clear()
        for row in self.history.rows.values():
            self.stage.ids[row.queue].append(row.id)

    def compare_journal(self):
        """What was acknowledged is what was committed."""
        history = self.history
        for what, *rest in self.stage.journal:
            if what == "enqueue" and rest[0] not in history.enqueued:
                yield f"job {rest[0]} was enqueued and is not there"
            elif what == "claim" and tuple(rest) not in history.claimed:
                yield f"claim of job {rest} is lost"
            elif what == "complete" and history.completed.get(rest[0]) != rest[1]:
                yield f"job {rest} was completed, and with token {history.completed.get(rest[0])}"
            if what == "complete":
                self.acked[rest[0]].add(rest[1])
        self.stage.journal = []
        lost = [id for id in history.completed if id not in self.acked]
        if lost:
            yield f"nobody was told that jobs {lost[:5]} are completed"

    def compare_tables(self):
        """Rows, counters and rollup in one snapshot, beside the history."""
        db, history = self.db, self.history
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        rows = db.execute("SELECT queue, priority, limit_key, state_id, count(*) FROM jobstate.job GROUP BY 1, 2, 3, 4").fetchall()
        totals = db.execute("""SELECT group_key ->> 'queue', (group_key ->> 'priority')::int, group_key ->> 'limit_key', state,
            live, rolled_up FROM jobstate.totals('jobstate.job')""").fetchall()
        counts = db.execute("""SELECT group_key ->> 'queue', (group_key ->> 'priority')::int, group_key ->> 'limit_key', state, n
            FROM jobstate.counts('jobstate.job')""").fetchall()
        dead = {id for id, in db.execute("SELECT id FROM jobstate.dead_letter")}
        db.execute("COMMIT")
        drift = db.execute("SELECT * FROM jobstate.verify('jobstate.job')").fetchall()
        if drift:
            yield f"verify: {drift[:5]}"
        groups = Counter({tuple(row[:4]): row[4] for row in rows})
        yield from self.differ("rows", groups, history.groups())
        yield from self.differ("counts", self.by_group(counts, 4), groups)
        yield from self.differ("live", self.by_group(totals, 4), groups)
        yield from self.differ("rolled up", self.by_group(totals, 5), history.pruned)
        if dead != history.dead:
            yield f"dead letters: {list(dead ^ history.dead)[:5]}"

    @staticmethod
    def by_group(rows, column):
        n = Counter()
        for row in rows:
            n[row[0], row[1], row[2], STATES[row[3]]] += row[column]
        return n

    @staticmethod
    def differ(what, told, right):
        wrong = [(key, told[key], right[key]) for key in told.keys() | right.keys() if told[key] != right[key]]
        if wrong:
            yield f"{what}: {wrong[:5]}"

    def find_hidden(self, connections=None):
        """Each backend must find every available job, whatever it has learned of the lanes before."""
        for queue in self.queues:
            self.db.execute("SELECT jobstate.resume(%s)", (queue,))
        for db in connections or self.stage.free:
            for queue in self.queues:
                db.execute("BEGIN")
                ids = [id for id, in db.execute("SELECT id FROM jobstate.claim(%s, 'nobody', 1000000)", (queue,))]
                places = dict(db.execute("SELECT id, position FROM jobstate.job WHERE id = ANY (%s)", (ids,)).fetchall())
                db.execute("ROLLBACK")
                yield from self.compare_found(f"backend {db.info.backend_pid}", queue, ids, places)

    def compare_found(self, who, queue, ids, places):
        hidden = {row.id for row in self.history.rows.values() if row.queue == queue and row.state == AVAILABLE} - set(ids)
        if len(ids) < self.to_be_found(queue) or (hidden and "max_running" not in self.queues[queue]):
            yield f"{who} finds {len(ids)} of {self.to_be_found(queue)} jobs of queue {queue}, not {sorted(hidden)[:5]}"
        if "max_running" not in self.queues[queue]:
            yield from in_order(who, [(places[id] >> 48, places[id]) for id in ids])

    def to_be_found(self, queue):
        """The available jobs of a queue, as far as limits allow."""
        available, running = Counter(), Counter()
        for row in self.history.rows.values():
            if row.queue == queue and row.state in (AVAILABLE, RUNNING):
                (available if row.state == AVAILABLE else running)[row.limit_key] += 1
        settings = self.queues[queue]
        per_key = settings.get("max_running_per_key", 10 ** 9)
        free = sum(n if key is None else max(min(n, per_key - running[key]), 0) for key, n in available.items())
        return max(min(free, settings.get("max_running", 10 ** 9) - sum(running.values())), 0)

    # the end

    def drain(self):
        """Everything can be brought to an end, in the order of places, and nothing was lost on the way."""
        db, claimed = self.db, []
        for queue in ROUNDS_OF_DRAIN:
            claimed += self.drain_once()
            if not self.unended():
                break
        yield from self.check()
        yield from in_order("drain", map(self.lane_of, claimed))
        left = self.unended()
        if left:
            yield f"cannot be brought to an end: {left[:5]}"
        history = self.history
        lost = history.enqueued - history.completed.keys() - history.deleted - history.pruned_ids \
            - {row.id for row in history.rows.values() if row.state == CANCELLED}
        if lost:
            yield f"lost jobs: {sorted(lost)[:5]}"

    def lane_of(self, claim):
        """Where keys are limited, each key has its own order."""
        position, limit_key, queue = self.history.claimed[claim]
        return (position >> 48, limit_key if "max_running_per_key" in self.queues[queue] else None), position

    def drain_once(self):
        db, claimed = self.db, []
        for sql in ("UPDATE jobstate.job SET lease_until = '-infinity' WHERE state_id = 2", "SELECT * FROM jobstate.rescue(100000)",
                    "SELECT jobstate.retry_all(everything => true)", "SELECT jobstate.dlq_retry_all(everything => true)",
                    "UPDATE jobstate.job SET run_at = now() WHERE state_id = 3", "SELECT jobstate.promote(NULL, 100000)"):
            db.execute(sql)
        for queue in self.queues:
            while True:
                jobs = db.execute("SELECT id, token FROM jobstate.claim(%s, 'drain', %s)", (queue, self.random.choice((1, 5, 50)))).fetchall()
                if not jobs:
                    break
                claimed += jobs
                ids, tokens = [job[0] for job in jobs], [job[1] for job in jobs]
                db.execute("SELECT jobstate.complete(%s::bigint[], %s::bigint[])", (ids, tokens))
                self.stage.journal += [("complete", *job) for job in jobs]
        return claimed

    def unended(self):
        return self.db.execute("""SELECT id, state_id FROM jobstate.job WHERE state_id IN (1, 2, 3, 5)
                                  UNION ALL SELECT id, 0 FROM jobstate.dead_letter""").fetchall()

    def run(self):
        self.build()
        self.stage = Stage(self.options.dsn, self.options.sessions + 3)
        until = time.monotonic() + self.options.seconds
        number = 0
        failures = []
        while time.monotonic() < until and number < self.options.rounds and not failures:
            failures = self.play(number)
            number += 1
        failures = failures or list(self.drain())
        told = f"seed {self.options.seed}, {number} rounds, {len(self.history.enqueued)} jobs, {len(self.history.claimed)} attempts," \
               f" {len(self.history.completed)} completed, {sum(self.history.pruned.values())} pruned; {dict(self.stage.done)}" \
               f" refused: {dict(self.stage.refused)}"
        if failures:
            print(f"FAILED: {told}", *failures[:20], sep="\n", flush=True)
            return 1
        print(f"ok: {told}")
        return 0


ROUNDS_OF_DRAIN = range(5)

if __name__ == "__main__":
    sys.exit(Harness(arguments()).run())
