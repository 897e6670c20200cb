/**
 * The bytes that pods received and sent, in the text a kubelet answers at /metrics/cadvisor: which series there are, of
 * which pod, and which are of a pod at all. Pure.
 */
import { Fault } from '../../../schemas/fault.ts'

export type Direction = 'receive' | 'transmit'

export interface NetworkSample {
  readonly direction: Direction
  readonly namespace: string
  readonly pod: string
  /** In the path of its control group; of a static pod it is another than that of the API. */
  readonly uid?: string
  /** Tells the series of a node apart: the sandbox of the pod and the interface. A new sandbox counts from zero. */
  readonly series: string
  /** As it was printed. */
  readonly value: string
  /** By the clock of the node, where the series has a time of its own. */
  readonly atMs?: number
}

const prefix = 'container_network_'
const sampleStart = /^container_network_(receive|transmit)_bytes_total\{/
const valueShape = /^(NaN|\d+(\.\d+)?([eE][+-]?\d{1,2})?)$/
/** Bridges and the ends of pods at the node, and what never leaves the pod. */
const innerInterface = /^(lo|cni\d+|veth.*)$/

/**
 * One sample for each interface of each pod. Left out are the node itself, and what has neither the labels of a pod nor
 * its id (k3s#2895); pods in the network of their host are in the answer, and look like others.
 * @throws Fault BODY_UNREADABLE where the text is cut or not that of cAdvisor
 */
export function networkSamples(text: string): readonly NetworkSample[] {
  // Every kubelet tells of the node itself, so that an answer without such a line is none.
  if (!text.endsWith('\n') || !text.includes(prefix))
    throw new Fault('BODY_UNREADABLE', 'the answer is cut, or holds no metrics of cAdvisor')
  const samples: NetworkSample[] = []
  const named = new Set<string>()
  const nameless: NetworkSample[] = []
  for (const line of linesWith(text, prefix)) {
    const direction = sampleStart.exec(line)?.[1] as Direction | undefined
    if (!direction) continue
    const { labels, rest } = labelsOf(line)
    const [value = '', time] = rest.trim().split(/\s+/)
    if (!valueShape.test(value) || (time !== undefined && !/^-?\d{1,15}$/.test(time)))
      throw new Fault(
        'BODY_UNREADABLE',
        `a value of container_network_${direction}_bytes_total is "${rest.trim().slice(0, 60)}"`,
      )
    const { namespace = '', pod = '', id = '', container = '' } = labels
    const netInterface = labels.interface ?? ''
    if (id === '/' || innerInterface.test(netInterface)) continue
    // The network is that of the sandbox, which Docker calls POD.
    if (container !== '' && container !== 'POD') continue
    const uid = uidOf(id)
    const sample = {
      direction,
      namespace,
      pod,
      ...(uid !== undefined && { uid }),
      series: `${id} ${netInterface}`,
      value,
      ...(time !== undefined && { atMs: Number(time) }),
    }
    if (namespace !== '' && pod !== '') {
      samples.push(sample)
      if (uid !== undefined) named.add(uid)
    } else if (uid !== undefined) nameless.push(sample)
  }
  return [...samples, ...nameless.filter(({ uid = '' }) => !named.has(uid))]
}

/** Lines that begin so: of the megabytes that a kubelet answers, few are of the network. */
function* linesWith(text: string, start: string): Generator<string> {
  for (let at = text.startsWith(start) ? 0 : text.indexOf(`\n${start}`) + 1; ; ) {
    if (at === 0 && !text.startsWith(start)) return
    const end = text.indexOf('\n', at)
    yield text.slice(at, end)
    const next = text.indexOf(`\n${start}`, end)
    if (next < 0) return
    at = next + 1
  }
}

const labelShape = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/y
const escapes: Readonly<Record<string, string>> = { '\\\\': '\\', '\\"': '"', '\\n': '\n' }

function labelsOf(line: string): {
  readonly labels: Readonly<Record<string, string>>
  readonly rest: string
} {
  const labels: Record<string, string> = {}
  let at = line.indexOf('{') + 1
  while (line[at] !== '}') {
    labelShape.lastIndex = at
    const match = labelShape.exec(line)
    if (!match) throw new Fault('BODY_UNREADABLE', 'the labels of a line of cAdvisor are cut')
    labels[match[1] ?? ''] = (match[2] ?? '').replaceAll(/\\[\\"n]/g, escaped => escapes[escaped] ?? escaped)
    at = labelShape.lastIndex
    if (line[at] === ',') at += 1
  }
  return { labels, rest: line.slice(at + 1) }
}

/** `/kubepods/burstable/pod<uid>/<sandbox>`, or by systemd `…-pod<uid with _ for ->.slice/cri-containerd-<sandbox>.scope`. */
function uidOf(id: string): string | undefined {
  const uid = /pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?=[./]|$)/.exec(id)?.[1]
  return uid?.replaceAll('_', '-')
}
