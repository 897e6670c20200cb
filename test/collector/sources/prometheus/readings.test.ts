/** The rules by which series become readings: devices that several use, scrapes that end a series, labels, replicas. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import type { Sample } from '../../../../collector/samples.ts'
import { type Query, QueryConfig } from '../../../../collector/sources/prometheus/queries.ts'
import { itemsOf, type PrometheusItem } from '../../../../collector/sources/prometheus/readings.ts'
import { oneReplica } from '../../../../collector/sources/prometheus/replicas.ts'
import type { Series } from '../../../../collector/sources/prometheus/series.ts'
import { misfits } from '../../../../schemas/check.ts'
import { show } from '../../../../schemas/decimal.ts'
import { minuteMs, secondMs, type Window } from '../../../../schemas/window.ts'

function queryOf(given: object): Query {
  const query = {
    name: 'q',
    selector: 'x',
    measure: 'energy_joules',
    subjectLabel: 'tenant',
    resourceLabels: ['pod'],
    ...given,
  }
  expect(misfits(QueryConfig, query)).toEqual([])
  return query as object as Query
}

/** `at 10 100, 20 150`: seconds and values. */
const at = (text: string): readonly Sample[] =>
  text.split(', ').map(pair => {
    const [seconds, value = ''] = pair.split(' ')
    return { atMs: Number(seconds) * secondMs, value }
  })
const of = (metric: Record<string, string>, text: string): Series => ({ metric, samples: at(text) })
const span = (from: number, to: number): Window => ({ startMs: from * secondMs, endMs: to * secondMs })
const items = (query: Query, window: Window, series: readonly Series[]): readonly PrometheusItem[] =>
  itemsOf(query, window, { series })
const amounts = (query: Query, window: Window, series: readonly Series[]) =>
  Object.fromEntries(
    items(query, window, series).map(item => [
      `${item.subject} ${item.resource?.id}`,
      item.unfit ?? show(item.amount),
    ]),
  )

describe('a device that several use', () => {
  const energy = queryOf({ kind: 'counter', factor: '1/1000', deviceLabels: ['UUID'] })
  const util = queryOf({ kind: 'gauge', factor: '1/100', deviceLabels: ['UUID'], maxGapSeconds: 60 })

  test('its counter goes on from one user to the next, and is divided among those of an instant', () => {
    const series = [
      of({ UUID: 'g', tenant: 'red', pod: 'a' }, '0 5000, 10 6000, 20 9000'),
      of({ UUID: 'g', tenant: 'blue', pod: 'b' }, '20 9000, 30 9500'),
      of({ UUID: 'g', tenant: 'blue', pod: 'c' }, '40 100, 50 150'),
    ]
    // 1 J to a; then 3 J to both; 0.5 J to b; a restart, 0.1 J and 0.05 J to c.
    expect(amounts(energy, span(5, 60), series)).toEqual({
      'red a': '2.5',
      'blue b': '2',
      'blue c': '0.15',
    })
    expect(amounts(energy, span(20, 40), series)).toEqual({ 'red a': '1.5', 'blue b': '2' })
  })

  test('its gauge is divided, and nobody has it any more when others are seen with it', () => {
    const series = [
      of({ UUID: 'g', tenant: 'red', pod: 'a' }, '0 50, 10 50'),
      of({ UUID: 'g', tenant: 'blue', pod: 'b' }, '10 50, 20 100, 30 100'),
    ]
    expect(amounts(util, span(0, 40), series)).toEqual({
      'red a': show(new Fraction(5).add('2.5')),
      'blue b': show(new Fraction('2.5').add(20)),
    })
  })

  test('parts that do not divide evenly add up to the whole', () => {
    const series = ['a', 'b', 'c'].map(pod => of({ UUID: 'g', tenant: 'red', pod }, '0 100, 10 0'))
    const sum = items(util, span(0, 10), series).reduce((all, { amount }) => all.add(amount), new Fraction(0))
    expect(show(sum)).toBe('10')
    expect(amounts(util, span(0, 10), series)).toEqual({
      'red a': '3.33333334',
      'red b': '3.33333333',
      'red c': '3.33333333',
    })
  })

  test('two values of one instant are no counter of one device', () => {
    const series = [
      of({ UUID: 'g', tenant: 'red', pod: 'a' }, '0 1, 10 5'),
      of({ UUID: 'g', tenant: 'red', pod: 'b' }, '0 1, 10 6'),
      of({ UUID: 'h', tenant: 'red', pod: 'c' }, '0 1, 10 6'),
    ]
    const found = amounts(energy, span(5, 20), series)
    expect(found['red a']).toContain('two values')
    expect(found['red b']).toContain('two values')
    expect(found['red c']).toBe('0.005')
  })

  /** Users of one device, each seen at some of its instants, and always at least one. */
  const seen = fc.array(
    fc.record({
      value: fc.nat(5000),
      users: fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1 }),
    }),
    { minLength: 2, maxLength: 30 },
  )

  test('whoever uses it, and however time is cut: the parts add up to the device', () => {
    fc.assert(
      fc.property(
        seen,
        fc.uniqueArray(fc.nat(40), { maxLength: 4 }),
        fc.boolean(),
        (instants, cuts, turned) => {
          const samples = (user: 'a' | 'b' | 'c' | 'd') =>
            instants.flatMap(({ value, users }, index) =>
              users.includes(user) ? [{ atMs: index * secondMs, value: String(value) }] : [],
            )
          const series = (['a', 'b', 'c', 'd'] as const).map(pod => ({
            metric: { UUID: 'g', tenant: 'red', pod },
            samples: samples(pod),
          }))
          if (turned) series.reverse()
          const alone: Series = {
            metric: { UUID: 'g', tenant: 'red', pod: 'all' },
            samples: instants.map(({ value }, index) => ({ atMs: index * secondMs, value: String(value) })),
          }
          const edges = [...new Set([1, ...cuts.map(cut => cut + 1), 42])].sort((x, y) => x - y)
          for (const query of [energy, util]) {
            let sum = new Fraction(0)
            for (const [index, from] of edges.slice(0, -1).entries())
              for (const { amount } of items(query, span(from, edges[index + 1] ?? 0), series))
                sum = sum.add(amount)
            const [whole] = items(query, span(1, 42), [alone])
            expect(show(sum)).toBe(show(whole?.amount ?? new Fraction(0)))
          }
        },
      ),
    )
  })
})

describe('whose and what', () => {
  const query = queryOf({
    kind: 'gauge',
    subjectLabel: 'exported_namespace|namespace',
    resourceLabels: ['UUID', 'GPU_I_ID'],
    resourceName: 'pod',
    labels: { node: 'hostname|Hostname', model: 'modelName' },
  })

  test('the first label that is there counts, and those in which summed series differ are left out', () => {
    const found = items(query, span(0, 20), [
      of(
        { UUID: 'g', exported_namespace: 'red', namespace: 'x', Hostname: 'n1', modelName: 'H100', pod: 'p' },
        '0 1',
      ),
      of({ UUID: 'g', namespace: 'red', hostname: 'n2', modelName: 'H100', pod: 'p' }, '0 2'),
      of({ UUID: 'g', GPU_I_ID: '3', namespace: 'red', hostname: 'n2', pod: 'p' }, '0 2'),
    ])
    expect(
      found.map(({ subject, resource, labels, parts }) => ({ subject, resource, labels, parts })),
    ).toEqual([
      { subject: 'red', resource: { id: 'g/3', name: 'p' }, labels: { node: 'n2' }, parts: 1 },
      { subject: 'red', resource: { id: 'g', name: 'p' }, labels: { model: 'H100' }, parts: 2 },
    ])
  })

  test('what nobody uses is a fault, left out, or of nobody, as configured', () => {
    const idle = { idle: { label: 'exported_pod|pod', contains: 'dcgm-exporter' } }
    const series = [
      of({ UUID: 'g', namespace: 'gpu-operator', pod: 'nvidia-dcgm-exporter-x' }, '0 1'),
      of(
        {
          UUID: 'h',
          namespace: 'gpu-operator',
          pod: 'nvidia-dcgm-exporter-x',
          exported_pod: 'p',
          exported_namespace: 'red',
        },
        '0 1',
      ),
    ]
    const with_ = (withoutSubject: string) =>
      items(queryOf({ ...query, ...idle, withoutSubject }), span(0, 20), series).map(
        ({ subject, unfit }) => subject ?? unfit,
      )
    expect(with_('leave_out')).toEqual(['red'])
    expect(with_('unattributed')).toEqual(['red', 'unattributed'].sort((a, b) => (a < b ? 1 : -1)))
    expect(with_('fault').some(text => text?.includes('has no label exported_namespace|namespace'))).toBe(
      true,
    )
  })

  test('a series of native histograms says so, one bad sample spoils its resource alone', () => {
    const bad: Series = {
      metric: { UUID: 'g', namespace: 'red' },
      samples: [],
      unfit: 'is of native histograms',
    }
    const found = items(query, span(0, 20), [
      bad,
      of({ UUID: 'h', namespace: 'red' }, '0 -1'),
      of({ UUID: 'i', namespace: 'red' }, '0 1'),
    ])
    expect(found.map(({ resource, unfit }) => [resource?.id, unfit])).toEqual([
      ['g', 'q, g: is of native histograms'],
      ['h', 'q, h: its value at 1970-01-01T00:00:00Z, "-1", is no quantity'],
      ['i', undefined],
    ])
  })
})

test('a series that is missing from a scrape of its target ended there; one alone holds for its gap', () => {
  const plain = queryOf({ kind: 'gauge', maxGapSeconds: 60 })
  const scraped = queryOf({ kind: 'gauge', maxGapSeconds: 60, scrapeLabels: ['job', 'instance'] })
  const series = [
    of({ job: 'ksm', instance: '1', tenant: 'red', pod: 'gone' }, '0 1, 30 1'),
    of({ job: 'ksm', instance: '1', tenant: 'red', pod: 'stays' }, '0 1, 30 1, 60 1, 90 1'),
    of({ job: 'ksm', instance: '2', tenant: 'red', pod: 'elsewhere' }, '10 1, 40 1'),
  ]
  expect(amounts(plain, span(0, 90), series)).toEqual({
    'red gone': '90',
    'red stays': '90',
    'red elsewhere': '80',
  })
  expect(amounts(scraped, span(0, 90), series)).toEqual({
    'red gone': '60',
    'red stays': '90',
    'red elsewhere': '80',
  })
})

describe('two servers that scrape the same', () => {
  const window = span(60, 120)
  const pair = (a: string, b: string): readonly Series[] => [
    of({ pod: 'p', replica: 'b' }, b),
    of({ pod: 'p', replica: 'a' }, a),
  ]
  const chosen = (a: string, b: string) =>
    oneReplica(pair(a, b), 'replica', window, 30 * secondMs).map(({ metric, samples }) => [
      metric,
      samples.at(-1)?.value,
    ])

  test('the first by name counts, without the label in which they differ', () => {
    expect(chosen('55 1, 115 11', '50 1, 119 12')).toEqual([[{ pod: 'p' }, '11']])
  })

  test('one that was away before the window would count again what the other has counted', () => {
    expect(chosen('5 1, 115 11', '50 1, 119 12')).toEqual([[{ pod: 'p' }, '12']])
  })

  test('one that ended in the window gives way to one that goes on', () => {
    expect(chosen('55 1, 70 2', '50 1, 119 12')).toEqual([[{ pod: 'p' }, '12']])
    expect(chosen('55 1, 70 2', '10 1, 119 12')).toEqual([[{ pod: 'p' }, '2']])
  })

  test('over an outage of one and the return of it nothing is counted twice', () => {
    // Both see the same counter, 1 a second; a is away from second 100 to 400.
    const every15 = (replica: string, offset: number, away: readonly [number, number]) =>
      Array.from({ length: 50 }, (_, n) => n * 15 + offset)
        .filter(second => second < away[0] || second >= away[1])
        .map(second => ({ atMs: second * secondMs, value: String(second) }))
        .map(sample => ({ replica, sample }))
    const all = [...every15('a', 3, [100, 400]), ...every15('b', 9, [0, 0])]
    const counter = queryOf({ kind: 'counter' })
    let sum = new Fraction(0)
    for (let startMs = minuteMs; startMs < 11 * minuteMs; startMs += minuteMs) {
      const at = { startMs, endMs: startMs + minuteMs }
      const series = ['a', 'b'].map(replica => ({
        metric: { pod: 'p', tenant: 'red', replica },
        samples: all.filter(each => each.replica === replica).map(({ sample }) => sample),
      }))
      const [item] = items(counter, at, oneReplica(series, 'replica', at, 30 * secondMs))
      sum = sum.add(item?.amount ?? 0)
    }
    // Ten minutes; at the two changes at most a scrape's growth is off.
    expect(Math.abs(Number(show(sum)) - 600)).toBeLessThanOrEqual(15)
  })
})
