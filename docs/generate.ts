/** Writes docs/reference/ from the schemas and tables in the code (`npm run docs`), so that the two cannot differ. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TSchema } from 'typebox'
import { sources } from '../collector/sources/list.ts'
import { AccountsFile } from '../schemas/accounts.ts'
import { Config, SourceFrame } from '../schemas/config.ts'
import { contentHash, MarkEvent, ReadingEvent, sealMark, sealReading, showDigest } from '../schemas/event.ts'
import { faults } from '../schemas/fault.ts'
import { measures } from '../schemas/measures.ts'
import { CatalogueFile, defaultMeters } from '../schemas/meters.ts'
import { type SchemaNode, type SchemaOption, schemaOptions, showDefault } from '../schemas/options.ts'
import {
  AmendmentEvent,
  PushedAmendmentEvent,
  PushedMarkEvent,
  pushedBytesMax,
  pushedDepthMax,
  pushedMarkType,
  pushedValuesMax,
  RefusalEvent,
  ReplayEvent,
  wholeScope,
} from '../schemas/pushed.ts'
import { windowAt } from '../schemas/window.ts'

/** Every page by its file name in docs/reference/. */
export function referencePages(): Readonly<Record<string, string>> {
  return {
    'faults.md': faultsPage(),
    'events.md': eventsPage(),
    'measures.md': measuresPage(),
    'meters.md': metersPage(),
    'config.md': configPage(),
    'sources.md': sourcesPage(),
    'config.schema.json': `${JSON.stringify(editorSchema(), null, 2)}\n`,
  }
}

// -- pages

function faultsPage(): string {
  const fates = `\`retry\`: the same call may succeed later, and the window stays due. \`reject\`: this item or message is set aside with its
reason, and the rest goes on. \`halt\`: a person must act; the process or command stops.`
  const rows = Object.entries(faults).map(([code, { fate, meaning, remedy }]) => [
    code,
    fate,
    meaning,
    remedy,
  ])
  return page(
    'Faults',
    `Every failure that Meterline knows, what happens next, and what to do.\n\n${fates}`,
    [table(['Code', 'Fate', 'What it is', 'What to do'], rows)],
  )
}

function eventsPage(): string {
  const window = windowAt(Date.UTC(2026, 1, 12, 8), 60)
  const read = {
    source: 'meterline/rafay/prod',
    scope: 'lk5xnd2/h100-8x',
    window,
    readatMs: Date.UTC(2026, 1, 12, 9, 3, 11, 120),
  }
  const reading = sealReading(
    {
      thing: 'instance',
      subject: 'lk5xnd2',
      resource: { kind: 'instance', id: '019c510c-86c4-707d-aef7-15fa6af0422e', name: 'dev-vm-1' },
      measures: { instance_seconds: '3600', gpu_seconds: '28800' },
      labels: {
        organization: 'Goodlife',
        profile: 'h100-8x',
        profile_type: 'compute',
        gpu_type: 'Nvidia H100',
      },
    },
    'rafay',
    read,
  )
  const mark = sealMark(
    {
      outcome: 'complete',
      events: 1,
      digest: showDigest(contentHash(reading)),
      settled: false,
      estimated: false,
    },
    read,
  )
  const pushedMark = {
    specversion: '1.0',
    id: 'marks/2026-02-12T08:00:00Z/1',
    source: 'https://inference.example/usage',
    type: pushedMarkType,
    subject: 'lk5xnd2',
    data: {
      window: { start: '2026-02-12T08:00:00Z', end: '2026-02-12T09:00:00Z' },
      events: 1042,
      settled: true,
    },
  }
  return page(
    'Events',
    `What travels from collector to ledger: CloudEvents 1.0 in JSON. A reading says what one resource used in one window; a mark
ends a read. Both have the partition key of their source and scope, so that a mark comes after its readings.`,
    [
      '## A reading',
      fenced(reading),
      memberTable(ReadingEvent),
      'Its `measures` are those of [measures.md](measures.md).',
      '## A mark',
      fenced(mark),
      memberTable(MarkEvent),
      '## Pushed events',
      `Any other CloudEvent with JSON data may be pushed to \`POST /api/v1/events\`, structured, binary or as a batch, or sent to
the topic with the key \`source id\`, so that one identity is in one partition. Its identity is \`source\` and \`id\` alone: the first one counts, the same again is a duplicate, anything else under
it is a conflict. \`subject\` is needed; \`time\` is between 2000 and a day ahead, and when the log took it where it is missing.
At most ${pushedBytesMax} bytes, ${pushedDepthMax} levels and ${pushedValuesMax} values. Sources that begin with \`meterline/\` and types that
begin with \`io.meterline.\` are Meterline's own, but for a pusher's mark and its amendments.`,
      '### A mark of a pusher',
      `Says that the pusher has sent \`events\` events of its source (and of \`subject\`, where it names one) whose \`time\` is in
the window: as many as there are different \`id\`s, however often each was sent. It may be sent before, between or after
them, the same way. The window is then a window of coverage, of scope \`${wholeScope}\` or of the subject as its scope: \`settled\` once
the ledger has that many (\`read\` where the mark says \`settled: false\`), else \`incomplete\`; from the first mark on, a window
without one is \`never\`. A later mark of the same window takes the place of the earlier one. All windows of one hour and
scope have one width, else \`GRID_OVERLAP\`. An event without a \`time\` has the time at which the log took it, which its
sender does not know: give each one. An amendment changes what an event says, and not that it was sent. To the topic a mark
goes with the key \`source scope\`, so that the later of two is behind the other.`,
      fenced(pushedMark),
      memberTable(PushedMarkEvent),
      '### An amendment, pushed',
      `What an event is to say instead (\`action: amend\`, with the whole of it in \`event\`), or that it counts for nothing
(\`action: void\`). It takes a key with the scope \`amend\`, whose name the ledger keeps as its author; of several amendments
of one event the latest counts. Sent again under its \`source\` and \`id\` it is the same one.`,
      memberTable(PushedAmendmentEvent),
      "Three more are Meterline's own, about pushed events.",
      '### The amendment of a pushed event',
      memberTable(AmendmentEvent),
      '### What HTTP refused',
      memberTable(RefusalEvent),
      '### A rejected message that comes again',
      memberTable(ReplayEvent),
    ],
  )
}

function measuresPage(): string {
  const bounds = { window: 'the seconds of its window, for each part', free: '1e24' }
  const rows = Object.entries(measures).map(([name, { unit, meaning, bound }]) => [
    `\`${name}\``,
    unit,
    meaning,
    bounds[bound],
  ])
  return page(
    'Measures',
    `The quantities a reading may hold, integrated over its window. Each is a decimal as text, with at most 24 digits before the
point and 12 after it, and never negative. Values beyond are rejected, never rounded.`,
    [table(['Name', 'Unit', 'What it is', 'At most'], rows)],
  )
}

function metersPage(): string {
  const rows = defaultMeters.map(meter => [
    `\`${meter.slug}\``,
    meter.description ?? '',
    `${meter.aggregation} ${meter.value ?? ''}${meter.per === undefined ? '' : ` / ${meter.per}`}`,
    meter.unit,
    Object.keys(meter.groupBy).join(', '),
    meter.eventTypes.join(', '),
  ])
  return page(
    'Meters',
    'A meter is a named aggregation over events. A catalogue file (`catalogue` in [config.md](config.md)) replaces those that come\nwith Meterline.',
    [
      '## Those that come with Meterline',
      table(['Slug', 'What it counts', 'Aggregation', 'Unit', 'Dims', 'Event types'], rows),
      '## A catalogue file',
      optionTable(CatalogueFile),
    ],
  )
}

function configPage(): string {
  return page(
    'Configuration',
    `One YAML file, \`meterline.yaml\` unless \`--config\` names another. A path in it, or in a file it names, is relative to that
file. \`meterline check\` names every problem in all of them at once. Editors complete and check it by
[config.schema.json](config.schema.json):`,
    [
      '```yaml\n# yaml-language-server: $schema=config.schema.json\n```',
      `A secret is a reference: \`\${env:NAME}\`, \`\${file:path}\` or \`file:path\`. It is read anew at each use, so a rotated secret
counts at once; a newline at the end of a file is not part of it.`,
      '## meterline.yaml',
      optionTable(Config),
      'The options of each kind of source are in [sources.md](sources.md).',
      '## The accounts file',
      `A tenant has one payer at any time. A currency is that of the account's price book.`,
      optionTable(AccountsFile),
      '## The catalogue file',
      'See [meters.md](meters.md).',
    ],
  )
}

function sourcesPage(): string {
  const common = Object.keys(SourceFrame.properties)
  const kinds = sources.flatMap(({ kind, summary, config }) => [
    `## ${kind}`,
    summary,
    tableOf(schemaOptions(config, words).filter(({ name }) => !common.includes(name))),
  ])
  return page('Sources', 'The kinds of sources, each an entry of `sources` in [config.md](config.md).', [
    '## Options of every source',
    optionTable(SourceFrame),
    ...kinds,
  ])
}

// -- the schema for editors

/** One schema of the whole file: sources by their kind, and nothing required that has a default. */
function editorSchema(): object {
  const main = forEditors(Config as SchemaNode) as { properties: Record<string, object> }
  const kinds = sources.map(({ kind, summary, config }) => {
    const frame = SourceFrame as SchemaNode
    const own = config as SchemaNode
    const whole = {
      ...own,
      description: summary,
      properties: {
        ...frame.properties,
        ...own.properties,
        kind: { const: kind, description: frame.properties?.kind?.description },
      },
      required: [...new Set([...(frame.required ?? []), ...(own.required ?? [])])],
    }
    return forEditors(whole as SchemaNode)
  })
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Meterline configuration',
    ...main,
    properties: { ...main.properties, sources: { ...main.properties.sources, items: { anyOf: kinds } } },
  }
}

function forEditors(node: SchemaNode): object {
  const { secret: _, file: __, required, properties, items, anyOf, ...plain } = node
  const needed = required?.filter(name => properties?.[name]?.default === undefined) ?? []
  const each = (all: Readonly<Record<string, SchemaNode>>) =>
    Object.fromEntries(Object.entries(all).map(([name, inner]) => [name, forEditors(inner)]))
  return {
    ...plain,
    ...(properties && { properties: each(properties) }),
    ...(needed.length > 0 && { required: needed }),
    ...(items && { items: forEditors(items) }),
    ...(anyOf && { anyOf: anyOf.map(forEditors) }),
  }
}

// -- options of a schema

/** Values stand as code; measures have a page of their own. */
const words = {
  values: (values: readonly string[]) => values.map(value => `\`${value}\``).join(', '),
  closed: (name: string) => name === 'data.measures',
}

function otherwiseOf(option: SchemaOption): string {
  const text = showDefault(option)
  if (text !== '') return `\`${text}\``
  return option.required ? 'required' : ''
}

function optionTable(schema: TSchema): string {
  return tableOf(schemaOptions(schema, words))
}

function tableOf(options: readonly SchemaOption[]): string {
  const rows = options.map(option => [
    `\`${option.name}\``,
    option.type,
    otherwiseOf(option),
    option.description,
  ])
  return table(['Option', 'Type', 'Default', 'What it is'], rows)
}

function memberTable(schema: TSchema): string {
  const rows = schemaOptions(schema, words).map(option => [
    `\`${option.name}\``,
    option.type,
    option.required ? '' : 'optional',
    option.description,
  ])
  return table(['Member', 'Type', '', 'What it is'], rows)
}

// -- Markdown

function page(title: string, summary: string, parts: readonly string[]): string {
  const origin = '<!-- Made by docs/generate.ts from the code: change it there, then run `npm run docs`. -->'
  return `${[`# ${title}`, origin, summary, ...parts].join('\n\n')}\n`
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n')
}

function fenced(json: object): string {
  return `\`\`\`json\n${JSON.stringify(json, null, 2)}\n\`\`\``
}

if (import.meta.main) {
  const folder = join(import.meta.dirname, 'reference')
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of Object.entries(referencePages())) writeFileSync(join(folder, name), text)
}
