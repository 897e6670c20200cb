/**
 * What `npm test` and `npm run test:long` run: names the real servers, checks the sources statically, runs the tests
 * under a deadline, looks for processes left behind, and counts it all in its last line.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { globSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startKafka } from './rig/kafka.ts'
import { findRigs } from './rig/rigs.ts'
import { runningFile } from './running.ts'

const root = join(import.meta.dirname, '..')
const minuteMs = 60_000
/** Kept of the time allowed, for stopping what hung and for the last words. */
const reserveMs = 15_000

export interface Tally {
  readonly passed: number
  readonly failed: number
  /** One line for each failure that no test report shows. */
  readonly remarks: readonly string[]
}

/** The part of vitest's JSON report that is counted. */
export interface Report {
  readonly success: boolean
  readonly testResults: readonly {
    readonly name: string
    readonly status: string
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[]
  }[]
}

/** Counts a report: a file that broke outside its tests is one failure, and in CI so is each test that did not run. */
export function countReport(report: Report, options: { readonly skippedFail: boolean }): Tally {
  const remarks: string[] = []
  let passed = 0
  let failed = 0
  for (const file of report.testResults) {
    let failedHere = 0
    for (const test of file.assertionResults) {
      if (test.status === 'passed') passed += 1
      else if (test.status === 'failed') failedHere += 1
      else {
        remarks.push(`not run: ${file.name} > ${test.fullName}`)
        if (options.skippedFail) failed += 1
      }
    }
    if (failedHere === 0 && file.status === 'failed') {
      remarks.push(`failed outside its tests: ${file.name}`)
      failedHere = 1
    }
    failed += failedHere
  }
  if (passed + failed === 0) remarks.push('no test was found')
  else if (!report.success && failed === 0) remarks.push('the run failed outside of any test: see above')
  const broke = passed + failed === 0 || (!report.success && failed === 0)
  return { passed, failed: broke ? failed + 1 : failed, remarks }
}

export function addTallies(tallies: readonly Tally[]): Tally {
  return {
    passed: tallies.reduce((sum, tally) => sum + tally.passed, 0),
    failed: tallies.reduce((sum, tally) => sum + tally.failed, 0),
    remarks: tallies.flatMap(tally => tally.remarks),
  }
}

/** Runs a program to its end, or until the signal; true when it exited with 0. */
async function runs(args: readonly string[], env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false
  const child = spawn(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] })
  const stop = () => void stopChild(child)
  signal.addEventListener('abort', stop, { once: true })
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', resolve)
    })
    return code === 0
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

async function stopChild(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM')
  await sleep(5_000, undefined, { ref: false })
  if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
}

/** Processes that carry this run's mark in their environment; only Linux shows that, elsewhere none are found. */
function leftRunning(mark: string): { readonly pid: number; readonly command: string }[] {
  if (process.platform !== 'linux') return []
  const found: { pid: number; command: string }[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    try {
      if (!readFileSync(`/proc/${name}/environ`, 'utf8').split('\0').includes(`METERLINE_TEST_RUN=${mark}`))
        continue
      found.push({
        pid: Number(name),
        command: readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim(),
      })
    } catch {
      // It ended meanwhile, or is another user's.
    }
  }
  return found
}

/** Waits a little for what is ending by itself, then stops the rest, and names it. */
async function stopLeftovers(mark: string, graceMs: number): Promise<Tally> {
  const untilMs = performance.now() + graceMs
  let left = leftRunning(mark)
  while (left.length > 0 && performance.now() < untilMs) {
    await sleep(200)
    left = leftRunning(mark)
  }
  for (const { pid } of left) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended meanwhile.
    }
  }
  const remarks = left.map(
    ({ pid, command }) => `left running, now killed: pid ${pid} ${command.slice(0, 200)}`,
  )
  return { passed: 0, failed: left.length > 0 ? 1 : 0, remarks }
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(join(root, file), 'utf8'))
  } catch {
    return undefined
  }
}

async function main(args: readonly string[]): Promise<number> {
  const startedMs = performance.now()
  const long = args.includes('--long')
  const filters = args.filter(arg => arg !== '--long')
  const ci = (process.env.CI ?? '') !== '' && process.env.CI !== 'false'
  const allowedMs = (long ? 40 : 10) * minuteMs
  const mark = randomUUID()
  const env = {
    ...process.env,
    METERLINE_TEST_RUN: mark,
    // Hundreds of processes start here, each of them in a second of reading TypeScript, or half of one with this.
    NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/meterline-compiled'),
  }
  const stopping = new AbortController()
  const deadline = setTimeout(() => stopping.abort('deadline'), allowedMs - reserveMs)
  // Not `once`: libraries that listen too (signal-exit) end the process when theirs is the last listener left.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stopping.abort(signal))

  rmSync(join(root, 'test-reports'), { recursive: true, force: true })
  mkdirSync(join(root, 'test-reports'))

  const tallies: Tally[] = []
  console.log('Real servers for the tests:')
  const excluded: string[] = []
  for (const rig of await findRigs()) {
    console.log(`  ${rig.name}: ${rig.how}`)
    if (rig.found) continue
    console.log(`  !!! ${rig.name} IS MISSING: its tests cannot run. ${rig.remedy}`)
    if (ci) {
      tallies.push({ passed: 0, failed: 1, remarks: [`missing: ${rig.name}`] })
      continue
    }
    const tests = globSync('test/**/*.test.ts', { cwd: root })
    const without = tests.filter(file => rig.usedBy.test(readFileSync(join(root, file), 'utf8')))
    excluded.push(...without.map(file => `--exclude=${file}`))
    tallies.push({
      passed: 0,
      failed: 0,
      remarks: without.map(file => `not run without ${rig.name}: ${file}`),
    })
  }

  if (!long) {
    for (const [name, ...command] of [
      ['types', 'node_modules/typescript/bin/tsc', '--noEmit'],
      [
        'types of the page',
        'node_modules/typescript/bin/tsc',
        '--noEmit',
        '--project',
        'processor/dashboard',
      ],
      [
        'lint and format',
        'node_modules/@biomejs/biome/bin/biome',
        'ci',
        '.',
        `--colors=${process.stdout.isTTY ? 'force' : 'off'}`,
      ],
    ]) {
      const good = await runs(command, env, stopping.signal)
      console.log(`${good ? 'ok' : 'FAILED'}: ${name}`)
      tallies.push({ passed: good ? 1 : 0, failed: good ? 0 : 1, remarks: good ? [] : [`failed: ${name}`] })
    }
  }

  // The simulation takes the time that the others leave: it runs beside them, at the lowest priority.
  const parts = long && filters.length === 0 ? ['simulation', 'kafka', 'servers'] : ['']
  const reportFiles = parts.map(
    part => `test-reports/${[long ? 'long' : 'test', part].filter(Boolean).join('-')}.json`,
  )
  // One broker for all that need no other: a start is some ten seconds of work, a dozen times.
  const kafka = parts.includes('kafka') ? await startKafka().catch(() => undefined) : undefined
  await Promise.all(
    parts.map((part, index) =>
      runs(
        [
          ...['node_modules/vitest/vitest.mjs', 'run', ...(long ? ['--mode=long'] : [])],
          ...(part === '' ? [] : [`--project=${part}`]),
          ...['--reporter=default', '--reporter=./test/running.ts', '--reporter=json'],
          ...[`--outputFile.json=${reportFiles[index]}`, ...excluded, ...filters],
        ],
        {
          ...env,
          METERLINE_TEST_PART: part,
          ...(part === 'kafka' && kafka && { KAFKA_BROKERS: kafka.brokers.join() }),
        },
        stopping.signal,
      ),
    ),
  )
  clearTimeout(deadline)
  await kafka?.stop()
  if (stopping.signal.aborted) {
    const running = parts.flatMap(part => (readJson(runningFile(part)) ?? []) as readonly string[])
    const why =
      stopping.signal.reason === 'deadline'
        ? `did not end within ${allowedMs / minuteMs} minutes`
        : `stopped by ${stopping.signal.reason}`
    tallies.push({ passed: 0, failed: 1, remarks: [why, ...running.map(name => `was running: ${name}`)] })
  }
  for (const file of reportFiles) {
    const report = readJson(file) as Report | undefined
    if (report) tallies.push(countReport(report, { skippedFail: ci }))
    else if (!stopping.signal.aborted)
      tallies.push({ passed: 0, failed: 1, remarks: [`vitest left no report ${file}`] })
  }
  tallies.push(await stopLeftovers(mark, stopping.signal.aborted ? 0 : 5_000))

  const { passed, failed, remarks } = addTallies(tallies)
  for (const remark of remarks) console.log(remark)
  console.log(`took ${Math.round((performance.now() - startedMs) / 1000)} s of ${allowedMs / 1000} s`)
  console.log(`${passed} passed, ${failed} failed`)
  return failed === 0 ? 0 : 1
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2))
