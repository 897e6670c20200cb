/** The demo as a user runs it: the table of usage by GPU type to the cent. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Demo, demoOf } from './demo-run.ts'

let dir: string
let embedded: Demo

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-demo-test-'))
  embedded = await demoOf(join(dir, 'embedded'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

test('the demo bills the table of usage by GPU type to the cent', () => {
  const hours = Object.groupBy(embedded.usage, row => row.group_by.gpu_type ?? '')
  const sum = (type: string) => hours[type]?.reduce((total, row) => total + BigInt(row.value), 0n)
  expect([sum('L40'), sum('A100'), sum('H100')]).toEqual([100n, 60n, 173n])
  expect(
    embedded.usage.map(row => `${row.group_by.organization} ${row.group_by.gpu_type} ${row.value}`).sort(),
  ).toEqual([
    'Org-A A100 10',
    'Org-A H100 100',
    'Org-A L40 30',
    'Org-B A100 20',
    'Org-B H100 40',
    'Org-B L40 60',
    'Org-C A100 30',
    'Org-C H100 33',
    'Org-C L40 10',
  ])
  expect(
    embedded.lines.map(line => `${line.account} ${line.charge} ${line.quantity} ${line.amount}`),
  ).toEqual([
    'Org-A gpu.l40 30 29.70',
    'Org-A gpu.a100 10 17.90',
    'Org-A gpu.h100 100 299.00',
    'Org-B gpu.l40 60 59.40',
    'Org-B gpu.a100 20 35.80',
    'Org-B gpu.h100 40 119.60',
    'Org-C gpu.l40 10 9.90',
    'Org-C gpu.a100 30 53.70',
    'Org-C gpu.h100 33 98.67',
  ])
  expect(embedded.total).toBe('723.67')
})

test('its coverage is complete: 720 hours of two kinds and of the listing', () => {
  expect(embedded.coverage).toHaveLength(3 * 720)
  expect(new Set(embedded.coverage.map(row => row.state))).toEqual(new Set(['settled']))
})

test('the files it names hold the lines, and the columns of the published script', () => {
  const read = (name: string) =>
    readFileSync(embedded.files.find(path => path.includes(name)) ?? name, 'utf8')
  expect(read('line-items.csv').split('\n')[0]?.trim()).toBe(
    'account,charge,meter,group,quantity,unit,price,amount,currency,period_start,period_end,book,book_sha256',
  )
  expect(read('line-items.csv').trim().split('\n')).toHaveLength(10)
  expect(read('ncp-metrics-sorted')).toMatch(
    /^Organization,Profile Type,Profile,Instance,Usage\(h\),Status\r\nOrg-A,compute,/,
  )
})

test('collecting again changes nothing, to the byte', async () => {
  const again = await demoOf(join(dir, 'embedded'))
  expect(JSON.stringify(again.lines)).toBe(JSON.stringify(embedded.lines))
  expect(JSON.stringify(again.usage)).toBe(JSON.stringify(embedded.usage))
})
