/** The examples that people start from: each loads as it is, with all the files it names. */
import { globSync } from 'node:fs'
import { basename, join } from 'node:path'
import { expect, test } from 'vitest'
import { sources } from '../../collector/sources/list.ts'
import { checkBook } from '../../processor/book.ts'
import { checkConfig } from '../../runtime/config.ts'

const folder = join(import.meta.dirname, '../../deploy/examples')
const rules = {
  sourceSchemas: Object.fromEntries(sources.map(source => [source.kind, source.config])),
  bookMisfits: checkBook,
}
const check = (name: string) => checkConfig(join(folder, name), rules)

test.each(['rafay.yaml', 'kafka.yaml', 'kubernetes.yaml', 'postgresql.yaml', 'clickhouse.yaml'])(
  '%s has no problem',
  name => {
    const { config, problems } = check(name)
    expect(problems).toEqual([])
    expect(config?.sources).toHaveLength(1)
    expect(config?.accounts.map(account => account.priceBook)).toEqual(['gpu-hours', 'gpu-hours'])
    expect(config?.books.map(book => book.id)).toEqual(['gpu-hours'])
  },
)

test('rafay.yaml needs no server: the log and the store are embedded', () => {
  const { config } = check('rafay.yaml')
  expect(config?.kafka).toBeUndefined()
  expect(config?.store.url).toBeUndefined()
  expect(config?.data, 'not in the folder of examples').toBe('./meterline-data')
})

test('kafka.yaml names a cluster of one broker and a server', () => {
  const { config } = check('kafka.yaml')
  expect(config?.kafka).toMatchObject({ partitions: 12, replicationFactor: 1, minInSyncReplicas: 1 })
  expect(config?.store.url).toBe('http://127.0.0.1:8123')
})

test('every example is one of these, or is named by one of these', () => {
  const all = globSync('*', { cwd: folder }).sort()
  const read = [
    'rafay.yaml',
    'kafka.yaml',
    'kubernetes.yaml',
    'kubernetes-rbac.yaml',
    'postgresql.yaml',
    'clickhouse.yaml',
    'accounts.yaml',
    'prices.yaml',
  ]
  expect(all.map(name => basename(name))).toEqual(read.sort())
})
