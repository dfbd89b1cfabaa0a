#!/usr/bin/env python3
"""A worker of a jobstate queue: worker.py QUEUE

The connection is libpq's (PGHOST, PGPORT, PGDATABASE, ...) and may lead through
PgBouncer in transaction mode. Where the queue's setting "notify" is on, LISTEN_HOST and
LISTEN_PORT may name the server itself, by which new jobs are told of at once.
"""
import os
import signal
import socket
import sys
import threading
import time
import traceback

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

QUEUE = sys.argv[1] if len(sys.argv) > 1 else "shop"
WORKER = f"{socket.gethostname()}:{os.getpid()}"
BATCH = 10
LEASE = float(os.environ.get("LEASE", 90))  # seconds; what we hold when we die waits as long
IDLE = float(os.environ.get("IDLE", 5))  # seconds to sleep at most

# What jobstate says about a job that is no longer ours: lease lost, gone, ended.
NOT_OURS = ("JS001", "JS002", "JS003")


# The application: for each kind of job the work itself, which may take long and is in no
# transaction, and what is written when it is done, in one transaction with complete().

def charge(job, check):
    until = time.monotonic() + job.payload.get("seconds", 0)
    while time.monotonic() < until:  # stands for slow work
        check()  # raises Unwanted
        time.sleep(0.05)
    return {"order": job.payload["order"]}


def charged(tx, job, result):
    tx.execute("INSERT INTO payment (order_id, job_id) VALUES (%s, %s)", (result["order"], job.id))
    tx.execute("SELECT jobstate.enqueue(%s, 'receipt', %s)", (QUEUE, Jsonb(result)))


def receipt(job, check):
    return {"order": job.payload["order"], "sent": True}


def receipted(tx, job, result):
    tx.execute("INSERT INTO receipt (order_id, job_id) VALUES (%s, %s)", (result["order"], job.id))


KINDS = {"charge": (charge, charged), "receipt": (receipt, receipted)}


# The loop

class Unwanted(Exception):
    """Somebody wants the job cancelled, or it is no longer ours."""


class Leases(threading.Thread):
    """Keeps the leases of the jobs that we hold, and learns which are not wanted any more."""

    def __init__(self):
        super().__init__(daemon=True)
        self.held = {}  # id -> token; replaced or shrunk by the main thread
        self.unwanted = set()

    def take(self, jobs):
        self.unwanted = set()
        self.held = {job.id: job.token for job in jobs}

    def check(self, job):
        if job.id in self.unwanted:
            raise Unwanted

    def run(self):
        while True:
            time.sleep(LEASE / 3)
            held = dict(self.held)
            try:
                if held:
                    self.beat(held)
            except psycopg.OperationalError as error:
                print(f"heartbeat: {error}", file=sys.stderr)  # there is time for another one

    def beat(self, held):
        with connect() as db:
            rows = db.execute(
                "SELECT id, cancel_requested FROM jobstate.heartbeat(%s::bigint[], %s::bigint[], %s * interval '1 s')",
                (list(held), list(held.values()), LEASE)).fetchall()
        wanted = {row.id for row in rows if not row.cancel_requested}
        self.unwanted |= {id for id in held if id not in wanted and self.held.get(id) == held[id]}


stopping = False
awake = threading.Event()


def connect():
    # A prepared statement would be the session's, and PgBouncer gives us another one each time.
    return psycopg.connect("", autocommit=True, prepare_threshold=None, row_factory=namedtuple_row)


def run_job(db, leases, job):
    try:
        work, write = KINDS[job.kind]
        leases.check(job)
        result = work(job, lambda: leases.check(job))
        with db.transaction():
            write(db, job, result)
            db.execute("SELECT jobstate.complete(%s::bigint, %s::bigint, %s)", (job.id, job.token, Jsonb(result)))
    except Unwanted:
        give_up(db, job, "SELECT jobstate.cancel(%s::bigint, %s::bigint)", job.id, job.token)
    except Exception as error:
        if db.broken:
            raise
        # What was written is rolled back. If the job is no longer ours, fail() says so too.
        give_up(db, job, "SELECT jobstate.fail(%s::bigint, %s::bigint, %s)", job.id, job.token,
                "".join(traceback.format_exception(error)))


def give_up(db, job, statement, *arguments):
    try:
        print(f"job {job.id}, attempt {job.attempt}: {db.execute(statement, arguments).fetchone()[0]}", file=sys.stderr)
    except psycopg.Error as error:
        if error.sqlstate not in NOT_OURS:
            raise
        print(f"job {job.id}, attempt {job.attempt}: {error}", file=sys.stderr)


def run_batches(db, leases):
    while not stopping:
        awake.clear()
        jobs = db.execute("SELECT * FROM jobstate.claim(%s, %s, %s, %s * interval '1 s')",
                          (QUEUE, WORKER, BATCH, LEASE)).fetchall()
        leases.take(jobs)
        for job in jobs:
            if stopping:  # what we have not begun is somebody else's at once, its attempt not counted
                rest = list(leases.held.items())
                db.execute("SELECT jobstate.snooze(%s::bigint[], %s::bigint[], array_fill(interval '0', ARRAY[%s]))",
                           ([id for id, _ in rest], [token for _, token in rest], len(rest)))
                leases.take([])
                return
            run_job(db, leases, job)
            leases.held.pop(job.id)
        if not jobs:
            due = db.execute("SELECT extract(epoch FROM jobstate.next_due(%s))::float8", (QUEUE,)).fetchone()[0]
            awake.wait(IDLE if due is None else min(max(due, 0.1), IDLE))


def listen():
    """Optional: a session of its own, as LISTEN needs one."""
    server = {"host": os.environ["LISTEN_HOST"], "port": os.environ.get("LISTEN_PORT", 5432)}
    while True:
        try:
            with psycopg.connect(**server, autocommit=True) as db:
                db.execute("LISTEN jobstate_queue")
                for notification in db.notifies():
                    if notification.payload == QUEUE:
                        awake.set()
        except psycopg.OperationalError as error:
            print(f"listen: {error}", file=sys.stderr)
            time.sleep(5)


def stop(*_):
    global stopping
    stopping = True
    awake.set()


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    leases = Leases()
    leases.start()
    if os.environ.get("LISTEN_HOST"):
        threading.Thread(target=listen, daemon=True).start()
    while not stopping:
        try:
            with connect() as db:
                run_batches(db, leases)
        except psycopg.OperationalError as error:
            leases.take([])  # whatever we held is rescued once its lease is over
            print(f"connection: {error}", file=sys.stderr)
            awake.wait(1)


if __name__ == "__main__":
    main()
