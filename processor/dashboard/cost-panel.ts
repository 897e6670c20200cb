/** What a month costs so far: by account and charge, each amount as it was rated. */
import type { Params } from './ask.ts'
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

/** A row of `GET /api/v1/line-items/totals`. */
export interface Total {
  readonly account: string
  readonly currency: string
  readonly total: string
  readonly lines: number
  readonly unpriced: number
}

/** Beyond so many lines an account's are asked for when it is opened. */
const linesMax = 500
const openMax = 4

/** The sum of amounts of one currency, with the places that they have: 12.50 stays 12.50. */
export function money(amounts: readonly string[]): string {
  const sum = added(amounts)
  const places = Math.max(0, ...amounts.map(amount => amount.split('.')[1]?.length ?? 0))
  if (places === 0) return sum
  const [whole = '', part = ''] = sum.split('.')
  return `${whole}.${part.padEnd(places, '0')}`
}

/** The month that is rated. */
export function costMonth({ span, nowMs, caller, accounts }: Scene): {
  readonly month: Span
  readonly zone: string
} {
  // Periods end in the zone of who pays; for accounts of several zones there is one that all see alike.
  const zones = new Set(accounts.map(({ timezone }) => timezone ?? 'UTC'))
  const [only = 'UTC'] = zones
  const zone = accounts.find(({ id }) => id === caller.account)?.timezone ?? (zones.size === 1 ? only : 'UTC')
  return { month: monthOf(span, zone, nowMs), zone }
}

export async function loadCost(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { month, zone } = costMonth(scene)
  const span: Params = {
    from: new Date(month.fromMs).toISOString(),
    to: new Date(month.toMs).toISOString(),
  }
  const totals = [...listOf<Total>(await scene.ask('line-items/totals', span, signal))].sort(
    (a, b) => compared(b.total, a.total) || (a.account < b.account ? -1 : 1),
  )
  const isSmall = totals.reduce((sum, { lines }) => sum + lines, 0) <= linesMax
  const lines = isSmall ? listOf<Line>(await scene.ask('line-items', span, signal)) : []
  const isOpen = month.toMs > scene.nowMs
  const heading = monthLabel(zone, month.fromMs + dayMs)
  const caption = `Cost of ${heading}${isOpen ? ' so far' : ''}`
  const table = isSmall ? linesTable(caption, lines) : totalsTable(caption, totals)
  const period = `${heading}${isOpen ? ', so far' : ''} (${zone})`
  const charged = totals.filter(total => total.lines > 0 || total.unpriced > 0)
  if (charged.length === 0)
    return {
      table,
      said: '',
      summary: { value: 'None', about: heading },
      content: [
        element('p', { class: 'muted' }, period),
        nothing('Nothing is charged', 'No usage of this month has a price, or no account is configured.'),
      ],
    }
  // A way down to a tenant does not change what is summed.
  const of = charged.length > 1 ? ', all accounts' : ''
  const sums = [...new Set(charged.map(({ currency }) => currency))].map(
    currency =>
      [currency, money(charged.filter(one => one.currency === currency).map(({ total }) => total))] as const,
  )
  const accounts = new Map(scene.accounts.map(account => [account.id, account.name ?? account.id]))
  const ofAccount = async (account: string) =>
    isSmall
      ? lines.filter(line => line.account === account)
      : listOf<Line>(await scene.ask('line-items', { ...span, account }, signal))
  const shown = await Promise.all(
    charged.map(total =>
      accountElement(total, accounts.get(total.account) ?? total.account, {
        isOpen: isSmall && charged.length <= openMax,
        lines: () => ofAccount(total.account),
      }),
    ),
  )
  return {
    table,
    summary: {
      value: sums.map(([currency, sum]) => `${grouped(sum)} ${currency}`).join(' + '),
      about: `${heading}${isOpen ? ', so far' : ''}${of}`,
    },
    said: `${caption}: ${sums.map(([currency, sum]) => `${sum} ${currency}`).join(', ')}`,
    content: [
      element('p', { class: 'muted' }, period + of),
      element(
        'p',
        { class: 'figures', id: 'cost-total' },
        ...sums.map(([currency, sum]) =>
          element('span', { class: 'figure' }, grouped(sum), element('span', { class: 'unit' }, currency)),
        ),
      ),
      ...shown,
    ],
  }
}

function linesTable(caption: string, lines: readonly Line[]): Table {
  return {
    caption,
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
      ...[line.account, line.charge, groupText(line.group)],
      ...[line.quantity, line.unit, line.price, line.amount, line.currency],
    ]),
  }
}

function totalsTable(caption: string, totals: readonly Total[]): Table {
  return {
    caption,
    columns: [{ heading: 'Account' }, { heading: 'Total', isNumber: true }, { heading: 'Currency' }],
    rows: totals.map(({ account, total, currency }) => [account, total, currency]),
  }
}

function groupText(group: Readonly<Record<string, string>>): string {
  return Object.entries(group)
    .map(([dim, value]) => `${dim}=${value}`)
    .join(' ')
}

/** An account with its total; its charges when it is open. */
async function accountElement(
  { total, currency, unpriced, account }: Total,
  name: string,
  { isOpen, lines }: { readonly isOpen: boolean; readonly lines: () => Promise<readonly Line[]> },
): Promise<HTMLElement> {
  const charges = element('div')
  const fill = async () => {
    charges.replaceChildren(chargesElement(account, currency, await lines()))
  }
  if (isOpen) await fill()
  return element(
    'details',
    {
      class: 'account',
      open: isOpen,
      ontoggle: () => {
        if (charges.childElementCount === 0)
          fill().catch((error: unknown) =>
            charges.replaceChildren(error instanceof Error ? error.message : ''),
          )
      },
    },
    element(
      'summary',
      {},
      element('span', { class: 'account-name' }, name),
      element('span', { class: 'account-total' }, `${grouped(total)} ${currency}`),
    ),
    charges,
    unpriced > 0 &&
      element(
        'p',
        { class: 'note warn' },
        `${unpriced} ${unpriced === 1 ? 'group of usage has' : 'groups of usage have'} no price.`,
      ),
  )
}

function chargesElement(account: string, currency: string, lines: readonly Line[]): HTMLElement {
  const hasGroups = lines.some(({ group }) => Object.keys(group).length > 0)
  const quantityColumn = hasGroups ? 2 : 1
  return tableElement(
    {
      caption: `Charges of ${account}`,
      columns: [
        { heading: 'Charge' },
        ...(hasGroups ? [{ heading: 'Group' }] : []),
        { heading: 'Quantity', isNumber: true },
        { heading: 'Price', isNumber: true },
        { heading: currency, isNumber: true },
      ],
      rows: lines.map(line => [
        line.charge,
        ...(hasGroups ? [groupText(line.group)] : []),
        line.quantity,
        line.price,
        line.amount,
      ]),
    },
    {
      cell: (row, column) => {
        const line = lines[row]
        if (column !== quantityColumn || !line) return undefined
        return element('span', {}, grouped(line.quantity), ' ', element('span', { class: 'unit' }, line.unit))
      },
    },
  )
}
