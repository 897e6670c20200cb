/** Accounts: every instant of a tenant has at most one payer. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Account, type AccountSubject, accountMisfits } from '../../schemas/accounts.ts'
import { dayMs, showInstant } from '../../schemas/window.ts'

const day = (index: number) => showInstant(index * dayMs)
const days = 6
const subject: fc.Arbitrary<AccountSubject> = fc
  .record({
    source: fc.constantFrom('a', 'b'),
    subject: fc.constantFrom('t', 'u'),
    from: fc.option(fc.integer({ min: 0, max: days - 1 }), { nil: undefined }),
    length: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
  })
  .map(({ source, subject, from, length }) => ({
    source,
    subject,
    ...(from !== undefined && { from: day(from) }),
    ...(length !== undefined && { to: day((from ?? 0) + length) }),
  }))
const accounts: fc.Arbitrary<readonly Account[]> = fc
  .array(fc.array(subject, { maxLength: 2 }), { maxLength: 3 })
  .map(all =>
    all.map((subjects, index) => ({
      id: `a${index}`,
      currency: 'USD',
      timezone: 'UTC',
      priceBook: 'b',
      subjects,
    })),
  )

/** Asked the slow way, at every noon from the day before to the day after. */
function sharesAnInstant(all: readonly Account[]): boolean {
  const bindings = all.flatMap(account => account.subjects)
  for (let at = -0.5; at <= days + 4; at += 1) {
    const paid = bindings.filter(
      ({ from, to }) =>
        (from === undefined || Date.parse(from) <= at * dayMs) &&
        (to === undefined || at * dayMs < Date.parse(to)),
    )
    if (new Set(paid.map(one => `${one.source} ${one.subject}`)).size < paid.length) return true
  }
  return false
}

describe('accounts', () => {
  test('are refused exactly where a tenant would be paid for twice at some instant', () => {
    fc.assert(
      fc.property(accounts, all => {
        const found = accountMisfits(all)
        expect(found.length > 0).toBe(sharesAnInstant(all))
        for (const { path } of found) expect(path).toMatch(/^\/accounts\/\d\/subjects\/\d$/)
      }),
      { numRuns: 500 },
    )
  })

  test('compare instants, not texts', () => {
    const one = { id: 'one', currency: 'USD', timezone: 'UTC', priceBook: 'b' }
    const two = { ...one, id: 'two' }
    const until = (to: string) => [{ source: 's', subject: 't', to }]
    const since = (from: string) => [{ source: 's', subject: 't', from }]
    const held = (to: string, from: string) =>
      accountMisfits([
        { ...one, subjects: until(to) },
        { ...two, subjects: since(from) },
      ])
    expect(held('2026-02-01T01:00:00+01:00', '2026-02-01T00:00:00Z')).toEqual([])
    expect(held('2026-02-01T00:00:00-01:00', '2026-02-01T00:00:00Z')).toHaveLength(1)
  })
})
