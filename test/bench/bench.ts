/** `npm run bench -- NAME`: each benchmark prints rates and their ratio to a limit measured in the same run. */
import { benchIngest } from './ingest.ts'
import { timed } from './wanted.ts'

const benches: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = {
  ingest: benchIngest,
  audit: async args => (await import('./audit.ts')).benchAudit(args),
  sources: async args => (await import('./sources.ts')).benchSources(args),
  query: async args => (await import('./query.ts')).benchQuery(args),
  readers: async args => (await import('./readers.ts')).benchReaders(args),
  collect: async args => (await import('./collect.ts')).benchCollect(args),
}

const [name = '', ...args] = process.argv.slice(2)
const bench = benches[name]
if (!bench) {
  console.error(`npm run bench -- ${Object.keys(benches).join(' | ')}`)
  process.exitCode = 2
} else await timed(name, () => bench(args))
