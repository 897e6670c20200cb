/**
 * Makes dist/, what the published package runs (`npm run build`): the sources as JavaScript, and their SQL and examples.
 * A checkout needs no build; a package does, because Node does not strip types under node_modules.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The folders whose files a running Meterline may read. */
const layers = ['schemas', 'runtime', 'collector', 'processor', 'deploy']

/** A path of a source file that is no import keeps its `.ts` in dist/, where there is none. */
const sourcePath = /(['"`])[^'"`\n]*\.ts\1/

export function build(root: string): void {
  const dist = join(root, 'dist')
  rmSync(dist, { recursive: true, force: true })
  const compiled = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), '--project', join(root, 'tsconfig.build.json')],
    { cwd: root, stdio: 'inherit' },
  )
  if (compiled.status !== 0) throw new Error('the sources do not compile')
  for (const file of globSync(`{${layers.join(',')}}/**/*.*`, { cwd: root, exclude: ['**/*.ts'] })) {
    mkdirSync(dirname(join(dist, file)), { recursive: true })
    cpSync(join(root, file), join(dist, file))
  }
  // Beside the code as in a checkout: what the command says of itself, and that its files are modules.
  const { name, version, type } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(join(dist, 'package.json'), `${JSON.stringify({ name, version, type }, null, 2)}\n`)

  const broken = globSync('**/*.js', { cwd: dist }).filter(file => {
    const code = readFileSync(join(dist, file), 'utf8').replace(/^\s*(\/\/|\*|\/\*).*$/gm, '')
    return sourcePath.test(code)
  })
  if (broken.length > 0) {
    throw new Error(
      `dist/ names .ts files, which it does not have: ${broken.join(', ')}; build the path from import.meta.filename`,
    )
  }
}

if (import.meta.main) build(join(import.meta.dirname, '..'))
