/** Connections that say nothing, or say it slowly: they are closed in seconds, and others are answered meanwhile. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { Health, serveHealth } from '../../runtime/health.ts'
import { Ingest } from '../../runtime/log/ingest.ts'
import { registry } from '../../runtime/metrics.ts'

test('two hundred that dribble are gone within seconds, and what they held with them', async () => {
  let taken = 0
  const ingest = new Ingest({
    sink: {
      put: async some => {
        taken += some.length
      },
    },
    nowMs: Date.now,
  })
  await using served = await serveHealth({
    ...{ health: new Health(), registry: new Registry(), host: '127.0.0.1', port: 0 },
  })
  using _ = served.mount('/api/', (request, response) => void ingest.serve(request, response))
  const port = Number(new URL(served.url).port)
  const head = 'POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n'
  const begins = ['', 'POST /api', head, `${head}content-length: 100000\r\n\r\n{"a":`]
  const startedMs = performance.now()
  const sockets: Socket[] = []
  const closed: Promise<number>[] = []
  for (let at = 0; at < 200; at += 1) {
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    await once(socket, 'connect')
    const begin = begins[at % begins.length]!
    if (begin !== '') socket.write(begin)
    const dribble = setInterval(() => socket.write(begin === '' || begin.endsWith('\r\n') ? '' : ' '), 500)
    closed.push(
      new Promise(resolve => {
        socket.once('close', () => {
          clearInterval(dribble)
          resolve(performance.now() - startedMs)
        })
        socket.resume()
      }),
    )
    sockets.push(socket)
  }
  const event = { specversion: '1.0', id: '1', source: 'urn:app', type: 'call', subject: 'acme' }
  const headers = { 'content-type': 'application/cloudevents+json' }
  const answer = await fetch(`${served.url}/api/v1/events`, {
    method: 'POST',
    headers,
    body: JSON.stringify(event),
  })
  expect([answer.status, taken]).toEqual([204, 1])
  expect(Math.max(...(await Promise.all(closed)))).toBeLessThan(20_000)
  expect(taken).toBe(1)
  // A client sees its connection closed a moment before the server has let go of what it held for it.
  const inHand = async () =>
    (await registry.getSingleMetric('meterline_ingest_in_hand_bytes')?.get())?.values[0]?.value
  await expect.poll(inHand, { timeout: 3000 }).toBe(0)
}, 60_000)
