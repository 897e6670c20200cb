/** The demo as a user runs it, to its document. */
import { expect } from 'vitest'
import type { CoverageRow } from '../../processor/coverage.ts'
import type { LineItem } from '../../processor/line-items.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { meterline } from '../rig/meterline.ts'

export interface Demo {
  readonly usage: readonly UsageRow[]
  readonly lines: readonly LineItem[]
  readonly total: string
  readonly coverage: readonly CoverageRow[]
  readonly files: readonly string[]
}

/** With its data in the directory of this name. */
export async function demoOf(
  data: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<Demo> {
  const answer = await meterline(['demo', '--once', '--json', '--data', data, ...args], { env })
  expect(answer.code, answer.stderr).toBe(0)
  return JSON.parse(answer.stdout) as Demo
}
