/** The process's log: pino, one JSON object a line, on stderr, so that stdout stays for answers; secrets never in it. */
import pino, { type DestinationStream, type Logger } from 'pino'
import { Fault } from '../schemas/fault.ts'

export type { Logger }

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

/** Names under which something secret could come to be logged by mistake, at the top and one level down. */
const secretNames = [
  'apiKey',
  'api_key',
  'authorization',
  'clientSecret',
  'client_secret',
  'cookie',
  'key',
  'password',
  'secret',
  'token',
  '["x-api-key"]',
]
const within = (name: string) => (name.startsWith('[') ? `*${name}` : `*.${name}`)

/** Without `to` it is the log of the whole process, which has what Node warns of as well: stderr is read as JSON. */
export function openLog(options: {
  readonly level: LogLevel
  /** Which command or role speaks. */
  readonly role: string
  readonly to?: DestinationStream
}): Logger {
  const log = pino(
    {
      level: options.level,
      base: { role: options.role },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      redact: { paths: [...secretNames, ...secretNames.map(within)], censor: '[redacted]' },
      serializers: { fault: serializeFault, err: pino.stdSerializers.err },
    },
    // Synchronous: what was said before a crash has been said.
    options.to ?? pino.destination({ dest: 2, sync: true }),
  )
  if (options.to === undefined) {
    process.removeAllListeners('warning')
    process.on('warning', warning => {
      // kafkajs 2.2.4 counts the wait for a broker that throttles nobody from -1, once in every process.
      const level = warning.name === 'TimeoutNegativeWarning' ? 'debug' : 'warn'
      log[level]({ err: warning }, warning.message)
    })
  }
  return log
}

/** Log a fault as `{ fault }`: its code, fate and facts, without a stack. */
function serializeFault(fault: unknown): unknown {
  if (!(fault instanceof Fault)) return fault instanceof Error ? pino.stdSerializers.err(fault) : fault
  return { code: fault.code, fate: fault.fate, message: fault.message, ...fault.facts }
}
