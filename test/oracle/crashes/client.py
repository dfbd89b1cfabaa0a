"""A client that keeps a journal: of each transaction, whether it was sent, acknowledged, or neither, and what it did.

Each transaction has a key of its own and leaves it in the table "witness". So after a crash it is known of one that was
sent and not acknowledged whether it happened; of all others it was known before, and the witness must agree.
"""

import itertools
import random
import threading
from contextlib import contextmanager

import psycopg

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
LOST = ("57P01", "57P02", "57P03", "08")  # the server goes, or has gone

# What the client knows of a transaction. Of those that are SENT or ENDING only the server knows.
OPEN, SENT, PREPARED, ENDING, DONE, REFUSED = "open", "sent", "prepared", "ending", "done", "refused"
numbers = itertools.count(1)


class Trouble(Exception):
    pass


class Work:
    """One transaction."""

    def __init__(self, client):
        self.key = f"{client.name}/{next(numbers)}"
        self.client = client
        self.state = OPEN
        self.gid = None
        self.wanted = DONE  # what a prepared one is to become
        self.effects = []

    def did(self, *effect):
        self.effects.append(effect)


class Client:
    """Lives through all crashes. Its thread does not, and neither does its connection."""

    def __init__(self, stage, family, number, seed):
        self.stage, self.family = stage, family
        self.name = f"{family.name} {number}"
        self.number = number
        self.random = random.Random(f"{seed}/{self.name}")
        self.thread = None
        self.pid = 0
        self.works = []  # of this cycle
        self.prepared = []
        self.reliable = False

    def start(self):
        self.thread = threading.Thread(target=self.run, name=self.name, daemon=True)
        self.thread.start()

    def run(self):
        try:
            with psycopg.connect(self.stage.dsn, autocommit=True, prepare_threshold=self.random.choice((None, 3))) as self.db:
                self.pid = self.db.info.backend_pid
                self.db.execute("SET lock_timeout = '500ms'; SET deadlock_timeout = '50ms'; SET client_min_messages = error")
                while not self.stage.over.is_set():
                    self.attempt(self.family.step)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if error.sqlstate and not error.sqlstate.startswith(LOST):
                self.stage.fail(f"{self.name}: {error.sqlstate} {error}")
        except Exception as error:
            self.stage.fail(f"{self.name}: {type(error).__name__}: {error}")

    def attempt(self, step):
        """An error that the family may meet is none; after it nothing of the transaction is there."""
        try:
            step(self)
        except psycopg.Error as error:
            if not error.sqlstate or error.sqlstate.startswith(LOST):
                raise
            if error.sqlstate not in self.family.may:
                raise Trouble(f"{error.sqlstate} {error} {error.diag.context or ''}") from None
            self.stage.refused[self.family.name, error.sqlstate] += 1

    # statements

    def ask(self, sql, *arguments):
        return self.db.execute(sql, arguments).fetchall()

    def chance(self, probability):
        return self.random.random() < probability

    # transactions

    @contextmanager
    def transaction(self, isolation=None, may_prepare=False):
        work = Work(self)
        self.works.append(work)
        self.db.execute(f"BEGIN ISOLATION LEVEL {isolation or self.random.choice(ISOLATION)}")
        try:
            yield work
            self.db.execute("INSERT INTO witness (cycle, key) VALUES (%s, %s)", (self.stage.cycle, work.key))
            if may_prepare and self.stage.may_prepare and not self.reliable and self.chance(0.15):
                self.prepare(work)
            else:
                work.state = SENT
                if not self.reliable and self.chance(0.01):
                    self.walk_away()
                self.db.execute("COMMIT")
                self.settled(work, DONE)
        except psycopg.Error as error:
            if error.sqlstate and not error.sqlstate.startswith(LOST):
                self.settled(work, REFUSED)
                self.db.execute("ROLLBACK")
            raise

    def walk_away(self):
        """Says COMMIT, and does not hear the answer."""
        self.db.pgconn.send_query(b"COMMIT")
        self.db.pgconn.flush()
        self.db.close()
        raise psycopg.OperationalError("the client is gone")

    def prepare(self, work):
        work.gid, work.state = f"crash {work.key}", SENT
        self.db.execute(f"PREPARE TRANSACTION '{work.gid}'")
        work.state = PREPARED
        self.prepared.append(work)

    def finish_prepared(self, db=None):
        """The one that has waited longest."""
        work = self.prepared[0]
        work.wanted = self.random.choice((DONE, DONE, REFUSED))
        work.state = ENDING
        (db or self.db).execute(f"{'COMMIT' if work.wanted == DONE else 'ROLLBACK'} PREPARED '{work.gid}'")
        self.settled(work, work.wanted)

    def settled(self, work, state):
        """It is known what became of it."""
        with self.stage.lock:
            work.state = state
            if work in self.prepared:
                self.prepared.remove(work)
            if state == DONE:
                self.stage.done[self.family.name] += 1
                for effect in work.effects:
                    self.family.happened(self, *effect)
            else:
                self.stage.undone[self.family.name] += 1
                self.family.forgotten(self, work.effects)

    # after the connection was lost

    def resolve(self, present, prepared):
        """Compares the journal with the witness, and learns what became of the rest. Yields what is wrong."""
        for work in self.works:
            there = work.key in present
            if work.state == DONE and not there:
                yield f"{work.key} was acknowledged and is lost: {work.effects[:3]}"
            elif work.state in (OPEN, REFUSED) and there:
                yield f"{work.key} was {work.state} and is there: {work.effects[:3]}"
            elif work.state == OPEN:
                self.settled(work, REFUSED)
            elif work.gid in prepared:
                if work.state == REFUSED or work.state == DONE or there:
                    yield f"{work.key} is {work.state}, and prepared"
                elif work.state == SENT:
                    work.state = PREPARED
                    self.prepared.append(work)
                else:
                    work.state = PREPARED
            elif work.state == PREPARED:
                yield f"{work.key} was prepared and is lost"
            elif work.state in (SENT, ENDING):
                if work.state == ENDING and there != (work.wanted == DONE):
                    yield f"{work.key} was to be {work.wanted} and is {'there' if there else 'not there'}"
                self.stage.unknown[there] += 1
                self.settled(work, DONE if there else REFUSED)
        self.works = list(self.prepared)


class Family:
    """Its tables, its clients' steps, and what must be. Subclasses keep what is to be there by their own account."""

    name = ""
    clients = 2
    may = frozenset({"40001", "55P03"})

    def __init__(self, stage):
        self.stage = stage

    def build(self, db):
        pass

    def step(self, client):
        self.choose(client, self.steps)(client)

    @staticmethod
    def choose(client, steps):
        chosen = client.random.choices(list(steps), list(steps.values()))[0]
        return chosen

    def happened(self, client, what, *effect):
        getattr(self, f"did_{what}")(client, *effect)

    def forgotten(self, client, effects):
        """The transaction came to nothing."""

    def check(self, db):
        return ()

    def settle(self, db):
        """Brings everything to an end. Yields what cannot be."""
        return ()


def differ(what, told, right):
    """Two counters by key, zeros left out."""
    wrong = [(key, told.get(key, 0), right.get(key, 0)) for key in told.keys() | right.keys() if told.get(key, 0) != right.get(key, 0)]
    if wrong:
        yield f"{what}: {len(wrong)} differ, told and right: {sorted(wrong, key=str)[:5]}"


def overdue(db, table, rescue, which="true"):
    """Leases that are over by now and that nobody takes back; the background worker may be at some of them."""
    now, = db.execute("SELECT clock_timestamp()::text").fetchone()
    return settled_by(db, 1000, lambda: db.execute(rescue), f"SELECT count(*) FROM jobstate.{table} WHERE lease_until < '{now}' AND {which}")


def settled_by(db, rounds, step, left):
    """Steps until nothing is left to do; what is then left."""
    for _ in range(rounds):
        step()
        if not db.execute(left).fetchone()[0]:
            break
        db.execute("SELECT pg_sleep(0.03)")
    return db.execute(left).fetchone()[0]
