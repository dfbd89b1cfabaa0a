"""A worker of the demo: it takes reports, stores what they say, and merges and postprocesses when it is told to."""

import json
import os
import signal
import time

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

COMMIT = (1, "demo")
LEASE = "3 seconds"
LEASE_LOST = "JS001"

# Adding is not idempotent: a batch that is merged twice, or never, shows in the result.
MERGE = """
    INSERT INTO demo.merged AS m (file, line, hits)
    SELECT l.file, l.line, sum(l.hits)
      FROM demo.intermediate i, jsonb_to_recordset(i.lines) AS l(file text, line integer, hits bigint)
     WHERE i.upload_id = ANY (%s)
     GROUP BY l.file, l.line
     ORDER BY l.file, l.line
        ON CONFLICT (file, line) DO UPDATE SET hits = m.hits + excluded.hits"""

POSTPROCESS = """
    INSERT INTO demo.postprocessed (commit_sha, worker, coverage)
    SELECT %s, %s, jsonb_object_agg(c.file, jsonb_build_object('lines', c.lines, 'covered', c.covered))
      FROM (SELECT file, count(*) AS lines, count(*) FILTER (WHERE hits > 0) AS covered
              FROM demo.merged GROUP BY file) c"""

NOTE = """
    INSERT INTO demo.event (worker, kind, detail, counts)
    SELECT %s, %s, %s, jsonb_object_agg(c.state, c.n)
      FROM (SELECT state, sum(n) AS n FROM jobstate.counts('jobstate.upload') GROUP BY state) c"""


def parse(path):
    """The hits of the project's own lines in a gcov report; None if the report is damaged."""
    try:
        with open(path, encoding="utf-8") as report:
            files = json.load(report)["files"]
    except json.JSONDecodeError:
        return None
    return [{"file": file["file"], "line": line["line_number"], "hits": line["count"]}
            for file in files if not os.path.isabs(file["file"])
            for line in file["lines"]]


def name(upload):
    """The run and the source file that a report is about."""
    return "/".join(upload.storage_path.removesuffix(".json").split("/")[-2:])


def note(db, worker, kind, detail):
    """Keeps what happened, with the live counts; these include what the worker's open transaction did."""
    db.execute(NOTE, (worker, kind, detail))


class Worker:
    def __init__(self, number, accident, together, gathering):
        self.number = number
        self.accident = accident    # the upload that kills the first worker that takes it
        self.together = together    # the uploads that are finished at the same instant
        self.gathering = gathering  # the barrier where those who have one of them wait for each other
        self.db = psycopg.connect(autocommit=True, row_factory=namedtuple_row, options="-c role=demo_worker")

    def value(self, query, *arguments):
        return self.db.execute(query, arguments).fetchone()[0]

    def note(self, kind, detail):
        note(self.db, self.number, kind, detail)

    def work(self):
        """Takes uploads until all are processed: one that somebody has may come back when its lease runs out."""
        while self.value("SELECT processing FROM jobstate.upload_numbers(%s, %s)", *COMMIT) > 0:
            upload = self.db.execute("SELECT * FROM jobstate.upload_take(%s, %s, lease => %s)",
                                     (*COMMIT, LEASE)).fetchone()
            if upload is None:
                time.sleep(0.05)
                continue
            if upload.attempt > 1:
                self.note("lease", f"takes {name(upload)}: its lease ran out")
            self.follow(self.receive(upload))

    def receive(self, upload):
        """Processes an upload and returns what to do next; whoever lost the lease has nothing to do."""
        try:
            return self.process(upload, parse(upload.storage_path))
        except psycopg.Error as error:
            if error.sqlstate != LEASE_LOST:
                raise
            return "wait"

    def process(self, upload, lines):
        """Stores the result and moves the state in one transaction, so there is never one without the other."""
        dies = upload.upload_id == self.accident and upload.attempt == 1
        meets = upload.upload_id in self.together and not dies
        if meets:
            self.gather(upload)
        with self.db.transaction():
            if lines is not None:
                self.db.execute("INSERT INTO demo.intermediate VALUES (%s, %s)", (upload.upload_id, Jsonb(lines)))
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = self.value("SELECT jobstate.upload_finish(%s, %s, %s, %s)", upload.upload_id, lines is not None,
                                upload.token, None if lines else "unsupported_file_format")
        if meets:
            self.note("finish", f"finishes {name(upload)} with the others: {answer}")
        return answer

    def gather(self, upload):
        """Waits for the others; the heartbeat keeps the upload for as long as that may take."""
        self.db.execute("SELECT jobstate.upload_heartbeat(%s, %s, %s)", ([upload.upload_id], upload.token, "60 s"))
        self.gathering.wait(60)

    def follow(self, answer):
        """Does what only this worker was told to do; every batch that is merged is followed by another question."""
        while answer == "merge":
            self.merge()
            answer = self.value("SELECT jobstate.upload_decide(%s, %s)", *COMMIT)
        if answer == "postprocess":
            self.postprocess()

    def merge(self):
        """Merges a batch; if its lease ran out meanwhile, marking fails and takes the merge with it."""
        batch = self.db.execute("SELECT * FROM jobstate.upload_take_for_merging(%s, %s, 10)", COMMIT).fetchall()
        ids = [upload.upload_id for upload in batch]
        with self.db.transaction():
            self.db.execute(MERGE, (ids,))
            self.db.execute("DELETE FROM demo.intermediate WHERE upload_id = ANY (%s)", (ids,))
            self.db.execute("SELECT jobstate.upload_mark_merged(%s, %s)", (ids, batch[0].token))
            self.note("merge", f"merges a batch of {len(batch)}")

    def postprocess(self):
        """The attempt is noted in a transaction of its own, so that one that fails is counted too."""
        self.note("postprocess", "is told to postprocess")
        with self.db.transaction():
            self.db.execute(POSTPROCESS, (COMMIT[1], self.number))
            self.db.execute("SELECT jobstate.upload_postprocessed(%s, %s)", COMMIT)
