/** Draws usage over time with uPlot: stacked bars of what adds up, lines of what does not; read by mouse, finger and keyboard. */
import type uPlot from 'uplot'
import { announce, element } from './elements.ts'
import { added, axisLabel, grouped, pixels, share } from './figures.ts'
import type { Series } from './usage-rows.ts'

/** Its script sets it before ours runs. */
declare const window: Window & { readonly uPlot: typeof uPlot }

export interface ChartWanted {
  readonly series: Series
  readonly title: string
  readonly unit: string
  readonly isAdditive: boolean
  /** Of the whole span and all groups, as the API says it. */
  readonly total: string | undefined
  readonly windowLabel: (atMs: number) => string
  readonly tickLabel: (atMs: number) => string
  readonly totalHeading: string
  /** Another chart takes its place. */
  readonly signal: AbortSignal
}

const heightPx = 260
const colourOf = (key: string, index: number) =>
  `var(--series-${key.startsWith('\u0000') ? 'others' : (index % 8) + 1})`

/** The chart, its legend and what the cursor is over. It follows the width of its place, and the colours of the page. */
export function chartElement(wanted: ChartWanted): HTMLElement {
  const { series, unit, isAdditive, windowLabel } = wanted
  const { groups, starts, values } = series
  const shown = new Set(groups.keys())
  let at: number | undefined

  const readout = element('p', { class: 'readout' })
  const place = element('div', {
    class: 'plot',
    tabindex: '0',
    role: 'application',
    'aria-roledescription': 'chart',
    'aria-label': `${wanted.title}. ${starts.length} windows. Arrow keys read them one by one; Home and End go to the ends.`,
    onkeydown: (event: KeyboardEvent) => moved(event),
  })
  const current = groups.map(() => element('td', { class: 'number current' }, '–'))
  const legend = legendOf(wanted, current, index => {
    if (shown.has(index)) shown.delete(index)
    else shown.add(index)
    draw()
    return shown.has(index)
  })

  // Of a custom property the browser gives the text, `light-dark(…)` and all; of a colour that is used, the colour.
  const probe = element('span', { hidden: true })
  const resolved = (colour: string) => {
    probe.style.color = colour
    return getComputedStyle(probe).color
  }
  let plot: uPlot | undefined
  const numbers = () => {
    const columns = groups.map((_, index) =>
      starts.map((_start, window) => {
        const value = values[index]?.[window]
        return value === undefined ? null : pixels(value)
      }),
    )
    if (!isAdditive) return columns
    // Each stands on those below it; what is hidden has no height.
    const sums = starts.map(() => 0)
    return columns.map((column, index) =>
      column.map((value, window) => {
        sums[window] = sums[window]! + (shown.has(index) ? (value ?? 0) : 0)
        return sums[window] === 0 ? null : sums[window]!
      }),
    )
  }

  function draw(): void {
    plot?.destroy()
    const columns = numbers()
    const order = isAdditive ? [...groups.keys()].reverse() : [...groups.keys()]
    const text = resolved('var(--muted)')
    const line = resolved('var(--line)')
    const surface = resolved('var(--surface)')
    const { uPlot } = window
    const axis = { stroke: text, font: '12px system-ui, sans-serif', ticks: { stroke: line, width: 1 } }
    plot = new uPlot(
      {
        width: Math.max(place.clientWidth, 200),
        height: heightPx,
        padding: [12, 8, 0, 0],
        legend: { show: false },
        cursor: {
          drag: { x: false, y: false },
          y: false,
          points: { show: false },
          move: (_self, left, top) => [left, top],
        },
        scales: {
          x: { time: false, range: () => [-0.6, starts.length - 0.4] },
          y: {
            range: (_self, low, high) => [Math.min(0, low ?? 0), (high ?? 0) > 0 ? high * 1.08 : 1],
          },
        },
        axes: [
          {
            ...axis,
            grid: { show: false },
            size: 34,
            space: 64,
            incrs: [1, 2, 3, 6, 7, 12, 14, 24, 28, 48, 72, 96, 168, 336, 720, 1440],
            values: (_self, places) =>
              places.map(index =>
                Number.isInteger(index) && starts[index] !== undefined ? wanted.tickLabel(starts[index]) : '',
              ),
          },
          {
            ...axis,
            size: 58,
            grid: { stroke: line, width: 1 },
            values: (_self, marks) => marks.map(axisLabel),
          },
        ],
        series: [
          {},
          ...order.map(index => {
            const colour = resolved(colourOf(groups[index]!.key, index))
            return isAdditive
              ? {
                  show: shown.has(index),
                  fill: colour,
                  stroke: surface,
                  width: 1,
                  points: { show: false },
                  paths: uPlot.paths.bars!({ size: [0.82, 56], align: 0 }),
                }
              : { show: shown.has(index), stroke: colour, width: 2, spanGaps: false, points: { size: 5 } }
          }),
        ],
        hooks: {
          setCursor: [
            self => {
              const { left = -1 } = self.cursor
              const over = left < 0 ? undefined : Math.round(self.posToVal(left, 'x'))
              read(over !== undefined && over >= 0 && over < starts.length ? over : undefined)
            },
          ],
        },
      },
      [starts.map((_, index) => index), ...order.map(index => columns[index]!)],
      place,
    )
  }

  /** Shows the values of a window. */
  function read(window: number | undefined): void {
    if (window === at && readout.childNodes.length > 0) return
    at = window
    for (const [index, cell] of current.entries())
      cell.textContent = window === undefined ? '–' : grouped(values[index]?.[window] ?? '0')
    readout.replaceChildren(...(window === undefined ? [readHint()] : [readWindow(window)]))
  }

  function readHint(): Node {
    const span = `${windowLabel(starts[0] ?? 0)} to ${windowLabel(starts.at(-1) ?? 0)}`
    return element('span', { class: 'muted' }, span)
  }

  function readWindow(window: number): Node {
    const found = groups.flatMap((_, index) => values[index]?.[window] ?? [])
    return element(
      'span',
      {},
      element('strong', {}, windowLabel(starts[window]!)),
      isAdditive ? ` · ${grouped(added(found))} ${unit}` : '',
    )
  }

  function moved(event: KeyboardEvent): void {
    const last = starts.length - 1
    const steps: Readonly<Record<string, number>> = {
      ArrowRight: at === undefined ? 0 : Math.min(last, at + 1),
      ArrowLeft: at === undefined ? last : Math.max(0, at - 1),
      Home: 0,
      End: last,
    }
    const to = steps[event.key]
    if (event.key === 'Escape') {
      plot?.setCursor({ left: -10, top: -10 })
      read(undefined)
      return
    }
    if (to === undefined || !plot) return
    event.preventDefault()
    plot.setCursor({ left: plot.valToPos(to, 'x'), top: 20 })
    read(to)
    const parts = groups.flatMap(({ name }, index) => {
      const value = values[index]?.[to]
      return value === undefined ? [] : [`${name} ${value} ${unit}`]
    })
    announce(`${windowLabel(starts[to]!)}: ${parts.length === 0 ? 'nothing' : parts.join(', ')}`)
  }

  read(undefined)
  const whole = element('div', { class: 'chart' }, readout, place, legend, probe)
  const resized = new ResizeObserver(() => {
    if (!place.isConnected) return
    if (!plot) draw()
    else if (place.clientWidth > 0 && plot.width !== place.clientWidth)
      plot.setSize({ width: place.clientWidth, height: heightPx })
  })
  resized.observe(place)
  const { signal } = wanted
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw, { signal })
  document.addEventListener('themechange', draw, { signal })
  signal.addEventListener('abort', () => resized.disconnect(), { once: true })
  return whole
}

/** Each group with its values; a press hides it from the chart. */
function legendOf(
  { series, unit, total, totalHeading, isAdditive }: ChartWanted,
  current: readonly HTMLElement[],
  toggle: (index: number) => boolean,
): HTMLElement {
  const rows = series.groups.map(({ key, name, total: ofGroup }, index) => {
    const swatch = element('span', { class: 'swatch' })
    swatch.style.background = colourOf(key, index)
    const button: HTMLButtonElement = element(
      'button',
      {
        type: 'button',
        class: 'legend-key',
        'aria-pressed': 'true',
        title: 'Show or hide in the chart',
        onclick: () => button.setAttribute('aria-pressed', String(toggle(index))),
      },
      swatch,
      name,
    )
    return element(
      'tr',
      {},
      element('th', { scope: 'row' }, button),
      current[index],
      element('td', { class: 'number' }, `${grouped(ofGroup)} ${unit}`),
      element(
        'td',
        { class: 'number muted' },
        isAdditive && total !== undefined ? share(ofGroup, total) : '',
      ),
    )
  })
  return element(
    'table',
    { class: 'legend' },
    element('caption', { class: 'unseen' }, 'Legend with totals'),
    element(
      'thead',
      {},
      element(
        'tr',
        {},
        element('th', { scope: 'col' }, 'Series'),
        element('th', { scope: 'col', class: 'number current' }, 'At cursor'),
        element('th', { scope: 'col', class: 'number' }, totalHeading),
        element('th', { scope: 'col', class: 'number' }, isAdditive ? 'Share' : ''),
      ),
    ),
    element('tbody', {}, ...rows),
    total !== undefined &&
      element(
        'tfoot',
        {},
        element(
          'tr',
          {},
          element('th', { scope: 'row' }, 'All'),
          element('td', { class: 'number current' }, ''),
          element('td', { class: 'number', id: 'usage-total' }, `${grouped(total)} ${unit}`),
          element('td', {}, ''),
        ),
      ),
  )
}
