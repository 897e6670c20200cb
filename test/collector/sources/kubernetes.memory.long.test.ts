/** 5,000 pods, each as large as they are, of which 1,000 change in a minute: the collector stays small, and misses none. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { clusterOf, startKubernetesDouble } from '../../../deploy/demo/kubernetes.ts'
import { minuteMs } from '../../../schemas/window.ts'
import type { Watching, WatchingLine } from './kubernetes/watching.ts'

const podsCount = 5000
const changesPerMinute = 1000
/** A minute of the cluster passes in so many seconds. */
const secondsPerMinute = 8
const rssBytesMax = 300_000_000

/** About what a pod of a mesh holds that is of no interest here. */
const ballast = Array.from({ length: 100 }, (_, index) => ({
  name: `SETTING_${index}`,
  value: `value of the setting ${index} that nobody but the application reads`,
}))

test('5,000 pods and 1,000 changes a minute need less than 300 MB', async () => {
  const startMs = Date.UTC(2026, 1, 12, 8, 0, 30)
  const realStartMs = Date.now()
  const speed = 60 / secondsPerMinute
  const nowMs = () => Math.floor(startMs + (Date.now() - realStartMs) * speed)
  const double = await startKubernetesDouble({ nowMs, token: 'token', bookmarkMs: 1000 })
  const dir = mkdtempSync(join(tmpdir(), 'meterline-kubernetes-'))
  try {
    const cluster = clusterOf(double, nowMs)
    cluster.namespace('default')
    cluster.node('node-1')
    const create = (uid: string) => {
      const spec = {
        containers: [{ name: 'main', env: ballast, resources: { requests: { cpu: '250m', memory: '1Gi' } } }],
      }
      cluster.create({ uid, spec })
      cluster.schedule(uid)
      cluster.start(uid)
    }
    for (let index = 0; index < podsCount; index++) create(`p-${index}`)
    // What was before the watch began is of no interest.
    double.compact()
    expect(JSON.stringify(double.get('pods', 'p-0')).length).toBeGreaterThan(8000)

    const told: Watching = { url: double.url, token: 'token', dir, startMs, realStartMs, speed, windows: 2 }
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, 'kubernetes/watching.ts'), JSON.stringify(told)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    let isOver = false
    const output = text(child.stdout).finally(() => {
      isOver = true
    })
    let changes = 0
    let next = podsCount
    const beganMs = performance.now()
    while (!isOver) {
      const due = ((performance.now() - beganMs) / 1000) * (changesPerMinute / secondsPerMinute)
      for (; changes < due; changes++) {
        // Of ten changes seven are of the status, and three are what a pod goes through from its begin to its end.
        if (changes % 10 < 7) cluster.restart(`p-${next - 1 - (changes % 3000)}`)
        else if (changes % 10 === 9) {
          const oldest = `p-${next - podsCount}`
          cluster.ask(oldest, 0)
          cluster.remove(oldest)
          create(`p-${next}`)
          next += 1
        }
      }
      await sleepFor(20)
    }
    const lines = (await output)
      .split('\n')
      .filter(line => line !== '')
      .map(line => JSON.parse(line) as WatchingLine)
    expect(lines.map(({ outcome }) => outcome)).toEqual(['complete', 'complete'])
    // Each window has those that were there all the time, and those that came or went in it.
    for (const { events } of lines) expect(events).toBeGreaterThan(podsCount)
    expect(changes).toBeGreaterThan(2 * changesPerMinute)
    const most = Math.max(...lines.map(({ rssMostBytes }) => rssMostBytes))
    console.log(
      `${podsCount} pods, ${changes} changes in ${((nowMs() - startMs) / minuteMs).toFixed(1)} min: ${Math.round(most / 1e6)} MB at most`,
    )
    expect(most).toBeLessThan(rssBytesMax)
  } finally {
    await double.close()
    rmSync(dir, { recursive: true, force: true })
  }
}, 120_000)
