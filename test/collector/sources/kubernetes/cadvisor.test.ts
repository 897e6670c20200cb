/** The text of cAdvisor: which lines are the traffic of a pod, and what no pod can be billed for. */
import { describe, expect, test } from 'vitest'
import { networkSamples } from '../../../../collector/sources/kubernetes/cadvisor.ts'
import { faultOf } from '../../../faults.ts'

const uid = '3e7c1f3a-0b1c-4d2e-9f00-112233445566'
const cgroup = `/kubepods/burstable/pod${uid}/aa11`
const slice = `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid.replaceAll('-', '_')}.slice/cri-containerd-bb22.scope`
const own = `container_network_receive_bytes_total{container="",id="/",image="",interface="eth0",name="",namespace="",pod=""} 9.9e+11 1770883200000\n`

function line(
  labels: Readonly<Record<string, string>>,
  value = '1.5e+09 1770883200123',
  direction = 'receive',
): string {
  const all = {
    container: '',
    id: cgroup,
    image: 'pause',
    interface: 'eth0',
    name: 'aa11',
    namespace: 'team',
    pod: 'web-0',
    ...labels,
  }
  const shown = Object.entries(all).map(([name, text]) => `${name}="${text}"`)
  return `container_network_${direction}_bytes_total{${shown.join(',')}} ${value}\n`
}
const samples = (text: string) =>
  networkSamples(`# TYPE container_network_receive_bytes_total counter\n${own}${text}`)

describe('a line of a pod', () => {
  test('is a sample: its pod, the id of it, its sandbox and interface, its value as printed, its time', () => {
    expect(samples(line({}))).toEqual([
      {
        direction: 'receive',
        namespace: 'team',
        pod: 'web-0',
        uid,
        series: `${cgroup} eth0`,
        value: '1.5e+09',
        atMs: 1770883200123,
      },
    ])
  })

  test('may have no time of its own', () => {
    expect(samples(line({}, '17', 'transmit'))).toMatchObject([{ direction: 'transmit', value: '17' }])
    expect(samples(line({}, '17'))[0]).not.toHaveProperty('atMs')
  })

  test('may have a control group of systemd, which writes the id otherwise', () => {
    expect(samples(line({ id: slice }))[0]?.uid).toBe(uid)
  })

  test('of a static pod has the hash of its file for an id', () => {
    const hash = 'b8a1f2c3d4e5f60718293a4b5c6d7e8f'
    expect(samples(line({ id: `/kubepods/burstable/pod${hash}/cc` }))[0]?.uid).toBe(hash)
  })

  test('of Docker names its sandbox POD', () => {
    expect(samples(line({ container: 'POD' }))).toHaveLength(1)
  })

  test('has labels with quotes, commas, braces and line ends in them', () => {
    const odd = { image: 'a\\"b,c}d\\\\', name: 'x\\ny' }
    expect(samples(line(odd))).toHaveLength(1)
  })

  test('without labels counts by its id, unless its pod has lines with labels', () => {
    const bare = line({ namespace: '', pod: '' })
    expect(samples(bare)).toMatchObject([{ uid, namespace: '' }])
    expect(samples(bare + line({ id: `/kubepods/burstable/pod${uid}/dd` }))).toMatchObject([
      { namespace: 'team' },
    ])
  })
})

test.each<[string, string]>([
  ['the node itself', ''],
  ['loopback', line({ interface: 'lo' })],
  ['the bridge', line({ interface: 'cni0' })],
  ['the end of a pod at the node', line({ interface: 'veth0a1b2c3d' })],
  ['a container beside the sandbox', line({ container: 'app' })],
  [
    'a line that no pod can be found for',
    line({ id: '/system.slice/containerd.service', namespace: '', pod: '' }),
  ],
  ['packets', line({}).replaceAll('_bytes_', '_packets_')],
  ['other metrics', 'container_cpu_usage_seconds_total{pod="web-0"} 3\n'],
])('%s is left out', (_, text) => {
  expect(samples(text)).toEqual([])
})

test.each<[string, string]>([
  ['nothing', ''],
  ['HTML', '<html>\n'],
  ['metrics of something else', 'up 1\n'],
  ['a text that is cut', `${own}${line({})}`.slice(0, -1)],
  ['labels that are cut', `${own}container_network_receive_bytes_total{pod="web\n`],
  ['a value that is negative', own + line({}, '-1 1770883200123')],
  ['a value that is endless', own + line({}, '+Inf')],
  ['a time that is none', own + line({}, '1 soon')],
])('%s is no answer, never an empty one', (_, text) => {
  expect(faultOf(() => networkSamples(text)).code).toBe('BODY_UNREADABLE')
})
