"""The demo's pipeline: makes the uploads, starts the workers and sees them through.

usage: pipeline.py REPORTS
"""

import glob
import multiprocessing
import multiprocessing.connection
import signal
import sys

import psycopg

from worker import COMMIT, Worker, note

WORKERS = 6
TOGETHER = 5
PATIENCE = 60


def create_uploads(reports):
    with psycopg.connect(autocommit=True) as db:
        ids = [db.execute("SELECT jobstate.upload_create(%s, %s, storage_path => %s)", (*COMMIT, path)).fetchone()[0]
               for path in sorted(glob.glob(f"{reports}/run-*/*.json"))]
        note(db, 0, "start", f"{len(ids)} uploads are there")
    return ids


def work(number, *plan):
    Worker(number, *plan).work()


def start_workers(ids):
    """An early upload has an accident. It and the last ones are finished together: these decide about the commit."""
    accident = ids[len(ids) // 4]
    together = {accident, *ids[1 - TOGETHER:]}
    gathering = multiprocessing.Barrier(TOGETHER)
    workers = [multiprocessing.Process(target=work, args=(number, accident, together, gathering), name=str(number))
               for number in range(1, WORKERS + 1)]
    for worker in workers:
        worker.start()
    return workers


def see_through(workers):
    """Waits for the workers as they end, and tells of those that were killed."""
    running = {worker.sentinel: worker for worker in workers}
    with psycopg.connect(autocommit=True) as db:
        while running:
            ended = multiprocessing.connection.wait(running, PATIENCE)
            if not ended:
                sys.exit("the workers do not come to an end")
            for sentinel in ended:
                worker = running.pop(sentinel)
                worker.join()
                if worker.exitcode > 0:
                    sys.exit(f"worker {worker.name} failed")
                if worker.exitcode == -signal.SIGKILL:
                    note(db, int(worker.name), "killed", "is killed halfway through an upload")
                    folded = db.execute("SELECT jobstate.fold()").fetchone()[0]
                    note(db, 0, "fold", f"{folded} rows of the counter log are folded")


def main():
    workers = start_workers(create_uploads(sys.argv[1]))
    try:
        see_through(workers)
    finally:
        for worker in workers:
            worker.kill()


if __name__ == "__main__":
    main()
