/** Where the API server is: in a pod, by options, by a kubeconfig; what is rotated counts at once, and what cannot be used is named. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { connectionOf } from '../../../../collector/sources/kubernetes/connection.ts'
import { readSecret } from '../../../../runtime/secrets.ts'
import { faultOf } from '../../../faults.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'meterline-kubeconfig-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))
const secret = (reference: string) => readSecret(reference, { env: {}, option: 'test' })
const file = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text)
  return `file:${join(dir, name)}`
}

const kubeconfig = (user: object, cluster: object = {}) =>
  file(
    'config',
    stringify({
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'prod',
      contexts: [
        { name: 'other', context: { cluster: 'b', user: 'u' } },
        { name: 'prod', context: { cluster: 'a', user: 'u' } },
      ],
      clusters: [
        { name: 'a', cluster: { server: 'https://a.example:6443/', ...cluster } },
        { name: 'b', cluster: { server: 'https://b.example:6443' } },
      ],
      users: [{ name: 'u', user }],
    }),
  )

test('in a pod it is the service account that is mounted', () => {
  const asked: string[] = []
  const connection = connectionOf({}, reference => {
    asked.push(reference)
    return 'x'
  })
  expect(connection.url()).toBe('https://kubernetes.default.svc')
  expect(connection.headers()).toEqual({ authorization: 'Bearer x' })
  expect(connection.tls()).toEqual({ ca: 'x' })
  expect(asked).toEqual([
    'file:/var/run/secrets/kubernetes.io/serviceaccount/token',
    'file:/var/run/secrets/kubernetes.io/serviceaccount/ca.crt',
  ])
})

test('a token that was rotated counts at the next call', () => {
  const token = file('token', 'first\n')
  const connection = connectionOf({ url: 'https://a.example/', token }, secret)
  expect(connection.headers()).toEqual({ authorization: 'Bearer first' })
  file('token', 'second\n')
  expect(connection.headers()).toEqual({ authorization: 'Bearer second' })
  expect(connection.url()).toBe('https://a.example')
  expect(connection.tls()).toEqual({})
})

test('of a kubeconfig the current context counts, or the one that is named; data before files', () => {
  const reference = kubeconfig(
    { token: 'secret', 'client-certificate': 'cert.pem', 'client-key-data': btoa('the key') },
    { 'certificate-authority-data': btoa('the ca'), 'certificate-authority': 'none.pem' },
  )
  file('cert.pem', 'the cert')
  const connection = connectionOf({ kubeconfig: reference }, secret)
  expect(connection.url()).toBe('https://a.example:6443')
  expect(connection.headers()).toEqual({ authorization: 'Bearer secret' })
  expect(connection.tls()).toEqual({ ca: 'the ca', cert: 'the cert', key: 'the key' })
  expect(connectionOf({ kubeconfig: reference, context: 'other' }, secret).url()).toBe(
    'https://b.example:6443',
  )
  kubeconfig({ token: 'rotated' })
  expect(connection.headers()).toEqual({ authorization: 'Bearer rotated' })
})

test('the file of a token, beside the kubeconfig, is read anew', () => {
  file('token', 'one')
  const connection = connectionOf({ kubeconfig: kubeconfig({ tokenFile: 'token' }) }, secret)
  expect(connection.headers()).toEqual({ authorization: 'Bearer one' })
  file('token', 'two')
  expect(connection.headers()).toEqual({ authorization: 'Bearer two' })
})

test.each([
  ['exec', { exec: { command: 'aws' } }, {}],
  ['auth-provider', { 'auth-provider': { name: 'oidc' } }, {}],
  ['username', { username: 'ada', password: 'hunter2' }, {}],
  ['proxy-url', { token: 'hunter2' }, { 'proxy-url': 'http://proxy' }],
])('%s in a kubeconfig is refused by its name', (field, user, cluster) => {
  const connection = connectionOf({ kubeconfig: kubeconfig(user, cluster) }, secret)
  const fault = faultOf(() => connection.url())
  expect(fault.code).toBe('CONFIG_INVALID')
  expect(fault.message).toContain(`\`${field}\``)
  expect(fault.message).not.toContain('hunter2')
})

test.each([
  ['is no YAML', '{ token: hunter2'],
  ['has no current-context', 'kind: Config'],
  ['has no entry prod', 'current-context: prod'],
])('a kubeconfig that %s says so, and shows nothing of itself', (why, content) => {
  const connection = connectionOf({ kubeconfig: file('config', content) }, secret)
  const fault = faultOf(() => connection.url())
  expect(fault.code).toBe('CONFIG_INVALID')
  expect(fault.message).toContain(why)
  expect(fault.message).not.toContain('hunter2')
})
