/** The command line: what each command is called and takes. What it does is imported when it runs, so that a collector loads no processor. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { stopSignal } from './runtime/stop.ts'
import { asFault, describeFault } from './schemas/fault.ts'
import { version } from './schemas/version.ts'

const signal = stopSignal()
const stdout = (text: string) => void process.stdout.write(text)
const stderr = (line: string) => void process.stderr.write(`${line}\n`)
const io = { signal, stdout, stderr, env: process.env, nowMs: () => Date.now() }

const program = new Command('meterline')
  .description(
    'Usage metering for GPU clouds: from what the machines did to invoice lines that can be proved.',
  )
  .version(version)
  .option('--config <file>', 'the YAML file that configures all', 'meterline.yaml')
  .option('--data <dir>', 'where the outbox and the embedded store are kept (default: as configured)')
  .option('--json', 'one JSON document on stdout and nothing else')
  .showHelpAfterError('(meterline --help tells more)')
  .configureOutput({ writeErr: text => process.stderr.write(text) })
  .exitOverride()

const settings = () => ({ ...io, ...program.opts<{ config: string; data?: string; json?: boolean }>() })
const span = (command: Command) =>
  command
    .requiredOption('--from <time>', 'RFC 3339, inclusive')
    .requiredOption('--to <time>', 'RFC 3339, exclusive')
const collected = (value: string, before: readonly string[] = []) => [...before, value]
const pairs = (value: string, before: Readonly<Record<string, readonly string[]>> = {}) => {
  const at = value.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('write name=value')
  const name = value.slice(0, at)
  return { ...before, [name]: [...(before[name] ?? []), value.slice(at + 1)] }
}

/** Runs a command; its exit code is what it resolves to, 0 if nothing. */
function runs<Args extends unknown[]>(act: (...args: Args) => Promise<number | undefined>) {
  return async (...args: Args) => {
    process.exitCode = (await act(...args)) ?? 0
  }
}

program
  .command('demo')
  .description('everything in one process against a bundled provider double: June 2025 of three tenants')
  .option('--once', 'end when June is rated')
  .addOption(
    new Option('--log <kind>', 'where events travel').choices(['embedded', 'kafka']).default('embedded'),
  )
  .action(runs(async options => (await import('./deploy/demo/demo.ts')).demo({ ...settings(), ...options })))

program
  .command('up')
  .description('collector and processor in one process')
  .action(runs(async () => (await import('./deploy/roles.ts')).up(settings())))

program
  .command('collect')
  .description('the collector; with --once a bounded read of the past, then its coverage')
  .option('--once', 'read from --from to --to and end')
  .option('--from <time>', 'RFC 3339, inclusive; widened to the grid of the source')
  .option('--to <time>', 'RFC 3339, exclusive')
  .option('--source <name>', 'only this source')
  .option('--scope <scope>', 'only this scope')
  .option('--restart', 'read everything, also what the same command has read within a day without finishing')
  .action(
    runs(async options => {
      // Before anything else is loaded: a collector mostly waits, and shares its node with paying work.
      ;(await import('./runtime/heap.ts')).keepHeapSmall()
      return (await import('./deploy/roles.ts')).collect({ ...settings(), ...options })
    }),
  )

program
  .command('process')
  .description('the processor: from Kafka into the ledger')
  .action(runs(async () => (await import('./deploy/roles.ts')).process({ ...settings() })))

program
  .command('rafay-csv')
  .description("drop-in for Rafay's published ncp_metrics.py: DAYS, RAFAY_CONSOLE_URL, RAFAY_DEFAULT_API_KEY")
  .option('--out <dir>', 'where the two files go', '.')
  .option('--book <file>', 'a price book: adds Billing Rate and Billing Amount')
  .option('--ratecards <file>', "Rafay's SKU price configuration: adds the same")
  .action(
    runs(async options => (await import('./deploy/commands.ts')).rafayCsv({ ...settings(), ...options })),
  )

const coverage = program
  .command('coverage')
  .description('which windows were read; exit 3 unless all were')
  .option('--from <time>', 'RFC 3339, inclusive (default: a week before --to)')
  .option('--to <time>', 'RFC 3339, exclusive (default: now)')
  .option('--source <name>', 'only this source')
  .option('--scope <scope>', 'only this scope')
  .option('--account <id>', 'only what this account waits for')
  .action(
    runs(async options => (await import('./deploy/commands.ts')).coverage({ ...settings(), ...options })),
  )
/** Options that `coverage` has too are taken by it, wherever they stand: they are named here for the help. */
const decision = (name: string, description: string) =>
  coverage
    .command(name)
    .description(description)
    .option('--source <name>', 'the source')
    .requiredOption('--reason <text>', 'why; it is recorded')
    .option('--author <name>', 'who decides (default: the user of the system)')
const decided = <Options extends object>(options: Options) => ({
  ...settings(),
  ...coverage.opts<{ from?: string; to?: string; source?: string; scope?: string }>(),
  ...(options as Options & { reason: string }),
})

decision('confirm', 'reads that are held back as suspect count as they are')
  .option('--from <time>', 'RFC 3339, inclusive')
  .option('--to <time>', 'RFC 3339, exclusive')
  .option('--scope <scope>', 'only this scope')
  .action(runs(async options => (await import('./deploy/decide.ts')).confirmReads(decided(options))))
decision('waive', 'invoices may close over what is missing')
  .option('--from <time>', 'RFC 3339, inclusive')
  .option('--to <time>', 'RFC 3339, exclusive')
  .option('--scope <scope>', 'only this scope; without it each in which something is missing')
  .option('--subject <subject>', 'only what is missing of this tenant')
  .action(runs(async options => (await import('./deploy/decide.ts')).waiveGaps(decided(options))))
decision('end', 'nothing is expected of a scope any longer')
  .option('--scope <scope>', 'the scope')
  .option('--from <time>', 'RFC 3339: from the first window that starts then or later')
  .action(runs(async options => (await import('./deploy/decide.ts')).endScope(decided(options))))

span(program.command('usage <meter>').description('the quantities of a meter'))
  .option(
    '--window <step>',
    'MINUTE, HOUR, DAY, WEEK, MONTH or an ISO 8601 duration; without it the span is one window',
  )
  .option('--zone <zone>', 'IANA time zone of the windows', 'UTC')
  .option('--group-by <dims>', 'dims to keep, with commas between')
  .option(
    '--where <dim=value>',
    'only this value of a dim; several times, any of them; a filter in JSON such as \'gpu_type={"$like":"H%"}\'',
    pairs,
  )
  .option('--subject <subject>', 'only this tenant; several times, any of them', collected)
  .option('--source <source>', 'only this source, meterline/kind/name; several times, any of them', collected)
  .option('--top <rows>', 'so many rows of each window, those of the largest values')
  .option('--as-of <when>', 'as the ledger stood then: a time, or LOG/PARTITION:OFFSET with commas between')
  .addOption(new Option('--format <format>').choices(['table', 'csv', 'json']).default('table'))
  .action(
    runs(async (meter, options) =>
      (await import('./deploy/commands.ts')).usage({ ...settings(), ...options, meter }),
    ),
  )

program
  .command('rate')
  .description('rates usage by a price book from a file, without a database')
  .requiredOption('--case <file>', 'the format of docs/reference/rating-cases.md')
  .action(runs(async options => (await import('./deploy/commands.ts')).rate({ ...settings(), ...options })))

span(program.command('export <format>').description('csv, jsonl or rafay-csv from the ledger'))
  .option('--account <id>', 'only this account')
  .option('--out <path>', 'a file, or for rafay-csv a directory (default: stdout, or here)')
  .action(
    runs(async (format, options) =>
      (await import('./deploy/commands.ts')).exportTo({ ...settings(), ...options, format }),
    ),
  )

program
  .command('audit')
  .description(
    'holds outbox, log, ledger, rollups and lines against each other; exit 1 on a difference, 3 with known gaps',
  )
  .option('--deep', 'read every event again')
  .option('--from <time>', 'RFC 3339, inclusive: only these windows (default: all)')
  .option('--to <time>', 'RFC 3339, exclusive')
  .action(
    runs(async options => (await import('./deploy/audit.ts')).auditCommand({ ...settings(), ...options })),
  )

program
  .command('rejected')
  .description(
    'messages that were not taken, with their reasons; exit 3 while one has not come in by a replay',
  )
  .option('--code <code>', 'only these')
  .option('--from <time>', 'RFC 3339, inclusive: rejected since')
  .option('--to <time>', 'RFC 3339, exclusive')
  .option('--limit <rows>', 'so many at most (default: 1000)')
  .action(runs(async options => (await import('./deploy/replay.ts')).rejected({ ...settings(), ...options })))

program
  .command('replay')
  .description('rejected messages that can be taken by now go back into the log; exit 3 while some are left')
  .option('--code <code>', 'only these')
  .option('--from <time>', 'RFC 3339, inclusive: rejected since')
  .option('--to <time>', 'RFC 3339, exclusive')
  .action(runs(async options => (await import('./deploy/replay.ts')).replay({ ...settings(), ...options })))

span(
  program
    .command('conflicts')
    .description(
      'messages of one identity that say different things, both contents; exit 3 if there are any',
    ),
).action(runs(async options => (await import('./deploy/replay.ts')).conflicts({ ...settings(), ...options })))

program
  .command('amend')
  .description(
    'says what a pushed event is to say instead, or that it is void; recorded with author and reason',
  )
  .requiredOption('--source <source>', 'of the event')
  .requiredOption('--id <id>', 'of the event')
  .option('--void', 'it counts for nothing')
  .option('--event <file>', 'JSON with type, subject, time and data: what it says instead, whole')
  .requiredOption('--author <name>', 'who amends')
  .requiredOption('--reason <text>', 'why')
  .action(runs(async options => (await import('./deploy/replay.ts')).amend({ ...settings(), ...options })))

program
  .command('resend')
  .description('sends again what the ledger lacks of what was sent; exit 3 where windows are due again')
  .action(runs(async () => (await import('./deploy/resend-command.ts')).resendCommand(settings())))

program
  .command('sources [kind]')
  .description('the kinds of sources with their options')
  .action(runs(async kind => (await import('./deploy/sources.ts')).listSources({ ...settings(), kind })))

const key = program.command('key').description('keys to the API: made, listed, taken back')
key
  .command('create')
  .description('makes a key and prints it: it is shown this once')
  .requiredOption('--name <name>', 'what it is called, in lists and logs')
  .requiredOption('--scope <scope>', 'ingest, amend, read, bill or admin; once or more', collected)
  .option('--account <id>', 'it shows what this account pays for, and nothing else (default: all)')
  .option('--expires <when>', '90d, 12h or an RFC 3339 time (default: never)')
  .option('--source <pattern>', 'with ingest or amend: what it may write, `*` is any text', collected)
  .option('--subject <pattern>', 'with ingest or amend: what it may write, `*` is any text', collected)
  .option(
    '--limit <name=number>',
    'events_per_second, bytes_per_second, burst_seconds, body_max_bytes or requests_per_minute',
    collected,
  )
  .action(
    runs(async options =>
      (await import('./deploy/key-command.ts')).createKeyCommand({ ...settings(), ...options }),
    ),
  )
key
  .command('list')
  .description('all keys of the store, without what they are')
  .action(runs(async () => (await import('./deploy/key-command.ts')).listKeysCommand(settings())))
key
  .command('revoke <name>')
  .description('it is nobody’s from now on; <name> may be what it begins with')
  .action(
    runs(async named => (await import('./deploy/key-command.ts')).revokeKeyCommand({ ...settings(), named })),
  )

program
  .command('check')
  .description(
    'config, catalogue, accounts and books: every problem at once, with file and line; then asks each source whether it can work',
  )
  .option('--offline', 'asks no source')
  .action(runs(async options => (await import('./deploy/check.ts')).check({ ...settings(), ...options })))

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2
  else {
    const fault = asFault(error, 'INTERNAL')
    stderr(
      fault.code === 'INTERNAL' && error instanceof Error
        ? (error.stack ?? error.message)
        : describeFault(fault),
    )
    process.exitCode = fault.code === 'USAGE' ? 2 : 1
  }
}
