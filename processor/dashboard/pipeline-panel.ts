/** How the pipeline is doing, for those who run it: what is wrong in words, how far it is, what waits, what was rejected. */
import { missingOf } from './coverage-panel.ts'
import { element } from './elements.ts'
import { grouped } from './figures.ts'
import type { Shown } from './panel.ts'
import type { Scene } from './scene.ts'
import { tableElement } from './tables.ts'
import { sourceName } from './usage-panel.ts'
import { timeLabel } from './zones.ts'

/** `GET /api/v1/status`. */
export interface Status {
  readonly at: string
  readonly ready: boolean
  readonly checks: Readonly<Record<string, string>>
  readonly log?: {
    readonly lag_messages: number
    readonly paused_partitions: readonly number[]
    readonly problem?: string
  }
  readonly outbox?: {
    readonly waiting_rows: number
    readonly waiting_bytes: number
    readonly kept_bytes: number
    readonly bytes_max: number
    readonly oldest_seconds: number
    readonly quarantined_rows: number
  }
  readonly acknowledged?: string
  readonly rejected: readonly { readonly code: string; readonly messages: number }[]
  readonly stale: { readonly cells: number; readonly oldest_seconds: number }
  readonly sources: readonly {
    readonly source: string
    readonly covered_until?: string
    readonly behind_seconds?: number
    readonly windows: Readonly<Record<string, number>>
  }[]
}

/** `3 min`, `2 h 5 min`, `4 d 3 h`. */
export function ageText(seconds: number): string {
  if (seconds < 60) return `${seconds} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  const rest = (count: number, unit: string) => (count === 0 ? '' : ` ${count} ${unit}`)
  if (hours < 24) return `${hours} h${rest(minutes % 60, 'min')}`
  return `${grouped(String(Math.floor(hours / 24)))} d${rest(hours % 24, 'h')}`
}

/** `1.2 MB`: how full something is, not how much is billed. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let size = bytes
  let unit = 0
  for (; size >= 1000 && unit < units.length - 1; unit += 1) size /= 1000
  return `${Number(size.toPrecision(3))} ${units[unit]}`
}

export async function loadPipeline(scene: Scene, signal: AbortSignal): Promise<Shown> {
  return statusShown(scene, await scene.ask<Status>('status', {}, signal))
}

type Tile = readonly [name: string, value: string, about: string, mood?: 'bad' | 'good' | undefined]

function tilesOf({ view }: Scene, status: Status): readonly Tile[] {
  const { log, outbox, acknowledged, rejected, stale } = status
  const wrong = Object.values(status.checks).filter(result => result !== 'ok').length
  const rejects = rejected.reduce((sum, { messages }) => sum + messages, 0)
  const count = (value: number) => grouped(String(value))
  return [
    wrong === 0
      ? ['Checks', 'All well', `${Object.keys(status.checks).length} checks`, 'good']
      : ['Checks', `${wrong} wrong`, `of ${Object.keys(status.checks).length}`, 'bad'],
    log
      ? [
          'Behind the log',
          `${count(log.lag_messages)}`,
          'messages not taken yet',
          log.problem ? 'bad' : undefined,
        ]
      : ['Behind the log', 'unknown', 'the log does not answer', 'bad'],
    ...(outbox
      ? [
          [
            'Outbox',
            count(outbox.waiting_rows),
            outbox.waiting_rows === 0
              ? `events wait; ${bytesText(outbox.kept_bytes)} kept`
              : `events wait, the oldest ${ageText(outbox.oldest_seconds)}`,
            outbox.quarantined_rows > 0 ? 'bad' : undefined,
          ] satisfies Tile,
        ]
      : []),
    ['Rejected in 24 h', count(rejects), 'messages', rejects > 0 ? 'bad' : undefined],
    [
      'Last acknowledged',
      acknowledged === undefined
        ? 'never'
        : `${ageText(Math.max(0, Math.floor((Date.parse(status.at) - Date.parse(acknowledged)) / 1000)))} ago`,
      acknowledged === undefined ? '' : timeLabel(view.zone, Date.parse(acknowledged)),
    ],
    [
      'Being recomputed',
      count(stale.cells),
      stale.cells === 0 ? 'hours of tenants' : `hours of tenants, since ${ageText(stale.oldest_seconds)}`,
    ],
  ]
}

export function statusShown(scene: Scene, status: Status): Shown {
  const wrong = Object.entries(status.checks).filter(([, result]) => result !== 'ok')
  const tiles = tilesOf(scene, status)
  const late = status.log === undefined ? undefined : grouped(String(status.log.lag_messages))
  return {
    summary:
      wrong.length === 0
        ? { value: 'All well', about: late === undefined ? '' : `${late} messages behind`, mood: 'good' }
        : { value: `${wrong.length} wrong`, about: wrong[0]?.[0] ?? '', mood: 'bad' },
    said:
      wrong.length === 0 ? '' : `Pipeline: ${wrong.map(([name, result]) => `${name}: ${result}`).join('; ')}`,
    content: [
      wrong.length > 0 &&
        element(
          'ul',
          { class: 'wrong', 'aria-label': 'What is wrong' },
          ...wrong.map(([name, result]) => element('li', {}, element('strong', {}, name), ` ${result}`)),
        ),
      element(
        'dl',
        { class: 'tiles' },
        ...tiles.map(([name, value, about, mood]) =>
          element(
            'div',
            { class: 'tile' },
            element('dt', {}, name),
            element('dd', { class: mood }, value, ' ', element('small', {}, about)),
          ),
        ),
      ),
      status.rejected.length > 0 &&
        tableElement(
          {
            caption: 'Rejected messages of the last 24 hours',
            columns: [{ heading: 'Reason' }, { heading: 'Messages', isNumber: true }],
            rows: status.rejected.map(({ code, messages }) => [code, String(messages)]),
          },
          { showsCaption: true },
        ),
      status.sources.length > 0 &&
        tableElement(
          {
            caption: 'Sources, last 24 hours',
            columns: [
              { heading: 'Source' },
              { heading: 'Read until' },
              { heading: 'Behind' },
              { heading: 'Windows', isNumber: true },
              { heading: 'Missing', isNumber: true },
            ],
            rows: status.sources.map(({ source, covered_until, behind_seconds, windows }) => [
              sourceName(source),
              covered_until === undefined
                ? 'nothing yet'
                : timeLabel(scene.view.zone, Date.parse(covered_until)),
              behind_seconds === undefined ? '' : ageText(behind_seconds),
              String(Object.values(windows).reduce((sum, number) => sum + number, 0)),
              String(missingOf(windows)),
            ]),
          },
          {
            showsCaption: true,
            cell: (row, column) => {
              const count = column === 4 ? missingOf(status.sources[row]!.windows) : 0
              return count === 0 ? undefined : element('strong', { class: 'bad' }, grouped(String(count)))
            },
          },
        ),
      element('p', { class: 'note' }, `As of ${timeLabel(scene.view.zone, Date.parse(status.at))}`),
    ],
  }
}
