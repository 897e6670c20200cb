/** The published schemathesis, pinned by test/interop/schemathesis: installed once, and kept between runs. It fails where it is not to be had. */
import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cached, madeOnce } from './sdks.ts'

const run = promisify(execFile)
const requirements = join(import.meta.dirname, '../interop/schemathesis/requirements.txt')

/** Of a request that the document forbids: those that it takes for that by itself, and for one that is too long. */
const refusals = JSON.stringify([400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, 431].map(String))

export interface Verdict {
  /** 0 where nothing was found. */
  readonly code: number | null
  /** What it tried and found, for people. */
  readonly text: string
}

/**
 * Asks an API whatever its document lets it think of, and more.
 * @throws Error where there is no Python with pip, or a package cannot be had
 */
export async function schemathesis(asked: {
  /** Of the document. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly seconds: number
  /** Values of parameters by where they are and their name, `query.meter`: of what is there to be found. */
  readonly values: Readonly<Record<string, string>>
  readonly options?: readonly string[]
}): Promise<Verdict> {
  const packages = await madeOnce(cached('schemathesis', 'schemathesis/*'), draft =>
    run(
      'python3',
      [
        ...['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps'],
        ...['--target', draft, '--requirement', requirements],
      ],
      { timeout: 300_000 },
    ),
  )
  const dir = mkdtempSync(join(tmpdir(), 'meterline-schemathesis-'))
  try {
    const values = Object.entries(asked.values).map(
      ([name, value]) => `${JSON.stringify(name)} = ${JSON.stringify(value)}`,
    )
    writeFileSync(
      join(dir, 'schemathesis.toml'),
      [
        '[parameters]',
        ...values,
        '[checks.negative_data_rejection]',
        `expected-statuses = ${refusals}`,
        '',
      ].join('\n'),
    )
    const headers = Object.entries(asked.headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
    const main = 'import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())'
    const bounds = ['--max-time', String(asked.seconds), '--phases', 'coverage,fuzzing,stateful']
    const output = ['--continue-on-failure', '--no-color', '--warnings', 'off']
    const child = spawn(
      'python3',
      ['-c', main, 'run', asked.url, ...headers, ...bounds, ...output, ...(asked.options ?? [])],
      {
        cwd: dir,
        env: { ...process.env, PYTHONPATH: packages, PYTHONDONTWRITEBYTECODE: '1' },
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: (asked.seconds + 120) * 1000,
      },
    )
    let text = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', more => {
        text += more
      })
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
    // It finds out what is too long by words of megabytes.
    return { code, text: text.replace(/(\S{300})\S+/g, '$1…') }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
