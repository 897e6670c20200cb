/** The examples that people start from: each loads as it is, with all the files it names. */
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { sources } from '../../collector/sources/list.ts'
import { checkBook } from '../../processor/book.ts'
import { checkConfig } from '../../runtime/config.ts'

const folder = join(import.meta.dirname, '../../deploy/examples')
const rules = {
  sourceSchemas: Object.fromEntries(sources.map(source => [source.kind, source.config])),
  bookMisfits: checkBook,
}
const check = (name: string) => checkConfig(join(folder, name), rules)

test.each([
  'rafay.yaml',
  'kafka.yaml',
  'kubernetes.yaml',
  'prometheus.yaml',
  'postgresql.yaml',
  'clickhouse.yaml',
])('%s has no problem', name => {
  const { config, problems } = check(name)
  expect(problems).toEqual([])
  expect(config?.sources).toHaveLength(1)
  expect(config?.accounts.map(account => account.priceBook)).toEqual(['gpu-hours', 'gpu-hours'])
  expect(config?.books.map(book => book.id)).toEqual(['gpu-hours'])
})

test('runai.yaml has no problem, and leaves accounts and prices out', () => {
  const { config, problems } = check('runai.yaml')
  expect(problems).toEqual([])
  expect(config?.sources).toHaveLength(1)
  expect(config?.accounts).toEqual([])
})

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

test('push-keys.yaml has three keys, and no sources', () => {
  const { config, problems } = check('push-keys.yaml')
  expect(problems).toEqual([])
  expect(config?.sources).toEqual([])
  expect(config?.keys.map(({ name, scopes }) => `${name} ${scopes}`)).toEqual([
    'inference ingest',
    'partner ingest',
    'billing-desk amend',
  ])
})

test('sidecar.yaml brings a configuration that only takes what is pushed, and mounts what it names', () => {
  const [map, set] = parseAllDocuments(readFileSync(join(folder, 'sidecar.yaml'), 'utf8')).map(each =>
    each.toJS(),
  )
  const dir = mkdtempSync(join(tmpdir(), 'meterline-sidecar-'))
  try {
    writeFileSync(join(dir, 'meterline.yaml'), map.data['meterline.yaml'])
    const { config, problems } = checkConfig(join(dir, 'meterline.yaml'), rules)
    expect(problems).toEqual([])
    expect(config).toMatchObject({
      sources: [],
      keys: [],
      listen: { push: true, api: 'loopback', port: 8080 },
    })
    const [sidecar] = set.spec.template.spec.initContainers
    const mounts = sidecar.volumeMounts.map((mount: { mountPath: string }) => mount.mountPath)
    expect(mounts).toContain(config?.data)
    expect(sidecar.args).toEqual(['--config', `${mounts[1]}/meterline.yaml`, 'collect'])
    expect(sidecar.ports[0].containerPort).toBe(config?.listen.port)
    expect(sidecar.resources).toMatchObject({ requests: { memory: '160Mi' }, limits: { memory: '384Mi' } })
    expect(config?.outbox.maxBytes).toBeLessThan(1024 ** 3)
  } finally {
    rmSync(dir, { recursive: true })
  }
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
    'prometheus.yaml',
    'runai.yaml',
    'push-keys.yaml',
    'sidecar.yaml',
    'accounts.yaml',
    'prices.yaml',
  ]
  expect(all.map(name => basename(name))).toEqual(read.sort())
})
