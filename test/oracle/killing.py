"""A server that is killed with -9 and started again."""

import os
import signal
import subprocess
import time

import psycopg


class Server:
    def __init__(self, pgdata, bindir, dsn):
        self.pgdata, self.bindir, self.dsn = pgdata, bindir, dsn

    def connect(self):
        for _ in range(600):
            try:
                return psycopg.connect(self.dsn, autocommit=True)
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise RuntimeError("the server does not come back")

    def postmaster(self):
        with open(os.path.join(self.pgdata, "postmaster.pid")) as file:
            return int(file.readline())

    def children(self):
        """Of every kind: backends, workers, the checkpointer."""
        postmaster, children = self.postmaster(), []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as file:
                        parent = int(file.read().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent == postmaster:
                    children.append(int(entry))
        return children

    def kill(self, children_too=False):
        """The postmaster, and at the same instant all its children; or these go on until they notice."""
        # one that is forked meanwhile would wait for ever for what those who were killed held
        os.kill(self.postmaster(), signal.SIGSTOP)
        children = self.children()
        os.kill(self.postmaster(), signal.SIGKILL)
        for pid in children if children_too else ():
            self.kill_one(pid)
        # orphans keep the memory until they are gone
        self.wait_until_gone(children, 30)

    @staticmethod
    def kill_one(pid):
        """Whether it was there."""
        try:
            os.kill(pid, signal.SIGKILL)
            return True
        except ProcessLookupError:
            return False

    @staticmethod
    def wait_until_gone(pids, seconds):
        until = time.monotonic() + seconds
        while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
            time.sleep(0.02)

    def start(self, options=""):
        """A child that came to be at the last instant may still hold the memory."""
        command = [os.path.join(self.bindir, "pg_ctl"), "-s", "-w", "-t", "120", "-D", self.pgdata, "-o", options,
                   "-l", os.path.join(self.pgdata, "crash.log"), "start"]
        for _ in range(100):
            if subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("the server does not start")
