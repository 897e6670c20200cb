/** The audit over a real outbox, ledger and rollups: it agrees with what is whole, and names what was planted. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { showAudit } from '../../deploy/audit.ts'
import { stretchesOf } from '../../processor/audit/messages.ts'
import { idHash } from '../../schemas/event.ts'
import { instance } from '../reads.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { figures, named, World } from './planted.ts'

let rig: Awaited<ReturnType<typeof startClickHouse>>

beforeAll(async () => {
  rig = await startClickHouse()
})
afterAll(async () => {
  await rig?.stop()
})

describe('what is whole', () => {
  test('agrees, deep as well, and the three equations hold with the figures there are', async () => {
    await using world = await (await World.open(rig)).fill()
    const report = await world.audit({ deep: true })
    expect(report.compared.flatMap(({ differences }) => differences)).toEqual([])
    expect(report.gaps).toEqual([])
    expect(report.state).toBe('ok')
    // Six reads of 12 readings in all, one of three made again, one repeated by its mark alone, and what is no event.
    expect(figures(report, 0)).toEqual({ received: '24', accepted: '23', rejected: '1' })
    expect(figures(report, 1)).toEqual({ accepted: '23', marks: '8', current: '12', superseded: '3' })
    const hours = (3 * (3600 + 3600 + 60) + 1800.5 * 2 + 1800.25) / 3600
    expect(figures(report, 2)).toEqual({
      'current instance_hours': expect.stringMatching(/^\d/),
      'rated (open)': report.equations[2]!.left.value,
    })
    const [n, d] = report.equations[2]!.left.value.split('/').map(Number)
    expect(n! / (d ?? 1)).toBeCloseTo(hours, 9)
    expect(Object.fromEntries(report.compared.map(({ check, compared }) => [check, compared]))).toMatchObject(
      {
        messages: 24n,
        readings: 23n,
        sent: 24n,
        contents: 15n,
      },
    )
    expect(showAudit(report)).toMatch(/received +24\n= accepted +23\n[\s\S]*\nok\n$/)
  })

  test('a reader sees what is suspect, incomplete, on its way or paid by nobody as gaps, and no difference', async () => {
    await using world = await (await World.open(rig)).fill()
    world.read('compute', 0, 2000, [instance('a', 'i1', '60')])
    world.read('other', 4, 1, [instance('b', 'i4', '60'), instance('b', 'i5', '60')], { events: 3 })
    world.read('other', 5, 1, [instance('nobody', 'i6', '1800')])
    await world.travel()
    world.read('other', 6, 1, [instance('b', 'i4', '60')])
    const report = await world.audit()
    expect(report.compared.flatMap(({ differences }) => differences)).toEqual([])
    expect(report.state).toBe('gaps')
    expect(figures(report, 0)).toMatchObject({ received: '33', accepted: '30', 'in flight': '2' })
    expect(figures(report, 1)).toEqual({
      accepted: '30',
      marks: '11',
      current: '13',
      superseded: '3',
      'of suspect reads': '1',
      'of incomplete reads': '2',
    })
    expect(figures(report, 2)).toMatchObject({ unassigned: '0.5' })
    expect(report.gaps).toEqual([
      expect.stringMatching(/^1 windows wait as suspect.*compute 2025-06-01T00:00:00Z/),
      expect.stringMatching(/^1 windows are incomplete.*other 2025-06-01T04:00:00Z/),
      'unassigned: 0.5 of instance_hours are of tenants that no account pays for',
      'unassigned: 0.5 of gpu_hours are of tenants that no account pays for',
    ])
  })

  test('pushed events have one fate each, and are a class of their own', async () => {
    await using world = await World.open(rig)
    const pushed = (id: string, data: unknown, type = 'io.shop.order') =>
      world.outbox.push([
        {
          source: 'https://shop',
          id,
          key: id,
          value: Buffer.from(
            JSON.stringify({
              specversion: '1.0',
              id,
              source: 'https://shop',
              type,
              subject: 'a',
              time: '2025-06-01T00:10:00Z',
              datacontenttype: 'application/json',
              data,
            }),
          ),
        },
      ])
    pushed('o-1', { units: '1' })
    pushed('o-2', { units: '2' })
    await world.travel()
    pushed('o-1', { units: '1' })
    pushed('o-2', { units: '3' })
    await world.travel()
    const report = await world.audit()
    expect(report.compared.flatMap(({ differences }) => differences)).toEqual([])
    expect(figures(report, 0)).toEqual({ received: '4', accepted: '2', duplicate: '1', conflict: '1' })
    expect(figures(report, 1)).toEqual({ accepted: '2', 'pushed, current': '2' })
    await world.plant(`alter table pushed delete where id = 'o-2'`)
    const spoilt = await world.audit()
    expect(named(spoilt, 'messages')[0]?.place).toMatch(/0 offset 2$/)
    expect(named(spoilt, 'sent')[0]?.message).toMatch(/^outbox row 2 /)
  })

  test('marks of pushers are other control events, and a lost one is named', async () => {
    await using world = await World.open(rig)
    const mark = (id: string, end: string, events: number) =>
      world.outbox.push([
        {
          source: 'https://shop',
          id,
          key: 'https://shop all',
          value: Buffer.from(
            JSON.stringify({
              specversion: '1.0',
              id,
              source: 'https://shop',
              type: 'io.meterline.pushed.v1',
              data: { window: { start: '2025-06-01T00:00:00Z', end }, events },
            }),
          ),
        },
      ])
    const [hour, quarter] = ['2025-06-01T01:00:00Z', '2025-06-01T00:15:00Z']
    mark('m-1', hour, 1)
    mark('m-2', hour, 2)
    await world.travel()
    mark('m-1', hour, 1)
    mark('m-2', hour, 3)
    mark('m-3', quarter, 1)
    await world.travel()
    const report = await world.audit()
    expect(report.compared.flatMap(({ differences }) => differences)).toEqual([])
    expect(figures(report, 0)).toEqual({
      received: '5',
      accepted: '2',
      duplicate: '1',
      conflict: '1',
      rejected: '1',
    })
    expect(figures(report, 1)).toEqual({ accepted: '2', 'other control events': '2' })
    await world.plant(`alter table pushed_marks delete where id = 'm-2'`)
    const spoilt = await world.audit()
    expect(named(spoilt, 'messages')[0]?.place).toMatch(/0 offset 2$/)
    expect(named(spoilt, 'sent')[0]?.message).toMatch(/^outbox row 2 /)
  })

  test('the hash of an id is the same in the outbox, in SQL and in JavaScript, whatever the names', async () => {
    await using world = await World.open(rig)
    world.read('Zürich/日本 "x"', 0, 7, [instance('ü', 'é\\"/\u2028', '1.25', { note: 'a/b\n\u2028' })])
    await world.travel()
    const rows = await world.store.rows<{ id: string; source: string; id_hash: string }>(
      `select source, id_hash, concat(lower(leftPad(hex(identity), 32, '0')), '@', replaceOne(toString(readat), ' ', 'T'), 'Z') as id
       from events`,
    )
    expect(rows.map(({ id_hash }) => BigInt(id_hash))).toEqual(
      rows.map(({ source, id }) => idHash(source, id)),
    )
    expect(rows).toHaveLength(1)
    const report = await world.audit({ deep: true })
    expect(report.compared.filter(({ differing }) => differing > 0n)).toEqual([])
    expect(world.outbox.sums({ startMs: 0, endMs: 2e12 })[0]?.sum).toBe(
      BigInt.asUintN(
        64,
        (await idHashes(world)).reduce((sum, one) => sum + one, 0n),
      ),
    )
  })
})

const idHashes = async ({ store }: World): Promise<readonly bigint[]> =>
  (
    await store.rows<{ id_hash: string }>('select id_hash from events union all select id_hash from reads')
  ).map(row => BigInt(row.id_hash))

describe('spans of offsets', () => {
  const span = (first: bigint, last: bigint, messages = last - first + 1n) => ({ first, last, messages })
  test('of replays overlap and count once', () => {
    expect(stretchesOf([span(0n, 9n), span(5n, 14n), span(15n, 19n), span(0n, 4n)])).toEqual([span(0n, 19n)])
  })
  test('with holes are counted by their messages, and lie by themselves', () => {
    expect(stretchesOf([span(0n, 9n), span(10n, 19n, 6n), span(20n, 24n), span(30n, 34n)])).toEqual([
      span(0n, 9n),
      span(10n, 19n, 6n),
      span(20n, 24n),
      span(30n, 34n),
    ])
    expect(stretchesOf([span(0n, 9n, 8n), span(5n, 14n)])).toEqual([span(0n, 14n, 13n)])
  })
})
