/**
 * How the tests run: quick ones two files at a time, then so those that ask a store of their own, then those on other real
 * servers one file after the other, so that they do not take each other's time on a small machine. `--mode long` runs the slow ones instead (npm run test:long).
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

/** It takes all the processors it gets, so test/run.ts runs it beside the others. */
const simulationFile = 'test/simulation/simulation.long.test.ts'
/** These wait for nobody, and nobody for them: they follow the simulation, beside the others. */
const isOfSources = (file: string): boolean =>
  /^test\/(collector\/sources|schemas)\/|^test\/adding\./.test(file) || isOfAnswers(file)
/** They ask a store of their own, and nothing in them is a matter of time. */
const isOfAnswers = (file: string): boolean =>
  /^test\/(interop|bench|processor\/api)\/|^test\/processor\/(usage|rollups\.pushed|dashboard|ledger\.suspect|pushed|pushed-marks|coverage)\.|^test\/deploy\/(roles\.(sql|tenants)|grafana)\./.test(
    file,
  )
/** As those, of the quick ones: two files at a time leave no processor idle. */
const isOfLedger = (file: string): boolean => isOfAnswers(file) || /^test\/processor\//.test(file)

export default defineConfig(({ mode }) => {
  const chosen = all.filter(file => file.endsWith('.long.test.ts') === (mode === 'long'))
  const simulation = mode === 'long' ? chosen.filter(file => file === simulationFile) : []
  const sources = mode === 'long' ? chosen.filter(isOfSources) : []
  const beside = [...simulation, ...sources]
  const alone = chosen.filter(file => (mode === 'long' ? !beside.includes(file) : startsServers(file)))
  const ledger = mode === 'long' ? [] : alone.filter(isOfLedger)
  const servers = alone.filter(file => !ledger.includes(file))
  const quick = chosen.filter(file => !alone.includes(file) && !beside.includes(file))
  return {
    test: {
      testTimeout: mode === 'long' ? 600_000 : 60_000,
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
          test: { name: 'sources', include: sources, maxWorkers: 1, sequence: { groupOrder: 4 } },
        },
      ],
    },
  }
})
