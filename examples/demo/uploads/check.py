"""Checks what the pipeline made against the same reports merged in one process; each line says what was shown.

usage: check.py REPORTS
"""

import glob
import json
import sys
from collections import Counter

import psycopg

from checker import Checker

TOLD = "SELECT count(*) FROM demo.event WHERE kind = %s"
TOTALS = """
    SELECT count(*), min(total), max(total)
      FROM (SELECT (SELECT sum(value::int) FROM jsonb_each_text(counts)) AS total FROM demo.event) e"""
STATES = "SELECT state, sum(n)::int FROM jobstate.counts('jobstate.upload') GROUP BY state"
BIGGEST_BATCH = "SELECT max(substring(detail FROM '\\d+')::int) FROM demo.event WHERE kind = 'merge'"


def merge_in_one_process(reports):
    """Adds up all reports; returns the hits of each line, and how many reports are whole and damaged."""
    hits, quality = Counter(), Counter()
    for path in glob.glob(f"{reports}/run-*/*.json"):
        try:
            with open(path, encoding="utf-8") as report:
                files = json.load(report)["files"]
        except json.JSONDecodeError:
            quality["damaged"] += 1
            continue
        quality["whole"] += 1
        for file in files:
            if not file["file"].startswith("/"):
                for line in file["lines"]:
                    hits[file["file"], line["line_number"]] += line["count"]
    return hits, quality


def coverage_of(hits):
    """What post-processing has to make of these hits."""
    coverage = {}
    for (file, _), count in hits.items():
        totals = coverage.setdefault(file, {"lines": 0, "covered": 0})
        totals["lines"] += 1
        totals["covered"] += count > 0
    return coverage


class PipelineChecker(Checker):
    def check_merge(self, hits):
        merged = {(file, line): count for file, line, count in self.db.execute("SELECT * FROM demo.merged")}
        different = sum(merged.get(key) != hits.get(key) for key in merged.keys() | hits.keys())
        self.check(not different,
                   f"{len(merged)} merged lines, {different} of them different from a merge in one process")

    def check_postprocessing(self, hits):
        told = self.value(TOLD, "postprocess")
        made = self.db.execute("SELECT coverage FROM demo.postprocessed").fetchall()
        self.check(told == len(made) == 1, f"{told} worker was told to postprocess, {len(made)} did")
        self.check(made == [(coverage_of(hits),)], "the coverage that it printed is that of the merge in one process")

    def check_states(self, quality):
        states = dict(self.db.execute(STATES).fetchall())
        expected = {"merged": quality["whole"], "error": quality["damaged"]}
        self.check({state: n for state, n in states.items() if n} == expected,
                   f"{states['merged']} whole reports ended as merged, {states['error']} damaged one as error")

    def check_live_counts(self, quality):
        steps, *totals = self.db.execute(TOTALS).fetchone()
        self.check(totals == [quality.total()] * 2,
                   f"at each of {steps} steps the live counts added up to {quality.total()} uploads")

    def check_crash(self):
        killed, again = self.value(TOLD, "killed"), self.value(TOLD, "lease")
        self.check(killed == 1 and again >= 1, f"{killed} worker was killed, its lease brought its upload back")

    def check_guard(self):
        try:
            self.db.execute("UPDATE jobstate.upload SET state_id = 2 WHERE state_id = 6")
            self.check(False, "a merged upload went back to processed")
        except psycopg.errors.CheckViolation as refusal:
            self.check(True, f"an illegal move is refused: {refusal.diag.message_detail}")

    def check_rest(self):
        finished, biggest = self.value(TOLD, "finish"), self.value(BIGGEST_BATCH)
        left = self.value("SELECT count(*) FROM demo.intermediate")
        drift = self.value("SELECT count(*) FROM jobstate.verify()")
        self.check(finished == 5, f"{finished} uploads were finished at the same instant")
        self.check(biggest <= 10, f"no batch was larger than {biggest}")
        self.check(not left, f"{left} intermediate results are left over")
        self.check(not drift, f"{drift} counters drifted from the rows")


def main():
    hits, quality = merge_in_one_process(sys.argv[1])
    with psycopg.connect() as db:
        checker = PipelineChecker(db)
        checker.check_merge(hits)
        checker.check_postprocessing(hits)
        checker.check_states(quality)
        checker.check_live_counts(quality)
        checker.check_crash()
        checker.check_rest()
        checker.check_guard()
    sys.exit(checker.failed)


if __name__ == "__main__":
    main()
