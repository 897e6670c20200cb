/** The alert rules: Prometheus takes them, and each metric that they name is one that Meterline has. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import '../../collector/counters.ts'
import '../../processor/process.ts'
import '../../processor/watch-coverage.ts'
import { registry } from '../../runtime/metrics.ts'
import { checkRules } from '../rig/promtool.ts'

const file = fileURLToPath(new URL('../../deploy/alerts/meterline.rules.yaml', import.meta.url))
const { groups } = parse(readFileSync(file, 'utf8')) as {
  groups: { rules: { alert: string; expr: string; annotations: Record<string, string> }[] }[]
}
const rules = groups.flatMap(group => group.rules)

test('Prometheus takes the rules, and would say so if it did not', async () => {
  expect(await checkRules(file)).toMatch(new RegExp(`SUCCESS: ${rules.length} rules found`))
  const dir = mkdtempSync(join(tmpdir(), 'meterline-rules-'))
  const broken = join(dir, 'broken.yaml')
  writeFileSync(broken, readFileSync(file, 'utf8').replace('> 7200', '> > 7200'))
  await expect(checkRules(broken)).rejects.toThrow(/parse error/)
  rmSync(dir, { recursive: true })
})

test('every metric that a rule names is there', () => {
  const known = new Set(registry.getMetricsAsArray().map(({ name }) => name))
  const named = rules.flatMap(({ expr }) => expr.match(/meterline_\w+/g) ?? [])
  expect(named.length).toBeGreaterThanOrEqual(rules.length)
  expect(named.filter(name => !known.has(name))).toEqual([])
})

test('every alert says what is wrong and what to do', () => {
  for (const { alert, annotations } of rules) {
    expect(annotations.summary, alert).toBeTruthy()
    expect(annotations.description?.length, alert).toBeGreaterThan(40)
  }
})
