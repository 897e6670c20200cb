/** The collector from end to end against the Rafay double: what stands in the outbox afterwards is what was used. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { OpenedSource } from '../../collector/collect.ts'
import { runCollector } from '../../collector/collector.ts'
import { collectOnce } from '../../collector/once.ts'
import type { Source } from '../../collector/source.ts'
import { RafayConfig, rafay } from '../../collector/sources/rafay.ts'
import {
  juneFixture,
  juneHours,
  type RafayBehaviour,
  type RafayDouble,
  type RafayFixture,
  rafayDemoKey,
  startRafayDouble,
} from '../../deploy/demo/rafay.ts'
import { Health } from '../../runtime/health.ts'
import { openHttp } from '../../runtime/http.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { openLog } from '../../runtime/logs.ts'
import { misfits } from '../../schemas/check.ts'
import { exact, show } from '../../schemas/decimal.ts'
import type { MarkEvent, ReadingEvent } from '../../schemas/event.ts'
import { dayMs, hourMs, minuteMs, type Window } from '../../schemas/window.ts'
import { june1Ms } from '../reads.ts'
import { sourceContext } from './source-context.ts'

const june: Window = { startMs: june1Ms, endMs: june1Ms + 30 * dayMs }
const log = openLog({ level: 'silent', role: 'test' })
const forever = new AbortController().signal

let dir: string
let outbox: SqliteOutbox
let clockMs: number
const cleanup: (() => PromiseLike<void>)[] = []
beforeEach(() => {
  clockMs = june.endMs + 60 * dayMs
  dir = mkdtempSync(join(tmpdir(), 'meterline-rafay-'))
  outbox = SqliteOutbox.open({ dir, access: 'append', nowMs: () => clockMs })
})
afterEach(async () => {
  for (const end of cleanup.splice(0).reverse()) await end()
  outbox[Symbol.dispose]()
  rmSync(dir, { recursive: true, force: true })
})

async function open(
  fixture: RafayFixture,
  options: { config?: object; behaviour?: Partial<RafayBehaviour>; retries?: number } = {},
): Promise<{ double: RafayDouble; opened: OpenedSource }> {
  const nowMs = () => clockMs
  const double = await startRafayDouble({ fixture, nowMs, behaviour: { ...options.behaviour } })
  const http = openHttp({ retries: options.retries ?? 3, deadlineMs: 5000, random: () => 0 })
  const config: unknown = { name: 'test', apiKey: '${env:KEY}', url: double.url, ...options.config }
  expect(misfits(RafayConfig, config)).toEqual([])
  const source = rafay.open(
    config as RafayConfig,
    sourceContext({
      http,
      secret: () => rafayDemoKey,
      nowMs,
    }),
  ) as Source<unknown>
  cleanup.push(
    () => double.close(),
    () => http[Symbol.asyncDispose](),
    () => source[Symbol.asyncDispose](),
  )
  return { double, opened: { kind: 'rafay', name: 'test', source } }
}

interface Current {
  readonly mark: MarkEvent
  readonly readings: readonly ReadingEvent[]
}

/** The content of each window by the rule of the ledger: its newest complete read, or the one that this repeats. */
function current(): Current[] {
  const marks = new Map<string, MarkEvent>()
  const readings = new Map<string, ReadingEvent[]>()
  const place = (event: MarkEvent | ReadingEvent, readat: string) => `${event.scope} ${event.time} ${readat}`
  for (const row of outbox.rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 })) {
    const event = JSON.parse(row.value.toString()) as MarkEvent | ReadingEvent
    if (event.type !== 'io.meterline.read.v1') {
      const held = readings.get(place(event, event.readat)) ?? []
      readings.set(place(event, event.readat), [...held, event as ReadingEvent])
      continue
    }
    const mark = event as MarkEvent
    const before = marks.get(`${mark.scope} ${mark.time}`)
    if (mark.data.outcome === 'complete' && (!before || before.readat < mark.readat))
      marks.set(`${mark.scope} ${mark.time}`, mark)
  }
  return [...marks.values()].map(mark => {
    const held = readings.get(place(mark, mark.data.repeats ?? mark.readat)) ?? []
    expect(held).toHaveLength(mark.data.events)
    return { mark, readings: held }
  })
}

function hoursBy(
  key: (event: ReadingEvent) => string | undefined,
  measure: 'gpu_seconds' | 'instance_seconds',
) {
  const sums = new Map<string, Fraction>()
  for (const { readings } of current())
    for (const event of readings) {
      const name = key(event) ?? ''
      const seconds = exact(event.data.measures[measure] ?? '0')
      sums.set(name, (sums.get(name) ?? new Fraction(0)).add(seconds))
    }
  return Object.fromEntries([...sums].sort().map(([name, seconds]) => [name, show(seconds.div(3600))]))
}

test('June in the billing dialect, in small pages, through a 429, a 500 and a 502 that heal: every GPU hour is there', async () => {
  const { double, opened } = await open(juneFixture(), {
    config: { windowMinutes: 60, pageSize: 2, concurrency: 8 },
    behaviour: {
      faults: [
        { from: 5, times: 1, answer: { status: 429, retryAfter: '0' } },
        { from: 300, times: 1, answer: { status: 500 } },
        { from: 700, times: 1, answer: { status: 502, html: true } },
        { from: 900, times: 1, answer: 'truncated' },
      ],
    },
  })
  const summary = await collectOnce({
    sources: [opened],
    outbox,
    span: june,
    log,
    nowMs: () => clockMs,
    signal: forever,
    retryRestsMs: [1, 1],
  })
  expect(summary).toMatchObject({ windowsDue: 1440, windowsRead: 1440, windowsFailed: 0, gaps: [] })
  expect(double.calls.length).toBeGreaterThan(1440)
  expect(hoursBy(event => event.data.labels.gpu_type, 'gpu_seconds')).toEqual({
    A100: '60',
    H100: '173',
    L40: '100',
  })
  const organizations = juneFixture().organizations.map(({ id, name }) => {
    const hours = Object.values(juneHours).reduce(
      (sum, byName) => sum + byName[name as keyof typeof byName],
      0,
    )
    return [id, String(hours)]
  })
  expect(hoursBy(event => event.subject, 'gpu_seconds')).toEqual(Object.fromEntries(organizations.sort()))
  expect(current().every(({ mark }) => mark.data.settled)).toBe(true)
})

test('in the console dialect a profile that keeps failing is a named gap, and every other scope is whole', async () => {
  const { opened } = await open(juneFixture(), {
    config: { dialect: 'console', concurrency: 8 },
    behaviour: {
      faults: [{ endpoint: 'usage', organization: 'org-b', profile: 'large', answer: { status: 503 } }],
    },
    retries: 0,
  })
  const span = { startMs: june1Ms + 10 * dayMs, endMs: june1Ms + 11 * dayMs }
  const summary = await collectOnce({
    sources: [opened],
    outbox,
    span,
    log,
    nowMs: () => clockMs,
    signal: forever,
    retryRestsMs: [],
  })
  expect(summary).toMatchObject({ windowsDue: 9 * 24, windowsRead: 8 * 24, windowsFailed: 24 })
  const [gap, ...others] = summary.gaps
  expect(others).toHaveLength(23)
  expect(new Set(summary.gaps.map(({ scope, fault }) => `${scope} ${fault.code}`)).size).toBe(1)
  expect(gap).toMatchObject({ source: 'meterline/rafay/test', fault: { code: 'SOURCE_BUSY' } })
  // Of all the rest the hours are those of the instances that lived on that day.
  const { instances, profiles, organizations } = juneFixture()
  const failing = (instance: (typeof instances)[number]) =>
    organizations.find(each => each.id === instance.organizationId)?.slug === 'org-b' &&
    profiles.find(each => each.id === instance.profileId)?.name === 'large'
  const livedMs = instances
    .filter(instance => !failing(instance))
    .map(({ startMs, endMs = span.endMs }) => Math.min(endMs, span.endMs) - Math.max(startMs, span.startMs))
    .filter(ms => ms > 0)
    .reduce((sum, ms) => sum + ms, 0)
  expect(livedMs).toBeGreaterThan(0)
  expect(hoursBy(() => 'all', 'instance_seconds')).toEqual({ all: show(new Fraction(livedMs).div(hourMs)) })
})

test('figures that settle late are raised by the planned re-reads, and what does not change is not sent again', async () => {
  clockMs = june1Ms + 30 * minuteMs
  const fixture = juneFixture()
  // Two machines: one that runs all day, one from 02:10 to 05:40. Usage of the last 40 minutes is not counted yet.
  const [first, second] = fixture.instances
  fixture.instances = [
    { ...first!, startMs: june1Ms, endMs: june1Ms + dayMs },
    { ...second!, startMs: june1Ms + 130 * minuteMs, endMs: june1Ms + 340 * minuteMs },
  ]
  const { double, opened } = await open(fixture, {
    config: { kinds: ['compute'], rereadAfterMinutes: [60, 180] },
    behaviour: { lagMs: 40 * minuteMs },
  })
  const stop = new AbortController()
  const run = runCollector({
    sources: [{ ...opened, fromMs: june1Ms }],
    outbox,
    health: new Health(),
    log,
    nowMs: () => clockMs,
    signal: stop.signal,
    restMsMax: 20,
  })
  // A quarter of an hour at a time, with a moment for the loop to see it.
  const quarters = 40
  for (let quarter = 0; quarter < quarters; quarter += 1) {
    clockMs += 15 * minuteMs
    const before = double.calls.length
    const deadlineMs = performance.now() + 1000
    while (double.calls.length === before && performance.now() < deadlineMs) await sleep(10)
    await sleep(100)
  }
  stop.abort()
  await run
  const settled = current().filter(({ mark }) => mark.scope === 'compute' && mark.data.settled)
  const settledMs = Math.max(...settled.map(({ mark }) => Date.parse(mark.data.window.end)))
  expect(settled.length).toBe((settledMs - june1Ms) / (15 * minuteMs))
  expect(settledMs - june1Ms).toBeGreaterThanOrEqual(6 * hourMs)
  const seconds = settled
    .flatMap(({ readings }) => readings)
    .reduce((sum, event) => sum.add(exact(event.data.measures.instance_seconds ?? '0')), new Fraction(0))
  expect(show(seconds)).toBe(String((settledMs - june1Ms + 210 * minuteMs) / 1000))
  // The first reads saw less than there was; the last ones repeat the second.
  const marks = outbox
    .rowsFrom(0, { rowsMax: 1e6, bytesMax: 1e9 })
    .map(row => JSON.parse(row.value.toString()) as MarkEvent)
    .filter(event => event.type === 'io.meterline.read.v1' && event.scope === 'compute')
  const digests = Map.groupBy(marks, mark => mark.time)
  expect([...digests.values()].some(reads => new Set(reads.map(mark => mark.data.digest)).size > 1)).toBe(
    true,
  )
  expect(marks.filter(mark => mark.data.repeats !== undefined).length).toBeGreaterThan(10)
}, 180_000)
