/**
 * Records the events of a version in test/fixtures/events/<tag>/, for later versions to be held against. Run it once,
 * before the tag: `node test/record-events.ts v0.1.0`. It writes into no folder that is there: a recording never changes.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { decisionOf } from '../deploy/decide.ts'
import { type CloudEvent, encodeStructured } from '../schemas/cloudevents.ts'
import {
  contentHash,
  listingScope,
  type MarkData,
  type MarkEvent,
  type ReadIdentity,
  type ReadingEvent,
  sealMark,
  sealReading,
  showDigest,
  showReadat,
  type Usage,
} from '../schemas/event.ts'
import {
  type AmendmentEvent,
  amendmentType,
  pushedKey,
  pushedMarkType,
  type RefusalEvent,
  type ReplayEvent,
  refusalType,
  replayType,
  sealAbout,
} from '../schemas/pushed.ts'
import { hourMs, minuteMs, windowAt } from '../schemas/window.ts'

export const recordings = join(import.meta.dirname, 'fixtures/events')

/** By file name: one of every reading and mark that this version sends. */
export function eventsOfThisVersion(): Readonly<Record<string, ReadingEvent | MarkEvent>> {
  const startMs = Date.UTC(2026, 1, 12, 8)
  const readOf = (
    source: string,
    scope: string,
    widthMinutes: 15 | 60,
    afterMs: number,
    kind = 'rafay',
  ): ReadIdentity => {
    const window = windowAt(startMs, widthMinutes)
    return { source: `meterline/${kind}/${source}`, scope, window, readatMs: window.endMs + afterMs }
  }
  const mark = (readings: readonly ReadingEvent[], read: ReadIdentity, more: Partial<MarkData> = {}) =>
    sealMark(
      {
        outcome: 'complete',
        events: readings.length,
        digest: showDigest(readings.reduce((sum, reading) => sum + contentHash(reading), 0n)),
        settled: false,
        estimated: readings.some(({ data }) => data.estimated),
        ...more,
      },
      read,
    )

  const billing = readOf('prod', 'compute', 15, 3 * minuteMs + 11_120)
  const again = { ...billing, readatMs: billing.readatMs + hourMs }
  const console = readOf('console', 'Goodlife/h100-8x', 60, 200)
  const ops = readOf('prod', 'tokens', 15, 5_000)
  const listing = readOf('prod', listingScope, 15, 1_000)
  const instance = sealReading(billingInstance, 'rafay', billing)
  const profile = sealReading(consoleInstance, 'rafay', console)
  const tokens = sealReading(modelTokens, 'rafay', ops)
  const pods = readOf('cluster-a', 'pods', 15, 62_000, 'kubernetes')
  const doubted = readOf('prod', '71f69d83-ba66-4822-adf5-55ce55efd210', 15, 125_000, 'runai')
  const trainer = sealReading(runaiPod, 'runai', doubted)
  const gone = sealReading(kubernetesPod, 'kubernetes', pods)
  const of = (kind: string, scope: string, usage: Usage) =>
    sealReading(usage, kind, readOf('prod', scope, 15, 125_000, kind))
  return {
    'kubernetes-pod.json': gone,
    'kubernetes-volume.json': of('kubernetes', 'volumes', kubernetesVolume),
    'kubernetes-load-balancer.json': of('kubernetes', 'services', kubernetesLoadBalancer),
    'kubernetes-network.json': of('kubernetes', 'network', kubernetesNetwork),
    'read-kubernetes.json': mark([gone], pods),
    'runai-pod.json': trainer,
    'runai-gpu.json': of('runai', `${doubted.scope} metrics`, runaiGpu),
    'read-doubted.json': mark([trainer], doubted, {
      bad: [
        {
          subject: '1',
          code: 'FIGURES_DIFFER',
          message: 'pod trainer-0-0: intervals say 900 s, totalRunningTimeSeconds 780 s',
          counted: true,
        },
      ],
    }),
    'prometheus-gpu.json': of('prometheus', 'dcgm-energy', prometheusGpu),
    'postgresql-row.json': of('postgresql', 'inference', sqlRow),
    'clickhouse-row.json': of('clickhouse', 'inference', sqlRow),
    'instance-billing.json': instance,
    'instance-console.json': profile,
    'tokens.json': tokens,
    'read-complete.json': mark([instance], billing, {
      bad: [
        { subject: 'k2ab9dq', code: 'ITEM_UNREADABLE', message: 'instance broken-vm: /raw_usage is null' },
        { code: 'ITEM_UNREADABLE', message: '/instance_organization_id is missing' },
      ],
    }),
    'read-repeat.json': mark([instance], again, { repeats: showReadat(billing.readatMs), settled: true }),
    'read-estimated.json': mark([profile], console),
    'read-tokens.json': mark([tokens], ops, { settled: true }),
    'read-failed.json': mark([], readOf('prod', 'service', 15, 7_000), {
      outcome: 'failed',
      fault: { code: 'SOURCE_BUSY', message: 'rafay.instance_usage answered 503 after 5 tries' },
    }),
    'read-listing.json': mark([], listing, {
      scopes: [
        { scope: 'compute', since: '2026-02-01T00:00:00Z' },
        { scope: 'Oldlife/a100', since: '2025-11-03T10:15:00Z', ended: '2026-02-12T08:00:00Z' },
      ],
    }),
  }
}

/** By file name: one of everything else that this version sends, or takes of others. */
export function othersOfThisVersion(): Readonly<Record<string, CloudEvent>> {
  const timeMs = Date.UTC(2026, 1, 12, 9, 30)
  const decided = (data: Parameters<typeof decisionOf>[0]['data'], id: string): CloudEvent => ({
    ...decisionOf(
      {
        source: 'meterline/rafay/prod',
        scope: 'compute',
        window: windowAt(Date.UTC(2026, 1, 12, 8), 15),
        data,
      },
      { author: 'Jana Novák', reason: 'the provider confirmed it by mail', nowMs: () => timeMs },
    ),
    id,
  })
  const pushed = {
    specversion: '1.0' as const,
    id: 'order-4711/1',
    source: 'https://inference.example/eu-1',
    type: 'com.example.tokens',
    subject: 'goodlife',
    time: '2026-02-12T09:15:00.123456789+01:00',
    datacontenttype: 'application/json',
    data: { model: 'llama-3-70b', tokens: '9007199254740993', price_class: null },
    region: 'eu-1',
  }
  const about = { source: pushed.source, id: pushed.id, author: 'ops', reason: 'billed to the wrong tenant' }
  const amendment = (data: AmendmentEvent['data'], id: string) =>
    JSON.parse(
      sealAbout<AmendmentEvent>({
        id,
        source: 'meterline/amend/person',
        type: amendmentType,
        partitionkey: pushedKey(pushed.source, pushed.id),
        timeMs,
        data,
      }),
    ) as CloudEvent
  const { data, type } = pushed
  const bytes = Buffer.from(JSON.stringify(pushed))
  const headers = { 'content-type': 'application/cloudevents+json' }
  return {
    'decision-confirm.json': decided({ action: 'confirm', readat: '2026-02-12T08:18:11.120Z' }, 'd-1'),
    'decision-waive.json': decided({ action: 'waive', subject: 'lk5xnd2' }, 'd-2'),
    'decision-end.json': decided({ action: 'end' }, 'd-3'),
    'pushed.json': pushed,
    'pushed-mark.json': {
      specversion: '1.0',
      id: 'mark-1',
      source: pushed.source,
      type: pushedMarkType,
      subject: 'goodlife',
      time: '2026-02-12T09:00:00Z',
      datacontenttype: 'application/json',
      data: {
        window: { start: '2026-02-12T08:00:00Z', end: '2026-02-12T09:00:00Z' },
        events: 1,
        settled: false,
      },
    },
    'amendment.json': amendment(
      {
        ...about,
        action: 'amend',
        event: { type, subject: 'newlife', time: '2026-02-12T08:15:00Z', data },
      },
      'a-1',
    ),
    'void.json': amendment({ ...about, action: 'void' }, 'a-2'),
    'refusal.json': JSON.parse(
      sealAbout<RefusalEvent>({
        id: 'r-1',
        source: 'meterline/ingest/http',
        type: refusalType,
        partitionkey: 'r-1',
        timeMs,
        data: {
          code: 'EVENT_INVALID',
          reason: 'the body ends in the middle',
          headers,
          value: Buffer.from('{"specversion":"1').toString('base64'),
          bytes: 16,
          sha256: 'f'.repeat(64),
        },
      }),
    ),
    'replay.json': JSON.parse(
      sealAbout<ReplayEvent>({
        id: 'p-1',
        source: 'meterline/replay/rejected',
        type: replayType,
        partitionkey: pushedKey(pushed.source, pushed.id),
        timeMs,
        data: {
          log: 'k3Jw0sYpQk-1',
          partition: 3,
          offset: '18446744073709551614',
          part: 0,
          received: '2026-02-12T08:20:00Z',
          headers,
          value: bytes.toString('base64'),
        },
      }),
    ),
  }
}

const billingInstance: Usage = {
  thing: 'instance',
  subject: 'lk5xnd2',
  resource: { kind: 'instance', id: '019c510c-86c4-707d-aef7-15fa6af0422e', name: 'dev-vm-1' },
  measures: { instance_seconds: '900', gpu_seconds: '7199.9964' },
  labels: {
    organization: 'Goodlife',
    project: 'development',
    project_id: '7krxjzk',
    profile: 'h100-8x',
    profile_id: '019c2891-3cd2-7aec-a429-283874929fbd',
    profile_type: 'compute',
    gpu_type: 'Nvidia H100',
    gpu_count: '8',
    Memory: '256 GiB – größer',
  },
}

const consoleInstance: Usage = {
  thing: 'instance',
  subject: 'goodlife',
  resource: { kind: 'instance', id: 'test "mohan"', name: 'test "mohan"' },
  measures: { instance_seconds: '5400.25', gpu_seconds: '10800.5', storage_byte_seconds: '360000000000000' },
  labels: {
    organization: 'Goodlife',
    profile: 'h100-8x',
    profile_type: 'Unknown',
    status: 'running, stopped',
  },
  interval: { startMs: Date.UTC(2026, 1, 12, 8, 10), endMs: Date.UTC(2026, 1, 12, 8, 55, 0, 125) },
  parts: 2,
  estimated: true,
}

const modelTokens: Usage = {
  thing: 'tokens',
  subject: 'lk5xnd2',
  resource: { kind: 'model', id: 'llama-3-70b' },
  measures: { tokens: '9007199254740993', input_tokens: '9007199254740000', output_tokens: '993' },
  labels: { organization: 'Goodlife', model: 'Llama 3 70B' },
}

const kubernetesPod: Usage = {
  thing: 'pod',
  subject: 'acme',
  resource: { kind: 'pod', id: '0c6ab8b4-4c1e-4f3e-9d0b-2f6f0b1f7a11', name: 'trainer-0' },
  measures: {
    instance_seconds: '3',
    gpu_seconds: '1.5',
    cpu_core_seconds: '0.75',
    memory_byte_seconds: '3221225472',
  },
  labels: {
    namespace: 't1',
    node: 'gpu-a',
    node_pool: 'h100',
    gpu_resource: 'gpu-fraction',
    gpu_type: 'NVIDIA-H100-80GB-HBM3',
    owner_kind: 'Job',
    owner: 'trainer',
  },
  interval: { startMs: Date.UTC(2026, 1, 12, 8, 3), endMs: Date.UTC(2026, 1, 12, 8, 3, 3) },
  estimated: true,
}

const kubernetesVolume: Usage = {
  thing: 'volume',
  subject: 't1',
  resource: { kind: 'volume_claim', id: '7d2f6e7c-57a6-4a66-8f5d-0d1b60f2f3aa', name: 'data' },
  measures: { storage_byte_seconds: '9663676416000' },
  labels: { namespace: 't1', storage_class: 'fast', volume: 'pv-1' },
}

const kubernetesLoadBalancer: Usage = {
  thing: 'load_balancer',
  subject: 't1',
  resource: { kind: 'load_balancer', id: '4a4e8a0c-0d8a-4b7e-8f55-3f0a9cf4b0aa', name: 'web' },
  measures: { load_balancer_seconds: '900' },
  labels: { namespace: 't1' },
}

const kubernetesNetwork: Usage = {
  thing: 'network',
  subject: 't1',
  resource: { kind: 'pod', id: '0c6ab8b4-4c1e-4f3e-9d0b-2f6f0b1f7a11', name: 'trainer-0' },
  measures: { network_receive_bytes: '18446744073709551615', network_transmit_bytes: '0' },
  labels: { namespace: 't1', node: 'gpu-a' },
}

const runaiPod: Usage = {
  thing: 'pod',
  subject: '1',
  resource: { kind: 'pod', id: '9b8d7c6e-1f2a-4b3c-8d4e-5f6a7b8c9d0e', name: 'trainer-0-0' },
  measures: { instance_seconds: '900', gpu_seconds: '1350', cpu_core_seconds: '450' },
  labels: {
    cluster: 'dgx',
    department: 'research',
    project: 'vision',
    user: 'researcher@example.com',
    workload: 'trainer',
    category: 'Train',
    preemptible: 'true',
    gpu_type: 'NVIDIA-H100-80GB-HBM3',
  },
}

const runaiGpu: Usage = {
  ...runaiPod,
  thing: 'gpu',
  measures: { gpu_active_seconds: '1012.5', gpu_idle_seconds: '120', nvlink_receive_bytes: '76500' },
  parts: 2,
}

const prometheusGpu: Usage = {
  thing: 'gpu',
  subject: 't1',
  resource: { kind: 'gpu', id: 'GPU-8b22d6f7-3f0c-4f6e-9f37-2f1d2f6f0b1f' },
  measures: { energy_joules: '612345.678' },
  labels: { node: 'gpu-a', gpu_type: 'NVIDIA H100 80GB HBM3' },
}

const sqlRow: Usage = {
  thing: 'usage',
  subject: 'goodlife',
  resource: { kind: 'model', id: 'llama-3-70b' },
  measures: { tokens: '999999999999999999999999.999999999999' },
  labels: { region: 'eu-1' },
  parts: 3,
}

function record(tag: string): void {
  const folder = join(recordings, tag)
  if (!/^v\d+\.\d+\.\d+$/.test(tag) || existsSync(folder)) throw new Error(`"${tag}" is no new version`)
  mkdirSync(folder, { recursive: true })
  for (const [file, event] of Object.entries({ ...eventsOfThisVersion(), ...othersOfThisVersion() }))
    writeFileSync(join(folder, file), `${JSON.stringify(JSON.parse(encodeStructured(event)), null, 2)}\n`)
}

if (import.meta.main) record(process.argv[2] ?? '')
