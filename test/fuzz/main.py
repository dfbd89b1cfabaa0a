#!/usr/bin/env python3
"""Calls every function of the extension with values that nobody should give, and looks at what comes back.

usage: main.py [--seed N] [--seconds S] [--rounds N] [--calls N] [--print] [--report FILE] [--dsn DSN]

Connects as libpq's environment says, as a superuser, to a cluster of its own. A round is a database with all families,
or with the extension alone; a superuser, its owner, a worker and a role without rights call in it, each in transactions
of every kind. An internal error, a lost connection, a statement that does not end, a text with what the role may not
read, memory that stays and counters that drift are failures. What is called follows from the seed alone.
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

import calls
from values import RELATIONS, Values

ROLES = ("postgres", "fuzz_owner", "fuzz_worker", "fuzz_plain")
SECRET = "TOPSECRET"
TIMEOUT = 4  # seconds, of a statement
PATIENCE = 60  # until a statement that was to be cancelled counts as hanging
MOST = 40  # failures, after which it ends
BLOAT = 16 << 20  # bytes that a session may have more of at its end
# A wrong number of arguments and text that is no statement are errors of who wrote the function.
OURS = {"42601": "a statement made from an argument", "P0004": "an assertion"}
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED, READ ONLY", "SERIALIZABLE, READ ONLY, DEFERRABLE")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=10 ** 9)
    parser.add_argument("--calls", type=int, default=150, help="of each role in a round")
    parser.add_argument("--print", action="store_true", help="print each statement before it is run")
    parser.add_argument("--report", help="write every kind of error, with an example, to this file")
    parser.add_argument("--dsn", default="")
    return parser.parse_args()


class Failure(Exception):
    """What ends a round."""


class Session:
    """One role's calls in one round."""

    def __init__(self, fuzzer, role, seed, database):
        self.fuzzer = fuzzer
        self.role = role
        self.random = random.Random(seed)
        self.values = Values(self.random, fuzzer.known)
        self.log = []
        self.db = fuzzer.connect(database, autocommit=True, prepare_threshold=None)
        self.db.execute(f"SET statement_timeout = '{TIMEOUT}s'; SET lock_timeout = '2s'; SET client_min_messages = error")
        self.db.execute("CREATE TEMP TABLE mine (id bigint, state text, g text)")
        if role != "postgres":      # the superuser is whoever connects, by what name ever
            self.db.execute(f"SET SESSION AUTHORIZATION {role}")
        self.hung = threading.Event()

    # statements

    def run(self, statement):
        """Runs it; an error is judged and told as False."""
        self.log.append(statement)
        if self.fuzzer.options.print:
            print(f"{self.role}: {statement[:400]};", flush=True)
        alarm = threading.Timer(PATIENCE, self.give_up)
        alarm.start()
        try:
            self.db.execute(statement)
            return True
        except psycopg.Error as error:
            self.judge(statement, error)
            return False
        finally:
            alarm.cancel()

    def give_up(self):
        self.hung.set()
        self.db.pgconn.finish()

    def judge(self, statement, error):
        if self.hung.is_set():
            raise Failure("did not end when it was cancelled")
        diag = error.diag
        if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
            raise Failure(f"lost its connection: {error}")
        code = error.sqlstate or "client"
        texts = [diag.message_primary, diag.message_detail, diag.message_hint, diag.context]
        self.fuzzer.note(code, diag.message_primary or str(error), statement, diag.context, self.role)
        if code.startswith("XX"):
            self.fuzzer.tell(self, f"internal error {code}: {diag.message_primary}\n{diag.context or ''}")
        if code in OURS and diag.context and "jobstate." in diag.context:
            self.fuzzer.tell(self, f"{OURS[code]}, {code}: {diag.message_primary}\n{diag.context}")
        if self.role == "fuzz_plain" and SECRET in " ".join(filter(None, texts)) and SECRET not in statement:
            self.fuzzer.tell(self, f"tells what the role may not read: {texts}")

    # what is run

    def statements(self):
        """One call, or a misuse of a trigger function by who may create triggers."""
        fuzzer, random = self.fuzzer, self.random
        if random.random() < 0.08 and self.role in ("postgres", "fuzz_owner"):
            return list(calls.misuse(random, self.values, fuzzer.triggers, RELATIONS[:20] + ("jobstate.job", "jobstate.queue")))
        function = fuzzer.next_function(self.role)
        fuzzer.called[function.name] += 1
        return [calls.call(random, self.values, function)]

    def play(self, n):
        while n > 0:
            if self.random.random() < 0.5:
                for statement in self.statements():
                    self.run(statement)
                n -= 1
            else:
                n -= self.transaction()

    def transaction(self):
        calls = self.random.randint(1, 6)
        self.run(f"BEGIN ISOLATION LEVEL {self.random.choice(LEVELS)}")
        for _ in range(calls):
            for statement in self.statements():
                self.run("SAVEPOINT s")
                if not self.run(statement):
                    self.run("ROLLBACK TO s")
                elif self.random.random() < 0.3:
                    self.run("ROLLBACK TO s")
        if not self.run(self.random.choice(("COMMIT", "COMMIT", "ROLLBACK"))) or self.db.info.transaction_status:
            self.run("ROLLBACK")
        return calls

    def memory(self):
        """Bytes that the backend holds, without what a cache keeps of catalogues."""
        self.db.execute("RESET SESSION AUTHORIZATION")
        return self.db.execute("""
            SELECT coalesce(sum(used_bytes), 0)::bigint FROM pg_backend_memory_contexts
             WHERE name NOT IN ('CacheMemoryContext', 'index info', 'relation rules', 'CachedPlan', 'CachedPlanSource',
                                'CachedPlanQuery', 'PL/pgSQL function', 'SQL function', 'ErrorContext')""").fetchone()[0]

    def close(self):
        if self.memory() > BLOAT:
            raise Failure(f"holds {self.memory()} bytes at its end")
        self.db.close()


class Fuzzer:
    def __init__(self, options):
        self.options = options
        self.called = collections.Counter()
        self.noted = {}
        self.errors = collections.Counter()
        self.order = {}
        self.failures = set()
        self.number = 0
        self.run_count = 0
        self.db = self.connect("postgres", autocommit=True)

    def connect(self, database, **how):
        return psycopg.connect(self.options.dsn, dbname=database, **how)

    # the databases

    def build(self):
        for role in ROLES[1:]:
            if not self.db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                self.db.execute(f"CREATE ROLE {role} LOGIN")
        for database in ("fuzz_now", "fuzz_world", "fuzz_empty"):
            self.db.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        for database, script in (("fuzz_world", "world.sql"), ("fuzz_empty", None)):
            self.db.execute(f"CREATE DATABASE {database} OWNER fuzz_owner")
            with self.connect(database, autocommit=True) as db:
                if script:
                    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), script)) as file:
                        db.execute(file.read())
                    self.known = calls.known(db)
                else:
                    db.execute("CREATE EXTENSION jobstate")
                self.functions = list(calls.functions(db))
        self.triggers = [f for f in self.functions if f.is_trigger]

    def next_function(self, role):
        """All functions in turn, each time in another order."""
        if not self.order.get(role):
            self.order[role] = random.Random(f"{self.options.seed}/{role}/{self.run_count}").sample(
                self.functions, len(self.functions))
            self.run_count += 1
        return self.order[role].pop()

    def round(self, number):
        template = "fuzz_empty" if number % 8 == 7 else "fuzz_world"
        self.db.execute("DROP DATABASE IF EXISTS fuzz_now WITH (FORCE)")
        self.db.execute(f"CREATE DATABASE fuzz_now OWNER fuzz_owner TEMPLATE {template}")
        with self.connect("fuzz_now", autocommit=True) as other:
            other.execute("CREATE TEMP TABLE of_another_session (id bigint, state text, g text)")
            for role in self.random.sample(ROLES, len(ROLES)):
                session = Session(self, role, f"{self.options.seed}/{number}/{role}", "fuzz_now")
                try:
                    session.play(self.options.calls)
                    session.close()
                except Failure as failure:
                    self.tell(session, failure)
                    return
            self.compare(other, session)

    def compare(self, db, session):
        """Whatever was called: counters are right, and health() answers."""
        try:
            drift = db.execute("SELECT * FROM jobstate.verify() LIMIT 3").fetchall()
            db.execute("SELECT count(*) FROM jobstate.health(true)")
            db.execute("SELECT count(*) FROM jobstate.metrics")
        except psycopg.Error as error:
            drift = f"{error.sqlstate} {error} {error.diag.context}"
        if drift:
            self.tell(session, f"at the end of the round: {drift}")

    # telling

    def note(self, code, message, statement, context, role):
        self.errors[code] += 1
        where = re.findall(r"jobstate\.(\w+)\(", context or statement) or [""]
        kind = (code, re.sub(r'"[^"]*"|\d+', "_", message)[:100], where[0])
        self.noted.setdefault(kind, [0, role, message, statement, context])[0] += 1

    def tell(self, session, failure):
        """Each failure once; those that differ in names and numbers alone are the same."""
        kind = re.sub(r'"[^"]*"|\d+', "_", str(failure))[:300]
        if kind in self.failures:
            return
        self.failures.add(kind)
        handle, path = tempfile.mkstemp(prefix="fuzz-", suffix=".sql")
        with os.fdopen(handle, "w") as file:
            file.writelines(statement + ";\n" for statement in session.log)
        print(f"FAILED: --seed {self.options.seed} --calls {self.options.calls}, round {self.number}, {session.role}: {failure}\n"
              f"statement: {session.log[-1][:1000]}\nall of the session: {path}", flush=True)

    def report(self):
        with open(self.options.report, "w") as file:
            for kind, (n, role, message, statement, context) in sorted(self.noted.items(), key=lambda item: item[0]):
                file.write(f"{kind[0]} {n} x {kind[2]} ({role}): {message[:300]}\n    {statement[:400]}\n    {str(context)[:300]}\n")

    def run(self):
        self.random = random.Random(self.options.seed)
        self.build()
        until = time.monotonic() + self.options.seconds
        while time.monotonic() < until and self.number < self.options.rounds and len(self.failures) < MOST:
            self.round(self.number)
            self.number += 1
        self.db.execute("DROP DATABASE IF EXISTS fuzz_now WITH (FORCE)")
        if self.options.report:
            self.report()
        missed = [f.name for f in self.functions if not self.called[f.name]]
        print(f"{'FAILED' if self.failures else 'ok'}: seed {self.options.seed}, {self.number} rounds, {sum(self.called.values())} calls of "
              f"{len(self.functions) - len(missed)} of {len(self.functions)} functions, {sum(self.errors.values())} errors of "
              f"{len(self.errors)} codes: {dict(self.errors.most_common())}")
        return int(bool(self.failures))


if __name__ == "__main__":
    sys.exit(Fuzzer(arguments()).run())
