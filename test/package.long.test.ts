/** The published package: packed, installed elsewhere in the ways people do, and run by the plain command. */
import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const version: string = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version
let folder: string
let tarball: string
let packed: readonly string[]

/** What npm and vitest add to the environment. The machine's certificates, proxy and registry stay. */
const added =
  /^(npm_(lifecycle|package|config_(globalconfig|prefix|global_prefix|local_prefix))|(INIT_CWD|NODE|NODE_ENV|METERLINE_NODE)$)/

/** The environment of a shell that knows nothing of this checkout: its Node is the system's, often an old one. */
const plainEnv = Object.fromEntries(
  Object.entries(process.env)
    .filter(([name]) => !added.test(name))
    .map(([name, value]) => [
      name,
      name === 'PATH'
        ? value
            ?.split(delimiter)
            .filter(part => !part.includes('node_modules'))
            .join(delimiter)
        : value,
    ]),
)

function run(
  command: string,
  args: readonly string[],
  cwd: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    execFile(
      command,
      args,
      { cwd, env: plainEnv, timeout: 500_000, maxBuffer: 1 << 26 },
      (error, stdout, stderr) => {
        if (error && typeof error.code !== 'number') reject(error)
        else resolve({ code: Number(error?.code ?? 0), stdout, stderr })
      },
    )
  })
}

async function must(command: string, args: readonly string[], cwd: string): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, cwd)
  expect(code, `${command} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(0)
  return stdout
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'meterline-package-'))
  // From a copy: packing builds dist/, which other tests of this checkout must not find.
  const copy = join(folder, 'checkout')
  const files = await must('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], root)
  for (const file of files.split('\0')) {
    if (file !== '' && existsSync(join(root, file))) cpSync(join(root, file), join(copy, file))
  }
  await must('ln', ['-s', join(root, 'node_modules'), join(copy, 'node_modules')], folder)
  const made = JSON.parse(
    await must('npm', ['pack', '--json', '--silent', '--pack-destination', folder], copy),
  )
  tarball = join(folder, made[0].filename)
  packed = made[0].files.map((file: { path: string }) => file.path)
}, 300_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe('what is packed', () => {
  test('the command, the code as JavaScript, and what it reads', () => {
    expect(packed).toEqual(
      expect.arrayContaining([
        'bin/meterline',
        'dist/meterline.js',
        'dist/processor/tables/0001-ledger.sql',
        'dist/deploy/examples/rafay.yaml',
        'docs/ARCHITECTURE.md',
        'LICENSE',
        'README.md',
        'CHANGELOG.md',
      ]),
    )
  })

  test('every file that the README links to', () => {
    const text = readFileSync(join(root, 'README.md'), 'utf8')
    const links = [...text.matchAll(/\]\(([^)\s#]+)/g)].map(([, link = '']) => link.replace(/\/$/, ''))
    const linked = links.filter(link => !/^[a-z]+:/.test(link))
    expect(linked).toContain('deploy/alerts/meterline.rules.yaml')
    // A link to a folder leads to what is in it.
    const isPacked = (link: string) => packed.some(file => file === link || file.startsWith(`${link}/`))
    expect(linked.filter(link => !isPacked(link))).toEqual([])
  })

  test('no test, no TypeScript, nothing of the build', () => {
    expect(packed.filter(file => /\.ts$|(^|\/)test\/|\.test\.|deploy\/(build|lock)\./.test(file))).toEqual([])
  })
})

describe('installed elsewhere', () => {
  test('npm install in a project: by its path, by npx, and from a folder of one’s own', async () => {
    const project = join(folder, 'project')
    mkdirSync(project)
    writeFileSync(join(project, 'package.json'), '{"name":"project","private":true}')
    await must('npm', ['install', '--no-audit', '--no-fund', tarball], project)
    const command = join(project, 'node_modules/.bin/meterline')
    expect((await must(command, ['--version'], folder)).trim()).toBe(version)
    expect((await must('npx', ['meterline', '--version'], project)).trim()).toBe(version)
    expect(await must(command, ['--help'], folder)).toContain('rafay-csv')

    const wrong = await run(command, ['no-such-command'], folder)
    expect(wrong.code).toBe(2)

    // The whole way: the SQL, the provider double and the embedded store are all in the package.
    const demo = JSON.parse(await must(command, ['demo', '--once', '--json', '--data', 'mine'], project))
    expect(demo.total).toBe('723.67')
    expect(existsSync(join(project, 'mine')), 'a relative --data is the caller’s').toBe(true)
  })

  test('npm install --global under a prefix: the linked command', async () => {
    const prefix = join(folder, 'prefix')
    await must('npm', ['install', '--global', '--no-audit', '--no-fund', '--prefix', prefix, tarball], folder)
    expect((await must(join(prefix, 'bin/meterline'), ['--version'], folder)).trim()).toBe(version)
    expect(await must(join(prefix, 'bin/meterline'), ['--help'], folder)).toContain('rafay-csv')
  })
})
