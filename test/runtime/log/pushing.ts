/** Pushes events into an outbox from the side, two at a time, and ends a scope. Arguments: its directory, a name, how often. */
import { setTimeout as sleep } from 'node:timers/promises'
import { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { june1Ms, testSource } from '../../reads.ts'

const [dir = '', name = '', times = '0'] = process.argv.slice(2)
using outbox = SqliteOutbox.open({ dir, access: 'push', nowMs: Date.now })
outbox.end(testSource, name, june1Ms)
for (let at = 0; at < Number(times); at += 1) {
  outbox.push(
    [2 * at, 2 * at + 1].map(index => {
      const id = `${name}-${index}`
      return { source: 'their/app', key: name, id, value: Buffer.from(JSON.stringify({ id, of: name })) }
    }),
  )
  await sleep(3)
}
