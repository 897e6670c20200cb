/** What a month costs so far: by account and charge, each amount as it was rated. */
import { Refusal } from './ask.ts'
import { element } from './elements.ts'
import { added, compared, grouped } from './figures.ts'
import { nothing } from './panel.ts'
import { listOf, type Scene } from './scene.ts'
import type { Table } from './table.ts'
import { tableElement } from './tables.ts'
import type { UsageShown } from './usage-panel.ts'
import { monthOf, type Span } from './view.ts'
import { dayMs, monthLabel } from './zones.ts'

/** A line of `GET /api/v1/line-items`, as far as it is shown. */
export interface Line {
  readonly account: string
  readonly charge: string
  readonly group: Readonly<Record<string, string>>
  readonly quantity: string
  readonly unit: string
  readonly price: string
  readonly amount: string
  readonly currency: string
}

export interface AccountCost {
  readonly account: string
  readonly lines: readonly Line[]
  /** By currency: an account has one. */
  readonly total: string
  readonly currency: string
}

/** Accounts with their lines, the dearest first. Nothing is added up across currencies. */
export function costsOf(lines: readonly Line[]): readonly AccountCost[] {
  const byAccount = new Map<string, Line[]>()
  for (const line of lines) {
    const key = JSON.stringify([line.account, line.currency])
    byAccount.set(key, [...(byAccount.get(key) ?? []), line])
  }
  return [...byAccount.values()]
    .map(found => ({
      account: found[0]!.account,
      currency: found[0]!.currency,
      lines: found,
      total: money(found),
    }))
    .sort((a, b) => compared(b.total, a.total) || (a.account < b.account ? -1 : 1))
}

/** The sum of amounts, with the places that they have: 12.50 stays 12.50. */
export function money(lines: readonly Line[]): string {
  const sum = added(lines.map(({ amount }) => amount))
  const places = Math.max(0, ...lines.map(({ amount }) => amount.split('.')[1]?.length ?? 0))
  if (places === 0) return sum
  const [whole = '', part = ''] = sum.split('.')
  return `${whole}.${part.padEnd(places, '0')}`
}

/** The month that is rated. */
export function costMonth({ span, nowMs, caller, accounts }: Scene): {
  readonly month: Span
  readonly zone: string
} {
  // Periods end in the zone of who pays; for all accounts together there is one that all see alike.
  const zone = accounts.find(({ id }) => id === caller.account)?.timezone ?? 'UTC'
  return { month: monthOf(span, zone, nowMs), zone }
}

export async function loadCost(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { month, zone } = costMonth(scene)
  const isOpen = month.toMs > scene.nowMs
  const heading = monthLabel(zone, month.fromMs + dayMs)
  const lines = listOf<Line>(
    await scene
      .ask(
        'line-items',
        {
          from: new Date(month.fromMs).toISOString(),
          to: new Date(month.toMs).toISOString(),
          account: scene.caller.account,
        },
        signal,
      )
      .catch(error => {
        // Without accounts there is nothing to rate, and nothing wrong.
        if (error instanceof Refusal && error.status === 404) return []
        throw error
      }),
  )
  const table: Table = {
    caption: `Cost of ${heading}${isOpen ? ' so far' : ''}`,
    columns: [
      { heading: 'Account' },
      { heading: 'Charge' },
      { heading: 'Group' },
      { heading: 'Quantity', isNumber: true },
      { heading: 'Unit' },
      { heading: 'Price', isNumber: true },
      { heading: 'Amount', isNumber: true },
      { heading: 'Currency' },
    ],
    rows: lines.map(line => [
      line.account,
      line.charge,
      groupText(line.group),
      line.quantity,
      line.unit,
      line.price,
      line.amount,
      line.currency,
    ]),
  }
  const period = `${heading}${isOpen ? ', so far' : ''} (${zone})`
  if (lines.length === 0)
    return {
      table,
      said: '',
      content: [
        element('p', { class: 'muted' }, period),
        nothing('Nothing is charged', 'No usage of this month has a price, or no account is configured.'),
      ],
    }
  const costs = costsOf(lines)
  const currencies = [...new Set(costs.map(({ currency }) => currency))]
  const totals = currencies.map(
    currency => [currency, money(lines.filter(line => line.currency === currency))] as const,
  )
  return {
    table,
    said: `${table.caption}: ${totals.map(([currency, total]) => `${total} ${currency}`).join(', ')}`,
    content: [
      element('p', { class: 'muted' }, period),
      ...totals.map(([currency, total]) =>
        element(
          'p',
          { class: 'figure', id: 'cost-total' },
          grouped(total),
          element('span', { class: 'unit' }, currency),
        ),
      ),
      ...costs.map(cost => accountElement(cost, costs.length <= 4)),
    ],
  }
}

function groupText(group: Readonly<Record<string, string>>): string {
  return Object.entries(group)
    .map(([dim, value]) => `${dim}=${value}`)
    .join(' ')
}

function accountElement(cost: AccountCost, isOpen: boolean): HTMLElement {
  const hasGroups = cost.lines.some(({ group }) => Object.keys(group).length > 0)
  return element(
    'details',
    { class: 'account', open: isOpen },
    element(
      'summary',
      {},
      element('span', { class: 'account-name' }, cost.account),
      element('span', { class: 'account-total' }, `${grouped(cost.total)} ${cost.currency}`),
    ),
    tableElement({
      caption: `Charges of ${cost.account}`,
      columns: [
        { heading: 'Charge' },
        ...(hasGroups ? [{ heading: 'Group' }] : []),
        { heading: 'Quantity', isNumber: true },
        { heading: 'Price', isNumber: true },
        { heading: cost.currency, isNumber: true },
      ],
      rows: cost.lines.map(line => [
        line.charge,
        ...(hasGroups ? [groupText(line.group)] : []),
        line.quantity === '' ? '' : `${grouped(line.quantity)} ${line.unit}`,
        line.price,
        line.amount,
      ]),
    }),
  )
}
