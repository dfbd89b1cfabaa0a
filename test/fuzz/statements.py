#!/usr/bin/env python3
"""Random statements over attached tables; after each batch everything is counted again.

usage: statements.py [--seed N] [--seconds S] [--rounds N] [--sessions K] [--steps N] [--print] [--dsn DSN]

Counts must be those of the rows, parents what their children make them, no move may have passed that the machine has
not, and no error may be an internal one. What the sessions try follows from the seed; how they meet does not.
"""

import argparse
import collections
import os
import random
import re
import sys
import tempfile
import threading
import time

import psycopg

from words import Words

GROUPS = {"plain": "gh", "other": "gh", "listed": "g", "ranged": "gh", "mother": "gh", "daughter": "gh", "tree": "",
          "leaf": "u", "loose": "u", "moody": "gh", "root": "", "run": "gh", "step": "u"}
COLUMN = {"g": "g", "h": "h", "u": "up"}

PARENTS = """
    SELECT %(p)s.id, %(p)s.state, s.wanted(array_agg(c.state) FILTER (WHERE c.id IS NOT NULL))
      FROM s.%(p)s LEFT JOIN s.%(c)s c ON c.up = %(p)s.id GROUP BY 1, 2
    HAVING %(p)s.state <> s.wanted(array_agg(c.state) FILTER (WHERE c.id IS NOT NULL)) LIMIT 3"""

# A row that moves to another partition is a DELETE and an INSERT to triggers.
PASSED = """
    SELECT * FROM s.seen n
     WHERE what NOT IN ('root', 'run')
       AND CASE op WHEN 'UPDATE' THEN before <> after AND NOT EXISTS (
                        SELECT FROM jobstate.transition t JOIN jobstate.state a ON (a.machine, a.state_id) = ('m', t.from_state)
                                    JOIN jobstate.state b ON (b.machine, b.state_id) = ('m', t.to_state)
                         WHERE t.machine = 'm' AND a.name = before AND b.name = after)
                   WHEN 'INSERT' THEN after NOT IN ('new', 'ready') AND NOT (what IN ('listed', 'ranged') AND EXISTS (
                        SELECT FROM s.seen d WHERE (d.what, d.op, d.xid) = (n.what, 'DELETE', n.xid)
                           AND (d.before = n.after OR s.next(d.before) = n.after OR s.next(d.before, 1) = n.after OR s.next(d.before, 2) = n.after)))
                   ELSE false END
     LIMIT 3"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=10 ** 9)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of a session in a round")
    parser.add_argument("--print", action="store_true", help="print each statement before it is run")
    parser.add_argument("--dsn", default="")
    return parser.parse_args()


class Session(threading.Thread):
    def __init__(self, harness, number, seed):
        super().__init__(daemon=True)
        self.harness = harness
        self.number = number
        self.words = Words(random.Random(seed), number)
        self.log = []

    def run(self):
        try:
            with self.harness.connect("fuzz_statements", autocommit=True, prepare_threshold=None) as self.db:
                self.db.execute("SET search_path = s, public; SET statement_timeout = '20s'; SET lock_timeout = '2s'; SET deadlock_timeout = '200ms'")
                for _ in range(self.harness.options.steps):
                    for statement in self.words.step():
                        self.execute(statement)
                if self.db.info.transaction_status:
                    self.execute("COMMIT")
        except psycopg.Error as error:
            self.harness.tell(self, f"{type(error).__name__} {error}")

    def execute(self, statement):
        self.log.append(statement)
        self.harness.count("statements")
        if self.harness.options.print:
            print(f"{self.number}: {statement};", flush=True)
        sql, _, data = statement.partition("\x00")
        try:
            with self.db.cursor() as cursor:
                if data:
                    with cursor.copy(sql) as copy:
                        copy.write(data)
                else:
                    cursor.execute(sql)
            self.harness.count("succeeded")
        except psycopg.Error as error:
            self.judge(error)

    def judge(self, error):
        code = error.sqlstate
        self.log.append(f"-- {code} {error.diag.message_primary}")
        self.harness.count("errors", code)
        if code is None and self.db.closed:
            raise error
        if code and code.startswith("XX"):
            self.harness.tell(self, f"{code} {error.diag.message_primary} {error.diag.context}")
        if self.db.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            self.get_on()

    def get_on(self):
        """Back to the savepoint, or out of the transaction."""
        for statement in ("ROLLBACK TO a", "ROLLBACK"):
            try:
                self.log.append(statement)
                self.db.execute(statement)
                break
            except psycopg.Error:
                pass
        self.words.open = self.db.info.transaction_status != psycopg.pq.TransactionStatus.IDLE


class Harness:
    def __init__(self, options):
        self.options = options
        self.counted = collections.Counter()
        self.codes = collections.Counter()
        self.failures = 0
        self.kinds = set()
        self.number = 0
        self.lock = threading.Lock()
        self.sessions = []

    def connect(self, database, **how):
        return psycopg.connect(self.options.dsn, dbname=database, **how)

    def count(self, name, code=None):
        with self.lock:
            self.counted[name] += 1
            if code:
                self.codes[code] += 1

    def tell(self, session, failure):
        with self.lock:
            kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "_", failure)[:200]
            if kind in self.kinds:
                return
            self.kinds.add(kind)
            self.failures += 1
            folder = tempfile.mkdtemp(prefix="statements-")
            for one in self.sessions:
                with open(os.path.join(folder, f"{one.number}.sql"), "w") as file:
                    file.writelines(line.replace("\x00", " -- ") + ";\n" for line in one.log)
            print(f"FAILED: --seed {self.options.seed} --sessions {self.options.sessions} --steps {self.options.steps}, round {self.number}: "
                  f"{failure}\nstatement: {session.log[-2:] if session else ''}\nwhat the sessions did: {folder}", flush=True)

    def compare(self, db):
        """All sessions are quiet: every count is that of the rows, before a fold and after it."""
        for gid, in db.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            db.execute(f"COMMIT PREPARED '{gid}'")
        for when in ("", " after a fold"):
            for table in GROUPS:
                self.compare_one(db, table, when)
            db.execute("SELECT jobstate.fold()")
        for parent, child in (("run", "step"), ("root", "run")):
            self.expect_none(db, f"{parent} is not what its children say", PARENTS % {"p": parent, "c": child})
        self.expect_none(db, "a move passed that the machine has not", PASSED)
        self.expect_none(db, "drift", "SELECT * FROM jobstate.verify()")
        db.execute("TRUNCATE s.seen")

    def compare_one(self, db, table, when):
        columns = [COLUMN[letter] for letter in GROUPS[table]]
        key = f"jsonb_build_object({', '.join(f'''{c!r}, {c}''' for c in columns)})"
        only = "" if table in ("listed", "ranged") else "ONLY"
        self.expect_none(db, f"counts of {table}{when}", f"""
            SELECT * FROM (SELECT coalesce(group_key, '{{}}') AS key, state, n FROM jobstate.counts('s.{table}') WHERE n > 0) c
              FULL JOIN (SELECT {key} AS key, state, count(*) AS n FROM {only} s.{table} GROUP BY 1, 2) r USING (key, state, n)
             WHERE c.n IS NULL OR r.n IS NULL OR c.n <> r.n LIMIT 3""")
        self.count("compared")

    def expect_none(self, db, what, query):
        try:
            rows = db.execute(query.replace(" USING (key, state, n)", " USING (key, state)")).fetchall()
        except psycopg.Error as error:
            rows = f"{error.sqlstate} {error} {error.diag.context}"
        if rows:
            self.tell(None, f"{what}: {rows}")

    def round(self):
        self.sessions = [Session(self, n, f"{self.options.seed}/{self.number}/{n}") for n in range(self.options.sessions)]
        for session in self.sessions:
            session.start()
        for session in self.sessions:
            session.join()
        with self.connect("fuzz_statements", autocommit=True) as db:
            db.execute("SET search_path = s, public")
            self.compare(db)

    def build(self):
        with self.connect("postgres", autocommit=True) as db:
            db.execute("DROP DATABASE IF EXISTS fuzz_statements WITH (FORCE)")
            db.execute("CREATE DATABASE fuzz_statements")
        with self.connect("fuzz_statements", autocommit=True) as db:
            with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tables.sql")) as file:
                db.execute(file.read())

    def run(self):
        self.build()
        until = time.monotonic() + self.options.seconds
        while time.monotonic() < until and self.number < self.options.rounds and self.failures < 10:
            self.round()
            self.number += 1
        print(f"{'FAILED' if self.failures else 'ok'}: seed {self.options.seed}, {self.number} rounds, {dict(self.counted)}, "
              f"{dict(self.codes.most_common())}")
        return int(self.failures > 0)


if __name__ == "__main__":
    sys.exit(Harness(arguments()).run())
