// Drives pg-boss: setup | life WORKERS BATCH SECONDS START EVERY | produce RATE SECONDS | consume WORKERS SECONDS POLL
import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { data, now, record, sleep, timed } from './node-life.mjs'

const [what, ...rest] = process.argv.slice(2)
const [a, b, c, d, e] = rest.map(Number)
const workers = what === 'life' || what === 'consume' ? a : 4
const boss = new PgBoss({
  host: process.env.PGHOST, user: process.env.PGUSER, database: process.env.PGDATABASE, port: Number(process.env.PGPORT),
  max: workers, supervise: false, schedule: false
})
boss.on('error', error => { console.error(error); process.exit(1) })
await boss.start()

const insert = n => boss.insert('bench', Array.from({ length: n }, () => ({ data: { data } })))
async function work (n) {
  const jobs = await boss.fetch('bench', { batchSize: n })
  if (jobs.length) await boss.complete('bench', jobs.map(job => job.id))
  return jobs.length
}

async function life (batch, seconds, start, every) {
  const split = process.env.ROLES === 'split' && workers > 1
  let jobs = 0
  await timed({ workers, seconds, start, every, done: () => jobs / batch, life: async i => {
    if (!split || i % 2) await insert(batch)
    if (!split || !(i % 2)) jobs += await work(batch)
  } })
  console.log((Date.now() - start) / 1000)
}

async function produce (rate, seconds) {
  const start = now()
  for (let i = 0; i < rate * seconds; i++) {
    await sleep(start + i * 1000 / rate - now())
    boss.insert('bench', [{ data: { data, at: now() } }])
  }
}

async function consume (seconds, poll) {
  const end = now() + seconds * 1000
  const waits = []
  await Promise.all(Array.from({ length: workers }, async () => {
    while (now() < end) {
      const jobs = await boss.fetch('bench', { batchSize: 10 })
      for (const job of jobs) waits.push(now() - job.data.at)
      if (jobs.length) await boss.complete('bench', jobs.map(job => job.id))
      else await sleep(poll)
    }
  }))
  const pool = new pg.Pool()
  await record(pool, waits)
  await pool.end()
}

if (what === 'setup') await boss.createQueue('bench', { partition: true })
else if (what === 'life') await life(b, c, d, e)
else if (what === 'produce') await produce(a, b)
else await consume(b, c)
await boss.stop({ graceful: false })
process.exit(0)
