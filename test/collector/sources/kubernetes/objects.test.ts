/** What is picked of objects of the API: only what is billed by, as JSON, and a fault that names the place of what is unfit. */
import { describe, expect, test } from 'vitest'
import {
  claimOf,
  namespaceOf,
  nodeOf,
  podOf,
  serviceOf,
  sliceOf,
  volumeClaimOf,
  volumeOf,
  type Wanted,
} from '../../../../collector/sources/kubernetes/objects.ts'
import { faultOf } from '../../../faults.ts'
import { json, podManifest } from './manifests.ts'

const wanted: Wanted = {
  podLabels: new Set(['team']),
  podAnnotations: new Set(['gpu-fraction']),
  namespaceLabels: new Set(['customer']),
  namespaceAnnotations: new Set(),
  nodeLabel: name => name === 'pool',
}
const secret = 'hunter2'
const metadata = {
  name: 'x',
  namespace: 'team',
  uid: 'uid-x',
  resourceVersion: '9',
  creationTimestamp: '2026-02-12T08:00:00Z',
  labels: { team: 'blue', customer: 'acme', pool: 'h100', other: secret },
  annotations: {
    'gpu-fraction': '0.5',
    'kubectl.kubernetes.io/last-applied-configuration': `{"env":"${secret}"}`,
  },
  managedFields: [{ manager: secret }],
}

const manifest = podManifest({
  metadata: {
    ...metadata,
    deletionTimestamp: '2026-02-12T09:00:30Z',
    deletionGracePeriodSeconds: 30,
    ownerReferences: [
      { kind: 'Node', name: 'n1' },
      { kind: 'ReplicaSet', name: 'web-7', controller: true },
    ],
  },
  spec: {
    hostNetwork: true,
    priorityClassName: 'train',
    volumes: [{ secret: { secretName: secret } }],
    imagePullSecrets: [{ name: secret }],
  },
  status: {
    startTime: '2026-02-12T08:00:02Z',
    conditions: [
      { type: 'PodScheduled', status: 'True', lastTransitionTime: '2026-02-12T08:00:01Z', message: secret },
    ],
    containerStatuses: [
      {
        name: 'c0',
        image: secret,
        state: {
          terminated: {
            startedAt: '2026-02-12T08:00:05Z',
            finishedAt: '2026-02-12T08:30:00Z',
            message: secret,
          },
        },
        lastState: { terminated: { finishedAt: '2026-02-12T08:00:04Z' } },
      },
      { name: 'c1', state: { running: { startedAt: '2026-02-12T08:00:06Z' } } },
    ],
  },
  containers: [{}, {}],
})
const at = (time: string) => Date.parse(`2026-02-12T${time}Z`)

describe('a pod', () => {
  test('is its times, its containers and what is asked for, and nothing that could be a secret', () => {
    const withSecrets = structuredClone(manifest) as unknown as {
      spec: { containers: { env?: unknown; command?: unknown }[] }
    }
    withSecrets.spec.containers[0]!.env = [{ name: 'PASSWORD', value: secret }]
    withSecrets.spec.containers[0]!.command = ['run', secret]
    const picked = podOf(json(withSecrets), wanted)
    expect(picked).toEqual({
      uid: 'uid-x',
      name: 'x',
      namespace: 'team',
      resourceVersion: '9',
      createdMs: at('08:00:00'),
      deletionMs: at('09:00:30'),
      deletionGraceSeconds: 30,
      labels: { team: 'blue' },
      annotations: { 'gpu-fraction': '0.5' },
      nodeName: 'n1',
      hostNetwork: true,
      priorityClass: 'train',
      owner: { kind: 'ReplicaSet', name: 'web-7' },
      phase: 'Running',
      scheduledMs: at('08:00:01'),
      startMs: at('08:00:02'),
      containers: [
        {
          name: 'c0',
          wanted: {},
          startedMs: at('08:00:05'),
          finishedMs: at('08:30:00'),
          finishedBeforeMs: at('08:00:04'),
        },
        { name: 'c1', wanted: {}, runningSinceMs: at('08:00:06') },
      ],
      initContainers: [],
      claims: [],
      claimedResources: [],
    })
    expect(JSON.stringify(picked)).not.toContain(secret)
  })

  test('is the same again after it was kept as JSON', () => {
    const picked = podOf(json(manifest), wanted)
    expect(JSON.parse(JSON.stringify(picked))).toEqual(picked)
  })

  test('that is not scheduled has no time of it', () => {
    const waiting = podManifest({
      status: {
        conditions: [{ type: 'PodScheduled', status: 'False', lastTransitionTime: '2026-02-12T08:00:01Z' }],
      },
    })
    expect(podOf(json(waiting), wanted)).not.toHaveProperty('scheduledMs')
  })

  test('may be written with null for what is not there', () => {
    const bare = {
      metadata: { name: 'x', uid: 'u', creationTimestamp: null, labels: null },
      spec: { containers: [{ name: 'c', resources: null }], initContainers: null },
      status: { conditions: null },
    }
    expect(podOf(json(bare), wanted)).toMatchObject({ uid: 'u', containers: [{ name: 'c' }] })
  })

  test.each<[string, object, string, string]>([
    ['no uid', { metadata: { ...metadata, uid: undefined } }, '/metadata/uid', 'is missing'],
    ['no spec', { spec: null }, '/spec', 'is missing'],
    ['a list of containers that is none', { spec: { containers: {} } }, '/spec/containers', 'is an object'],
    ['a container without a name', { spec: { containers: [{}] } }, '/spec/containers/0/name', 'is missing'],
    [
      'a time that is none',
      { metadata: { ...metadata, deletionTimestamp: 'soon' } },
      '/metadata/deletionTimestamp',
      'is a string that cannot be read',
    ],
    [
      'a quantity that is a list',
      { spec: { containers: [{ name: 'c', resources: { requests: { cpu: [1] } } }] } },
      '/spec/containers/0/resources/requests/cpu',
      'is a list',
    ],
    [
      'a flag that is a text',
      { spec: { containers: [], hostNetwork: 'yes' } },
      '/spec/hostNetwork',
      'is a string that cannot be read',
    ],
  ])('with %s is a fault that names the pod and the place', (_, changes, path, what) => {
    const fault = faultOf(() => podOf(json({ ...manifest, metadata, ...changes }), wanted))
    expect(fault).toMatchObject({
      code: 'ITEM_UNREADABLE',
      message: `pod team/x: ${path} ${what}`,
      facts: { subject: 'team', pod: 'x', path },
    })
  })

  test.each([null, 'pod', 7, []])('that is %j is a fault', value => {
    expect(faultOf(() => podOf(json(value), wanted)).code).toBe('ITEM_UNREADABLE')
  })
})

test('of every kind only what is wanted is picked', () => {
  const spec = { driver: 'd', pool: { name: 'n', generation: 1 } }
  const status = { conditions: [{ type: 'Ready', status: 'True', message: secret }] }
  const raw = json({ metadata, spec, status, data: { password: secret } })
  const picked = [
    nodeOf(raw, wanted),
    namespaceOf(raw, wanted),
    claimOf(raw),
    sliceOf(raw),
    volumeClaimOf(raw, wanted),
    volumeOf(raw),
    serviceOf(raw, wanted),
  ]
  for (const each of picked) {
    expect(each).toMatchObject({ uid: 'uid-x', name: 'x', createdMs: at('08:00:00') })
    expect(JSON.stringify(each)).not.toContain(secret)
  }
  expect(picked[0]).toMatchObject({ ready: true, labels: { pool: 'h100' } })
  expect(picked[1]).toMatchObject({ labels: { customer: 'acme' } })
})

test('only pods hold a claim: others that are named beside them do not', () => {
  const picked = claimOf(
    json({
      metadata,
      status: {
        reservedFor: [
          { resource: 'pods', name: 'a', uid: 'uid-a' },
          { apiGroup: 'example.com', resource: 'jobs', name: 'b', uid: 'uid-b' },
        ],
      },
    }),
  )
  expect(picked).toMatchObject({ devices: [], reservedFor: ['uid-a'] })
})

test('devices of the first version of the API lie one deeper', () => {
  const device = {
    name: 'gpu-0',
    basic: { attributes: { type: { string: 'gpu' } }, capacity: { memory: { value: '80Gi' } } },
  }
  const spec = { driver: 'd', pool: { name: 'n', generation: 3 }, devices: [device] }
  expect(sliceOf(json({ metadata, spec }))).toMatchObject({
    generation: 3,
    devices: [{ name: 'gpu-0', attributes: { type: 'gpu' }, capacity: { memory: '80Gi' } }],
  })
})
