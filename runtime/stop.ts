/** The process's stop signal: the first SIGTERM or SIGINT asks for a graceful end, the second ends it at once. */
import { Fault } from '../schemas/fault.ts'

const numbers = { SIGINT: 2, SIGTERM: 15 } as const

/** Call it once, at the top. The reason of the signal is a Fault ABORTED that names what came. */
export function stopSignal(host: Pick<NodeJS.Process, 'on' | 'exit'> = process): AbortSignal {
  const stop = new AbortController()
  for (const [name, number] of Object.entries(numbers))
    host.on(name, () => {
      // By convention of shells a process ended by signal n exits with 128 + n.
      if (stop.signal.aborted) host.exit(128 + number)
      stop.abort(new Fault('ABORTED', `stopped by ${name}`))
    })
  return stop.signal
}
