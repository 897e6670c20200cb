/**
 * A day of a Run:ai cluster as it might have been: a training over two nodes, a sweep of short ones, one of which fails,
 * a notebook that is suspended over lunch, a service that grows in working hours, and work without GPUs.
 */
import { hash } from 'node:crypto'
import { minuteMs } from '../../schemas/window.ts'
import type { RunaiFixture, RunaiPod, RunaiWorkload } from './runai.ts'

/** One pod: what it holds, where, and when it ran, in hours of the day; still where there is no end. */
interface Part {
  readonly gpu: string
  readonly cpu: string
  readonly memory: string
  readonly node: string
  readonly from: number
  readonly to?: number
  readonly outcome?: 'Succeeded' | 'Failed'
}

interface Work {
  readonly name: string
  readonly project: keyof typeof projects
  readonly user: string
  readonly type: string
  readonly category: 'Train' | 'Workspace' | 'Inference'
  readonly parts: readonly Part[]
  /** It ended with its last pod. */
  readonly isOver?: boolean
}

const projects = {
  vision: { id: '101', department: 'research', departmentId: '11' },
  speech: { id: '102', department: 'research', departmentId: '11' },
  support: { id: '103', department: 'product', departmentId: '12' },
} as const

const big = { gpu: '8', cpu: '96', memory: '1536Gi', outcome: 'Succeeded' } as const
const one = { gpu: '1', cpu: '12', memory: '192Gi', node: 'h100-3', outcome: 'Succeeded' } as const
const half = { gpu: '0.5', cpu: '4', memory: '32Gi', node: 'a100-1', outcome: 'Succeeded' } as const
const serving = { gpu: '1', cpu: '8', memory: '64Gi', node: 'a100-1' } as const

const works: readonly Work[] = [
  {
    name: 'pretrain-vit',
    project: 'vision',
    user: 'grace@example.com',
    type: 'Distributed',
    category: 'Train',
    isOver: true,
    parts: [
      { ...big, node: 'h100-1', from: 6.0125, to: 18.5 },
      { ...big, node: 'h100-2', from: 6.015, to: 18.5 },
    ],
  },
  ...[0, 1, 2, 3].map(
    (index): Work => ({
      name: `sweep-${index}`,
      project: 'speech',
      user: 'alan@example.com',
      type: 'runai-job',
      category: 'Train',
      isOver: true,
      parts: [
        index === 2
          ? { ...one, from: 10.25, to: 10.275, outcome: 'Failed' }
          : { ...one, from: 10 + index / 8, to: 10.4 + index / 3 },
      ],
    }),
  ),
  {
    name: 'notebook',
    project: 'speech',
    user: 'ada@example.com',
    type: 'Interactive',
    category: 'Workspace',
    isOver: true,
    parts: [
      { ...half, from: 8.1, to: 12.02 },
      { ...half, from: 13.05, to: 17.6 },
    ],
  },
  {
    name: 'answers',
    project: 'support',
    user: 'rollout@example.com',
    type: 'Inference',
    category: 'Inference',
    parts: [
      { ...serving, from: -30 },
      { ...serving, from: -30 },
      { ...serving, from: 9.01, to: 17.02, outcome: 'Succeeded' },
    ],
  },
  {
    name: 'transcode',
    project: 'vision',
    user: 'grace@example.com',
    type: 'runai-job',
    category: 'Train',
    isOver: true,
    parts: [{ gpu: '0', cpu: '32', memory: '64Gi', node: 'cpu-1', from: 2, to: 5.75, outcome: 'Succeeded' }],
  },
]

/** @param dayStartMs midnight of the day; what runs on had begun the day before */
export function runaiDay(dayStartMs: number): RunaiFixture {
  const clusterId = idOf('cluster')
  const at = (hours: number) => dayStartMs + Math.round(hours * 60 * minuteMs)
  const workloads: RunaiWorkload[] = []
  const pods: RunaiPod[] = []
  for (const { name, project, user, type, category, parts, isOver } of works) {
    const { id: projectId, department, departmentId } = projects[project]
    const workloadId = idOf(name)
    const createdMs = at(Math.min(...parts.map(({ from }) => from))) - 2 * minuteMs
    const lastMs = at(Math.max(...parts.map(({ to }) => to ?? 0)))
    workloads.push({
      id: workloadId,
      name,
      clusterId,
      projectId,
      projectName: project,
      departmentId,
      departmentName: department,
      type,
      category,
      submittedBy: user,
      priorityClassName: category.toLowerCase(),
      preemptible: category === 'Train',
      createdMs,
      ...(isOver && { completedMs: lastMs }),
    })
    for (const [index, { gpu, cpu, memory, node, from, to, outcome }] of parts.entries())
      pods.push({
        id: idOf(`${name} ${index}`),
        name: `${name}-${index}`,
        workloadId,
        clusterId,
        nodeName: node,
        nodePool: node.replace(/-\d+$/, ''),
        createdMs: at(from) - minuteMs,
        startedMs: at(from),
        ...(to !== undefined && { completedMs: at(to) }),
        ...(outcome && { outcome }),
        allocated: { gpu, cpu, cpuMemory: memory },
      })
  }
  const node = (name: string, gpuType?: string, gpuCount?: number) => ({
    id: idOf(`node ${name}`),
    name,
    clusterId,
    nodePool: name.replace(/-\d+$/, ''),
    ...(gpuType !== undefined && gpuCount !== undefined && { gpuType, gpuCount }),
  })
  return {
    clusters: [{ id: clusterId, name: 'dgx', createdMs: at(-100 * 24) }],
    workloads,
    pods,
    nodes: [
      node('h100-1', 'NVIDIA-H100-80GB-HBM3', 8),
      node('h100-2', 'NVIDIA-H100-80GB-HBM3', 8),
      node('h100-3', 'NVIDIA-H100-80GB-HBM3', 8),
      node('a100-1', 'NVIDIA-A100-SXM4-40GB', 4),
      node('cpu-1'),
    ],
  }
}

/** A UUID that is the same each time. */
function idOf(text: string): string {
  const digits = hash('sha256', `runai day ${text}`, 'hex')
  return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-4${digits.slice(13, 16)}-8${digits.slice(17, 20)}-${digits.slice(20, 32)}`
}
