/** The configuration as the roles read it, with the real sources, meters and price models. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { configured } from '../../deploy/roles.ts'

const dir = mkdtempSync(join(tmpdir(), 'meterline-roles-'))
afterAll(() => rmSync(dir, { recursive: true }))

function settings(config: string) {
  return {
    config,
    signal: new AbortController().signal,
    stdout: () => {},
    stderr: () => {},
    env: {},
    nowMs: () => 0,
  }
}

describe('configured', () => {
  test('refuses an option that a kind of source does not know, and names what was meant', async () => {
    const file = join(dir, 'meterline.yaml')
    writeFileSync(
      file,
      'sources:\n- kind: rafay\n  name: prod\n  url: https://console\n  apiKey: ${env:KEY}\n  pageSise: 4\nlisten: {port: 80800}\n',
    )
    const failed = configured(settings(file))
    await expect(failed).rejects.toMatchObject({ code: 'CONFIG_INVALID', facts: { problems: 2 } })
    await expect(failed).rejects.toThrow(
      /meterline\.yaml:6:3 sources\[0\]\.pageSise is not known here \(is `pageSize` meant\?\)/,
    )
    await expect(failed).rejects.toThrow(/meterline\.yaml:7:10 listen\.port must be <= 65535/)
  })
})
