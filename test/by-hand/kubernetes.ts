/**
 * The Kubernetes source against a real kube-apiserver and etcd: pods, claims of devices, volumes and load balancers live
 * and end, the API server is killed, its history is thrown away, the collector is away for a while; the totals are held
 * against what was done. Takes about three minutes, and is run by hand, for building an API server takes many more:
 *
 *     npm run try:kubernetes -- FOLDER       with FOLDER/etcd and FOLDER/kube-apiserver
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Fraction from 'fraction.js'
import { Agent, request } from 'undici'
import { parseAllDocuments } from 'yaml'
import type { Source } from '../../collector/source.ts'
import { KubernetesConfig, type KubernetesItem, openKubernetes } from '../../collector/sources/kubernetes.ts'
import { openHttp } from '../../runtime/http.ts'
import { SqliteOutbox } from '../../runtime/log/outbox.ts'
import { misfits } from '../../schemas/check.ts'
import { exact, show } from '../../schemas/decimal.ts'
import type { Usage } from '../../schemas/event.ts'
import { minuteMs, secondMs, showInstant, windowsOver } from '../../schemas/window.ts'

const [folder] = process.argv.slice(2)
if (folder === undefined) throw new Error('usage: npm run try:kubernetes -- FOLDER')
const dir = mkdtempSync(join(tmpdir(), 'meterline-kubernetes-'))
const ports = { etcd: 23790, peer: 23800, api: 26443 }
const url = `https://127.0.0.1:${ports.api}`
const account = 'system:serviceaccount:meterline:meterline'
const say = (line: string) => process.stdout.write(`${showInstant(Date.now())} ${line}\n`)

// -- the servers

const running = new Map<string, ChildProcess>()
function start(name: string, args: readonly string[]): void {
  const out = openSync(join(dir, `${name}.log`), 'a')
  running.set(name, spawn(join(folder!, name), args, { stdio: ['ignore', out, out], cwd: dir }))
}
function startEtcd(): void {
  const client = `http://127.0.0.1:${ports.etcd}`
  const peer = `http://127.0.0.1:${ports.peer}`
  start('etcd', [
    ...['--data-dir', 'etcd.data', '--listen-client-urls', client, '--advertise-client-urls', client],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
    ...['--initial-cluster', `default=${peer}`],
  ])
}
async function startApiServer(): Promise<void> {
  start('kube-apiserver', [
    `--etcd-servers=http://127.0.0.1:${ports.etcd}`,
    ...[`--secure-port=${ports.api}`, '--bind-address=127.0.0.1', '--advertise-address=127.0.0.1'],
    ...['--cert-dir=certs', '--service-account-key-file=sa.key', '--service-account-signing-key-file=sa.key'],
    '--service-account-issuer=https://kubernetes.default.svc',
    ...[
      '--token-auth-file=tokens.csv',
      '--authorization-mode=RBAC',
      '--service-cluster-ip-range=10.0.0.0/24',
    ],
    ...['--disable-admission-plugins=ServiceAccount', '--etcd-compaction-interval=10s'],
  ])
  for (let tries = 0; ; tries += 1)
    try {
      if ((await call('GET', '/readyz')).status === 200) return
    } catch (error) {
      if (tries > 120) throw error
    } finally {
      await sleep(500)
    }
}
async function kill(name: string): Promise<void> {
  const child = running.get(name)
  child?.kill('SIGKILL')
  if (child && child.exitCode === null && child.signalCode === null)
    await new Promise(resolve => child.once('exit', resolve))
}

let agent: Agent | undefined
async function call(method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, body?: object, type?: string) {
  agent ??= new Agent({ connect: { rejectUnauthorized: false } })
  const answer = await request(url + path, {
    method,
    dispatcher: agent,
    headers: {
      authorization: 'Bearer admin-token',
      'content-type': type ?? 'application/json',
    },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await answer.body.text()
  return { status: answer.statusCode, text }
}
interface Made {
  readonly metadata: { readonly uid: string }
  readonly gitVersion?: string
}
async function done(...args: Parameters<typeof call>): Promise<Made> {
  const { status, text } = await call(...args)
  if (status >= 300) throw new Error(`${args[0]} ${args[1]}: ${status} ${text}`)
  return JSON.parse(text) as Made
}

// -- what a cluster would do

const core = '/api/v1'
const claims = '/apis/resource.k8s.io/v1'
const now = () => new Date(Math.floor(Date.now() / secondMs) * secondMs)
const stamp = (at: Date) => at.toISOString().replace('.000Z', 'Z')
const status = (path: string, body: object) =>
  done('PATCH', `${path}/status`, { status: body }, 'application/merge-patch+json')

interface Expected {
  readonly subject: string
  readonly measure: string
  /** Per second. */
  readonly rate: string
  readonly fromMs: number
  toMs?: number
  /** Nobody saw when it ended. */
  readonly estimated?: boolean
}
const expected: Expected[] = []

/** A pod that is scheduled and runs from now on. */
async function runPod(namespace: string, name: string, requests: Record<string, string>, more: object = {}) {
  const limits = Object.fromEntries(Object.entries(requests).filter(([key]) => key.includes('/')))
  await done('POST', `${core}/namespaces/${namespace}/pods`, {
    metadata: { name },
    spec: {
      nodeName: 'gpu-a',
      containers: [{ name: 'main', image: 'busybox', resources: { requests, limits } }],
      ...more,
    },
  })
  const at = now()
  await status(`${core}/namespaces/${namespace}/pods/${name}`, {
    phase: 'Running',
    startTime: stamp(at),
    conditions: [{ type: 'PodScheduled', status: 'True', lastTransitionTime: stamp(at) }],
    containerStatuses: [
      {
        name: 'main',
        ready: true,
        restartCount: 0,
        image: 'busybox',
        imageID: '',
        state: { running: { startedAt: stamp(at) } },
      },
    ],
  })
  return at
}
async function finishPod(namespace: string, name: string, startedAt: Date) {
  const at = now()
  await status(`${core}/namespaces/${namespace}/pods/${name}`, {
    phase: 'Succeeded',
    containerStatuses: [
      {
        ...{ name: 'main', ready: false, restartCount: 0, image: 'busybox', imageID: '' },
        state: { terminated: { exitCode: 0, startedAt: stamp(startedAt), finishedAt: stamp(at) } },
      },
    ],
  })
  return at
}
const removePod = async (namespace: string, name: string) => {
  await done('DELETE', `${core}/namespaces/${namespace}/pods/${name}?gracePeriodSeconds=0`)
  return now()
}
function expect(
  subject: string,
  rates: Readonly<Record<string, string>>,
  from: Date,
  to?: Date,
  estimated?: true,
) {
  for (const [measure, rate] of Object.entries(rates))
    expected.push({
      ...{ subject, measure, rate, fromMs: from.getTime() },
      ...(to && { toMs: to.getTime() }),
      ...(estimated && { estimated }),
    })
}

// -- the collector's side

const whole: unknown = {
  name: 'real',
  url,
  token: 'file:token',
  ca: 'file:ca',
  windowMinutes: 1,
  watchTimeoutSeconds: 20,
  pageSize: 2,
}
const wrong = misfits(KubernetesConfig, whole)
if (wrong.length > 0) throw new Error(JSON.stringify(wrong))

interface Watching extends AsyncDisposable {
  readonly source: Source<KubernetesItem>
}
function watch(): Watching {
  const outbox = SqliteOutbox.open({ dir: join(dir, 'data'), access: 'append', nowMs: Date.now })
  const http = openHttp({})
  const source = openKubernetes(whole as KubernetesConfig, {
    http,
    client: options => openHttp({ retries: 2, ...options }),
    state: outbox.state('meterline/kubernetes/real'),
    secret: reference =>
      reference === 'file:token' ? 'reader-token' : readFileSync(join(dir, 'certs/apiserver.crt'), 'utf8'),
    nowMs: Date.now,
  })
  const stop = new AbortController()
  const ended = source.watch!(stop.signal)
  return {
    source,
    async [Symbol.asyncDispose]() {
      stop.abort()
      await ended
      await source[Symbol.asyncDispose]()
      await http[Symbol.asyncDispose]()
      outbox[Symbol.dispose]()
    },
  }
}

try {
  mkdirSync(join(dir, 'data'))
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  writeFileSync(join(dir, 'sa.key'), privateKey.export({ type: 'pkcs1', format: 'pem' }))
  writeFileSync(join(dir, 'tokens.csv'), `admin-token,admin,1,system:masters\nreader-token,${account},2,\n`)
  startEtcd()
  await startApiServer()
  say(`a real API server: ${(await done('GET', '/version')).gitVersion}`)

  await done('POST', `${core}/namespaces`, { metadata: { name: 'meterline' } })
  const role = readFileSync(join(import.meta.dirname, '../../deploy/examples/kubernetes-rbac.yaml'), 'utf8')
  for (const document of parseAllDocuments(role)) {
    const object = document.toJS() as { kind: string }
    const kinds: Record<string, string> = {
      ServiceAccount: `${core}/namespaces/meterline/serviceaccounts`,
      ClusterRole: '/apis/rbac.authorization.k8s.io/v1/clusterroles',
      ClusterRoleBinding: '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
    }
    const path = kinds[object.kind]
    if (path !== undefined) await done('POST', path, object).catch(error => say(String(error)))
  }
  for (const name of ['t1', 't2']) await done('POST', `${core}/namespaces`, { metadata: { name } })
  await done('POST', `${core}/nodes`, {
    metadata: { name: 'gpu-a', labels: { 'nvidia.com/gpu.product': 'NVIDIA-H100-80GB-HBM3' } },
  })
  const early = await runPod('t1', 'early', { cpu: '500m', memory: '1Gi', 'nvidia.com/gpu': '2' })
  expect('t1', { gpu_seconds: '2', cpu_core_seconds: '1/2', memory_byte_seconds: '1073741824' }, early)

  let watching = watch()
  await sleep(2000)
  say(`check: ${JSON.stringify(await watching.source.check!(AbortSignal.timeout(20_000)))}`)
  let scopes = await watching.source.scopes(AbortSignal.timeout(20_000))
  const sinceMs = Math.max(...scopes.map(scope => scope.sinceMs ?? Number.NaN))
  say(`whole windows from ${showInstant(sinceMs)} on`)
  await sleep(Math.max(0, sinceMs - Date.now()) + 3000)

  say('a pod of three seconds')
  const three = await runPod('t2', 'three', { cpu: '2', 'nvidia.com/gpu': '8' })
  await sleep(3000)
  const threeEnd = await finishPod('t2', 'three', three)
  expect('t2', { gpu_seconds: '8', cpu_core_seconds: '2' }, three, threeEnd)

  say('a claim of two devices, shared by nobody')
  await done('POST', `${claims}/resourceslices`, {
    metadata: { name: 'gpu-a' },
    spec: {
      ...{ driver: 'gpu.nvidia.com', nodeName: 'gpu-a' },
      pool: { name: 'gpu-a', generation: 1, resourceSliceCount: 1 },
      devices: ['gpu-0', 'gpu-1'].map(name => ({
        name,
        attributes: { productName: { string: 'NVIDIA H100 80GB HBM3' }, type: { string: 'gpu' } },
      })),
    },
  })
  await done('POST', `${claims}/namespaces/t2/resourceclaims`, {
    metadata: { name: 'gpus' },
    spec: {
      devices: { requests: [{ name: 'gpu', exactly: { deviceClassName: 'gpu.nvidia.com', count: 2 } }] },
    },
  })
  const results = ['gpu-0', 'gpu-1'].map(device => ({
    request: 'gpu',
    driver: 'gpu.nvidia.com',
    pool: 'gpu-a',
    device,
  }))
  await status(`${claims}/namespaces/t2/resourceclaims/gpus`, { allocation: { devices: { results } } })
  const dra = await runPod(
    't2',
    'dra',
    { cpu: '1' },
    {
      resourceClaims: [{ name: 'g', resourceClaimName: 'gpus' }],
    },
  )
  const draPod = await done('GET', `${core}/namespaces/t2/pods/dra`)
  await status(`${claims}/namespaces/t2/resourceclaims/gpus`, {
    allocation: { devices: { results } },
    reservedFor: [{ resource: 'pods', name: 'dra', uid: draPod.metadata.uid }],
  })
  expect('t2', { gpu_seconds: '2', cpu_core_seconds: '1' }, dra)

  say('a volume and a load balancer')
  await done('POST', `${core}/persistentvolumes`, {
    metadata: { name: 'pv-1' },
    spec: {
      ...{ capacity: { storage: '10Gi' }, accessModes: ['ReadWriteOnce'], storageClassName: 'fast' },
      ...{ hostPath: { path: '/x' }, persistentVolumeReclaimPolicy: 'Retain' },
      claimRef: { namespace: 't1', name: 'data' },
    },
  })
  await done('POST', `${core}/namespaces/t1/persistentvolumeclaims`, {
    metadata: { name: 'data' },
    spec: {
      ...{ accessModes: ['ReadWriteOnce'], storageClassName: 'fast', volumeName: 'pv-1' },
      resources: { requests: { storage: '10Gi' } },
    },
  })
  await status(`${core}/namespaces/t1/persistentvolumeclaims/data`, {
    phase: 'Bound',
    capacity: { storage: '10Gi' },
  })
  const bound = now()
  expect('t1', { storage_byte_seconds: String(10n * 1024n ** 3n) }, bound)
  await done('POST', `${core}/namespaces/t1/services`, {
    metadata: { name: 'web' },
    spec: { type: 'LoadBalancer', ports: [{ port: 80 }], selector: { app: 'web' } },
  })
  await status(`${core}/namespaces/t1/services/web`, { loadBalancer: { ingress: [{ ip: '192.0.2.7' }] } })
  expect('t1', { load_balancer_seconds: '1' }, now())

  say('the API server is killed, and comes back')
  await sleep(5000)
  await kill('kube-apiserver')
  agent = undefined
  await startApiServer()
  await sleep(4000)
  const earlyEnd = await removePod('t1', 'early')
  for (const one of expected) if (one.fromMs === early.getTime()) one.toMs = earlyEnd.getTime()

  say('same name, another pod')
  const again = await runPod('t1', 'early', { cpu: '250m' })
  expect('t1', { cpu_core_seconds: '1/4' }, again)

  say('the collector is away while a pod ends and another comes; the history is compacted meanwhile')
  const gone = await runPod('t2', 'gone', { cpu: '4' })
  await sleep(3000)
  await watching[Symbol.asyncDispose]()
  await removePod('t2', 'gone')
  const unseen = await runPod('t2', 'unseen', { cpu: '8' })
  // Its cache of what has been goes with the process, and etcd has compacted: what the collector saw last is too old.
  await sleep(30_000)
  await kill('kube-apiserver')
  agent = undefined
  await startApiServer()
  watching = watch()
  await sleep(5000)
  expect('t2', { cpu_core_seconds: '4' }, gone, undefined, true)
  expect('t2', { cpu_core_seconds: '8' }, unseen)

  const endMs = Math.ceil((Date.now() + 5000) / minuteMs) * minuteMs
  say(`reading until ${showInstant(endMs)}`)
  await sleep(endMs - Date.now() + 2000)
  scopes = await watching.source.scopes(AbortSignal.timeout(20_000))
  const usages: Usage[] = []
  for (const { scope } of scopes)
    for (const window of windowsOver({ startMs: sinceMs, endMs }, 1)) {
      const signal = AbortSignal.timeout(150_000)
      for await (const item of watching.source.read(scope, window, signal))
        usages.push(...watching.source.toUsage(item, window))
    }
  await watching[Symbol.asyncDispose]()

  let [differ, guessed] = [0, 0]
  const totals = new Map<string, Fraction>()
  const add = (key: string, value: Fraction) =>
    totals.set(key, (totals.get(key) ?? new Fraction(0)).add(value))
  const known = new Map<string, Fraction>()
  const addKnown = (key: string, value: Fraction) =>
    known.set(key, (known.get(key) ?? new Fraction(0)).add(value))
  for (const { subject, measures, estimated, resource } of usages) {
    if (resource.name === 'gone') {
      say(`gone: ${JSON.stringify(measures)}, estimated: ${estimated}`)
      guessed += 1
      if (estimated) continue
    }
    for (const [measure, value] of Object.entries(measures)) add(`${subject} ${measure}`, exact(value))
  }
  for (const { subject, measure, rate, fromMs, toMs, estimated } of expected) {
    if (estimated) continue
    const seconds = (Math.min(toMs ?? endMs, endMs) - Math.max(fromMs, sinceMs)) / secondMs
    addKnown(`${subject} ${measure}`, exact(rate).mul(seconds))
  }
  if (guessed !== 1) differ += 1
  for (const [key, value] of known) {
    const found = totals.get(key) ?? new Fraction(0)
    const same = found.equals(value)
    if (!same) differ += 1
    say(`${same ? 'equal ' : 'DIFFER'} ${key}: done ${show(value)}, read ${show(found)}`)
  }
  say(differ === 0 ? 'all equal' : `${differ} differ`)
  process.exitCode = differ === 0 ? 0 : 1
} finally {
  await Promise.all([...running.keys()].map(kill))
  if (process.exitCode === 0) rmSync(dir, { recursive: true, force: true })
  else say(`left for looking at: ${dir}`)
}
