/** A world that is whole, from outbox to lines, and the ways to spoil it behind everybody's back; for the audit's tests. */
import { randomBytes } from 'node:crypto'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { showAudit } from '../../deploy/audit.ts'
import { accept } from '../../processor/accept.ts'
import type { AuditReport, CheckName, Difference } from '../../processor/audit/report.ts'
import { type AuditOptions, audit } from '../../processor/audit.ts'
import { type Billing, bill } from '../../processor/billing.ts'
import { Ledger } from '../../processor/ledger.ts'
import { registerMeters } from '../../processor/rollups.ts'
import { Store, type StoreAddress } from '../../processor/store.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { type MarkData, partitionKey, type Usage } from '../../schemas/event.ts'
import { defaultMeters } from '../../schemas/meters.ts'
import type { Book } from '../../schemas/pricebook.ts'
import { freshen } from '../freshen.ts'
import { encode, headers, hourAfterJune1, instance, readEvents, testSource as source } from '../reads.ts'
import { cloneDatabase } from '../rig/clickhouse.ts'

const book: Book & { id: string } = {
  id: 'hours',
  currency: 'USD',
  charges: [
    { id: 'small', meter: 'instance_hours', where: { profile: 'small' }, price: { unit: '1.50' } },
    { id: 'tiers', meter: 'gpu_hours', where: { profile: 'small' }, price: { unit: '0.99' } },
  ],
} as unknown as Book & { id: string }
export const billing: Billing = {
  accounts: [
    {
      id: 'acme',
      currency: 'USD',
      timezone: 'UTC',
      priceBook: 'hours',
      subjects: [
        { source, subject: 'a' },
        { source, subject: 'b' },
      ],
    } as unknown as Billing['accounts'][number],
  ],
  books: [book],
  meters: defaultMeters,
}

const nowMs = () => Date.UTC(2025, 5, 2)

function newPlace(): Pick<World, 'dir' | 'database'> {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-audit-'))
  return { dir, database: `audit_${randomBytes(4).toString('hex')}` }
}

/** An outbox, what travels from it into a ledger, and the audit over both. */
export class World implements AsyncDisposable {
  readonly store: Store
  readonly outbox: SqliteOutbox
  readonly dir: string
  readonly database: string
  readonly #ledger: Ledger
  #next: number

  private constructor(store: Store, outbox: SqliteOutbox, place: Pick<World, 'dir' | 'database'>) {
    this.store = store
    this.outbox = outbox
    this.dir = place.dir
    this.database = place.database
    this.#ledger = new Ledger(store, outbox.id)
    this.#next = outbox.bounds().nextSeq - outbox.depth().rows
  }

  /** A database and an outbox of its own, in an engine that is there. */
  static async open(rig: StoreAddress): Promise<World> {
    const place = newPlace()
    const { dir, database } = place
    const store = await Store.open({ ...rig, database })
    await registerMeters(store, defaultMeters)
    const outbox = SqliteOutbox.open({ dir, access: 'append', nowMs })
    return new World(store, outbox, place)
  }

  /** One that is as this one was when its outbox was closed. */
  async copy(rig: StoreAddress): Promise<World> {
    const place = newPlace()
    const { dir, database } = place
    cpSync(this.dir, dir, { recursive: true })
    await cloneDatabase(this.store, this.database, database)
    const store = await Store.open({ ...rig, database })
    const world = new World(store, SqliteOutbox.open({ dir, access: 'append', nowMs }), place)
    await world.#ledger.resumeAt(0)
    return world
  }

  read(
    scope: string,
    hour: number,
    readatMs: number,
    usages: readonly Usage[],
    mark: Partial<MarkData> = {},
  ): void {
    const window = hourAfterJune1(hour)
    const identity = { source, scope, window, readatMs: window.endMs + readatMs }
    const events = readEvents(identity, usages, mark).map(encode)
    this.outbox.append({
      identity,
      key: partitionKey(source, scope),
      readings: events.slice(0, -1),
      mark: events.at(-1)!,
      record: { source, scope, window, readatMs: identity.readatMs, attemptedMs: identity.readatMs },
    })
  }

  push(id: string, value: string): void {
    this.outbox.push([{ source: 'meterline/rafay/test', id, key: 'x', value: Buffer.from(value) }])
  }

  /** What waits goes into the ledger, and the rollups follow. */
  async travel(): Promise<void> {
    const rows = this.outbox.rowsFrom(this.#next, { rowsMax: 1000, bytesMax: 1e9 })
    if (rows.length === 0) return
    const messages = rows.map(row => ({
      offset: BigInt(row.seq),
      key: row.key,
      value: row.value,
      headers,
      appendedMs: row.appendedMs,
    }))
    await this.#ledger.put([accept({ partition: 0, messages }, this.outbox.id)])
    this.#next = rows.at(-1)!.seq + 1
    this.outbox.releaseThrough(this.#next - 1)
    await freshen(this.store)
  }

  /** Two tenants in two scopes over three hours: one window read again with less and other figures. */
  async fill(): Promise<this> {
    for (const hour of [0, 1, 2]) {
      this.read('compute', hour, 1, [
        instance('a', 'i1', '3600'),
        instance('a', 'i2', '1800.5'),
        instance('b', 'i3', '60'),
      ])
      this.read('other', hour, 1, [instance('b', 'i4', '3600')])
    }
    await this.travel()
    this.read('compute', 1, 1000, [
      instance('a', 'i1', '3600'),
      instance('a', 'i2', '1800.25'),
      instance('b', 'i3', '60'),
    ])
    this.read('other', 2, 1000, [instance('b', 'i4', '3600')], {
      repeats: new Date(hourAfterJune1(2).endMs + 1).toISOString(),
    })
    this.push('bad', '{"not": "an event"}')
    await this.travel()
    return this
  }

  async audit(more: Partial<AuditOptions> = {}): Promise<AuditReport> {
    return await audit(this.store, {
      deep: false,
      billing,
      sent: { outbox: this.outbox, log: this.outbox.id },
      logs: async () => {
        const { firstSeq, nextSeq } = this.outbox.bounds()
        const bounds = { first: BigInt(firstSeq), next: BigInt(nextSeq) }
        return [{ log: this.outbox.id, partitions: new Map([[0, bounds]]) }]
      },
      ...more,
    })
  }

  /** Changes rows behind everybody's back. */
  async plant(sql: string): Promise<void> {
    await this.store.run(sql.startsWith('alter') ? `${sql} settings mutations_sync = 2` : sql, {
      log: this.outbox.id,
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.outbox[Symbol.dispose]()
    await this.store[Symbol.asyncDispose]()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

export const named = (report: AuditReport, check: CheckName): readonly Difference[] =>
  report.compared.find(one => one.check === check)?.differences ?? []
export const checksThatDiffer = (report: AuditReport): readonly CheckName[] =>
  report.compared.filter(one => one.differing > 0n).map(({ check }) => check)
export const figures = (report: AuditReport, equation: number): Record<string, string> => {
  const { left, right } = report.equations[equation]!
  return Object.fromEntries(
    [left, ...right].filter(({ value }) => value !== '0').map(({ name, value }) => [name, value]),
  )
}

/** A change behind everybody's back, and what the audit says of it. */
export interface Plant {
  readonly kind: string
  readonly plant: (world: World) => Promise<Partial<AuditOptions> | undefined>
  /** The checks that see it, in the order of the chain. */
  readonly seenBy: readonly CheckName[]
  /** Of those the one that names it, and how. */
  readonly names: readonly [CheckName, RegExp]
  /** `only`: nothing sees it but reading every event again. `and plain`: that sees it too. */
  readonly deep?: 'only' | 'and plain'
}

const one = `start = '2025-06-01 00:00:00' and scope = 'compute' and resource_id = 'i2'`
const sql =
  (...statements: string[]) =>
  async (world: World) => {
    for (const statement of statements) await world.plant(statement)
    return undefined
  }

export const plants: readonly Plant[] = [
  {
    kind: 'an event that the ledger lost',
    plant: sql(`alter table events delete where ${one}`),
    seenBy: ['sent', 'messages', 'marks', 'cells', 'lines'],
    names: [
      'sent',
      /compute 2025-06-01T00:00:00Z: outbox row 2 \(id hash [0-9a-f]{16}\) was given to the log at 0\/2 and is not/,
    ],
  },
  {
    kind: 'an event of which nothing in the ledger tells any more',
    plant: sql(
      `alter table events delete where ${one}`,
      `alter table reads update events = 2, digest = (select sum(content) from events final
         where start = '2025-06-01 00:00:00' and scope = 'compute') where start = '2025-06-01 00:00:00' and scope = 'compute'`,
      `insert into passed (log, partition, offset, fate) values ({log:String}, 0, 2, 'duplicate')`,
    ),
    seenBy: ['sent', 'cells', 'lines'],
    names: ['sent', /outbox row 2/],
  },
  {
    kind: 'a row twice, under another identity',
    plant: sql(`insert into events select * replace (identity + 1 as identity) from events where ${one}`),
    seenBy: ['sent', 'messages', 'readings', 'marks', 'cells', 'lines'],
    names: ['messages', /0 offset 2: this message has two fates: accepted and accepted/],
  },
  {
    kind: 'a changed quantity, and its rollup as it was',
    plant: sql(
      `alter table events update measures = mapUpdate(measures, map('gpu_seconds', toDecimal128('1800.500000000001', 12))) where ${one}`,
    ),
    seenBy: ['cells', 'lines'],
    names: [
      'cells',
      /gpu_hours meterline\/rafay\/test a 2025-06-01T00:00:00Z .*: the rollup has 1800.5, the ledger has 1800.500000000001/,
    ],
  },
  {
    kind: 'a mark that is gone',
    plant: sql(`alter table reads delete where start = '2025-06-01 00:00:00' and scope = 'compute'`),
    seenBy: ['sent', 'messages', 'cells', 'lines'],
    names: ['messages', /0 offset 4: 1 of offsets 1 to 24 have no fate/],
  },
  {
    kind: 'a mark that lies about the content',
    plant: sql(
      `alter table reads update digest = digest + 1 where start = '2025-06-01 00:00:00' and scope = 'compute'`,
    ),
    seenBy: ['marks'],
    names: ['marks', /compute 2025-06-01T00:00:00Z read .*: the mark says another content/],
  },
  {
    kind: 'a position that claims what the log never had',
    plant: sql(
      `insert into positions (log, partition, first, last, messages) values ({log:String}, 0, 25, 27, 3)`,
    ),
    seenBy: ['messages'],
    names: ['messages', /0 offset 25, 26, 27: 3 of offsets 1 to 27 have no fate/],
  },
  {
    kind: 'outbox rows that a position claims and that never arrived',
    plant: async world => {
      world.read('compute', 3, 1, [instance('a', 'i1', '60')])
      world.outbox.releaseThrough(26)
      await world.plant(
        `insert into positions (log, partition, first, last, messages) values ({log:String}, 0, 25, 26, 2)`,
      )
      return undefined
    },
    seenBy: ['sent', 'messages'],
    names: ['sent', /compute 2025-06-01T03:00:00Z: outbox row 25 /],
  },
  {
    kind: 'a position that is gone',
    plant: sql('alter table positions delete where first = 1'),
    seenBy: ['messages'],
    names: ['messages', /0 offset 1: 18 messages have a fate, and no position says/],
  },
  {
    kind: 'a rollup that is off by 1e-12',
    plant: sql(
      `insert into cells select * replace (version + 1 as version, arrayMap(s -> s + toDecimal256('0.000000000001', 12), sums) as sums)
       from cells final where meter like 'gpu_hours%' and subject = 'a' and hour = '2025-06-01 02:00:00'`,
    ),
    seenBy: ['cells', 'lines'],
    names: [
      'cells',
      /gpu_hours meterline\/rafay\/test a 2025-06-01T02:00:00Z .*rollup has 3600.000000000001, the ledger has 3600$/,
    ],
  },
  {
    kind: 'a reject that is gone',
    plant: sql('alter table rejected delete where 1'),
    seenBy: ['sent', 'messages'],
    names: ['messages', /0 offset 24: /],
  },
  {
    kind: 'a duplicate noted of a message that was accepted',
    plant: sql(`insert into passed (log, partition, offset, fate) values ({log:String}, 0, 5, 'duplicate')`),
    seenBy: ['messages'],
    names: [
      'messages',
      /0 offset 5: this message has two fates: (accepted and duplicate|duplicate and accepted)/,
    ],
  },
  {
    kind: 'a suspect read that counts',
    plant: async world => {
      world.read('compute', 0, 2000, [instance('a', 'i1', '60')])
      await world.travel()
      await world.plant(`alter table reads update suspect = false where suspect`)
      return undefined
    },
    seenBy: ['marks', 'cells', 'lines'],
    names: ['marks', /compute 2025-06-01T00:00:00Z: the read counts, and nothing says since when/],
  },
  {
    kind: "a line's quantity that is off",
    plant: async () => ({
      rate: async (...given) => {
        const billed = await bill(...given)
        const [account] = billed.accounts
        const lines = account!.lines.map((line, at) => (at === 1 ? { ...line, quantity: '10' } : line))
        return { ...billed, accounts: [{ ...account!, lines }] }
      },
    }),
    seenBy: ['lines'],
    names: [
      'lines',
      /account acme gpu_hours 2025-06 line tiers: the line says 10, and what it is made of is /,
    ],
  },
  {
    kind: 'a line that is gone',
    plant: async () => ({
      rate: async (...given) => {
        const billed = await bill(...given)
        const [account] = billed.accounts
        return { ...billed, accounts: [{ ...account!, lines: account!.lines.slice(1) }] }
      },
    }),
    seenBy: ['lines'],
    names: [
      'lines',
      /account acme instance_hours 2025-06: its lines take 0 and 0 have no price, and its usage is /,
    ],
  },
  {
    kind: 'a node with more GPU seconds than its GPUs have',
    plant: async world => {
      const on = (id: string, seconds: string) => instance('a', id, seconds, { node: 'n1', node_gpus: '2' })
      world.read('full', 0, 1, [on('p1', '3600'), on('p2', '3600')])
      world.read('over', 1, 1, [on('p1', '3600'), on('p2', '3600'), on('p3', '1')])
      await world.travel()
      return undefined
    },
    seenBy: ['nodes'],
    names: [
      'nodes',
      /node n1 2025-06-01T01:00:00Z \(meterline\/rafay\/test\): 7201 GPU seconds in an hour that has 7200/,
    ],
  },
  {
    kind: 'a GPU that two sources of a meter report',
    plant: async world => {
      const on = instance('a', 'p1', '3600', { gpu_uuid: 'GPU-1' })
      world.read('one', 0, 1, [on])
      await world.travel()
      await world.plant(`insert into events select * replace ('meterline/rafay/twin' as source, identity + 1 as identity,
        offset + 100 as offset) from events where scope = 'one'`)
      await world.plant(`insert into reads select * replace ('meterline/rafay/twin' as source, offset + 100 as offset)
        from reads where scope = 'one'`)
      return undefined
    },
    seenBy: ['cells', 'lines', 'nodes'],
    names: [
      'nodes',
      /gpu GPU-1 2025-06-01T00:00:00Z \(meter gpu_hours\): 7200 GPU seconds in an hour that has 3600/,
    ],
  },
  {
    kind: 'a label that was changed in its row',
    plant: sql(
      `alter table events update labels = mapUpdate(labels, map('organization', 'x')) where ${one}`,
      `insert into stale (source, hour, token, subjects, done) values ('meterline/rafay/test', '2025-06-01 00:00:00', 1, ['a'], 0)`,
    ),
    seenBy: ['contents'],
    names: [
      'contents',
      /compute 2025-06-01T00:00:00Z instance i2 of a: the reading is not what its content hash says/,
    ],
    deep: 'only',
  },
  {
    kind: 'a reading that was given another identity',
    plant: sql(
      `insert into events select * replace (identity + 1 as identity) from events where ${one}`,
      `alter table events delete where ${one} and hex(identity) not in (
         select hex(max(identity)) from events where ${one})`,
    ),
    seenBy: ['sent', 'contents'],
    names: ['contents', /instance i2 of a: the reading has the identity of another/],
    deep: 'and plain',
  },
  {
    kind: 'totals that are not those of the read',
    plant: sql(
      `alter table reads update totals = mapUpdate(totals, map('gpu_seconds', toDecimal256(1, 12))) where start = '2025-06-01 00:00:00' and scope = 'compute'`,
    ),
    seenBy: ['totals'],
    names: ['totals', /compute 2025-06-01T00:00:00Z: the totals noted/],
    deep: 'only',
  },
]

/** Plants it, and expects the audit to see it where it should, and to name it. */
export async function expectFound(
  world: World,
  { plant, seenBy, names: [check, words], deep }: Plant,
): Promise<void> {
  const more = (await plant(world)) ?? {}
  if (deep === 'only') expect((await world.audit(more)).state).not.toBe('differs')
  const report = await world.audit({ ...more, deep: deep !== undefined })
  const found = report.compared.flatMap(({ differences }) => differences)
  expect(report.state, showAudit(report)).toBe('differs')
  expect(checksThatDiffer(report), JSON.stringify(found, undefined, 1)).toEqual(seenBy)
  expect(named(report, check).map(({ place, message }) => `${place}: ${message}`)).toContainEqual(
    expect.stringMatching(words),
  )
  expect(showAudit(report)).toContain(`first difference: ${found[0]?.place}`)
}
