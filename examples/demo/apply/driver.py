"""A driver: it claims operations, whatever is there to do, and carries them out."""

import os
import signal
import time

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

LEASE = "1 second"
LEASE_LOST = "JS001"

CHANGE = "ALTER TABLE {}.orders ADD CONSTRAINT positive CHECK (amount > 0)"
COUNT = "SELECT count(*) FROM {}.orders"


class Driver:
    def __init__(self, name, accident):
        self.name = name
        self.accident = accident    # the apply and the deployment that kill whoever comes first
        self.db = psycopg.connect(autocommit=True, row_factory=namedtuple_row, options="-c role=demo_driver")

    def drive(self):
        while True:
            operation = self.db.execute("SELECT * FROM jobstate.operation_claim(%s, %s)", (self.name, LEASE)).fetchone()
            if operation is None:
                time.sleep(0.05)
                continue
            try:
                self.attempt(operation)
            except psycopg.Error as error:
                if error.sqlstate != LEASE_LOST:
                    raise

    def attempt(self, operation):
        """The change and its completion are one transaction: there is none without the other."""
        self.look(operation)
        try:
            with self.db.transaction():
                self.db.execute(self.in_schema(CHANGE, operation))
                if operation.attempt == 1 and self.accident.matches(operation):
                    os.kill(os.getpid(), signal.SIGKILL)
                self.db.execute("SELECT jobstate.operation_complete(%s, %s)", (operation.operation_id, operation.token))
        except psycopg.errors.CheckViolation as error:
            self.db.execute("SELECT jobstate.operation_fail(%s, %s, %s)",
                            (operation.operation_id, operation.token, error.diag.message_primary))

    def look(self, operation):
        """Looks at the table first, and says so, in a transaction of its own."""
        time.sleep(0.15)
        rows = self.db.execute(self.in_schema(COUNT, operation)).fetchone().count
        self.db.execute("SELECT jobstate.operation_progress(%s, %s, 'checksumming', jsonb_build_object('rows', %s::bigint))",
                        (operation.operation_id, operation.token, rows))
        time.sleep(0.15)

    @staticmethod
    def in_schema(statement, operation):
        return sql.SQL(statement).format(sql.Identifier(operation.deployment))
