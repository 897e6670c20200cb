/** What every source must do, whatever its provider: a source's own test calls this with a rig around its double. */
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import type { Findings, Source } from '../../collector/source.ts'
import { validator } from '../../schemas/check.ts'
import { exact, show } from '../../schemas/decimal.ts'
import { checkBounds, ReadingEvent, sealReading, type Usage } from '../../schemas/event.ts'
import { Fault } from '../../schemas/fault.ts'
import { type GridMinutes, hourMs, minuteMs, type Window, windowsOver } from '../../schemas/window.ts'
import { faultFrom } from '../faults.ts'

/** Ways in which every answer of a provider that speaks HTTP can go wrong for good. */
export const httpBreakages = [
  '500',
  '502 HTML',
  '401',
  '404',
  'truncated',
  'cut',
  'list',
  'empty object',
  'hang',
] as const
export type Breakage = (typeof httpBreakages)[number]

export interface SourceRig extends AsyncDisposable {
  readonly kind: string
  readonly source: Source<unknown>
  /** From now on every answer to a read goes wrong in this way; the rig's client has short waits and deadlines. */
  break(how: string): void | Promise<void>
  /** From now on one item of the answer has no usable quantity: returns its subject. */
  spoilOne(): string | Promise<string>
}

export interface SourceContract {
  readonly open: (options?: {
    readonly pageSize?: number
    readonly widthMinutes?: GridMinutes
  }) => Promise<SourceRig>
  /** Whole hours in which several resources were used, some of them only in part. */
  readonly span: Window
  /** A window of the rig's own width inside the span, and a scope, with at least two items. */
  readonly window: Window
  readonly scope: string
  readonly widthsMinutes: readonly GridMinutes[]
  /** Ways in which its provider can go wrong for good, one of them `hang`: by default those of HTTP. */
  readonly breakages?: readonly string[]
  /** Texts that must be in no usage and no fault. */
  readonly secrets: readonly string[]
}

export function runSourceContract(name: string, contract: SourceContract): void {
  const { open, span, window, scope, breakages = httpBreakages } = contract
  const live = new AbortController().signal

  async function read(rig: SourceRig, from: string, at: Window, signal = live): Promise<Usage[]> {
    const usages: Usage[] = []
    for await (const item of rig.source.read(from, at, signal)) usages.push(...rig.source.toUsage(item, at))
    return usages
  }

  const inOrder = (usages: readonly Usage[]) => usages.map(usage => JSON.stringify(usage)).sort()

  async function totals(rig: SourceRig): Promise<Record<string, string>> {
    const sums = new Map<string, Fraction>()
    for (const { scope: each } of await rig.source.scopes(live))
      for (const at of windowsOver(span, rig.source.widthMinutes))
        for (const { subject, resource, measures } of await read(rig, each, at))
          for (const [measure, value] of Object.entries(measures)) {
            const key = [each, subject, resource.kind, resource.id, measure].join(' ')
            sums.set(key, (sums.get(key) ?? new Fraction(0)).add(exact(value)))
          }
    return Object.fromEntries(
      [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, sum]) => [key, show(sum)]),
    )
  }

  async function checked({ source }: SourceRig): Promise<Findings> {
    expect(source.check, 'every kind can say whether it works').toBeDefined()
    return await source.check!(live)
  }

  describe(`${name} keeps the contract of a source`, () => {
    test('it lists its scopes, the same each time, none twice', async () => {
      await using rig = await open()
      const scopes = (await rig.source.scopes(live)).map(each => each.scope)
      expect(scopes).toContain(scope)
      expect(new Set(scopes).size).toBe(scopes.length)
      expect((await rig.source.scopes(live)).map(each => each.scope)).toEqual(scopes)
    })

    test('its re-reads rise, its retention and concurrency are bounds', async () => {
      await using rig = await open()
      const { rereadAfterMs, retentionMs, concurrency } = rig.source
      expect([...rereadAfterMs].sort((a, b) => a - b)).toEqual(rereadAfterMs)
      expect(rereadAfterMs.length).toBeGreaterThan(0)
      expect(retentionMs).toBeGreaterThan(0)
      expect(concurrency).toBeGreaterThan(0)
    })

    test('the same window read twice says the same', async () => {
      await using rig = await open()
      const once = await read(rig, scope, window)
      expect(once.length).toBeGreaterThanOrEqual(2)
      expect(inOrder(await read(rig, scope, window))).toEqual(inOrder(once))
    })

    test('a source that has listed nothing yet reads a scope the same', async () => {
      await using listed = await open()
      await listed.source.scopes(live)
      await using fresh = await open()
      expect(inOrder(await read(fresh, scope, window))).toEqual(inOrder(await read(listed, scope, window)))
    })

    test('windows of any width add up to the same totals', async () => {
      let expected: Record<string, string> | undefined
      for (const widthMinutes of contract.widthsMinutes) {
        await using rig = await open({ widthMinutes })
        expect(rig.source.widthMinutes).toBe(widthMinutes)
        const sums = await totals(rig)
        expect(Object.keys(sums).length).toBeGreaterThanOrEqual(2)
        expected ??= sums
        expect(sums).toEqual(expected)
      }
    })

    test('page size one and a thousand agree', async () => {
      await using one = await open({ pageSize: 1 })
      await using thousand = await open({ pageSize: 1000 })
      expect((await one.source.scopes(live)).map(each => each.scope)).toEqual(
        (await thousand.source.scopes(live)).map(each => each.scope),
      )
      expect(inOrder(await read(one, scope, window))).toEqual(inOrder(await read(thousand, scope, window)))
    })

    test('each usage becomes a valid event within the bounds of its window, none twice', async () => {
      await using rig = await open()
      const ids = new Set<string>()
      let count = 0
      for (const { scope: each } of await rig.source.scopes(live))
        for (const at of windowsOver(span, rig.source.widthMinutes))
          for (const usage of await read(rig, each, at)) {
            const event = sealReading(usage, rig.kind, {
              source: `meterline/${rig.kind}/test`,
              scope: each,
              window: at,
              readatMs: span.endMs,
            })
            const validate = validator(ReadingEvent)
            expect(validate(event), JSON.stringify(validate.errors)).toBe(true)
            checkBounds(event, (at.endMs - at.startMs) / 1000)
            ids.add(event.id)
            count++
          }
      expect(ids.size).toBe(count)
    })

    test('an abort stops it: before it began, and in the middle', async () => {
      await using rig = await open()
      expect((await faultFrom(read(rig, scope, window, AbortSignal.abort()))).code).toBe('ABORTED')
      expect((await faultFrom(rig.source.scopes(AbortSignal.abort()))).code).toBe('ABORTED')
      await rig.break('hang')
      const stop = new AbortController()
      const startedMs = performance.now()
      setTimeout(() => stop.abort(), 50)
      expect((await faultFrom(read(rig, scope, window, stop.signal))).code).toBe('ABORTED')
      expect(performance.now() - startedMs).toBeLessThan(5000)
    })

    test('a bad item is a fault that names its subject, and the others count as before', async () => {
      await using rig = await open()
      const whole = inOrder(await read(rig, scope, window))
      const subject = await rig.spoilOne()
      const usages: Usage[] = []
      const faults: Fault[] = []
      for await (const item of rig.source.read(scope, window, live))
        try {
          usages.push(...rig.source.toUsage(item, window))
        } catch (error) {
          expect(error).toBeInstanceOf(Fault)
          faults.push(error as Fault)
        }
      expect(faults).toHaveLength(1)
      expect(faults[0]?.code).toBe('ITEM_UNREADABLE')
      expect(faults[0]?.fate).toBe('reject')
      expect(faults[0]?.facts.subject).toBe(subject)
      const rest = inOrder(usages)
      expect(rest).toHaveLength(whole.length - 1)
      expect(whole).toEqual(expect.arrayContaining(rest))
    })

    test.each(breakages)('what it cannot know it throws, it is never empty: %s', async how => {
      await using rig = await open()
      await rig.break(how)
      const fault = await faultFrom(read(rig, scope, window))
      expect(fault.fate).toBe('retry')
      expect(fault.code).not.toBe('ABORTED')
      const listing = await faultFrom(
        rig.source.scopes(live).then(scopes => {
          // A source that need not ask for its scopes knows them all the same.
          if (scopes.length > 0) throw new Fault('SOURCE_BUSY', 'it has scopes')
        }),
      )
      expect(listing.fate).toBe('retry')
    })

    test('a window that is not over, or is behind the retention, cannot be known', async () => {
      await using rig = await open()
      const width = rig.source.widthMinutes * minuteMs
      const soon = Math.ceil((Date.now() + hourMs) / width) * width
      const long = Math.floor((Date.now() - rig.source.retentionMs - 48 * hourMs) / width) * width
      for (const startMs of [soon, long]) {
        const fault = await faultFrom(read(rig, scope, { startMs, endMs: startMs + width }))
        expect(fault.code).toBe('WINDOW_UNKNOWABLE')
      }
    })

    test('asked whether it can work, it says what does, in few words, and that nothing is missing', async () => {
      await using rig = await open()
      const { works, missing } = await checked(rig)
      expect(missing).toEqual([])
      expect(works.length).toBeGreaterThan(0)
      for (const words of works) expect(words).toMatch(/^\S.{0,298}$/)
      // It leaves nothing behind: what is read after it is what would have been.
      await using fresh = await open()
      expect(inOrder(await read(rig, scope, window))).toEqual(inOrder(await read(fresh, scope, window)))
    })

    test.each(breakages)(
      'asked whether it can work, it names what is wrong and how to mend it: %s',
      async how => {
        await using rig = await open()
        await rig.break(how)
        const found = await checked(rig).catch((error: unknown) => error)
        if (found instanceof Fault) expect(found.fate).toBe('retry')
        else {
          const { missing } = found as Findings
          expect(missing.length).toBeGreaterThan(0)
          for (const { what, remedy } of missing) {
            expect(what).toMatch(/\S/)
            expect(remedy).toMatch(/\S/)
          }
        }
        const said =
          found instanceof Fault ? [found.message, JSON.stringify(found.facts)] : [JSON.stringify(found)]
        for (const secret of contract.secrets) expect(said.filter(text => text.includes(secret))).toEqual([])
      },
    )

    test('nothing secret is in a usage or a fault', async () => {
      const texts: string[] = []
      {
        await using rig = await open()
        for (const { scope: each } of await rig.source.scopes(live))
          for (const at of windowsOver(span, rig.source.widthMinutes).slice(0, 8))
            texts.push(JSON.stringify(await read(rig, each, at)))
      }
      for (const how of breakages) {
        await using rig = await open()
        await rig.break(how)
        const fault = await faultFrom(read(rig, scope, window))
        texts.push(fault.message, JSON.stringify(fault.facts))
      }
      for (const secret of contract.secrets) expect(texts.filter(text => text.includes(secret))).toEqual([])
    })
  })
}
