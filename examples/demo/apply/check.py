"""Checks what became of the applies against the tables themselves; each line says what was shown."""

import sys

import psycopg

from checker import Checker

ERROR = 'deployment eu-west failed: check constraint "positive" of relation "orders" is violated by some row'
OPERATIONS = "SELECT array_agg(state ORDER BY id) FROM jobstate.operation WHERE apply_id = %s"
SEEN = "SELECT array_agg(state ORDER BY id) FROM seen WHERE apply_id = %s"
CONSTRAINTS = "SELECT count(*) FROM pg_constraint WHERE conname = 'positive'"
WRONG = """
    SELECT count(*)
      FROM (SELECT a.state, array_agg(o.state ORDER BY o.id) AS states, array_agg(coalesce(o.variant, '') ORDER BY o.id) AS policies
              FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id GROUP BY a.id) s
     WHERE state <> jobstate.fold_rollout('head', states, policies)"""


class ApplyChecker(Checker):
    def check_policy(self, number, policy, operations, states):
        ended = self.value(OPERATIONS, number)
        self.check(ended == operations, f"under {policy}: {', '.join(ended)}")
        seen = self.value(SEEN, number)
        self.check(all(state in seen for state in states), f"  the apply was seen {', '.join(dict.fromkeys(seen))}")

    def check_error(self):
        told = self.value("SELECT count(*) FROM jobstate.apply WHERE id <= 3 AND error_message = %s", ERROR)
        self.check(told == 3, f"{told} applies tell the error of the deployment that failed")

    def check_crash(self):
        attempts = self.value("SELECT max(attempt) FROM jobstate.operation WHERE apply_id = 2")
        self.check(attempts == 2, f"the operation of the driver that was killed was claimed {attempts} times, and done once")

    def check_rest(self):
        constraints, drift = self.value(CONSTRAINTS), self.value("SELECT count(*) FROM jobstate.verify()")
        self.check(constraints == 5, f"{constraints} deployments have the constraint in the end")
        self.check(not self.value(WRONG), "every apply is what follows from its operations")
        self.check(not drift, f"{drift} counters drifted from the rows")

    def check_guard(self):
        try:
            self.db.execute("UPDATE jobstate.apply SET state = 'completed' WHERE id = 1")
            self.check(False, "the state of an apply was written by hand")
        except psycopg.errors.CheckViolation as refusal:
            self.check(True, f"nobody writes the apply's state: {refusal.diag.message_detail}")


def main():
    done, failed, waits = "completed", "failed", "pending"
    with psycopg.connect() as db:
        checker = ApplyChecker(db)
        checker.check_policy(1, "halt", [done, done, failed, waits, waits], ["running", "failed"])
        checker.check_policy(2, "continue", [done, done, failed, done, done], ["running", "running_degraded", "failed"])
        checker.check_policy(3, "pause", [done, done, failed, done, done], ["running", "paused", "running_degraded", "failed"])
        checker.check_policy(4, "halt, mended", [done] * 5, ["running", "completed"])
        checker.check_error()
        checker.check_crash()
        checker.check_rest()
        checker.check_guard()
    sys.exit(checker.failed)


if __name__ == "__main__":
    main()
