/** The API of a planted store in a process of its own, which tells what its memory is: that of who reads is not in it. */
import { startClickHouse } from '../../rig/clickhouse.ts'
import { plant } from './usage-planted.ts'

/** What it says each time it is asked; the first time without being. */
export interface Told {
  readonly url: string
  /** What is reachable: the heap after a collection, and what lies outside of it. */
  readonly heldBytes: number
  /** The most that the process had until now. */
  readonly rssPeakBytes: number
}

const [subjectCount = '1'] = process.argv.slice(2)
await using planted = await plant(await startClickHouse(), Number(subjectCount))
await using server = await planted.serve()
let rssPeakBytes = 0
const watch = setInterval(() => {
  rssPeakBytes = Math.max(rssPeakBytes, process.memoryUsage.rss())
}, 10)
const tell = () => {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  process.send?.({ url: server.url, heldBytes: heapUsed + external, rssPeakBytes } satisfies Told)
}
process.on('message', tell)
tell()
await new Promise(left => process.once('disconnect', left))
clearInterval(watch)
