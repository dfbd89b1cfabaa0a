"""The crew of the queues: sends the files, keeps eight workers at work and shows the live counts.

usage: crew.py OUTBOX; the current folder holds the files
"""

import glob
import multiprocessing
import os
import signal
import sys
import time

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from worker import Worker

WORKERS = 8
PATIENCE = 60
QUEUES = ("read", "pack", "deliver")
PRIORITIES = {".h": 1, ".c": 2, ".sql": 3, ".out": 4}
POISON = "src/poison.c"

SEND = """
    INSERT INTO demo.sent
    SELECT * FROM jobstate.enqueue_many('read', %s, %s, priorities => %s, unique_keys => %s,
                                        unique_states => '{available,running,deferred,completed}')"""
HELD = """
    WITH held AS (
        SELECT s.worker, s.id, j.token, s.payload ->> 'path' AS path
          FROM jobstate.jobs s JOIN jobstate.job j USING (id)
         WHERE s.worker = %s AND s.state = 'running'),
    noted AS (INSERT INTO demo.killed SELECT worker, id, token FROM held)
    SELECT path FROM held"""
LOOK = "INSERT INTO demo.look SELECT clock_timestamp(), * FROM demo.live RETURNING *"


def priority(path):
    return PRIORITIES.get(os.path.splitext(path)[1], 4)


def work(*plan):
    Worker(*plan).work()


class Crew:
    def __init__(self, db, outbox):
        self.db = db
        self.outbox = outbox
        self.began = time.monotonic()
        self.paths = sorted(path for path in glob.glob("**/*.*", recursive=True) if path != POISON)
        halfway = sorted(self.paths, key=priority)[len(self.paths) // 2]
        self.deadly = {("read", POISON): 3, ("pack", halfway): 1}
        self.workers = []
        self.hired = 0
        self.shown = None    # how much was done when the counts were shown last

    def send(self):
        """Sends everything twice, as if two had thought of it, and one job that is due tomorrow."""
        self.db.execute("SELECT jobstate.enqueue('read', 'read', %s, max_attempts => 3)", (Jsonb({"path": POISON}),))
        payloads = [Jsonb({"path": path}) for path in self.paths]
        priorities = [priority(path) for path in self.paths]
        for _ in "once", "again":
            self.db.execute(SEND, (["read"] * len(self.paths), payloads, priorities, self.paths))
        self.db.execute("SELECT jobstate.enqueue('read', 'read', %s, run_at => now() + interval '1 day')",
                        (Jsonb({"path": "tomorrow"}),))

    def hire(self):
        self.hired += 1
        worker = multiprocessing.Process(target=work, args=(str(self.hired), self.outbox, self.deadly),
                                         name=str(self.hired))
        worker.start()
        self.workers.append(worker)

    def replace_dead(self):
        """Notes what a killed worker held; nothing else is done about it, the leases run out."""
        for worker in [worker for worker in self.workers if not worker.is_alive()]:
            if worker.exitcode != -signal.SIGKILL:
                sys.exit(f"worker {worker.name} failed")
            held = [row.path for row in self.db.execute(HELD, (worker.name,))]
            self.workers.remove(worker)
            self.hire()
            killer = "the poison kills" if POISON in held else "kill -9 of"
            yield f"{killer} worker {worker.name}, with {len(held)} job{'s' * (len(held) > 1)} in hand"

    def look(self):
        rows = {row.queue: row for row in self.db.execute(LOOK).fetchall()}
        return [rows[queue] for queue in QUEUES]

    def show(self, looks, events):
        """A line for each event, and for each tenth of all there is to do."""
        done = sum(look.completed for look in looks)
        step = len(QUEUES) * len(self.paths) / 10
        if not events and self.shown is not None and done < self.shown + step:
            return
        self.shown = done
        print(f"{time.monotonic() - self.began:6.1f}",
              *(f"{look.available:6}{look.running:5}{look.deferred:6}{look.completed:5}" for look in looks),
              f"{sum(look.dead for look in looks):5}  {'; '.join(events)}".rstrip(), flush=True)

    def open_outbox(self, looks):
        """Until a quarter of the files is packed nothing can be delivered."""
        if not os.path.exists(self.outbox) and looks[1].completed >= len(self.paths) / 4:
            os.mkdir(self.outbox)
            yield "from now on deliveries succeed"

    def see_through(self):
        """Calls maintain(), which makes available what is due and takes jobs from who is gone, until all is done."""
        dead = 0
        while time.monotonic() < self.began + PATIENCE:
            self.db.execute("CALL jobstate.maintain()")
            looks = self.look()
            events = [*self.replace_dead(), *self.open_outbox(looks)]
            if sum(look.dead for look in looks) > dead:
                dead = sum(look.dead for look in looks)
                events.append("the poison is a dead letter")
            done = sum(look.available + look.running + look.deferred for look in looks) == 1
            self.show(looks, events + ["what is left is due tomorrow"] * done)
            if done:
                return
            time.sleep(0.1)
        sys.exit("the workers do not come to an end")


def main():
    with psycopg.connect(autocommit=True, row_factory=namedtuple_row) as db:
        crew = Crew(db, sys.argv[1])
        crew.send()
        print("The same in psql, every second: SELECT * FROM jobstate.queues \\watch 1\n")
        print("second" + "".join(f"  {f' {queue} ':-^20}" for queue in QUEUES))
        print("      " + "  wait  run later done" * len(QUEUES) + "  dead")
        try:
            crew.show(crew.look(), ["everything was sent twice"])
            for _ in range(WORKERS):
                crew.hire()
            crew.see_through()
        finally:
            for worker in crew.workers:
                worker.kill()
                worker.join()


if __name__ == "__main__":
    main()
