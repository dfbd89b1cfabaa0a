"""The collector: the control measure, and what the server's relations, files and processes take."""

import os
import time

import psycopg

SIZES = """
WITH r AS (
    SELECT c.oid, c.relkind, coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = c.oid), c.oid) AS of_table
      FROM pg_class c
     WHERE c.relkind IN ('r', 'i', 't')
       AND c.relnamespace IN ('jobstate'::regnamespace, 'soak'::regnamespace, 'pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
)
SELECT n.nspname || '.' || o.relname, sum(pg_relation_size(r.oid)) FILTER (WHERE r.relkind <> 'i'),
       sum(pg_relation_size(r.oid)) FILTER (WHERE r.relkind = 'i')
  FROM r
  LEFT JOIN pg_class t ON t.reltoastrelid = r.of_table
  JOIN pg_class o ON o.oid = coalesce(t.oid, r.of_table)
  JOIN pg_namespace n ON n.oid = o.relnamespace
 WHERE o.oid >= 16384 OR o.relname IN ('pg_class', 'pg_attribute', 'pg_depend', 'pg_statistic', 'pg_type', 'pg_index',
                                       'pg_shdepend', 'pg_proc', 'pg_trigger', 'pg_constraint')
 GROUP BY 1
HAVING sum(pg_relation_size(r.oid)) > 0"""

DEAD = """SELECT schemaname || '.' || relname, n_live_tup, n_dead_tup FROM pg_stat_all_tables
           WHERE schemaname IN ('jobstate', 'soak') OR relname IN ('pg_class', 'pg_attribute', 'pg_depend', 'pg_statistic')"""

SERVER = """SELECT pg_current_wal_insert_lsn() - '0/0',
                   (SELECT count(*) FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = current_database()))),
                   (SELECT count(*) FROM pg_ls_waldir())"""

BACKENDS = """SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE 'soak %'"""

METRICS = """SELECT name, sum(value) FROM jobstate.metrics
              WHERE name IN ('jobstate_log_rows', 'jobstate_log_segments_full', 'jobstate_last_fold_timestamp_seconds',
                             'jobstate_queue_ring_used', 'jobstate_oldest_snapshot_seconds', 'jobstate_worker_running')
              GROUP BY 1"""


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else None


def anonymous_memory(pid):
    """Memory of a process that is its own alone, in kB."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("RssAnon"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def cpu_seconds(pids):
    """Used by these processes, and by those of their children that ended."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                ticks += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:15]))
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


class Collector:
    def __init__(self, postmaster):
        self.postmaster = postmaster
        self.db = psycopg.connect("", autocommit=True, application_name="soak collector")
        self.db.execute("SET synchronous_commit = off")
        self.held = None

    def control(self, seconds):
        """Single-row updates of a table that nobody watches: how fast is the machine now?"""
        self.db.execute("TRUNCATE soak.control")
        self.db.execute("INSERT INTO soak.control (id) SELECT generate_series(1, 100)")
        times, end, n = [], time.perf_counter() + seconds, 0
        while True:
            begin = time.perf_counter()
            if begin >= end:
                break
            self.db.execute("UPDATE soak.control SET n = n + 1 WHERE id = %s", (n % 100 + 1,))
            times.append((time.perf_counter() - begin) * 1e6)
            n += 1
        return {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "rate": n / seconds}

    def flood(self):
        """Thousands of long groups: a megabyte for the log."""
        self.db.execute("INSERT INTO soak.flood (grp) SELECT repeat('x', 200) || n FROM generate_series(1, 2000) n")
        self.db.execute("TRUNCATE soak.flood")

    def sample(self, clients):
        wal, files, wal_files = self.db.execute(SERVER).fetchone()
        memory = {name: anonymous_memory(pid) for name, pid in self.db.execute(BACKENDS)}
        with open(f"/proc/{self.postmaster}/task/{self.postmaster}/children", encoding="ascii") as children:
            server = children.read().split() + [self.postmaster]
        return {"sizes": {name: [int(t or 0), int(i or 0)] for name, t, i in self.db.execute(SIZES)},
                "dead": {name: [live, dead] for name, live, dead in self.db.execute(DEAD)},
                "wal": int(wal), "files": files, "wal_files": wal_files, "memory": memory,
                "cpu_server": cpu_seconds(server), "cpu_clients": cpu_seconds(clients),
                "metrics": {name: float(value) for name, value in self.db.execute(METRICS)}}

    def health(self):
        return [list(map(str, row)) for row in
                self.db.execute("SELECT check_name, object, status, detail FROM jobstate.health() WHERE status <> 'ok'")]

    # the snapshot

    def hold(self):
        self.held = psycopg.connect("", application_name="holds a snapshot")
        self.held.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self.seen = self.held.execute("SELECT state, count(*) FROM soak.batch GROUP BY 1 ORDER BY 1").fetchall()

    def let_go(self):
        """What the snapshot shows in the end is what it showed at first, through the counters too, or they say 40001."""
        again = self.held.execute("SELECT state, count(*) FROM soak.batch GROUP BY 1 ORDER BY 1").fetchall()
        try:
            counted = self.held.execute("SELECT state, sum(n)::bigint FROM jobstate.counts('soak.batch') "
                                        "GROUP BY 1 HAVING sum(n) > 0 ORDER BY 1").fetchall()
        except psycopg.errors.SerializationFailure:
            counted = "40001"
        self.held.close()
        self.held = None
        return {"first": self.seen, "last": again, "counted": counted,
                "right": again == self.seen and counted in (self.seen, "40001")}
