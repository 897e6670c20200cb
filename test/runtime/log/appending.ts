/** Appends reads to an outbox until it is killed, a dot for each. Arguments: its directory, and the first part of scopes. */
import { SqliteOutbox } from '../../../runtime/log/outbox.ts'
import { hourAfterJune1, readOf } from '../../reads.ts'

const [dir = '', seed = '0'] = process.argv.slice(2)
using outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: Date.now })
for (let hours = 0; ; hours += 1) {
  const scope = `${seed}/${hours % 7}`
  outbox.append(readOf({ scope, window: hourAfterJune1(hours), readings: 200, settled: hours % 2 === 0 }))
  process.stdout.write('.')
  // Lets rows go as a relay would, so that the kill hits that too.
  const rows = outbox.pending(0, { rowsMax: 150, bytesMax: 1e6 })
  outbox.release(
    0,
    rows.map(row => row.seq),
    BigInt(rows[0]?.seq ?? 0),
  )
}
