/** The commands about messages that did not count: which were rejected, which conflict, and how they come to count. */
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import {
  type ConflictRow,
  conflicts as conflictsOf,
  type NotReplayed,
  type RejectedAsked,
  type RejectedRow,
  rejectedRows,
  replayRejected,
} from '../processor/replay.ts'
import { type Column, printJson, printRows } from '../runtime/print.ts'
import { decodeStructured } from '../schemas/cloudevents.ts'
import { asFault, Fault } from '../schemas/fault.ts'
import {
  type AmendmentEvent,
  amendedContent,
  amendmentType,
  checkAboutPushed,
  pushedKey,
  sealAbout,
} from '../schemas/pushed.ts'
import { parseInstant } from '../schemas/window.ts'
import { configured, openSink, openStore, type Settings, spanOf } from './roles.ts'

const done = 0
const gaps = 3

interface Asked extends Settings {
  readonly code?: string
  readonly from?: string
  readonly to?: string
}

function askedOf({ code, from, to, nowMs }: Asked): RejectedAsked {
  return {
    ...(code !== undefined && { code }),
    ...((from !== undefined || to !== undefined) && {
      span: {
        startMs: from === undefined ? 0 : parseInstant(from, '--from'),
        endMs: to === undefined ? nowMs() + 1 : parseInstant(to, '--to'),
      },
    }),
  }
}

const place = ({ log, partition, offset }: Pick<RejectedRow, 'log' | 'partition' | 'offset'>) =>
  `${log}/${partition}:${offset}`

/** `meterline rejected`: a message that was not taken is a gap until a replay of it came in. */
export async function rejected(settings: Asked & { readonly limit?: string }): Promise<number> {
  const config = await configured(settings, 'meter')
  await using opened = await openStore(config, settings)
  const limit = settings.limit === undefined ? undefined : Number(settings.limit)
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0))
    throw new Fault('USAGE', `--limit ${settings.limit}: it is a whole number above 0`)
  const rows = await rejectedRows(opened.store, {
    ...askedOf(settings),
    ...(limit !== undefined && { limit }),
  })
  const columns: readonly Column<RejectedRow>[] = [
    { heading: 'place', text: place },
    { heading: 'at', text: row => row.at },
    { heading: 'from', text: row => row.origin },
    { heading: 'code', text: row => row.code },
    { heading: 'reason', text: row => row.reason },
    { heading: 'bytes', text: row => String(row.bytes), align: 'right' },
    { heading: 'kept', text: row => String(row.kept), align: 'right' },
    {
      heading: 'replayed',
      text: row =>
        row.replays.map(({ fate, code }) => (code === undefined ? fate : `${fate} ${code}`)).join(', '),
    },
  ]
  settings.stdout(printRows(rows, columns, settings.json === true ? 'json' : 'table'))
  return rows.every(isIn) ? done : gaps
}

function isIn({ replays }: RejectedRow): boolean {
  return replays.some(({ fate }) => fate !== 'rejected')
}

/** `meterline replay`: what can be taken by now goes into the log again; the rest is named, one a line. */
export async function replay(settings: Asked): Promise<number> {
  const config = await configured(settings, 'meter')
  await using opened = await openStore(config, settings)
  await using sink = await openSink(config, settings, { signal: settings.signal })
  const replayed = await replayRejected(opened.store, sink, {
    ...askedOf(settings),
    nowMs: settings.nowMs(),
    signal: settings.signal,
  })
  const left = replayed.left.filter(({ why }) => why !== 'done')
  if (settings.json === true) settings.stdout(printJson({ ...replayed, left }))
  else
    settings.stdout(`${replayed.sent} sent again, ${replayed.marks} marks behind them, ${left.length} left\n`)
  for (const one of left) settings.stderr(leftLine(one))
  for (const { source, scope, start, end } of replayed.unmarked)
    settings.stderr(
      `${source} ${scope} ${start} ${end}: its mark cannot be sent again: read this window again`,
    )
  return left.length === 0 && replayed.unmarked.length === 0 ? done : gaps
}

function leftLine(one: NotReplayed): string {
  return `${place(one)} ${one.why}: ${one.code} ${one.reason}`
}

/** `meterline conflicts`: messages under one identity that say different things, both contents side by side. */
export async function conflicts(
  settings: Settings & { readonly from: string; readonly to: string },
): Promise<number> {
  const config = await configured(settings, 'meter')
  await using opened = await openStore(config, settings)
  const rows = await conflictsOf(opened.store, spanOf(settings))
  const columns: readonly Column<ConflictRow>[] = [
    { heading: 'what', text: row => row.what },
    { heading: 'source', text: row => row.source },
    { heading: 'id', text: row => row.id },
    { heading: 'time', text: row => row.time ?? '' },
    { heading: 'counts', text: row => row.first },
    { heading: 'does not count', text: row => row.second },
    { heading: 'place', text: place },
  ]
  settings.stdout(printRows(rows, columns, settings.json === true ? 'json' : 'table'))
  return rows.length === 0 ? done : gaps
}

/** `meterline amend`: what a pushed event is to say instead, or that it is void, with name and reason. */
export async function amend(
  settings: Settings & {
    readonly source: string
    readonly id: string
    readonly void?: boolean
    readonly event?: string
    readonly author: string
    readonly reason: string
  },
): Promise<number> {
  if ((settings.void === true) === (settings.event !== undefined))
    throw new Fault('USAGE', 'either --void, or --event FILE with what it says instead')
  const config = await configured(settings, 'collect')
  const nowMs = settings.nowMs()
  const id = randomUUID()
  const key = pushedKey(settings.source, settings.id)
  const source = 'meterline/amend/person'
  const value = sealAbout<AmendmentEvent>({
    source,
    id,
    type: amendmentType,
    partitionkey: key,
    timeMs: nowMs,
    data: {
      source: settings.source,
      id: settings.id,
      action: settings.void === true ? 'void' : 'amend',
      ...(settings.event !== undefined && { event: await saidIn(settings.event) }),
      author: settings.author,
      reason: settings.reason,
    },
  })
  try {
    // What the processor would reject is better refused here.
    amendedContent(checkAboutPushed(decodeStructured(value)) as AmendmentEvent, nowMs)
  } catch (error) {
    throw new Fault('USAGE', asFault(error, 'USAGE').message, {}, { cause: error })
  }
  await using sink = await openSink(config, settings, { signal: settings.signal })
  await sink.put([{ source, id, key, value: Buffer.from(value) }])
  settings.stdout(
    settings.json === true ? printJson({ amendment: id }) : `amendment ${id} is on its way to the ledger\n`,
  )
  return done
}

async function saidIn(file: string): Promise<NonNullable<AmendmentEvent['data']['event']>> {
  try {
    // As the data of an event, so that every number keeps its digits.
    const head = '{"specversion":"1.0","id":"1","source":"1","type":"1","data":'
    return decodeStructured(`${head}${await readFile(file, 'utf8')}}`).data as never
  } catch (error) {
    throw new Fault('USAGE', `--event ${file}: ${asFault(error, 'USAGE').message}`, {}, { cause: error })
  }
}
