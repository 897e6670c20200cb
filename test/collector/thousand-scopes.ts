/** Collects six hours of 50 organizations × 20 profiles in a process of its own, and says how large it became. */
import { join } from 'node:path'
import { keepHeapSmall } from '../../runtime/heap.ts'

keepHeapSmall()
const { collectOnce } = await import('../../collector/once.ts')
const { openLog } = await import('../../runtime/logs.ts')
const { SqliteOutbox } = await import('../../runtime/log/outbox.ts')
const { hourMs } = await import('../../schemas/window.ts')
const { june1Ms } = await import('../reads.ts')
const { Provider } = await import('./provider.ts')

const provider = new Provider()
provider.scopes = Array.from({ length: 1000 }, (_, index) => ({
  scope: `org-${Math.floor(index / 20)}/profile-${index % 20}`,
}))
let rssMaxBytes = 0
const watch = setInterval(() => {
  rssMaxBytes = Math.max(rssMaxBytes, process.memoryUsage.rss())
}, 20)
using outbox = SqliteOutbox.open({
  dir: join(process.argv[2] ?? '.', 'thousand'),
  access: 'append',
  nowMs: Date.now,
})
const { windowsRead } = await collectOnce({
  sources: [provider.opened({ concurrency: 8 })],
  outbox,
  span: { startMs: june1Ms, endMs: june1Ms + 6 * hourMs },
  log: openLog({ level: 'warn', role: 'test' }),
  nowMs: Date.now,
  signal: new AbortController().signal,
})
clearInterval(watch)
process.stdout.write(JSON.stringify({ windowsRead, rssMaxBytes }))
