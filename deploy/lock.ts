/**
 * Completes package-lock.json after an `npm install` (`npm run lock`), so that `npm ci` takes it everywhere.
 * A registry that does not serve a package's builds for other platforms makes npm leave their entries out, and
 * `npm ci` then calls the lock out of step with package.json. Entries without integrity do: npm skips them here.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

interface LockEntry {
  readonly version?: string
  readonly resolved?: string
  readonly optional?: boolean
  readonly dependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
  readonly [field: string]: unknown
}

export interface Lock {
  readonly packages: Readonly<Record<string, LockEntry>>
  readonly [field: string]: unknown
}

/** The platform in the last words of a package name: chdb's lib-linux-arm64-gnu, biome's cli-win32-x64. */
const platform =
  /(?:^|[/-])(?<os>linux|darwin|win32|freebsd|android)-(?<cpu>x64|arm64)(?:-(?<libc>gnu|musl|msvc))?$/

/** Adds the missing platform packages and drops the addresses of registries; what is whole comes back unchanged. */
export function completeLock(lock: Lock): { readonly lock: Lock; readonly added: readonly string[] } {
  const packages: Record<string, LockEntry> = {}
  for (const [path, entry] of Object.entries(lock.packages)) {
    const { resolved, ...rest } = entry
    packages[path] = resolved?.startsWith('http') ? rest : entry
  }
  const added: string[] = []
  for (const [path, entry] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      if (findDependency(packages, path, name)) continue
      const at = platform.exec(name)?.groups
      if (!at || !/^\d/.test(version)) {
        throw new Error(
          `${path || 'package.json'} wants ${name}@${version}: no platform package of an exact version`,
        )
      }
      const libc = { gnu: 'glibc', musl: 'musl' }[at.libc ?? '']
      packages[`node_modules/${name}`] = {
        version,
        // npm links commands by what the lock says: the pinned Node must stay `node` in the scripts.
        ...(name.startsWith('node-') ? { bin: { node: 'bin/node' } } : {}),
        cpu: [at.cpu],
        ...(entry.dev ? { dev: true } : {}),
        ...(libc ? { libc: [libc] } : {}),
        optional: true,
        os: [at.os],
      }
      added.push(`${name}@${version}`)
    }
  }
  // npm writes the entries in the order of their paths; its own next write then changes nothing.
  const sorted = Object.fromEntries(
    Object.entries(packages).sort(([left], [right]) => left.localeCompare(right, 'en')),
  )
  return { lock: { ...lock, packages: sorted }, added }
}

/** Looks a dependency up as Node does: in the package's own node_modules, then in each one above. */
function findDependency(packages: Readonly<Record<string, LockEntry>>, from: string, name: string): boolean {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    if (packages[`${folder === '' ? '' : `${folder}/`}node_modules/${name}`]) return true
    if (folder === '') return false
  }
}

if (import.meta.main) {
  const file = join(import.meta.dirname, '../package-lock.json')
  const { lock, added } = completeLock(JSON.parse(readFileSync(file, 'utf8')) as Lock)
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
  console.log(
    added.length === 0 ? 'package-lock.json is whole.' : `Added to package-lock.json: ${added.join(', ')}`,
  )
}
