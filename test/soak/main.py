#!/usr/bin/env python3
"""Mixed load over everything for as long as one likes, and whether anything grows or slows down.

`make soak` starts it beside a server of its own; test/long/soak says how."""

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback

import psycopg

import load
import plain
import report
from client import CONTROL, Client, Clock, Over
from sample import Collector

PATIENCE = 120   # seconds until a client that does not begin or end has failed

HERE = os.path.dirname(os.path.abspath(__file__))

SETTINGS = """
listen_addresses = ''
shared_buffers = 256MB
max_wal_size = 4GB
max_connections = 60
track_io_timing = off
"""


def start_server():
    """A cluster with the server's defaults where they matter: autovacuum, checkpoints and fsync are as they are."""
    place = tempfile.mkdtemp(prefix="soak")
    os.environ.update(PGHOST=place, PGPORT="5432", PGUSER="soak", PGDATABASE="postgres")
    subprocess.run(["initdb", "-N", "-A", "trust", "-U", "soak", "-E", "UTF8", "--no-locale", "-D", f"{place}/data"],
                   check=True, stdout=subprocess.DEVNULL)
    with open(f"{place}/data/postgresql.conf", "a", encoding="ascii") as conf:
        conf.write(SETTINGS + f"unix_socket_directories = '{place}'\n")
    subprocess.run(["pg_ctl", "-s", "-w", "-D", f"{place}/data", "-l", f"{place}/log", "start"], check=True)
    return place


def stop_server(place):
    subprocess.run(["pg_ctl", "-s", "-m", "immediate", "-D", f"{place}/data", "stop"], check=False)


def postmaster_pid():
    with psycopg.connect("") as db:
        data = db.execute("SHOW data_directory").fetchone()[0]
    with open(f"{data}/postmaster.pid", encoding="ascii") as file:
        return int(file.readline())


def work(clock, family, number, what, rate, options):
    """A client's process."""
    try:
        client = Client(clock, family, number, rate, options.seed, options.out)
        clock.ready.wait(PATIENCE)
        try:
            while True:
                what(client)
        except Over:
            client.write()
    except Exception:
        with open(os.path.join(options.out, "errors"), "a", encoding="utf-8") as file:
            file.write(f"{family} {number}:\n{traceback.format_exc()}\n")
        sys.exit(1)


def start_clients(clock, options):
    numbers, processes = {}, []
    for family, what, rate in load.CLIENTS:
        number = numbers[family] = numbers.get(family, -1) + 1
        processes.append(multiprocessing.Process(target=work, args=(clock, family, number, what, rate * options.scale, options)))
    for process in processes:
        process.start()
    return processes


def wait_until(clock, moment):
    time.sleep(max(0.0, moment - clock.now()))


def collect(clock, collector, processes, options):
    """A line per slice, until the load is over or a client has failed."""
    slices = round(clock.seconds / clock.length)
    held = [round(part * slices) for part in (0.25, 0.75)]
    snapshot = None
    with open(os.path.join(options.out, "samples.jsonl"), "w", encoding="ascii") as file:
        for n in range(slices):
            wait_until(clock, n * clock.length)
            line = {"slice": n, "seconds": clock.length, "control": collector.control(CONTROL * clock.length),
                    "held": collector.held is not None}
            for _ in range(options.flood):
                collector.flood()
            wait_until(clock, (n + 0.9) * clock.length)
            line |= collector.sample([p.pid for p in processes])
            if n % 6 == 5:
                line["health"] = collector.health()
            json.dump(line, file)
            file.write("\n")
            file.flush()
            if any(p.exitcode for p in processes):
                break
            if options.keep_snapshot and n + 1 == held[0]:
                collector.hold()
            elif options.keep_snapshot and n + 1 == held[1]:
                snapshot = collector.let_go()
    return snapshot


# The end

OPEN = {
    "jobs that run": "SELECT count(*) FROM jobstate.job WHERE state_id = 2",
    "jobs that wait": "SELECT count(*) FROM jobstate.job WHERE state_id IN (1, 3)",
    "uploads that are not settled": "SELECT count(*) FROM jobstate.upload WHERE state_id IN (1, 2)",
    "items that are claimed": "SELECT count(*) FROM jobstate.ledger WHERE state = 'claimed'",
    "runs": "SELECT count(*) FROM jobstate.ledger_run WHERE state = 'running'",
    "schedules that run": "SELECT count(*) FROM jobstate.schedule WHERE state = 'running'",
    "operations that are not settled": "SELECT count(*) FROM jobstate.operation WHERE state NOT IN ('completed', 'failed', 'cancelled', 'reverted')"
                                       " AND apply_id IN (SELECT id FROM jobstate.apply WHERE completed_at IS NULL)",
    "applies that are not settled": "SELECT count(*) FROM jobstate.apply WHERE completed_at IS NULL",
}


class Free(Clock):
    """For what is done at the end: no slices, no pace."""

    def __init__(self):
        super().__init__(math.inf, 10.0, ())
        self.begin()
        self.quiet = 0.0


def settle(options):
    """Brings to an end what the load left behind; returns what could not be."""
    if options.settle == 0:
        return {}
    c = Client(Free(), "end", 1, 1000, options.seed, options.out)
    c.db.execute("SELECT jobstate.schedule_pause(name) FROM jobstate.schedule")
    end = time.monotonic() + options.settle
    while True:
        c.db.execute("CALL jobstate.maintain()")
        for queue in ("fast", "mixed", "limited"):
            c.db.execute("SELECT jobstate.complete(ids => coalesce(array_agg(id), '{}'), tokens => coalesce(array_agg(token), '{}')) FROM jobstate.claim(%s, 'end', 1000)", (queue,))
        c.db.execute("SELECT jobstate.schedule_finish(name, token) FROM jobstate.schedule WHERE state = 'running'")
        load.sweep(c)
        load.orphans(c)
        c.db.execute("SELECT jobstate.apply_release(id) FROM jobstate.apply WHERE completed_at IS NULL AND state = 'paused'")
        left = {what: n for what, query in OPEN.items() if (n := c.db.execute(query).fetchone()[0])}
        if not left or time.monotonic() > end:
            if "jobs that wait" in left:
                left["jobs"] = [list(map(str, row)) for row in c.db.execute(
                    "SELECT j.tableoid::regclass, j.*, clock_timestamp() FROM jobstate.job j WHERE state_id IN (1, 2, 3)")]
                left["windows"] = [list(map(str, row)) for row in c.db.execute("SELECT * FROM jobstate.queue_window")]
            return left
        time.sleep(0.02)


def miscounted(db):
    """Tables whose counts are not those of their rows, by plain SQL; looks again, because maintenance may come between."""
    for _ in range(50):
        found = compare_counts(db)
        if not found:
            break
        time.sleep(0.1)
    return found


def compare_counts(db):
    found = []
    for target, column, machine in db.execute("SELECT target::regclass::text, state_column, machine FROM jobstate.attachments").fetchall():
        rows = dict(db.execute(f"""SELECT s.name, count(*) FROM {target} t JOIN jobstate.state s
                                      ON s.machine = %s AND t.{column}::text IN (s.name, s.state_id::text) GROUP BY 1""", (machine,)))
        counts = dict(db.execute("SELECT state, sum(n)::bigint FROM jobstate.counts(%s) GROUP BY 1 HAVING sum(n) <> 0", (target,)))
        if rows != counts:
            found.append([target, rows, counts])
    return found


def finish(options, snapshot, failed):
    final = {"snapshot": snapshot, "clients failed": failed}
    final["unsettled"] = settle(options)
    with psycopg.connect("", autocommit=True) as db:
        final["drift"] = [list(map(str, row)) for row in db.execute("SELECT * FROM jobstate.verify()")]
        final["miscounted"] = miscounted(db)
        db.execute("CALL jobstate.maintain()")
        final["health"] = [list(map(str, row)) for row in
                           db.execute("SELECT check_name, object, detail FROM jobstate.health(deep => true) WHERE status = 'warning'")]
        final["version"] = db.execute("SELECT split_part(version(), ' on ', 1)").fetchone()[0]
        final["rollup"] = [list(map(str, row)) for row in db.execute(
            "SELECT target::regclass, count(*), sum(n) FROM jobstate.rollup GROUP BY 1 ORDER BY 1")]
    with open(os.path.join(options.out, "final.json"), "w", encoding="ascii") as file:
        json.dump(final, file, indent=1)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of all rates")
    parser.add_argument("--keep-snapshot", type=int, default=1)
    parser.add_argument("--maintain", type=int, default=1, help="0: no background worker, to see the soak fail")
    parser.add_argument("--slice", type=float, default=10, help="seconds between samples")
    parser.add_argument("--settle", type=float, default=90, help="seconds that all leases have to be resolved in the end")
    parser.add_argument("--slack-mb", type=float, default=0.5, help="by how much sizes may differ between quarters in any case")
    parser.add_argument("--flood", type=int, default=0, help="transactions of thousands of groups in each slice, for the log to be full soon")
    parser.add_argument("--given-server", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    for name in os.listdir(options.out):
        if name == "errors" or name.endswith(".jsonl"):
            os.remove(os.path.join(options.out, name))
    place = None if options.given_server else start_server()
    try:
        subprocess.run(["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", f"{HERE}/schema.sql"], check=True)
        with psycopg.connect("", autocommit=True) as db:
            db.execute(plain.SCHEMA)
        if not options.maintain:
            with psycopg.connect("", autocommit=True) as db:
                db.execute("LOAD 'jobstate'")
                db.execute("ALTER SYSTEM SET jobstate.auto_maintain = off")
                db.execute("SELECT pg_reload_conf()")
        clock = Clock(options.minutes * 60, options.slice, load.BURSTING, len(load.CLIENTS) + 1)
        collector = Collector(postmaster_pid())
        processes = start_clients(clock, options)
        clock.ready.wait(PATIENCE)
        snapshot = collect(clock, collector, processes, options)
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
        finish(options, snapshot, sum(1 for p in processes if p.exitcode))
    finally:
        if place:
            stop_server(place)
    return report.main(options.out, options.slack_mb)


if __name__ == "__main__":
    sys.exit(main())
