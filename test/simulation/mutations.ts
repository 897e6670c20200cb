/**
 * Faults planted on purpose, each with the test that must fail of it: a guarantee whose test stays green while the code
 * breaks it is not shown. They are texts that are replaced in a copy of the tree.
 */
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'

export interface Mutation {
  readonly breaks: string
  readonly file: string
  /** Each text is there exactly once. */
  readonly patch: readonly { readonly find: string; readonly put: string }[]
  /** The test that must fail, by its file and its whole title without the groups around it. */
  readonly test: { readonly file: string; readonly title: string }
  /** Of what it must fail: not of a server that is not there. */
  readonly says: RegExp
}

const toldAnew = {
  file: 'test/processor/usage.oracle.long.test.ts',
  title: 'what was told anew, recomputed and asked again is what the oracle says',
}

export const mutations: readonly Mutation[] = [
  {
    breaks: 'identity left out of the key of the ledger',
    file: 'processor/tables/0001-ledger.sql',
    patch: [
      {
        find: 'order by (toStartOfHour(start), type, source, subject, start, identity, readat)',
        put: 'order by (toStartOfHour(start), type, source, subject, start, readat)',
      },
    ],
    test: {
      file: 'test/processor/ledger.test.ts',
      title: 'a newer read replaces: more hours, a vanished instance, and one that moved to another tenant',
    },
    says: /to deeply equal/,
  },
  {
    breaks: 'committed before the ledger acknowledged',
    file: 'processor/process.ts',
    patch: [
      {
        find: '    const timer = putSeconds.startTimer()\n    try {\n      if (!(await put(',
        put: '    const timer = putSeconds.startTimer()\n    for (const { ends } of batches) if (ends) await commit(ends)\n    try {\n      if (!(await put(',
      },
    ],
    test: {
      file: 'test/simulation/simulation.test.ts',
      title: 'seed 1 ends with what the provider said, and every gap known',
    },
    says: /had not acknowledged/,
  },
  {
    breaks: 'reads counted whose mark is not complete in the ledger',
    file: 'processor/reads.ts',
    patch: [{ find: "where held and outcome = 'complete'", put: "where outcome = 'complete'" }],
    test: {
      file: 'test/processor/ledger.test.ts',
      title: 'a read whose mark says more than arrived counts for nothing, and the older one stays',
    },
    says: /to deeply equal/,
  },
  {
    breaks: "Kafka's committed offset trusted, in place of positions",
    file: 'runtime/log/kafka-event-log.ts',
    patch: [
      {
        find: '    part.given = next\n    this.#consumer.seek({ topic: this.#config.topic, partition, offset: String(next) })\n',
        put: '    part.given = next\n',
      },
    ],
    test: {
      file: 'test/runtime/log/kafka-event-log.long.test.ts',
      title: 'what the ledger holds decides where reading begins, whatever was committed',
    },
    says: /timed out/,
  },
  {
    breaks: 'suspect reads counted at once',
    file: 'processor/reads.ts',
    patch: [{ find: "asOf === 'now' ? 'not suspect' :", put: "asOf === 'now' ? 'true' :" }],
    test: {
      file: 'test/processor/ledger.suspect.long.test.ts',
      title: 'waits, and counts once a second read an hour later agrees',
    },
    says: /to deeply equal/,
  },
  {
    breaks: 'a cell marked fresh before its rollups are in',
    file: 'processor/rollups.ts',
    patch: [
      {
        find: '  for (const family of touched) await recomputeFamily(store, run, family)\n',
        put: '',
      },
      {
        find: '    { run },\n  )\n  return { cells, builds }\n}',
        put: '    { run },\n  )\n  for (const family of touched) await recomputeFamily(store, run, family)\n  return { cells, builds }\n}',
      },
    ],
    test: {
      file: 'test/processor/rollups.test.ts',
      title: 'a recompute that dies before any of its statements leaves no cell fresh that is wrong',
    },
    says: /to deeply equal/,
  },
  {
    breaks: 'a cell fresh in the moment in which it was computed again',
    file: 'processor/rollups.ts',
    patch: [{ find: '  await sleep(options.settleMs ?? settlingMs)\n', put: '' }],
    test: {
      file: 'test/processor/usage.test.ts',
      title:
        'what was acknowledged is in an answer that was read before its cell was computed again, and looked up late after',
    },
    says: /to deeply equal/,
  },
  {
    breaks: 'stale cells read from rollups too, beside the ledger',
    file: 'processor/usage-plan.ts',
    patch: [
      { find: "    ...(isNone(stale) ? [] : [`not ${staleCondition(stale, 'hour', bind)}`]),\n", put: '' },
    ],
    test: toldAnew,
    says: /only the oracle says/,
  },
  {
    breaks: 'at one instant the first place of the log is the latest',
    file: 'processor/cells.ts',
    patch: [
      {
        find: 'maxIf((at_ms, toString(log), partition, offset, value',
        put: 'maxIf((at_ms, toString(log), 4294967295 - partition, 18446744073709551615 - offset, value',
      },
    ],
    test: toldAnew,
    says: /only the oracle says/,
  },
]

const root = join(import.meta.dirname, '../..')
const left = ['node_modules', '.git', 'dist', 'test-reports', 'meterline-data']

/** A copy of the tree to break things in. */
export class Copy implements Disposable {
  readonly #dir = mkdtempSync(join(tmpdir(), 'meterline-mutations-'))

  constructor() {
    cpSync(root, this.#dir, { recursive: true, filter: path => !left.includes(relative(root, path)) })
    symlinkSync(join(root, 'node_modules'), join(this.#dir, 'node_modules'))
  }

  /**
   * Plants the fault, runs its test, and mends the file again. Resolves to what the test failed of, or 'passed'.
   * @throws Error where the test did not run: what breaks outside of it shows nothing.
   */
  async outcome(mutation: Mutation): Promise<string> {
    const path = join(this.#dir, mutation.file)
    const text = readFileSync(path, 'utf8')
    writeFileSync(path, mutated(text, mutation))
    try {
      return await this.#run(mutation.test)
    } finally {
      writeFileSync(path, text)
    }
  }

  async #run({ file, title }: Mutation['test']): Promise<string> {
    const report = join(this.#dir, 'report.json')
    rmSync(report, { force: true })
    const mode = file.endsWith('.long.test.ts') ? ['--mode', 'long'] : []
    const args = [
      'run',
      file,
      ...mode,
      '-t',
      `${escaped(title)}$`,
      '--reporter=json',
      `--outputFile=${report}`,
    ]
    const said = await new Promise<string>(resolve =>
      execFile(
        process.execPath,
        [join(root, 'node_modules/vitest/vitest.mjs'), ...args],
        { cwd: this.#dir, maxBuffer: 64 * 1024 ** 2 },
        (_, stdout, stderr) => resolve(`${stdout}\n${stderr}`),
      ),
    )
    if (!existsSync(report)) throw new Error(`${file} did not run: ${said.slice(0, 2000)}`)
    const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as {
      testResults: { assertionResults: { title: string; status: string; failureMessages: string[] }[] }[]
    }
    const ran = testResults
      .flatMap(({ assertionResults }) => assertionResults)
      .filter(result => result.title === title && ['passed', 'failed'].includes(result.status))
    if (ran.length === 0) throw new Error(`${file} has no test "${title}" that ran: ${said.slice(0, 2000)}`)
    const failed = ran.filter(({ status }) => status === 'failed')
    return failed.length === 0
      ? 'passed'
      : failed.flatMap(({ failureMessages }) => failureMessages).join('\n')
  }

  [Symbol.dispose](): void {
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

/** @throws Error where a text is not there once: the code has moved on, and so must the mutation. */
export function mutated(text: string, { file, breaks, patch }: Mutation): string {
  let result = text
  for (const { find, put } of patch) {
    if (result.split(find).length !== 2) throw new Error(`${breaks}: ${file} does not have once: ${find}`)
    result = result.replace(find, () => put)
  }
  return result
}

function escaped(title: string): string {
  return title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
