/**
 * Makes dist/, what the published package runs (`npm run build`): the sources as JavaScript, and their SQL and examples.
 * A checkout needs no build; a package does, because Node does not strip types under node_modules.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The folders whose files a running Meterline may read. */
const layers = ['schemas', 'runtime', 'collector', 'processor', 'deploy']

/** A file that is started as a process of its own is named by a path, which stays as it is written. */
const sourcePath = /['"`]([^'"`\n]*[\w-])\.ts['"`]/g

export function build(root: string): void {
  const dist = join(root, 'dist')
  rmSync(dist, { recursive: true, force: true })
  compile(root, 'tsconfig.build.json')
  // The page runs in a browser: other types, and nothing else of Meterline.
  compile(root, 'processor/dashboard/tsconfig.json', [
    ...['--noEmit', 'false', '--outDir', join(dist, 'processor/dashboard')],
    ...['--rootDir', join(root, 'processor/dashboard')],
  ])
  for (const file of globSync(`{${layers.join(',')}}/**/*.*`, {
    cwd: root,
    exclude: ['**/*.ts', '**/tsconfig.json'],
  })) {
    mkdirSync(dirname(join(dist, file)), { recursive: true })
    cpSync(join(root, file), join(dist, file))
  }
  // Beside the code as in a checkout: what the command says of itself, and that its files are modules.
  const { name, version, type } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(join(dist, 'package.json'), `${JSON.stringify({ name, version, type }, null, 2)}\n`)

  for (const file of globSync('**/*.js', { cwd: dist })) {
    const code = readFileSync(join(dist, file), 'utf8').replace(/^\s*(\/\/|\*|\/\*).*$/gm, '')
    for (const [, path] of code.matchAll(sourcePath)) {
      if (!code.includes(`${path}.js`))
        throw new Error(`${file} names ${path}.ts, which is ${path}.js in dist/`)
    }
  }
}

function compile(root: string, project: string, options: readonly string[] = []): void {
  const compiled = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '--project', join(root, project), ...options],
    { cwd: root, stdio: ['ignore', process.stderr.fd, process.stderr.fd] },
  )
  if (compiled.status !== 0) throw new Error('the sources do not compile')
}

if (import.meta.main) build(join(import.meta.dirname, '..'))
