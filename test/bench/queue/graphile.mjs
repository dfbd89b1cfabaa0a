// Drives graphile-worker: setup | life WORKERS BATCH SECONDS START EVERY | consume WORKERS SECONDS
import pg from 'pg'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { data, now, record, sleep, timed } from './node-life.mjs'

const [what, ...rest] = process.argv.slice(2)
const [workers, b, c, d, e] = rest.map(Number)
const pgPool = new pg.Pool({ max: (workers || 1) + 2 })
const end = error => { console.error(error); process.exit(1) }
pgPool.on('error', end).on('connect', client => client.on('error', end))
const quiet = new Logger(() => () => {})
const utils = await makeWorkerUtils({ pgPool, logger: quiet })

// Its batching, whatever the batch of addJobs: it locks jobs ahead and completes together what has ended meanwhile.
// Other sizes (100) and concurrencies (4, 24) were tried and could not be told apart.  For latency no batching.
const batching = { localQueue: { size: 500 }, completeJobBatchDelay: 0 }
const runner = (worker, task) => run({
  pgPool, concurrency: 8, noHandleSignals: true, logger: quiet, taskList: { noop: task }, preset: { worker }
})

// No call claims a batch by hand, so the workers enqueue and the runner works, with a backlog that
// always fills its local queue.
async function life (batch, seconds, start, every) {
  const specs = Array.from({ length: batch }, () => ({ identifier: 'noop', payload: { data } }))
  let added = 0
  let handled = 0
  const running = await runner(batching, () => { handled++ })
  await timed({ workers, seconds, start, every, done: () => handled / batch, life: async () => {
    if (added - handled > 1000 + 2 * workers * batch) return sleep(1)
    added += batch
    await utils.addJobs(specs)
  } })
  await running.stop()
  console.log((Date.now() - start) / 1000)
}

async function consume (seconds) {
  const waits = []
  const running = await runner({}, payload => { waits.push(now() - payload.at) })
  await sleep(seconds * 1000)
  await running.stop()
  await record(pgPool, waits)
}

if (what === 'setup') await utils.migrate()
else if (what === 'life') await life(b, c, d, e)
else await consume(b)
process.exit(0)
