"""The load: what the clients of each family do, over and over, as an application would."""

import psycopg

import plain

LOST = ("JS001", "JS002", "JS003")  # somebody was faster, or a lease ran out: a worker drops the result


# the kernel: an attached table, its verbs and plain statements

def task(c):
    group = int(64 * c.random.random() ** 3)
    c.call("insert 10 rows", "INSERT INTO soak.task (grp) SELECT %s FROM generate_series(1, 10)", (group,))
    ids = [row[0] for row in c.call("take", "SELECT jobstate.take('soak.task', 'queued', 'running', "
                                            "jsonb_build_object('grp', %s::int), 10)", (group,))]
    for one in ids[:4]:
        state = 4 if c.chance(0.1) else 3
        c.call("update one row", "UPDATE soak.task SET state = %s, updated_at = clock_timestamp() WHERE id = %s", (state, one))
    c.call("transition", "SELECT jobstate.transition('soak.task', %s, 'done', 'running')", (ids[4:],))
    if c.chance(0.2):
        c.call("counts of a group", "SELECT * FROM jobstate.counts('soak.task', jsonb_build_object('grp', %s::int))", (group,))


def derived(c):
    batch = c.call("insert parent", "INSERT INTO soak.batch (id, kind) VALUES (nextval('soak.batch_id'), %s) RETURNING id",
                   (c.random.randrange(8),))[0][0]
    c.call("insert 5 children", "INSERT INTO soak.item (batch, nth) SELECT %s, n FROM generate_series(1, 5) n", (batch,))
    for nth in range(1, 6):
        c.call("start child", "UPDATE soak.item SET state = 2 WHERE batch = %s AND nth = %s", (batch, nth))
        c.call("end child", "UPDATE soak.item SET state = %s WHERE batch = %s AND nth = %s",
               (4 if c.chance(0.05) else 3, batch, nth))


def keeper(c):
    """Takes old rows away, so that the application's tables stay of one size."""
    for table, column in (("soak.task", "updated_at"), ("soak.batch", "done_at"), ("jobstate.upload", "updated_at"),
                          ("jobstate.apply", "completed_at")):
        c.call(f"prune {table}", f"SELECT jobstate.prune('{table}', '45 s', '{column}')", expect=("40P01",))
    c.call("upload_forget", "SELECT jobstate.upload_forget()")
    c.call("delete results", "DELETE FROM soak.result WHERE at < clock_timestamp() - interval '45 s'")
    if c.chance(0.1):
        c.call("ledger_reset", "SELECT jobstate.ledger_reset('processor ' || n, states => '{dead}') FROM generate_series(0, 3) n")


# the queue

def queue(c):
    """Whole lives in batches."""
    c.call("enqueue 10", "SELECT * FROM jobstate.enqueue_many('fast', array_fill('k'::text, '{10}'), "
                         "array_fill('{\"user\": 7}'::jsonb, '{10}'))")
    jobs = c.call("claim 10", "SELECT id, token FROM jobstate.claim('fast', 'whole lives', 10)")
    c.call("complete 10", "SELECT jobstate.complete(ids => %s, tokens => %s)", ([j[0] for j in jobs], [j[1] for j in jobs]))


def producer(c):
    """What jobs can be asked for: priorities, delays, unique keys, shards, limits."""
    key = c.random.randrange(40)
    c.call("enqueue", "SELECT id FROM jobstate.enqueue('mixed', 'one', '{\"n\": 1}', priority => %s)", (1 + key % 4,))
    c.call("enqueue later", "SELECT id FROM jobstate.enqueue('mixed', 'later', run_at => clock_timestamp() + %s * interval '1 s')",
           (c.random.random() * 5,))
    c.call("enqueue unique", "SELECT id FROM jobstate.enqueue('mixed', 'unique', unique_key => %s, shard_key => %s)",
           (f"key {key}", f"shard {key % 5}"))
    job = c.call("enqueue limited", "SELECT id FROM jobstate.enqueue('limited', 'call', limit_key => %s)", (f"tenant {key % 8}",))
    c.call("job_status", "SELECT state FROM jobstate.job_status(%s)", (job[0][0],))
    if c.chance(0.1):
        c.call("cancel", "SELECT jobstate.cancel(%s)", (job[0][0],), expect=LOST)


def worker(c):
    """One job at a time: most complete together with a row of the application, some do not."""
    jobs = c.call("claim 5", "SELECT id, token, kind FROM jobstate.claim('mixed', 'worker', 5)")
    if jobs and c.chance(0.3):
        c.call("heartbeat", "SELECT * FROM jobstate.heartbeat(ids => %s, tokens => %s)", ([j[0] for j in jobs], [j[1] for j in jobs]))
    for job, token, kind in jobs:
        dice = c.random.random()
        if dice < 0.02:
            pass                          # the worker dies; rescue() comes
        elif dice < 0.10:
            c.call("fail", "SELECT jobstate.fail(%s, %s, 'no luck')", (job, token), expect=LOST)
        elif dice < 0.13:
            c.call("snooze", "SELECT jobstate.snooze(%s, %s, '3 s')", (job, token), expect=LOST)
        else:
            c.together("complete with a row",
                       ("INSERT INTO soak.result (job) VALUES (%s) ON CONFLICT DO NOTHING", (job,)),
                       ("SELECT jobstate.complete(id => %s, token => %s, result => '{\"sent\": true}')", (job, token)), expect=LOST)


def limited(c):
    jobs = c.call("claim limited", "SELECT id, token FROM jobstate.claim('limited', 'limited', 5)")
    c.call("complete limited", "SELECT jobstate.complete(ids => %s, tokens => %s)", ([j[0] for j in jobs], [j[1] for j in jobs]))


# uploads

def upload(c):
    """A commit with five uploads; commits come back under their names when they were forgotten."""
    repo, commit = 10 + c.number, f"commit {c.random.randrange(400)}"
    for n in range(5):
        c.call("upload_create", "SELECT jobstate.upload_create(%s, %s, order_number => %s)", (repo, commit, n))
    rows = c.call("upload_take", "SELECT upload_id, token FROM jobstate.upload_take(%s, %s, 5, %s)",
                  (repo, commit, "5 s" if c.number else "60 s"))
    for one, token in rows:
        dice = c.random.random() if c.number else 1
        if dice < 0.02:
            continue                      # dies; the sweep finds it
        if dice < 0.05:
            c.call("upload_retry", "SELECT jobstate.upload_retry(%s, delay => '2 s', token => %s)", (one, token), expect=LOST)
        else:
            answer = c.call("upload_finish", "SELECT jobstate.upload_finish(%s, %s, %s)", (one, dice > 0.08, token), expect=LOST)
            obey(c, repo, commit, answer[0][0] if answer else "wait")


def obey(c, repo, commit, answer):
    """Does what the answer to a finisher says."""
    while answer == "merge":
        rows = c.call("upload_take_for_merging", "SELECT upload_id, token FROM jobstate.upload_take_for_merging(%s, %s, lease => '5 s')",
                      (repo, commit))
        if rows:
            c.call("upload_mark_merged", "SELECT jobstate.upload_mark_merged(%s, %s)", ([r[0] for r in rows], rows[0][1]), expect=LOST)
        answer = c.call("upload_decide", "SELECT jobstate.upload_decide(%s, %s)", (repo, commit))[0][0]
    if answer == "postprocess":
        c.call("upload_notify_decision", "SELECT jobstate.upload_notify_decision(%s, %s)", (repo, commit))
        c.call("upload_postprocessed", "SELECT jobstate.upload_postprocessed(%s, %s)", (repo, commit))


def sweep(c):
    for repo, commit, action, ids in c.call("upload_rescue", "SELECT * FROM jobstate.upload_rescue()"):
        if action == "process":
            for one, token in c.call("upload_start", "SELECT upload_id, token FROM jobstate.upload_start(%s, '5 s')", (ids,)):
                answer = c.call("upload_finish", "SELECT jobstate.upload_finish(%s, true, %s)", (one, token), expect=LOST)
                obey(c, repo, commit, answer[0][0] if answer else "wait")
        else:
            obey(c, repo, commit, action)


# the store

def store(c):
    """A record's life: an attempt that tells its progress, and a reader that polls."""
    key = f"{c.number}-{c.random.getrandbits(48):x}"
    c.call("store_create", "SELECT jobstate.store_create(%s, '{\"status\": \"queued\", \"input\": {\"language\": \"en\"}, \"result\": null}', "
                           "ttl => '40 s')", (key,))
    token = c.call("store_begin", "SELECT token FROM jobstate.store_begin(%s)", (key,))[0][0]
    for percent in range(0, 100, 12):
        c.call("store_update", "SELECT jobstate.store_update(%s, jsonb_build_object('progress', jsonb_build_object('stage', 'transcribing', "
                               "'percent_complete', %s::int)), %s)", (key, percent, token), expect=LOST)
        if percent % 36 == 0:
            c.call("store_get", "SELECT jobstate.store_get(%s)", (key,))
    if c.number:
        c.call("store_append", "SELECT jobstate.store_append(%s, 'warnings', '\"no names\"', %s)", (key, token), expect=LOST)
        c.call("store_incr", "SELECT jobstate.store_incr(%s, 'chunks', 2, %s)", (key, token), expect=LOST)
    dice = c.random.random()
    if dice < 0.8:
        c.call("store_complete", "SELECT jobstate.store_complete(%s, '{\"text\": \"hello\"}', token => %s)", (key, token), expect=LOST)
    elif dice < 0.9:
        c.call("store_fail", "SELECT jobstate.store_fail(%s, 'no', token => %s)", (key, token), expect=LOST)


# ledger and schedule

def ledger(c):
    """A run over growing files."""
    processor = f"processor {c.number}"
    run = c.call("ledger_begin_run", "SELECT token FROM jobstate.ledger_begin_run(%s, 'soak')", (processor,), expect=("55P03",))
    if run is None:
        return
    first = c.random.randrange(1000)
    items = [f"user{n % 7}/session-{n}.jsonl" for n in range(first, first + 10)]
    prints = [f"{c.random.getrandbits(32):x}" for _ in items]
    taken = c.call("ledger_take", "SELECT item, token, nth FROM jobstate.ledger_take(%s, %s, fingerprints => %s, rule => 'fingerprint', run => %s)",
                   (processor, items, prints, run[0][0]), expect=LOST)
    for item, token, nth in taken or ():
        if c.chance(0.04):
            c.call("ledger_fail", "SELECT jobstate.ledger_fail(%s, %s, 'not JSON', %s, '0 s')", (processor, item, token), expect=LOST)
        else:
            c.call("ledger_mark", "SELECT jobstate.ledger_mark(%s, %s, 'ann', 1, %s, token => %s)",
                   (processor, item, prints[nth - 1], token), expect=LOST)
    c.call("ledger_end_run", "SELECT jobstate.ledger_end_run(%s, %s)", (processor, run[0][0]), expect=LOST)


def schedule(c):
    for name, token in c.call("schedule_due", "SELECT name, token FROM jobstate.schedule_due('soak')"):
        c.call("schedule_finish", "SELECT jobstate.schedule_finish(%s, %s, %s)", (name, token, not c.chance(0.1)), expect=LOST)


# applies

def apply(c):
    """An apply of three operations with two tasks, driven to its end; the second client also has people who interfere."""
    policy = c.random.choice(("halt", "continue", "pause")) if c.number else "halt"
    apply_id = c.call("apply_create",
                      "SELECT apply_id FROM jobstate.apply_create(%s, 'mysql', 'soak', jsonb_build_array("
                      "jsonb_build_object('deployment', 'a', 'on_failure', %s::text, 'tasks', jsonb_build_array('t1', 't2')), "
                      "jsonb_build_object('deployment', 'b', 'on_failure', %s::text), jsonb_build_object('deployment', 'c')))",
                      (f"db {c.number} {c.random.randrange(20)}", policy, policy), expect=("55P03",))
    if apply_id is None:
        return
    apply_id = apply_id[0][0]
    for turn in range(12):
        if c.number and turn == 1 and c.chance(0.2):
            c.call("apply_stop", "SELECT jobstate.apply_stop(%s)", (apply_id,), expect=LOST)
            c.call("apply_start", "SELECT jobstate.apply_start(%s)", (apply_id,), expect=LOST)
        claimed = c.call("operation_claim", "SELECT operation_id, token FROM jobstate.operation_claim('driver', '5 s', only_apply => %s)", (apply_id,))
        if claimed:
            drive(c, *claimed[0])
        elif turn and c.number:
            c.call("apply_release", "SELECT jobstate.apply_release(%s)", (apply_id,), expect=LOST)
            if c.call("apply_state", "SELECT state FROM jobstate.apply WHERE id = %s AND completed_at IS NOT NULL", (apply_id,)):
                return
        else:
            break


def drive(c, operation, token):
    if c.number and c.chance(0.02):
        return                            # dies; another claim comes when the lease is over
    c.call("operation_progress", "SELECT jobstate.operation_progress(%s, %s, 'checksumming', '{\"rows\": 5000}')", (operation, token), expect=LOST)
    for task_id, in c.call("tasks", "SELECT id FROM jobstate.task WHERE operation_id = %s AND state = 'pending'", (operation,)):
        c.call("task_progress", "SELECT jobstate.task_progress(%s, %s, 'completed')", (task_id, token), expect=LOST)
    requests = c.call("operation_heartbeat", "SELECT requests FROM jobstate.operation_heartbeat(%s, %s, '5 s')", (operation, token), expect=LOST)
    if requests and requests[0][0] and "stop" in requests[0][0]:
        c.call("operation_stop", "SELECT jobstate.operation_stop(%s, %s)", (operation, token), expect=LOST)
    elif c.number and c.chance(0.1):
        c.call("operation_fail", "SELECT jobstate.operation_fail(%s, %s, 'disk full', %s)", (operation, token, c.chance(0.5)), expect=LOST)
    else:
        c.call("operation_complete", "SELECT jobstate.operation_complete(%s, %s)", (operation, token), expect=LOST)


def orphans(c):
    """A driver that takes up what others left."""
    claimed = c.call("operation_claim any", "SELECT operation_id, token, apply_id FROM jobstate.operation_claim('spare driver', '5 s')")
    if claimed:
        drive(c, *claimed[0][:2])


# readers, as a monitor would

def monitor(c):
    c.call("counts", "SELECT * FROM jobstate.counts('soak.task')")
    c.call("queue_counts", "SELECT * FROM jobstate.queue_counts()")
    c.call("totals", "SELECT * FROM jobstate.totals('soak.task')")
    if c.chance(0.1):
        c.call("metrics", "SELECT * FROM jobstate.metrics")
    if c.chance(0.1):
        c.call("health", "SELECT * FROM jobstate.health()")


# family, what one client does, its calls per second; the first of a family has the family's bursts
CLIENTS = (
    ("kernel", task, 30), ("kernel", task, 15),
    ("derive", derived, 30),
    ("queue", queue, 20), ("queue", producer, 15), ("queue", worker, 40), ("queue", limited, 6),
    ("uploads", upload, 30), ("uploads", upload, 15), ("uploads", sweep, 10),
    ("store", store, 40), ("store", store, 20),
    ("ledger", ledger, 30), ("ledger", ledger, 15), ("ledger", schedule, 4),
    ("apply", apply, 25), ("apply", apply, 15), ("apply", orphans, 2),
    ("monitor", keeper, 1.5), ("monitor", monitor, 2),
) + plain.CLIENTS
BURSTING = ("kernel", "derive", "queue", "uploads", "store", "ledger", "apply") + plain.BURSTING
