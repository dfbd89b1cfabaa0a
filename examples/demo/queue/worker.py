"""A worker of the queues: it reads files, packs them and delivers them, whatever is there to do."""

import hashlib
import lzma
import os
import signal
import time

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

# How many jobs are claimed at a time, what has come furthest first.
BATCHES = {"deliver": 5, "pack": 1, "read": 5}
LEASE_LOST = "JS001"


class Worker:
    def __init__(self, name, outbox, deadly):
        self.name = name
        self.outbox = outbox
        self.deadly = deadly    # the steps and paths that kill, and how many times they do
        self.steps = {"read": self.read, "pack": self.pack, "deliver": self.deliver}
        self.db = psycopg.connect(autocommit=True, row_factory=namedtuple_row, options="-c role=demo_queue_worker")

    def value(self, query, *arguments):
        return self.db.execute(query, arguments).fetchone()[0]

    def work(self):
        while True:
            if not sum([self.serve(queue) for queue in BATCHES]):
                time.sleep(0.05)

    def serve(self, queue):
        jobs = self.db.execute("SELECT * FROM jobstate.claim(%s, %s, %s)",
                               (queue, self.name, BATCHES[queue])).fetchall()
        for job in jobs:
            try:
                self.attempt(job)
            except psycopg.Error as error:
                if error.sqlstate != LEASE_LOST:
                    raise
        return len(jobs)

    def attempt(self, job):
        """The result, the next job and the completion are one transaction: there is none without the others."""
        try:
            with self.db.transaction():
                path = job.payload["path"]
                result = self.steps[job.kind](job, path)
                if job.attempt <= self.deadly.get((job.kind, path), 0):
                    os.kill(os.getpid(), signal.SIGKILL)
                self.db.execute("SELECT jobstate.complete(%s, %s, %s)", (job.id, job.token, Jsonb(result)))
        except OSError as error:
            self.db.execute("SELECT jobstate.fail(%s, %s, %s)", (job.id, job.token, error.strerror))

    def enqueue(self, step, path):
        self.db.execute("SELECT jobstate.enqueue(%s, %s, %s)", (step, step, Jsonb({"path": path})))

    def read(self, job, path):
        with open(path, "rb") as file:
            content = file.read()
        lines = content.count(b"\n")
        self.db.execute("INSERT INTO demo.file VALUES (%s, %s, %s)", (path, lines, hashlib.sha256(content).hexdigest()))
        self.enqueue("pack", path)
        return {"lines": lines}

    def pack(self, job, path):
        running = self.value("SELECT sum(n)::integer FROM jobstate.queue_counts('pack') WHERE state = 'running'")
        with open(path, "rb") as file:
            packed = lzma.compress(file.read())
        self.db.execute("INSERT INTO demo.packed VALUES (%s, %s, %s)", (path, packed, running))
        self.enqueue("deliver", path)
        return {"bytes": len(packed)}

    def deliver(self, job, path):
        packed = self.value("SELECT content FROM demo.packed WHERE path = %s", path)
        with open(f"{self.outbox}/{path.replace('/', '+')}.xz", "wb") as file:
            file.write(packed)
        self.db.execute("INSERT INTO demo.delivered VALUES (%s)", (path,))
        return {"attempt": job.attempt}
