/** Usage over time, and who or what used it: chart, table, and the way down from tenants to resources. */
import type { Params } from './ask.ts'
import { element } from './elements.ts'
import { compared, grouped, pixels, share, unitName } from './figures.ts'
import { dimName, isAdditive, meterName, nameDim, resourceDim, splitsOf } from './meters.ts'
import { nothing, type Shown } from './panel.ts'
import { linkTo, listOf, nameOfTenant, type Scene } from './scene.ts'
import type { Table } from './table.ts'
import { tableElement } from './tables.ts'
import { chartElement } from './usage-chart.ts'
import { keyOf, noName, seriesOf, tenantKey, totalsBy, type UsageRow } from './usage-rows.ts'
import { fittingStep } from './view.ts'
import { dayLabel, tickLabel, timeLabel, windowLabel, windowStarts } from './zones.ts'

const groupsMax = 8
const listedMax = 50

/** By what the chart is split: as asked, or the first that the meter has. */
export function splitOf({ meter, view }: Pick<Scene, 'meter' | 'view'>): string {
  const splits = splitsOf(meter, view.tenant !== undefined)
  return view.by !== undefined && splits.includes(view.by) ? view.by : (splits[0] ?? 'tenant')
}

/** What is asked of every answer of the view: the meter, the span, and what is drilled down to. */
function asked(scene: Scene, groupBy: readonly string[], more: Params = {}): Params {
  const { meter, view, span } = scene
  const resource = resourceDim(meter)
  return {
    meter: meter.slug,
    from: new Date(span.fromMs).toISOString(),
    to: new Date(span.toMs).toISOString(),
    zone: view.zone,
    ...(groupBy.length > 0 && { groupBy: groupBy.join(',') }),
    ...(view.tenant && { subject: view.tenant.subject }),
    ...(view.tenant && view.tenant.source !== '' && { source: view.tenant.source }),
    ...(view.resource !== undefined && resource !== undefined && { [`filter[${resource}]`]: view.resource }),
    ...more,
  }
}

const dimsFor = (by: string) => (by === 'tenant' ? ['source', 'subject'] : [by])

async function rowsOf(scene: Scene, params: Params, signal: AbortSignal): Promise<readonly UsageRow[]> {
  return listOf<UsageRow>(await scene.ask('usage', params, signal))
}

const wholes = new WeakMap<Scene, Promise<readonly UsageRow[]>>()

/**
 * All of the view in one row: the total that the API gives, which a sum of rounded quotients may miss by a digit. Asked
 * once for all panels, so none of them may abort it.
 */
async function wholeOf(scene: Scene): Promise<readonly UsageRow[]> {
  const known = wholes.get(scene)
  if (known) return await known
  // Without any name rows are told apart by source and subject.
  const asking = rowsOf(scene, asked(scene, [], { groupBy: ',' }), new AbortController().signal)
  wholes.set(scene, asking)
  // Whoever asks again after a failure has another answer.
  asking.catch(() => wholes.delete(scene))
  return await asking
}

/** `Jun 1 to Jun 30`, as a heading says it. */
export function spanLabel({ span, view }: Pick<Scene, 'span' | 'view'>): string {
  const [first, last] = [dayLabel(view.zone, span.fromMs), dayLabel(view.zone, span.toMs - 1)]
  if (span.toMs - span.fromMs <= 26 * 3_600_000 && first !== last)
    return `${timeLabel(view.zone, span.fromMs)} to ${timeLabel(view.zone, span.toMs)}`
  return first === last ? first : `${first} to ${last}`
}

export interface UsageShown extends Shown {
  readonly table: Table
}

/** The chart and its table. */
export async function loadUsage(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { meter, view, span } = scene
  const by = splitOf(scene)
  const step = view.window ?? fittingStep(span)
  const [rows, totals, whole] = await Promise.all([
    rowsOf(scene, asked(scene, dimsFor(by), { window: step }), signal),
    rowsOf(scene, asked(scene, dimsFor(by)), signal),
    wholeOf(scene),
  ])
  const unit = unitName(rows[0]?.unit ?? '')
  const name = meterName(meter)
  const nameOf = (key: string) => (by === 'tenant' ? tenantText(scene, key) : key === '' ? noName : key)
  const table: Table = {
    caption: `${name} by ${dimName(by).replace(/^T/, 't')}, ${spanLabel(scene)}`,
    columns: [
      { heading: 'From' },
      { heading: 'To' },
      { heading: dimName(by) },
      { heading: name, isNumber: true },
      { heading: 'Unit' },
    ],
    rows: rows.map(row => [
      row.window_start,
      row.window_end,
      nameOf(keyOf(row, by)),
      row.value,
      unitName(row.unit),
    ]),
  }
  if (rows.length === 0)
    return {
      table,
      said: `No usage of ${name} in this range`,
      summary: { value: '0', about: name },
      content: [
        nothing(
          `No usage from ${spanLabel(scene)}`,
          `Nothing of ${name} is in the ledger for these days. Coverage, below, says whether they were read.`,
        ),
      ],
    }
  const series = seriesOf(rows, totals, {
    by,
    starts: windowStarts(span, view.zone, step),
    groupsMax,
    isAdditive: isAdditive(meter),
    nameOf,
  })
  const total = whole.length === 1 ? whole[0]?.value : undefined
  const content =
    view.as === 'table'
      ? tableElement(table, {
          cell: (row, column) =>
            column > 1
              ? undefined
              : document.createTextNode(timeLabel(view.zone, Date.parse(table.rows[row]![column]!))),
        })
      : chartElement({
          series,
          title: table.caption,
          unit,
          isAdditive: isAdditive(meter),
          total,
          windowLabel: atMs => windowLabel(view.zone, step, atMs),
          tickLabel: atMs => tickLabel(view.zone, step, atMs),
          totalHeading: isAdditive(meter) ? 'Total' : 'Over the range',
          signal,
        })
  return {
    table,
    ...(total !== undefined && { summary: { value: `${grouped(total)} ${unit}`, about: name } }),
    said: `${table.caption}: ${total === undefined ? '' : `${total} ${unit}, `}${series.groups.length} series`,
    content: [
      content,
      series.others > 0 &&
        !isAdditive(meter) &&
        element('p', { class: 'note' }, `The ${series.others} smallest are not drawn; the table has them.`),
      series.isSplit &&
        element(
          'p',
          { class: 'note' },
          'Readings that cross the edge of a window count in each by their share of the time.',
        ),
    ],
  }
}

function tenantText(scene: Scene, key: string): string {
  const [source = '', subject = ''] = JSON.parse(key) as readonly string[]
  return nameOfTenant(scene, { source, subject }) || noName
}

/** Tenants, or below a tenant its resources, largest first, each a way down. */
export async function loadRanking(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  return scene.view.tenant ? await loadResources(scene, signal) : await loadTenants(scene, signal)
}

interface Ranked {
  /** What stands in the first cell; the other cells of text stand below it in small. */
  readonly link: Node | string
  readonly cells: readonly string[]
  readonly value: string
}

function ranking(
  scene: Scene,
  headings: readonly string[],
  ranked: readonly Ranked[],
  unit: string,
  total: string | undefined,
): UsageShown {
  const name = meterName(scene.meter)
  const largest = ranked[0]?.value
  const adds = isAdditive(scene.meter) && total !== undefined
  const table: Table = {
    caption: `${headings[0]}s by ${name}, ${spanLabel(scene)}`,
    columns: [
      ...headings.map(heading => ({ heading })),
      { heading: `${name} (${unit})`, isNumber: true },
      ...(adds ? [{ heading: 'Share', isNumber: true }] : []),
    ],
    rows: ranked.map(({ cells, value }) => [...cells, value, ...(adds ? [share(value, total)] : [])]),
  }
  if (ranked.length === 0)
    return { table, said: '', content: [nothing('Nobody used anything', 'There is no usage in this range.')] }
  const seen: Table = {
    ...table,
    columns: [table.columns[0]!, ...table.columns.slice(headings.length)],
    rows: table.rows.map(row => [row[0]!, ...row.slice(headings.length)]),
  }
  return {
    table,
    said: '',
    content: [
      tableElement(seen, {
        cell: (row, column) => {
          const entry = ranked[row]!
          if (column === 0)
            return element(
              'span',
              {},
              entry.link,
              headings.length > 1 &&
                element(
                  'small',
                  {},
                  entry.cells
                    .slice(1)
                    .filter(text => text !== noName)
                    .join(' · '),
                ),
            )
          if (column !== 1) return undefined
          const length = element('span', { class: 'fill' })
          const part =
            largest === undefined || pixels(largest) <= 0 ? 0 : pixels(entry.value) / pixels(largest)
          length.style.width = `${Math.max(0, part) * 100}%`
          const track = element('span', { class: 'track', 'aria-hidden': 'true' }, length)
          return element(
            'span',
            { class: 'with-bar' },
            track,
            element('span', { class: 'amount' }, grouped(entry.value)),
          )
        },
      }),
      ranked.length >= listedMax &&
        element('p', { class: 'note' }, `The ${listedMax} largest. CSV of the API has all.`),
    ],
  }
}

async function loadTenants(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { meter, view, names } = scene
  const label = nameDim(meter)
  const [rows, whole] = await Promise.all([
    rowsOf(scene, asked(scene, ['source', 'subject', ...(label === undefined ? [] : [label])]), signal),
    wholeOf(scene),
  ])
  for (const row of rows) {
    const called = label === undefined ? undefined : row.group_by[label]
    if (called) names.set(keyOf(row, 'tenant'), called)
  }
  const ranked = [...totalsBy(rows, row => keyOf(row, 'tenant'))].slice(0, listedMax).map(([key, value]) => {
    const [source = '', subject = ''] = JSON.parse(key) as readonly string[]
    const called = nameOfTenant(scene, { source, subject })
    const { by: _split, resource: _none, ...rest } = view
    const link = linkTo(scene, { ...rest, tenant: { source, subject } }, called)
    return { link, cells: [called, subject, sourceName(source)], value }
  })
  const unit = unitName(rows[0]?.unit ?? '')
  return ranking(scene, ['Tenant', 'Id', 'Source'], ranked, unit, whole[0]?.value)
}

async function loadResources(scene: Scene, signal: AbortSignal): Promise<UsageShown> {
  const { meter, view, names } = scene
  const dim = resourceDim(meter)
  const tenant = view.tenant!
  const label = nameDim(meter)
  const beside = ['gpu_type', 'profile'].filter(name => splitsOf(meter, true).includes(name) && name !== dim)
  const dims = [...(dim === undefined ? [] : [dim]), ...beside, ...(label === undefined ? [] : [label])]
  const [rows, whole] = await Promise.all([rowsOf(scene, asked(scene, dims), signal), wholeOf(scene)])
  const called = label === undefined ? undefined : rows.at(-1)?.group_by[label]
  if (called) names.set(tenantKey(tenant.source, tenant.subject), called)
  const cellsOf = (row: UsageRow) => [
    dim === undefined ? noName : row.group_by[dim] || noName,
    ...beside.map(name => row.group_by[name] || noName),
  ]
  const byCells = new Map(rows.map(row => [JSON.stringify(cellsOf(row)), row]))
  const ranked = [...totalsBy(rows, row => JSON.stringify(cellsOf(row)))]
    .sort(([, a], [, b]) => compared(b, a))
    .slice(0, listedMax)
    .map(([key, value]) => {
      const cells = JSON.parse(key) as readonly string[]
      const resource = dim === undefined ? undefined : byCells.get(key)?.group_by[dim]
      const { by: _split, ...rest } = view
      const link =
        resource && view.resource === undefined
          ? linkTo(scene, { ...rest, resource }, resource)
          : (cells[0] ?? noName)
      return { link, cells, value }
    })
  const headings = [dim === undefined ? 'Resource' : dimName(dim), ...beside.map(dimName)]
  return ranking(scene, headings, ranked, unitName(rows[0]?.unit ?? ''), whole[0]?.value)
}

/** `meterline/rafay/demo` as `rafay/demo`: all of ours begin alike. */
export function sourceName(source: string): string {
  return source.replace(/^meterline\//, '')
}
