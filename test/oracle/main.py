#!/usr/bin/env python3
"""The oracle harness: random sessions on attached tables, and after each round a recount that must agree.

usage: main.py [--seed N] [--seconds S] [--rounds N] [--sessions K] [--length L] [--kind KIND] [--print] [--dsn DSN]

Connects as libpq's environment says, as a superuser, to a database of its own. What the sessions do follows from the
seed alone; how they meet does not. A failure prints the seed, the difference and where the sessions' statements are.
"""

import argparse
import os
import random
import sys
import tempfile
import time

import psycopg

import compare
from rounds import Alone, Apart, Rebuilder, Writer, folder, stock
from schema import ECHO, LISTED_BUSY, MACHINE, PREPARE, RANGED_MIDDLE, tables
from script import walk
from session import Session, Stage, Watchdog


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=10 ** 9, help="stop after so many rounds")
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--length", type=int, default=12, help="transactions of a session in a round")
    parser.add_argument("--kind", choices=("together", "apart", "alone", "rebuilt"), help="only rounds of this kind")
    parser.add_argument("--print", action="store_true", help="print each round's scripts")
    parser.add_argument("--dsn", default="")
    return parser.parse_args()


class Harness:
    def __init__(self, options):
        self.options = options
        self.tables = tables(options.sessions)
        self.db = psycopg.connect(options.dsn, autocommit=True)
        self.totals = {}
        self.errors = {}

    def build(self):
        self.db.execute("SET client_min_messages = warning")
        for statement in PREPARE:
            self.db.execute(statement)
        for table in self.tables:
            for statement in table.ddl():
                self.db.execute(statement)
        for statement in ECHO:
            self.db.execute(statement)
        self.own_relations = [row[0] for row in self.db.execute(
            "SELECT oid::int FROM pg_class WHERE relnamespace = 'jobstate'::regnamespace")]

    # a round

    def kind(self, number):
        return self.options.kind or ("together", "apart", "alone", "together", "rebuilt")[number % 5]

    def scripts(self, kind, number):
        options, seed = self.options, f"{self.options.seed}/{number}"
        if kind == "alone":
            return [Alone(seed, self.tables).script(options.length)]
        if kind == "apart":
            writers = [Apart(seed, self.tables, n, options.sessions) for n in range(options.sessions)]
            return [writer.script(options.length) for writer in writers] + \
                [folder(seed, options.length)] * writers[0].folded
        writers = [Writer(seed, self.tables, n, options.sessions, False) for n in range(options.sessions)]
        if kind == "rebuilt":
            writers[0] = Rebuilder(seed, self.tables, 0, options.sessions, False)
            for writer in writers:
                writer.ops.guarded = False
        return [writer.script(options.length) for writer in writers]

    def play(self, kind, number):
        """Runs one round and returns its sessions and what went wrong."""
        if kind == "apart":
            self.db.execute("TRUNCATE oracle.parent CASCADE")
        for statement in stock(f"{self.options.seed}/{number}", self.tables, self.options.sessions):
            self.db.execute(statement.sql)
        stage = Stage(self.options.dsn, kind, self.own_relations)
        sessions = [Session(stage, n, script) for n, script in enumerate(self.scripts(kind, number))]
        watchdog = Watchdog(stage)
        for thread in (watchdog, *sessions):
            thread.start()
        for session in sessions:
            session.join()
        watchdog.over.set()
        watchdog.join()
        for gid, in self.db.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            self.db.execute(f"COMMIT PREPARED '{gid}'")
        if kind == "rebuilt":
            self.repair()
        return sessions, stage.failures

    def repair(self):
        """What somebody who changed tables had no time to put back."""
        self.db.execute(MACHINE)
        self.db.execute("DROP TABLE IF EXISTS oracle.ranged_new")
        if self.ask("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)"):
            self.db.execute("ALTER TABLE oracle.listed DETACH PARTITION oracle.listed_busy FINALIZE")
        if not self.ask("SELECT relispartition FROM pg_class WHERE oid = 'oracle.listed_busy'::regclass"):
            self.db.execute(LISTED_BUSY)
        if not self.ask("SELECT relispartition FROM pg_class WHERE oid = 'oracle.ranged_middle'::regclass"):
            self.db.execute("DELETE FROM oracle.ranged WHERE g1 >= 2 AND g1 < 3")
            self.db.execute(RANGED_MIDDLE)
        for table in self.tables:
            if table.part_of:
                continue
            if not self.ask(f"SELECT EXISTS (SELECT FROM jobstate.attachments WHERE target = '{table.name}'::regclass)"):
                self.db.execute(table.attach())
            for part in (table.name, *table.truncatable):
                self.db.execute(f"ALTER TABLE {part} ENABLE ALWAYS TRIGGER jobstate_watch")

    def ask(self, question):
        return self.db.execute(question).fetchone()[0]

    def compare(self):
        """All sessions are quiet: every way to ask must tell the same, before a fold and after it."""
        try:
            yield from self.compare_all("")
            self.db.execute("SELECT jobstate.fold()")
            yield from self.compare_all("after a fold")
            yield from self.count_again()
        except psycopg.Error as error:
            yield f"{error.sqlstate} {error} {error.diag.context or ''}"

    def compare_all(self, when):
        for table in self.tables:
            for question in () if table.part_of else (compare.counts, compare.verify, compare.rolled_up, compare.totals):
                found = self.db.execute(question(table).sql).fetchall()
                if found:
                    yield f"{question.__name__} of {table.name} {when}: {found[:5]}\n  {question(table).sql}"

    def count_again(self):
        """What gave up its counters gets them back; elsewhere they must still be there."""
        self.db.execute("CALL jobstate.maintain()")
        for table in self.tables:
            if not table.part_of and not self.ask(f"SELECT jobstate.counted('{table.name}')"):
                yield f"{table.name} is uncounted"

    # telling

    def add_up(self, sessions):
        for session in sessions:
            for name, n in session.counted.items():
                self.totals[name] = self.totals.get(name, 0) + n
            for entry in session.log:
                if entry[3]:
                    self.errors[entry[3]] = self.errors.get(entry[3], 0) + 1

    def tell_failure(self, kind, number, sessions, failures):
        folder = tempfile.mkdtemp(prefix="oracle-")
        for session in sessions:
            with open(os.path.join(folder, f"session-{session.number}.sql"), "w") as file:
                for started, ended, text, code, result in session.log:
                    file.write(f"-- {started} to {ended}: {code or ''} {str(result).strip()!r}\n{text}\n")
        print(f"FAILED: --seed {self.options.seed} --sessions {self.options.sessions} --length {self.options.length},"
              f" round {number} ({kind})", *failures, f"what the sessions did: {folder}", sep="\n", flush=True)

    def run(self):
        self.build()
        until = time.monotonic() + self.options.seconds
        number = 0
        while time.monotonic() < until and number < self.options.rounds:
            kind = self.kind(number)
            if self.options.print:
                for n, script in enumerate(self.scripts(kind, number)):
                    print(f"-- round {number} ({kind}), session {n}", *(setting + ";" for setting in script.settings),
                          *(line for step in script.steps for line in walk(step)), sep="\n")
            sessions, failures = self.play(kind, number)
            self.add_up(sessions)
            failures = failures or list(self.compare())
            if failures:
                self.tell_failure(kind, number, sessions, failures)
                return 1
            number += 1
        print(f"ok: seed {self.options.seed}, {number} rounds,", ", ".join(f"{n} {name}" for name, n in self.totals.items()),
              "refused:", self.errors)
        return 0


if __name__ == "__main__":
    sys.exit(Harness(arguments()).run())
