/** Which days were read, of each source: a map of days, gaps in red with their reason, walked by keyboard, and a list of the gaps. */
import type { Params } from './ask.ts'
import { announce, element } from './elements.ts'
import { grouped } from './figures.ts'
import { nothing } from './panel.ts'
import { listOf, type Scene } from './scene.ts'
import type { Table } from './table.ts'
import { tableElement } from './tables.ts'
import { sourceName, spanLabel, type UsageShown } from './usage-panel.ts'
import { dayLabel, timeLabel } from './zones.ts'

export interface Gap {
  /** Not told to a customer; `*` is the list of scopes itself. */
  readonly scope?: string
  readonly start: string
  readonly end: string
  readonly state: string
  readonly windows: number
  readonly subject?: string
  readonly code?: string
  readonly message?: string
}

/** A day of a source: a row of `GET /api/v1/coverage/days`. */
export interface CoverageDay {
  readonly source: string
  readonly start: string
  readonly end: string
  readonly windows: number
  readonly states: Readonly<Record<string, number>>
  readonly gaps: readonly Gap[]
  readonly gaps_more: number
}

/** What a state means to who waits for an invoice. */
const stateWords: Readonly<Record<string, string>> = {
  never: 'not read',
  failed: 'reading failed',
  incomplete: 'not whole in the ledger',
  suspect: 'held back: it takes too much away',
  read: 'read, figures may still settle',
  settled: 'read',
  waived: 'waived by a person',
}
const missing = ['failed', 'never', 'incomplete', 'suspect'] as const

export type Look = 'settled' | 'read' | 'waived' | 'suspect' | 'gap' | 'none'

/** How a day is drawn: by the worst that is in it. */
export function lookOf({ states, gaps }: Pick<CoverageDay, 'states' | 'gaps'>): Look {
  const has = (state: string) => (states[state] ?? 0) > 0
  if (has('failed') || has('never') || has('incomplete') || gaps.some(({ state }) => state !== 'suspect'))
    return 'gap'
  if (has('suspect')) return 'suspect'
  if (has('waived')) return 'waived'
  if (has('read')) return 'read'
  return has('settled') ? 'settled' : 'none'
}

/** How many windows nobody has. */
export function missingOf(states: CoverageDay['states']): number {
  return missing.reduce((sum, state) => sum + (states[state] ?? 0), 0)
}

const legend: readonly (readonly [Look, string])[] = [
  ['settled', 'Read'],
  ['read', 'Read, may still settle'],
  ['waived', 'Waived'],
  ['suspect', 'Held back'],
  ['gap', 'Missing'],
  ['none', 'Nothing expected'],
]

export async function loadCoverage(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { view, span } = scene
  const params: Params = {
    from: new Date(span.fromMs).toISOString(),
    to: new Date(Math.min(span.toMs, Math.max(span.fromMs + 1, scene.nowMs))).toISOString(),
    zone: view.zone,
  }
  const days = listOf<CoverageDay>(await scene.ask('coverage/days', params, signal))
  const sources = [...new Set(days.map(({ source }) => source))].sort()
  const starts = [...new Set(days.map(({ start }) => start))].sort()
  const expected = days.reduce((sum, day) => sum + day.windows, 0)
  const absent = days.reduce((sum, day) => sum + missingOf(day.states), 0)
  const gaps = days.flatMap(day => day.gaps.map(gap => ({ source: day.source, ...gap })))
  const table: Table = {
    caption: `What is missing, ${spanLabel(scene)}`,
    columns: [
      { heading: 'Source' },
      { heading: 'Scope' },
      { heading: 'From' },
      { heading: 'To' },
      { heading: 'State' },
      { heading: 'Reason' },
    ],
    rows: gaps.map(gap => [
      sourceName(gap.source),
      scopeText(gap),
      gap.start,
      gap.end,
      stateWords[gap.state] ?? gap.state,
      reasonOf(gap),
    ]),
  }
  if (days.length === 0)
    return {
      table,
      said: '',
      content: [nothing('No source was asked', 'Nothing was expected of any source in this range.')],
    }
  const more = days.reduce((sum, day) => sum + day.gaps_more, 0)
  const reason = element('p', { class: 'reason', id: 'coverage-reason' }, hintOf(absent))
  const summary =
    absent === 0
      ? `All ${grouped(String(expected))} windows were read.`
      : `${grouped(String(absent))} of ${grouped(String(expected))} windows ${absent === 1 ? 'is' : 'are'} missing.`
  return {
    table,
    summary:
      absent === 0
        ? { value: 'Complete', about: `${grouped(String(expected))} windows read`, mood: 'good' }
        : {
            value: `${grouped(String(absent))} missing`,
            about: `of ${grouped(String(expected))} windows`,
            mood: 'bad',
          },
    said: `Coverage: ${summary}`,
    content: [
      element('p', { class: absent === 0 ? 'good' : 'bad', id: 'coverage-summary' }, summary),
      grid(scene, sources, starts, days, day => {
        const text = dayText(scene, day)
        reason.textContent = text
        announce(text)
      }),
      element(
        'ul',
        { class: 'map-legend', 'aria-label': 'Colours' },
        ...legend
          .filter(([look]) => look === 'settled' || look === 'gap' || days.some(day => lookOf(day) === look))
          .map(([look, words]) => element('li', {}, element('span', { class: `cell ${look}` }), words)),
      ),
      reason,
      gaps.length > 0 &&
        element(
          'details',
          { open: gaps.length <= 12 },
          element(
            'summary',
            {},
            `Missing windows (${gaps.length}${more > 0 ? ` of ${gaps.length + more}` : ''})`,
          ),
          tableElement(table, {
            isProse: true,
            cell: (row, column) =>
              column === 2 || column === 3
                ? document.createTextNode(timeLabel(view.zone, Date.parse(table.rows[row]![column]!)))
                : undefined,
          }),
        ),
    ],
  }
}

function scopeText({ scope = '', subject }: Gap): string {
  const text = scope === '*' ? 'list of scopes' : scope
  return subject === undefined ? text : `${text} (${subject})`.trim()
}

function hintOf(absent: number): string {
  return absent === 0
    ? 'Point at a day, or walk with the arrow keys.'
    : 'Point at a red day, or walk to it with the arrow keys: here stands what is missing, and why.'
}

function reasonOf(gap: Pick<Gap, 'code' | 'message' | 'state'>): string {
  if (gap.code === undefined) return gap.state === 'never' ? 'nobody has tried yet' : ''
  return gap.message === undefined || gap.message === '' ? gap.code : `${gap.code}: ${gap.message}`
}

/** The whole truth of a day, in a sentence. */
export function dayText({ view }: Pick<Scene, 'view'>, day: CoverageDay): string {
  const head = `${sourceName(day.source)}, ${dayLabel(view.zone, Date.parse(day.start))}: `
  const absent = missingOf(day.states)
  if (day.windows === 0 && day.gaps.length === 0) return `${head}nothing was expected.`
  const states = Object.entries(day.states).filter(([, count]) => count > 0)
  const parts = states.map(([state, count]) => `${count} ${stateWords[state] ?? state}`)
  const reasons = [...new Set(day.gaps.map(reasonOf))].filter(text => text !== '')
  const counts =
    absent === 0 && states.length === 1
      ? `all ${day.windows} windows ${stateWords[states[0]![0]] ?? states[0]![0]}`
      : `of ${day.windows} windows ${parts.join(', ')}`
  return `${head}${counts}.${reasons.length > 0 ? ` Why: ${reasons.join('; ')}.` : ''}`
}

/** A grid that is one stop of the tab key; arrow keys walk in it. */
function grid(
  scene: Scene,
  sources: readonly string[],
  starts: readonly string[],
  days: readonly CoverageDay[],
  onDay: (day: CoverageDay) => void,
): HTMLElement {
  const found = new Map(days.map(day => [`${day.source}\n${day.start}`, day]))
  const { zone } = scene.view
  const cells: HTMLElement[][] = []
  const focus = (row: number, column: number) => {
    const target = cells[row]?.[column]
    if (!target) return false
    for (const cell of cells.flat()) cell.tabIndex = cell === target ? 0 : -1
    target.focus()
    return true
  }
  const rows = sources.map((source, row) => {
    const inRow = starts.map((start, column) => {
      const day = found.get(`${source}\n${start}`) ?? noDay(source, start)
      const look = lookOf(day)
      const absent = missingOf(day.states)
      return element(
        'td',
        {
          role: 'gridcell',
          class: `cell ${look}`,
          tabindex: '-1',
          'aria-label': dayText(scene, day),
          title: dayText(scene, day),
          onfocus: () => onDay(day),
          onclick: () => focus(row, column),
          onkeydown: (event: KeyboardEvent) => {
            const to: Readonly<Record<string, readonly [number, number]>> = {
              ArrowRight: [row, column + 1],
              ArrowLeft: [row, column - 1],
              ArrowDown: [row + 1, column],
              ArrowUp: [row - 1, column],
              Home: [row, 0],
              End: [row, starts.length - 1],
            }
            const target = to[event.key]
            if (target && focus(...target)) event.preventDefault()
          },
        },
        look === 'gap' || look === 'suspect'
          ? absent > 99
            ? '99+'
            : absent === 0
              ? '!'
              : String(absent)
          : '',
      )
    })
    cells.push(inRow)
    return element(
      'tr',
      { role: 'row' },
      element('th', { scope: 'row', role: 'rowheader' }, sourceName(source)),
      ...inRow,
    )
  })
  const gap = cells.flat().find(cell => cell.classList.contains('gap'))
  const first = gap ?? cells[0]?.[0]
  if (first) first.tabIndex = 0
  const frame = element(
    'div',
    { class: 'table-frame' },
    element(
      'table',
      { class: 'map', role: 'grid', 'aria-label': 'Coverage by source and day' },
      element(
        'thead',
        {},
        element(
          'tr',
          { role: 'row' },
          element('th', { role: 'columnheader', scope: 'col' }, 'Source'),
          ...starts.map((start, column) => dayHeading(zone, start, column, starts)),
        ),
      ),
      element('tbody', {}, ...rows),
    ),
  )
  // Where there is no room for all days, the first that something is missing of.
  if (gap)
    requestAnimationFrame(() => {
      frame.scrollLeft = Math.max(0, gap.offsetLeft - frame.clientWidth / 2)
    })
  return frame
}

function dayHeading(zone: string, start: string, column: number, starts: readonly string[]): HTMLElement {
  const label = dayLabel(zone, Date.parse(start))
  const [day = '', month = ''] = label.split(' ')
  const isFirst = column === 0 || day === '1'
  const shown = isFirst ? `${day} ${month}` : starts.length <= 45 || Number(day) % 5 === 0 ? day : ''
  return element('th', { role: 'columnheader', scope: 'col', 'aria-label': label, class: 'day' }, shown)
}

function noDay(source: string, start: string): CoverageDay {
  return { source, start, end: start, windows: 0, states: {}, gaps: [], gaps_more: 0 }
}
