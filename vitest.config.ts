/**
 * How the tests run: quick ones two files at a time, then so those that ask a store of their own, then those on other real
 * servers one file after the other, so that they do not take each other's time on a small machine. `--mode long` runs the slow
 * ones instead (npm run test:long), which test/run.ts starts in three parts beside each other: most of them wait for most of their time.
 */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

const all = globSync('test/**/*.test.ts', { cwd: import.meta.dirname }).sort()

/** A test that starts real servers takes them from test/rig/ or deploy/, or starts the whole command. */
const startsServers = (file: string): boolean =>
  file.startsWith('test/rig/') ||
  /\/rig\/|from '[./]+\/deploy\/(embedded\/|demo\/demo|roles|commands|decide)|'meterline\.ts'/.test(
    readFileSync(join(import.meta.dirname, file), 'utf8'),
  )

const simulationFile = 'test/simulation/simulation.long.test.ts'
const startsKafka = (file: string): boolean =>
  file === 'test/simulation/mutations.long.test.ts' ||
  /\/rig\/kafka\.ts'/.test(readFileSync(join(import.meta.dirname, file), 'utf8'))
/** They ask a store of their own, and nothing in them is a matter of time: two files at a time leave no processor idle. */
const isOfLedger = (file: string): boolean =>
  /^test\/(interop|bench|processor)\/|^test\/deploy\/(roles\.(sql|tenants)|grafana)\./.test(file)

export default defineConfig(({ mode }) => {
  const chosen = all.filter(file => file.endsWith('.long.test.ts') === (mode === 'long'))
  const isLong = mode === 'long'
  const simulation = isLong ? chosen.filter(file => file === simulationFile) : []
  const rest = chosen.filter(file => !simulation.includes(file))
  const kafka = isLong ? rest.filter(startsKafka) : []
  const alone = isLong ? rest.filter(file => !kafka.includes(file)) : rest.filter(startsServers)
  const ledger = isLong ? [] : alone.filter(isOfLedger)
  const servers = alone.filter(file => !ledger.includes(file))
  const quick = isLong ? [] : rest.filter(file => !alone.includes(file))
  return {
    test: {
      testTimeout: isLong ? 600_000 : 60_000,
      hookTimeout: 180_000,
      projects: [
        {
          extends: true,
          test: { name: 'quick', include: quick, maxWorkers: 2, sequence: { groupOrder: 0 } },
        },
        {
          extends: true,
          test: { name: 'ledger', include: ledger, maxWorkers: 2, sequence: { groupOrder: 1 } },
        },
        {
          extends: true,
          test: { name: 'servers', include: servers, maxWorkers: 1, sequence: { groupOrder: 2 } },
        },
        {
          extends: true,
          test: { name: 'simulation', include: simulation, maxWorkers: 1, sequence: { groupOrder: 3 } },
        },
        {
          extends: true,
          test: { name: 'kafka', include: kafka, maxWorkers: 1, sequence: { groupOrder: 4 } },
        },
      ],
    },
  }
})
