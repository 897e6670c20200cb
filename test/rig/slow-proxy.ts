/** Stands between a client and a server, and makes the server slow, silent or gone. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface SlowProxy extends AsyncDisposable {
  readonly url: string
  /** `silent` takes requests and answers nothing; `gone` takes no connection. */
  mode: 'pass' | 'silent' | 'gone'
  /** Each part of an answer comes so much later. */
  delayMs: number
  /** Breaks a connection once so much of its answers has passed. */
  cutAfterBytes: number
  /** Settings that each request to ClickHouse gets besides its own, as they stand in its address: `readonly=1&`. */
  settings: string
  /** Breaks the connections there are. */
  cut(): void
}

/** @param url of the server, http and with its port. */
export async function slowProxy(url: string): Promise<SlowProxy> {
  const { hostname, port } = new URL(url)
  const sockets = new Set<Socket>()
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  const server = createServer(client => {
    if (proxy.mode === 'gone') {
      client.destroy()
      return
    }
    const upstream = connect(Number(port), hostname)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    client.on('data', (data: Buffer) => {
      const head = 'POST /?'
      const isRequest = proxy.settings !== '' && data.subarray(0, head.length).toString('latin1') === head
      upstream.write(
        isRequest ? Buffer.concat([Buffer.from(head + proxy.settings), data.subarray(head.length)]) : data,
      )
    })
    let before = Promise.resolve()
    let passedBytes = 0
    upstream.on('data', (data: Buffer) => {
      if (proxy.mode === 'silent') return
      passedBytes += data.length
      if (passedBytes > proxy.cutAfterBytes) {
        client.write(data.subarray(0, Math.max(0, data.length - (passedBytes - proxy.cutAfterBytes))))
        client.destroySoon()
        return
      }
      before = before.then(async () => {
        if (proxy.delayMs > 0) await sleep(proxy.delayMs)
        client.write(data)
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: SlowProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mode: 'pass',
    delayMs: 0,
    cutAfterBytes: Number.POSITIVE_INFINITY,
    settings: '',
    cut,
    async [Symbol.asyncDispose]() {
      server.close()
      cut()
    },
  }
  return proxy
}
