/** What sources that watch keep over a restart: texts by key, in the collector's SQLite file. What they mean is the source's. */
import { Buffer } from 'node:buffer'
import type { OutboxFile } from './outbox-file.ts'

/** The part of one source; another collector of the same source has its own. */
export interface SourceState {
  get(key: string): string | undefined
  /** Those with `from` <= key < `before`, in order of their keys, by code points. */
  range(from: string, before: string): Iterable<readonly [key: string, value: string]>
  /**
   * All of them or none, on the disk when it returns; undefined takes a key away.
   * @throws Fault OUTBOX_FULL | OUTBOX_UNREADABLE | OUTBOX_DAMAGED
   */
  write(changes: Iterable<readonly [key: string, value: string | undefined]>): void
}

/** The sixth migration of the file. */
export const sourceStateTable = `
create table source_state (
  source text not null, key text not null, value text not null, primary key (source, key)
) strict, without rowid;
`

export function sourceState(
  file: Pick<OutboxFile, 'statement' | 'transaction'>,
  source: string,
): SourceState {
  const { statement } = file
  return {
    get(key) {
      const row = statement('select value from source_state where source = ? and key = ?').get(source, key)
      return row && String(row.value)
    },
    *range(from, before) {
      const rows = statement(
        'select key, value from source_state where source = ? and key >= ? and key < ? order by key',
      ).all(source, from, before)
      for (const { key, value } of rows) yield [String(key), String(value)]
    },
    write(changes) {
      file.transaction(() => {
        for (const [key, value] of changes)
          if (value === undefined)
            statement('delete from source_state where source = ? and key = ?').run(source, key)
          else
            statement('insert or replace into source_state (source, key, value) values (?, ?, ?)').run(
              source,
              key,
              value,
            )
      })
    },
  }
}

/** One that ends with the process: for `check`, and for what is asked without a collector. */
export function passingState(): SourceState {
  const held = new Map<string, string>()
  return {
    get: key => held.get(key),
    *range(from, before) {
      // Code points in order are bytes of UTF-8 in order, as SQLite compares them.
      const within = [...held].map(([key, value]) => ({ key, value, bytes: Buffer.from(key) }))
      const [low, high] = [Buffer.from(from), Buffer.from(before)]
      for (const { key, value } of within
        .filter(({ bytes }) => Buffer.compare(bytes, low) >= 0 && Buffer.compare(bytes, high) < 0)
        .sort((a, b) => Buffer.compare(a.bytes, b.bytes)))
        yield [key, value]
    },
    write(changes) {
      // All of them before the first is made: they may break off.
      for (const [key, value] of [...changes])
        if (value === undefined) held.delete(key)
        else held.set(key, value)
    },
  }
}
