"""Checks what the crew did against the files themselves; each line says what was shown.

usage: check.py jobs|totals OUTBOX; the current folder holds the files
"""

import glob
import hashlib
import lzma
import os
import sys

import psycopg

from checker import Checker
from crew import POISON, QUEUES, WORKERS, priority
from worker import BATCHES, LEASE_LOST

STEPS = """
    SELECT count(DISTINCT at),
           count(*) FILTER (WHERE stored <> completed),
           count(*) FILTER (WHERE entered <> CASE queue WHEN 'read' THEN %s ELSE before END)
      FROM (SELECT *, available + running + deferred + completed + dead AS entered,
                   lag(completed) OVER (PARTITION BY at ORDER BY array_position(%s, queue)) AS before
              FROM demo.look) l"""
ORDER = """
    SELECT payload ->> 'path' FROM jobstate.jobs
     WHERE queue = 'read' AND attempt = 1 ORDER BY claimed_at"""
RESCUED = """
    SELECT count(DISTINCT k.worker), count(DISTINCT k.id),
           count(DISTINCT k.id) FILTER (WHERE s.state = 'completed' OR s.state = 'dead')
      FROM demo.killed k, jobstate.job_status(k.id) s, jsonb_to_recordset(s.errors) AS e(error text)
     WHERE e.error = 'lease expired, worker "' || k.worker || '"'"""
RETRIED = """
    SELECT count(*) FILTER (WHERE attempt > 1), count(*) FILTER (WHERE state <> 'completed'), max(attempt)
      FROM jobstate.jobs WHERE queue = 'deliver'"""
POISONED = """
    SELECT payload ->> 'path', attempt::integer,
           (SELECT count(DISTINCT e ->> 'error') FROM jsonb_array_elements(errors) e)
      FROM jobstate.dead_letter"""
TOTALS = "SELECT sum(live)::integer, sum(rolled_up)::integer, sum(total)::integer FROM jobstate.queue_totals()"
LIVE = "SELECT array_agg(queue || ' ' || state || ' ' || live) FROM jobstate.queue_totals() WHERE live > 0"
RING = """
    SELECT sum(pg_relation_size(oid))::integer FROM pg_class
     WHERE relnamespace = 'jobstate'::regnamespace AND relname ~ '^job_[0-9]+$'"""


def read_in_one_process():
    """What each file has to give: its lines and its hash."""
    files = {}
    for path in glob.glob("**/*.*", recursive=True):
        if path != POISON:
            with open(path, "rb") as file:
                content = file.read()
            files[path] = content.count(b"\n"), hashlib.sha256(content).hexdigest()
    return files


def unpack(folder):
    """The hashes of what was delivered."""
    hashes = {}
    for name in os.listdir(folder):
        with lzma.open(f"{folder}/{name}") as file:
            hashes[name.removesuffix(".xz").replace("+", "/")] = hashlib.sha256(file.read()).hexdigest()
    return hashes


class QueueChecker(Checker):
    def __init__(self, db, files):
        super().__init__(db)
        self.files = files

    def row(self, query, *arguments):
        return self.db.execute(query, arguments).fetchone()

    def refused(self, condition, query, *arguments):
        """The refusal's detail, or nothing where the statement was not refused."""
        try:
            with self.db.transaction():
                self.db.execute(query, arguments)
        except psycopg.Error as refusal:
            return refusal.sqlstate == condition and refusal.diag.message_detail

    def check_results(self, delivered):
        stored = {path: (lines, sha256) for path, lines, sha256 in self.db.execute("SELECT * FROM demo.file")}
        self.check(stored == self.files,
                   f"{len(stored)} files were read, {sum(lines for lines, _ in stored.values())} lines in all, "
                   "as one process reads them")
        self.check(delivered == {path: sha256 for path, (_, sha256) in self.files.items()},
                   f"{len(delivered)} files were delivered; unpacked, they are the ones that were sent")

    def check_steps(self):
        """All counts of a look are of one snapshot, so they add up to what one step has handed to the next."""
        looks, stored, entered = self.row(STEPS, len(self.files) + 2, list(QUEUES))
        self.check(looks > 10 and not stored,
                   f"at each of {looks} looks there were as many completed jobs as stored results")
        self.check(not entered, "and every job was in one state, whatever had been killed")

    def check_sent(self):
        sent, jobs, duplicates = self.row(
            "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE duplicate) FROM demo.sent")
        self.check(sent == 2 * jobs == 2 * duplicates == 2 * len(self.files),
                   f"{sent} jobs with unique keys were sent, {duplicates} of them were there already")

    def check_priorities(self):
        """While a worker takes the last urgent files, each of the others may take a batch of what comes next."""
        taken = [priority(path) for path, in self.db.execute(ORDER) if path in self.files]
        urgent = taken.count(1)
        overtakers = len(taken) - taken[::-1].index(1) - urgent
        self.check(overtakers <= (WORKERS - 1) * BATCHES["read"],
                   f"{urgent} urgent files went first; {overtakers} others were taken before the last of them")

    def check_limit(self):
        running = self.value("SELECT max(running) FROM demo.packed")
        self.check(running <= 2, f"no packing had more than {running - 1} other beside it")

    def check_crash(self):
        workers, jobs, ended = self.row(RESCUED)
        held, = self.row("SELECT count(DISTINCT id) FROM demo.killed")
        self.check(workers == 4 and held == jobs == ended,
                   f"{workers} workers were killed; the {jobs} jobs that they had were rescued, none was lost")
        again, lost, most = self.row(RETRIED)
        self.check(again and not lost,
                   f"{again} deliveries failed at first, up to {most - 1} times each, all were done in the end")
        dead = self.db.execute(POISONED).fetchall()
        self.check(len(dead) == 1 and dead[0] == (POISON, 3, 3),
                   f"{len(dead)} job killed a worker in each of 3 attempts and is a dead letter")

    def check_guard(self):
        late = self.refused(LEASE_LOST, "SELECT jobstate.complete(id, token) FROM demo.killed k"
                            " WHERE id IN (SELECT id FROM jobstate.jobs)")
        self.check(late, f"a worker that was taken for dead is refused: {late}")
        illegal = self.refused("23514", "UPDATE jobstate.job SET state_id = 1 WHERE state_id = 4")
        self.check(illegal, f"an illegal move is refused: {illegal}")

    def check_drift(self):
        drift = self.value("SELECT count(*) FROM jobstate.verify()")
        self.check(not drift, f"{drift} counters drifted from the rows")

    def check_totals(self):
        """One job is due tomorrow, and the dead letter is no job any more."""
        live, gone, total = self.row(TOTALS)
        sent = len(QUEUES) * len(self.files) + 1
        self.check(total == live + gone == sent, f"{live} live and {gone} rolled up are {total}, as many as were sent")
        left, size = self.value(LIVE), self.value(RING)
        self.check(left == ["read deferred 1"], f"what is left is not due yet: {', '.join(left)}")
        self.check(size == 0, f"the ring takes {size} bytes")


def main():
    with psycopg.connect() as db:
        checker = QueueChecker(db, read_in_one_process())
        if sys.argv[1] == "jobs":
            checker.check_results(unpack(sys.argv[2]))
            checker.check_sent()
            checker.check_steps()
            checker.check_priorities()
            checker.check_limit()
            checker.check_crash()
            checker.check_guard()
        else:
            checker.check_totals()
        checker.check_drift()
    sys.exit(checker.failed)


if __name__ == "__main__":
    main()
