#!/usr/bin/env node
// A worker of a jobstate queue: worker.mjs QUEUE
//
// The connection is that of PGHOST, PGPORT, PGDATABASE, PGUSER, and may lead through
// PgBouncer in transaction mode. Where the queue's setting "notify" is on, LISTEN_HOST
// and LISTEN_PORT may name the server itself, by which new jobs are told of at once.
import os from 'node:os'
import pg from 'pg'

const QUEUE = process.argv[2] ?? 'shop'
const WORKER = `${os.hostname()}:${process.pid}`
const BATCH = 10
const LEASE = Number(process.env.LEASE ?? 90) // seconds; what we hold when we die waits as long
const IDLE = Number(process.env.IDLE ?? 5) // seconds to sleep at most

// What jobstate says about a job that is no longer ours: lease lost, gone, ended.
const NOT_OURS = ['JS001', 'JS002', 'JS003']

const sleep = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000))

// The application: for each kind of job the work itself, which may take long and is in no
// transaction, and what is written when it is done, in one transaction with complete().
const KINDS = {
  charge: {
    async work (job, check) {
      const until = Date.now() + (job.payload.seconds ?? 0) * 1000
      while (Date.now() < until) { // stands for slow work
        check() // throws Unwanted
        await sleep(0.05)
      }
      return { order: job.payload.order }
    },
    async write (tx, job, result) {
      await tx.query('INSERT INTO payment (order_id, job_id) VALUES ($1, $2)', [result.order, job.id])
      await tx.query("SELECT jobstate.enqueue($1, 'receipt', $2)", [QUEUE, result])
    }
  },
  receipt: {
    async work (job) {
      return { order: job.payload.order, sent: true }
    },
    async write (tx, job, result) {
      await tx.query('INSERT INTO receipt (order_id, job_id) VALUES ($1, $2)', [result.order, job.id])
    }
  }
}

// The loop

// Somebody wants the job cancelled, or it is no longer ours.
class Unwanted extends Error {}

// Nothing here names a statement, so none is prepared: PgBouncer gives us another session each time.
// Ids and tokens are strings: a number of JavaScript is too short for them.
const pool = new pg.Pool({ max: 2 })
pool.on('error', error => console.error(`connection: ${error.message}`))

let stopping = false
let awake = false // somebody called wake() since the last claim
let endSleep = () => {}
let held = new Map() // id -> token
let unwanted = new Set()

function wake () {
  awake = true
  endSleep()
}

// Keeps the leases of the jobs that we hold, and learns which are not wanted any more.
async function beat () {
  const asked = new Map(held)
  if (asked.size === 0) return
  const { rows } = await pool.query(
    `SELECT id, cancel_requested
       FROM jobstate.heartbeat($1::bigint[], $2::bigint[], $3::float8 * interval '1 s')`,
    [[...asked.keys()], [...asked.values()], LEASE])
  const wanted = new Set(rows.filter(row => !row.cancel_requested).map(row => row.id))
  for (const [id, token] of asked) {
    if (!wanted.has(id) && held.get(id) === token) unwanted.add(id)
  }
}

function check (job) {
  if (unwanted.has(job.id)) throw new Unwanted()
}

async function inTransaction (body) {
  const tx = await pool.connect()
  try {
    await tx.query('BEGIN')
    await body(tx)
    await tx.query('COMMIT')
  } catch (error) {
    await tx.query('ROLLBACK').catch(() => {})
    throw error
  } finally {
    tx.release()
  }
}

async function runJob (job) {
  try {
    const kind = KINDS[job.kind]
    if (!kind) throw new Error(`no such kind of job: ${job.kind}`)
    check(job)
    const result = await kind.work(job, () => check(job))
    await inTransaction(async tx => {
      await kind.write(tx, job, result)
      await tx.query('SELECT jobstate.complete($1::bigint, $2::bigint, $3::jsonb)', [job.id, job.token, result])
    })
  } catch (error) {
    // What was written is rolled back. If the job is no longer ours, we are told so here too.
    await (error instanceof Unwanted
      ? giveUp(job, 'SELECT jobstate.cancel($1::bigint, $2::bigint) AS outcome', job.id, job.token)
      : giveUp(job, 'SELECT jobstate.fail($1::bigint, $2::bigint, $3) AS outcome', job.id, job.token, error.stack))
  }
}

async function giveUp (job, statement, ...values) {
  try {
    const { rows } = await pool.query(statement, values)
    console.error(`job ${job.id}, attempt ${job.attempt}: ${rows[0].outcome}`)
  } catch (error) {
    if (!NOT_OURS.includes(error.code)) throw error
    console.error(`job ${job.id}, attempt ${job.attempt}: ${error.message}`)
  }
}

async function runBatch () {
  awake = false
  const { rows: jobs } = await pool.query(
    "SELECT * FROM jobstate.claim($1, $2, $3, $4::float8 * interval '1 s')", [QUEUE, WORKER, BATCH, LEASE])
  unwanted = new Set()
  held = new Map(jobs.map(job => [job.id, job.token]))
  for (const job of jobs) {
    if (stopping) { // what we have not begun is somebody else's at once, its attempt not counted
      await pool.query(
        "SELECT jobstate.snooze($1::bigint[], $2::bigint[], array_fill(interval '0', ARRAY[$3::integer]))",
        [[...held.keys()], [...held.values()], held.size])
      break
    }
    await runJob(job)
    held.delete(job.id)
  }
  return jobs.length
}

async function idle () {
  const { rows } = await pool.query('SELECT extract(epoch FROM jobstate.next_due($1))::float8 AS due', [QUEUE])
  const due = rows[0].due ?? IDLE
  await new Promise(resolve => {
    const timer = setTimeout(resolve, Math.min(Math.max(due, 0.1), IDLE) * 1000)
    endSleep = () => { clearTimeout(timer); resolve() }
    if (awake) endSleep()
  })
}

// Optional: a session of its own, as LISTEN needs one.
async function listen () {
  while (!stopping) {
    const session = new pg.Client({ host: process.env.LISTEN_HOST, port: process.env.LISTEN_PORT ?? 5432 })
    const lost = new Promise(resolve => { session.on('error', resolve).on('end', resolve) })
    session.on('notification', notification => { if (notification.payload === QUEUE) wake() })
    try {
      await session.connect()
      await session.query('LISTEN jobstate_queue')
      await lost
    } catch (error) {
      console.error(`listen: ${error.message}`)
    }
    session.end().catch(() => {})
    await sleep(5)
  }
}

function stop () {
  stopping = true
  wake()
}
process.on('SIGTERM', stop)
process.on('SIGINT', stop)

const heart = setInterval(() => beat().catch(error => console.error(`heartbeat: ${error.message}`)), LEASE / 3 * 1000)
if (process.env.LISTEN_HOST) listen()
while (!stopping) {
  try {
    if (await runBatch() === 0) await idle()
  } catch (error) {
    held = new Map() // whatever we held is rescued once its lease is over
    console.error(`worker: ${error.message}`)
    await sleep(1)
  }
}
clearInterval(heart)
await pool.end()
process.exit(0) // a session that listens would keep us
