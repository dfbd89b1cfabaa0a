// What the drivers of Node libraries share: the clock of a turn, and the printing of latencies into a table.
export const sleep = ms => new Promise(done => setTimeout(done, ms))
export const now = () => performance.timeOrigin + performance.now()
export const data = '0123456789abcdef'.repeat(18)

// Runs `life` in `workers` loops until `seconds` after `start`; prints progress in pgbench's words on stderr, where
// a transaction is a batch.  `done` gives the batches so far.
export async function timed ({ workers, seconds, start, every, life, done }) {
  await sleep(start - Date.now())
  let before = done()
  const timer = every && setInterval(() => {
    const here = done()
    console.error(`progress: ${Math.round((Date.now() - start) / 1000)}.0 s, ${((here - before) / every).toFixed(1)} tps`)
    before = here
  }, every * 1000)
  const end = start + seconds * 1000
  await Promise.all(Array.from({ length: workers }, async (_, i) => {
    while (Date.now() < end) await life(i)
  }))
  clearInterval(timer)
}

export const record = (pool, waits) => pool.query('INSERT INTO latency SELECT unnest($1::float8[])', [waits])
