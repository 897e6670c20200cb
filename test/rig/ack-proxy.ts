/**
 * Stands between clients and one broker, and takes away acknowledgements: a Produce reaches the broker, its answer never
 * reaches the client. The outcome is then unknown to the sender, which is where clients lose messages.
 */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

const produceKey = 0

export interface AckProxy {
  readonly port: number
  /** Asked for each acknowledgement. `close` also breaks the connection; `swallow` leaves the client waiting. */
  decide: () => 'pass' | 'close' | 'swallow'
  readonly dropped: number
  stop(): Promise<void>
}

export async function ackProxy(brokerPort: number): Promise<AckProxy> {
  const sockets = new Set<Socket>()
  const proxy = { port: 0, decide: (): ReturnType<AckProxy['decide']> => 'pass', dropped: 0, stop }
  const server = createServer(client => {
    const broker = connect(brokerPort, '127.0.0.1')
    const both = [client, broker] as const
    const produces = new Set<number>()
    const end = () => {
      for (const socket of both) {
        socket.destroy()
        sockets.delete(socket)
      }
    }
    for (const socket of both) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', end)
      socket.on('close', end)
    }
    // A request: size, api key, api version, correlation id; an answer: size, correlation id.
    client.on(
      'data',
      frames(frame => {
        if (frame.readInt16BE(4) === produceKey) produces.add(frame.readInt32BE(8))
        broker.write(frame)
      }),
    )
    broker.on(
      'data',
      frames(frame => {
        const verdict = produces.delete(frame.readInt32BE(4)) ? proxy.decide() : 'pass'
        if (verdict === 'pass') {
          client.write(frame)
          return
        }
        proxy.dropped += 1
        if (verdict === 'close') end()
      }),
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  proxy.port = (server.address() as { port: number }).port

  async function stop(): Promise<void> {
    for (const socket of sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  }
  return proxy
}

/** Cuts a stream into messages of the protocol, each with its four bytes of size. */
function frames(take: (frame: Buffer) => void): (chunk: Buffer) => void {
  let held: Buffer = Buffer.alloc(0)
  return chunk => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk])
    while (held.length >= 4 && held.length >= 4 + held.readInt32BE(0)) {
      const size = 4 + held.readInt32BE(0)
      take(held.subarray(0, size))
      held = held.subarray(size)
    }
  }
}
