"""One session: runs its script on a connection of its own and judges every error."""

import itertools
import re
import threading

import psycopg

from compare import REWRITTEN
from script import UNDER_DDL, Block, Statement

ticks = itertools.count(1)


class Failure(Exception):
    pass


class Gone(Exception):
    """The transaction cannot go on; nothing is wrong."""


class Stage:
    """What the sessions of a round share."""

    def __init__(self, dsn, kind, own_relations):
        self.dsn = dsn
        self.apart = kind == "apart"
        self.rebuilt = kind == "rebuilt"
        self.own_relations = own_relations  # OIDs of jobstate's relations
        self.failures = []
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.prepared = []  # transactions for whoever comes next

    def fail(self, session, why):
        with self.lock:
            self.failures.append(f"session {session}: {why}")
        self.stop.set()

    def put_prepared(self, gid, fate):
        with self.lock:
            self.prepared.append((gid, fate))

    def take_prepared(self):
        with self.lock:
            return self.prepared.pop(0) if self.prepared else None


class Session(threading.Thread):
    def __init__(self, stage, number, script):
        super().__init__(name=f"session {number}", daemon=True)
        self.stage = stage
        self.number = number
        self.script = script
        self.log = []
        self.counted = {"statements": 0, "transactions": 0, "compared": 0}
        self.isolation = ""
        self.gids = itertools.count(1)

    def run(self):
        try:
            with psycopg.connect(self.stage.dsn, autocommit=True, prepare_threshold=None) as self.db:
                for setting in self.script.settings:
                    self.execute(Statement(setting))
                for step in self.script.steps:
                    if self.stage.stop.is_set():
                        return
                    self.do_step(step)
        except Failure as failure:
            self.stage.fail(self.number, failure)
        except Exception as error:
            self.stage.fail(self.number, f"{type(error).__name__}: {error}")

    # steps

    def do_step(self, step):
        waiting = None if self.stage.apart else self.stage.take_prepared()
        if waiting:
            self.finish_prepared(*waiting)
        if isinstance(step, Statement):
            try:
                self.execute(step)
            except Gone:
                pass
            return
        self.counted["transactions"] += 1
        self.isolation = step.begin
        try:
            self.execute(Statement(step.begin))
            self.do_body(step.body, 1)
            self.end(step)
        except Gone:
            self.execute(Statement("ROLLBACK"))
        self.isolation = ""

    def do_body(self, body, depth):
        for part in body:
            if isinstance(part, Block):
                self.do_block(part, depth)
            else:
                self.execute(part)

    def do_block(self, block, depth):
        self.execute(Statement(f"SAVEPOINT s{depth}"))
        keep = block.keep
        try:
            self.do_body(block.body, depth + 1)
        except Gone:
            keep = False
        self.execute(Statement(f"RELEASE s{depth}" if keep else f"ROLLBACK TO s{depth}"))

    def end(self, step):
        if step.end != "PREPARE":
            self.execute(Statement(step.end, step.may))
            if step.end.endswith("CHAIN"):
                self.execute(Statement("ROLLBACK"))
            return
        gid = f"oracle_{self.number}_{next(ticks)}"
        self.execute(Statement(f"PREPARE TRANSACTION '{gid}'", step.may))
        if self.stage.apart or next(self.gids) % 2:
            self.finish_prepared(gid, step.prepared)
        else:
            self.stage.put_prepared(gid, step.prepared)

    def finish_prepared(self, gid, fate):
        self.execute(Statement(f"{fate} PREPARED '{gid}'"))

    # statements

    def execute(self, statement):
        """Runs it. Raises Gone after an error that is none, Failure after one that is."""
        self.counted["statements"] += 1
        started = next(ticks)
        try:
            rows, found = self.send(statement)
        except psycopg.Error as error:
            self.log.append((started, next(ticks), statement.text(), error.sqlstate, str(error)))
            self.judge(statement, error)
            raise Gone from None
        self.log.append((started, next(ticks), statement.text(), None, rows))
        if statement.must and rows > 0 and not self.stage.rebuilt:
            raise Failure(f"raised nothing instead of {statement.must}: {statement.sql}")
        if statement.finds:
            self.counted["compared"] += 1
            if found and not self.excused(statement):
                raise Failure(f"difference in {statement.of}: {found}\n  {statement.sql}")

    def send(self, statement):
        with self.db.cursor() as cursor:
            if statement.copy is not None:
                with cursor.copy(statement.sql) as copy:
                    copy.write(statement.copy)
                return cursor.rowcount, []
            cursor.execute(statement.sql)
            return cursor.rowcount, cursor.fetchall() if statement.finds else []

    def judge(self, statement, error):
        code, message = error.sqlstate, str(error)
        if code is None:
            raise Failure(f"lost its connection in {statement.sql}: {message}")
        if code == "40P01" and self.is_ours(error):
            raise Failure(f"deadlock on the counters: {statement.sql}: {message}\n{error.diag.context}")
        if code == "40001" and not self.keeps_snapshot() and "moved to another partition" not in message:
            raise Failure(f"40001 in READ COMMITTED: {statement.sql}: {message}")
        if self.stage.rebuilt and code in UNDER_DDL:
            return
        if code not in statement.may and code != statement.must:
            raise Failure(f"{code} {message} {error.diag.context or ''}\n  in: {statement.sql}")

    def is_ours(self, error):
        """Does the deadlock's circle run through the counters?"""
        return re.search(r'in relation "(segment|base|rollup|attachment)', error.diag.context or "") or \
            any(f"relation {oid} " in error.diag.message_detail for oid in self.stage.own_relations)

    def keeps_snapshot(self):
        return self.isolation.endswith(("REPEATABLE READ", "SERIALIZABLE"))

    def excused(self, statement):
        """Only a transaction that keeps its snapshot can have one that is older than a TRUNCATE."""
        if not self.keeps_snapshot():
            return False
        with self.db.cursor() as cursor:
            if cursor.execute(REWRITTEN.format(statement.of)).fetchone()[0] > 0:
                return True
            # a partition may have come between the plan and counts(): the same snapshot, planned afresh, tells
            return self.stage.rebuilt and not cursor.execute(statement.sql).fetchall()


class Watchdog(threading.Thread):
    """Looks whether a writer ever waits for the log: those who append lock it ROW EXCLUSIVE."""

    QUERY = """SELECT a.query FROM pg_locks l JOIN pg_stat_activity a USING (pid)
               WHERE NOT l.granted AND l.relation = ANY (%s) AND l.mode = 'RowExclusiveLock'"""

    def __init__(self, stage):
        super().__init__(name="watchdog", daemon=True)
        self.stage = stage
        self.over = threading.Event()

    def run(self):
        with psycopg.connect(self.stage.dsn, autocommit=True) as db:
            while not self.over.wait(0.05):
                for row in db.execute(self.QUERY, (self.stage.own_relations,)):
                    self.stage.fail("watchdog", f"a writer waits for the log: {row[0]}")
