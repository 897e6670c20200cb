/** The gate before an invoice, as properties: what may concern an account stands in its way, and nothing else does. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type CoverageRow,
  type CoverageState,
  coverageStates,
  type ScopeTenants,
} from '../../processor/coverage.ts'
import { type GateInput, gateOf, unknownLine } from '../../processor/gate.ts'
import { hourMs, showInstant } from '../../schemas/window.ts'
import { june1Ms } from '../reads.ts'

const sources = ['meterline/rafay/a', 'meterline/k8s/b'] as const
const period = { startMs: june1Ms, endMs: june1Ms + 10 * hourMs }

function row(of: Partial<CoverageRow> & { hour?: number } = {}): CoverageRow {
  const { hour = 0, ...said } = of
  return {
    source: sources[0],
    scope: 's1',
    start: showInstant(june1Ms + hour * hourMs),
    end: showInstant(june1Ms + (hour + 1) * hourMs),
    state: 'settled',
    ...said,
  }
}

const subjects = ['x', 'y', 'z']
const scopes = ['*', 's1', 's2', 's3']
const anyTenants: fc.Arbitrary<readonly ScopeTenants[]> = fc
  .tuple(
    ...sources.flatMap(source =>
      scopes.map(scope => fc.subarray(subjects).map(seen => ({ source, scope, seen }))),
    ),
  )
  .map(all => all.map(({ source, scope, seen }) => ({ source, scope, subjects: scope === '*' ? [] : seen })))
const anyRow: fc.Arbitrary<CoverageRow> = fc
  .record({
    source: fc.constantFrom(...sources),
    scope: fc.constantFrom(...scopes),
    hour: fc.integer({ min: -2, max: 12 }),
    state: fc.constantFrom(...coverageStates),
    subject: fc.option(fc.constantFrom(...subjects), { freq: 1 }),
  })
  .map(({ subject, ...of }) =>
    row({ ...of, ...(subject !== null && { subject, state: of.state === 'waived' ? 'waived' : 'failed' }) }),
  )
const anyAccount: fc.Arbitrary<GateInput['account']> = fc
  .uniqueArray(
    fc.record({
      source: fc.constantFrom(...sources),
      subject: fc.constantFrom(...subjects),
      from: fc.integer({ min: -3, max: 12 }),
      hours: fc.integer({ min: 1, max: 12 }),
    }),
    { minLength: 1, maxLength: 3, selector: ({ source, subject }) => `${source} ${subject}` },
  )
  .map(bindings => ({
    subjects: bindings.map(({ source, subject, from, hours }) => ({
      source,
      subject,
      from: showInstant(june1Ms + from * hourMs),
      to: showInstant(june1Ms + (from + hours) * hourMs),
    })),
  }))
const anyInput: fc.Arbitrary<GateInput> = fc.record({
  account: anyAccount,
  period: fc.constant(period),
  rows: fc.array(anyRow, { maxLength: 12 }),
  tenants: anyTenants,
})

/** Does the account pay for something of that source (of that subject) at a time of the row? */
function paysAt(input: GateInput, { source, start, end, subject }: CoverageRow): boolean {
  return input.account.subjects.some(
    one =>
      one.source === source &&
      (subject === undefined || one.subject === subject) &&
      Math.max(Date.parse(one.from ?? ''), period.startMs, Date.parse(start)) <
        Math.min(Date.parse(one.to ?? ''), period.endMs, Date.parse(end)),
  )
}

const isClosed = ({ state }: CoverageRow) => state === 'settled' || state === 'waived'

describe('the gate', () => {
  test('opens when all is settled or waived, and only for that', () => {
    fc.assert(
      fc.property(anyInput, input => {
        const { open, closes } = gateOf(input)
        expect(open.filter(isClosed)).toEqual([])
        expect(closes).toBe(open.length === 0)
        expect(gateOf({ ...input, rows: input.rows.filter(isClosed) }).closes).toBe(true)
      }),
    )
  })

  test('one more gap never opens it, and what is in its way stays there', () => {
    fc.assert(
      fc.property(anyInput, anyRow, (input, more) => {
        const before = gateOf(input)
        const after = gateOf({ ...input, rows: [...input.rows, more] })
        if (after.closes) expect(before.closes).toBe(true)
        expect(after.open.slice(0, before.open.length)).toEqual(before.open)
      }),
    )
  })

  test('nothing is in its way when the account pays for none of it: other sources, times, or tenants of bad items', () => {
    fc.assert(
      fc.property(anyInput, input => {
        for (const one of gateOf(input).open) expect(paysAt(input, one)).toBe(true)
      }),
    )
  })

  test('a gap is in its way where its tenant was seen in the scope, nobody was, or tenants share the source', () => {
    fc.assert(
      fc.property(anyInput, input => {
        const { open } = gateOf(input)
        for (const one of input.rows) {
          if (isClosed(one) || !paysAt(input, one)) continue
          const of = input.tenants.filter(({ source }) => source === one.source)
          const seen = of.find(({ scope }) => scope === one.scope)?.subjects ?? []
          const mine = input.account.subjects.filter(({ source }) => source === one.source)
          const concerns =
            one.subject !== undefined ||
            seen.length === 0 ||
            of.some(({ subjects: all }) => all.length > 1) ||
            mine.some(({ subject }) => paysAt(input, { ...one, subject }) && seen.includes(subject))
          if (concerns) expect(open).toContain(one)
        }
      }),
    )
  })

  test('a tenant that was seen in other scopes alone does not wait for this one', () => {
    const tenants = [
      { source: sources[0], scope: '*', subjects: [] },
      { source: sources[0], scope: 's1', subjects: ['x'] },
      { source: sources[0], scope: 's2', subjects: ['y'] },
    ]
    const account = { subjects: [{ source: sources[0], subject: 'x' }] }
    const openOf = (...rows: CoverageRow[]) =>
      gateOf({ account, period, rows, tenants }).open.map(({ scope, state }) => `${scope} ${state}`)
    expect(openOf(row({ scope: 's2', state: 'never' }))).toEqual([])
    expect(openOf(row({ scope: 's1', state: 'read' }), row({ scope: '*', state: 'failed' }))).toEqual([
      's1 read',
      '* failed',
    ])
    // A scope that came up since, and one tenant more, which was seen nowhere.
    expect(openOf(row({ scope: 's9', state: 'never' }))).toEqual(['s9 never'])
    const stranger = { subjects: [{ source: sources[0], subject: 'w' }] }
    const rows = [row({ scope: 's2', state: 'never' })]
    expect(gateOf({ account: stranger, period, rows, tenants }).open).toEqual(rows)
  })

  test('one scope with two tenants makes everybody wait for the whole source', () => {
    const tenants = [
      { source: sources[0], scope: 's1', subjects: ['x'] },
      { source: sources[0], scope: 's2', subjects: ['y', 'z'] },
    ]
    const account = { subjects: [{ source: sources[0], subject: 'x' }] }
    const rows = [row({ scope: 's2', state: 'failed' })]
    expect(gateOf({ account, period, rows, tenants }).open).toEqual(rows)
    const single = [tenants[0]!, { source: sources[1], scope: 's2', subjects: ['y', 'z'] }]
    const elsewhere = [row({ scope: 's1' }), row({ source: sources[1], scope: 's2', state: 'failed' })]
    expect(gateOf({ account, period, rows: elsewhere, tenants: single }).closes).toBe(true)
  })

  test.each<[CoverageState, boolean]>([
    ['never', false],
    ['failed', false],
    ['incomplete', false],
    ['suspect', false],
    ['read', false],
    ['settled', true],
    ['waived', true],
  ])('a window that is %s lets it close: %s', (state, closes) => {
    const tenants = [{ source: sources[0], scope: 's1', subjects: ['x'] }]
    const account = { subjects: [{ source: sources[0], subject: 'x' }] }
    expect(gateOf({ account, period, rows: [row({ state })], tenants }).closes).toBe(closes)
  })
})

describe('a source that nobody ever tried to read', () => {
  const pushed = 'https://app.example/usage'
  const account = { subjects: [pushed, sources[0]].map(source => ({ source, subject: 'x' })) }

  test('is named and in the way; a pushed one not where the account allows it', () => {
    const nothing = { period, rows: [], tenants: [] }
    const refused = gateOf({ account, ...nothing })
    expect(refused).toMatchObject({ open: [], closes: false })
    expect(refused.unknown.map(one => unknownLine(one, period).split(' ').slice(0, 2).join(' '))).toEqual([
      `gap: source=${pushed}`,
      `gap: source=${sources[0]}`,
    ])
    const allowed = gateOf({ account: { ...account, uncovered: 'allow' }, ...nothing })
    expect(allowed.unknown.map(({ isAllowed }) => isAllowed)).toEqual([true, false])
    expect(allowed.closes).toBe(false)
    const only = { subjects: account.subjects.slice(0, 1), uncovered: 'allow' } as const
    expect(gateOf({ account: only, ...nothing })).toMatchObject({
      closes: true,
      unknown: [{ source: pushed }],
    })
    expect(unknownLine({ source: pushed, isPushed: true, isAllowed: true }, period)).toMatch(/^uncovered: /)
  })

  test('is covered like any other once its pusher posts marks', () => {
    const tenants = [{ source: pushed, scope: 'all', subjects: [], sinceMs: period.startMs }]
    const only = { subjects: account.subjects.slice(0, 1) }
    const gate = (state: CoverageState) =>
      gateOf({ account: only, period, rows: [row({ source: pushed, scope: 'all', state })], tenants })
    expect(gate('settled')).toEqual({ open: [], unknown: [], closes: true })
    expect(gate('waived')).toEqual({ open: [], unknown: [], closes: true })
    expect(gate('never')).toMatchObject({ closes: false, unknown: [] })
    expect(gate('incomplete')).toMatchObject({ closes: false, unknown: [] })
    // A mark that is not the last word lets nothing close, and `uncovered: allow` says nothing of what is marked.
    expect(gate('read').closes).toBe(false)
    const rows = [row({ source: pushed, scope: 'all', state: 'never' })]
    expect(gateOf({ account: { ...only, uncovered: 'allow' }, period, rows, tenants }).closes).toBe(false)
  })
})

describe('a pushed source with marks', () => {
  const pushed = 'https://app.example/usage'
  const marked = (sinceHours: Readonly<Record<string, number>>): readonly ScopeTenants[] =>
    Object.entries(sinceHours).map(([scope, hour]) => ({
      source: pushed,
      scope,
      subjects: scope === 'all' ? [] : [scope],
      sinceMs: june1Ms + hour * hourMs,
    }))
  const of = (subject: string, more: Partial<GateInput['account']> = {}): GateInput['account'] => ({
    subjects: [{ source: pushed, subject }],
    ...more,
  })
  const gap = (scope: string) => row({ source: pushed, scope, state: 'incomplete', hour: 1 })

  test('holds every subject by marks for all, and one subject by marks of its own', () => {
    const tenants = marked({ all: 0, x: 0, y: 0 })
    const openOf = (subject: string) =>
      gateOf({
        account: of(subject),
        period,
        rows: ['all', 'x', 'y'].map(gap),
        tenants,
      }).open.map(({ scope }) => scope)
    expect(openOf('x')).toEqual(['all', 'x'])
    expect(openOf('y')).toEqual(['all', 'y'])
    expect(openOf('z')).toEqual(['all'])
  })

  test('is named for a subject, or a time, that no mark speaks for, and bills it only where the account allows that', () => {
    const unknownOf = (subject: string, tenants: readonly ScopeTenants[]) =>
      gateOf({ account: of(subject), period, rows: [], tenants })
    const until = (hour: number) => ({ startMs: period.startMs, endMs: june1Ms + hour * hourMs })
    const named = { source: pushed, isPushed: true, isAllowed: false }
    expect(unknownOf('x', marked({ x: 0, y: 0 }))).toMatchObject({ closes: true, unknown: [] })
    // Marks of another tenant say nothing of this one.
    const strange = unknownOf('z', marked({ x: 0, y: 0 }))
    expect(strange).toEqual({
      open: [],
      unknown: [{ ...named, subject: 'z', window: period }],
      closes: false,
    })
    // Marks that begin within the period say nothing of what was before.
    expect(unknownOf('x', marked({ x: 4, y: 0 }))).toMatchObject({
      closes: false,
      unknown: [{ ...named, subject: 'x', window: until(4) }],
    })
    expect(unknownOf('x', marked({ x: 4, all: 2 })).unknown).toMatchObject([{ window: until(2) }])
    expect(unknownOf('x', marked({ x: 4, all: -2 }))).toMatchObject({ closes: true, unknown: [] })
    const later = { subjects: [{ source: pushed, subject: 'x', from: showInstant(june1Ms + 4 * hourMs) }] }
    expect(gateOf({ account: later, period, rows: [], tenants: marked({ x: 4 }) }).closes).toBe(true)

    const allowed = gateOf({
      account: of('x', { uncovered: 'allow' }),
      period,
      rows: [],
      tenants: marked({ x: 4 }),
    })
    expect(allowed).toMatchObject({ closes: true, unknown: [{ isAllowed: true, window: until(4) }] })
    expect(allowed.unknown.map(one => unknownLine(one, period))).toEqual([
      `uncovered: source=${pushed} subject=x 2025-06-01T00:00:00Z/2025-06-01T04:00:00Z its events are pushed and no mark speaks for it then, so nobody can tell what is missing (the account allows it)`,
    ])
    expect(strange.unknown.map(one => unknownLine(one, period))).toEqual([
      `gap: source=${pushed} subject=z 2025-06-01T00:00:00Z/2025-06-01T10:00:00Z its events are pushed and no mark speaks for it then, so nobody can tell what is missing: \`uncovered: allow\` of the account bills it so`,
    ])
  })
})
