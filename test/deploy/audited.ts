/** Runs `meterline audit` in this process over a world of the audit's tests, as a configuration names its parts. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { auditCommand } from '../../deploy/audit.ts'
import type { StoreAddress } from '../../processor/store.ts'
import type { World } from '../processor/planted.ts'

/** Runs the command over the world's outbox and database, as a configuration names them. */
export async function auditedBy(
  rig: StoreAddress,
  world: World,
  { kafka, ...options }: { json?: boolean; from?: string; to?: string; kafka?: object } = {},
) {
  const config = join(world.dir, 'meterline.yaml')
  const { url, user, password } = rig
  writeFileSync(
    config,
    stringify({
      data: world.dir,
      ...(kafka && { kafka }),
      store: { url, user, password: '${env:STORE_PASSWORD}', database: world.database },
    }),
  )
  const out: string[] = []
  const err: string[] = []
  const code = await auditCommand({
    config,
    env: { STORE_PASSWORD: password },
    signal: new AbortController().signal,
    stdout: text => void out.push(text),
    stderr: line => void err.push(line),
    nowMs: () => Date.UTC(2025, 5, 2),
    ...options,
  })
  return { code, stdout: out.join(''), stderr: err }
}
