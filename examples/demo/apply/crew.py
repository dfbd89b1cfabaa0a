"""Creates an apply under each policy, one after the other, and watches it, while drivers are at work."""

import multiprocessing
import sys
import time
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Jsonb

from driver import Driver

DRIVERS = 3
PATIENCE = 60
DEPLOYMENTS = ["us-east", "us-west", "eu-west", "asia", "africa"]
SHORT = {"pending": ".", "running": "running", "checksumming": "checking", "completed": "done", "failed": "FAILED"}

CREATE = """
    SELECT apply_id FROM jobstate.apply_create('orders', 'postgresql', 'demo', %s, on_failure => %s)"""
LOOK = """
    SELECT a.state, a.error_message, array_agg(o.state ORDER BY o.id), sum(o.attempt)::int
      FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
     WHERE a.id = %s
     GROUP BY a.id"""
HAS_CONSTRAINT = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %s::regclass AND conname = 'positive')"
DROP = 'ALTER TABLE "{}".orders DROP CONSTRAINT IF EXISTS positive'


@dataclass
class Accident:
    apply_id: int
    deployment: str

    def matches(self, operation):
        return (operation.apply_id, operation.deployment) == (self.apply_id, self.deployment)


def drive(name, accident):
    Driver(name, accident).drive()


class Director:
    def __init__(self, db):
        self.db = db
        self.drivers = {}

    def watch(self, apply_id, policy):
        """Prints what changes until the apply has ended; lets a paused one go on."""
        began, last = time.monotonic(), None
        while time.monotonic() - began < PATIENCE:
            self.replace_the_dead()
            state, error, operations, _ = look = self.db.execute(LOOK, (apply_id,)).fetchone()
            if look != last:
                self.show(time.monotonic() - began, state, operations)
                self.db.execute("INSERT INTO seen (apply_id, state) VALUES (%s, %s)", (apply_id, state))
                last = look
            if state in ("completed", "failed"):
                print(f"         {policy or 'mended'}: {error or 'all is done'}\n")
                return
            if state == "paused":
                print("         somebody looks at it, and releases it")
                self.db.execute("SELECT jobstate.apply_release(%s, 'operator')", (apply_id,))
            time.sleep(0.02)
        sys.exit("the apply does not come to an end")

    def show(self, second, state, operations):
        shown = "".join(f"{SHORT.get(one, one):<10}" for one in operations)
        print(f"  {second:5.2f}  {state:<18}{shown}", flush=True)

    def start(self, name, accident):
        driver = multiprocessing.Process(target=drive, args=(name, accident), name=name, daemon=True)
        driver.start()
        self.drivers[name] = (driver, accident)

    def replace_the_dead(self):
        for name, (driver, accident) in list(self.drivers.items()):
            if not driver.is_alive():
                print(f"         {name} was killed halfway through an operation")
                self.start(name, accident)

    def create(self, policy):
        """What has the constraint already has converged."""
        operations = [{"deployment": deployment, "already_converged": self.has_constraint(deployment)}
                      for deployment in DEPLOYMENTS]
        return self.db.execute(CREATE, (Jsonb(operations), policy)).fetchone()[0]

    def has_constraint(self, deployment):
        return self.db.execute(HAS_CONSTRAINT, (f'"{deployment}".orders',)).fetchone()[0]

    def act(self, policy):
        """An apply under a policy, to deployments that know nothing of the one before."""
        for deployment in DEPLOYMENTS:
            self.db.execute(DROP.format(deployment))
        print(f"on_failure => '{policy}'")
        print("  " + f"{'second':<7}{'apply':<18}" + "".join(f"{name:<10}" for name in DEPLOYMENTS))
        self.watch(self.create(policy), policy)


def main():
    with psycopg.connect(autocommit=True) as db:
        director = Director(db)
        for number in range(1, DRIVERS + 1):
            director.start(f"driver {number}", Accident(2, "asia"))
        for policy in ["halt", "continue", "pause"]:
            director.act(policy)
        print("the row is mended, and the change is asked for once more")
        db.execute('UPDATE "eu-west".orders SET amount = 7 WHERE id = 7')
        director.watch(director.create("halt"), None)
        for driver, _ in director.drivers.values():
            driver.kill()


if __name__ == "__main__":
    main()
