/** The certificate that a port shows: read from files, and again when they are replaced. */
import { readFileSync, statSync } from 'node:fs'
import type { Server } from 'node:https'
import { createSecureContext } from 'node:tls'
import { asFault, describeFault, Fault } from '../schemas/fault.ts'
import { secondMs } from '../schemas/window.ts'

/** Files in PEM. The certificate is followed by those between it and its authority, if there are any. */
export interface TlsPaths {
  readonly cert: string
  readonly key: string
}

interface Pair {
  readonly cert: Buffer
  readonly key: Buffer
}

/** Whoever does not begin to speak TLS within this is let go. */
export const tlsOptions = { minVersion: 'TLSv1.2', handshakeTimeout: 10 * secondMs } as const

const lookEveryMs = secondMs
const fileBytesMax = 1024 ** 2

export class ServedTls {
  readonly #paths: TlsPaths
  #seen = ''
  #fault: Fault | undefined

  constructor(paths: TlsPaths) {
    this.#paths = paths
  }

  /**
   * Certificate and key as they are in the files now.
   * @throws Fault CONFIG_INVALID where they cannot be read or do not belong together; the key is not told
   */
  read(): Pair {
    const { cert, key } = this.#paths
    this.#seen = stampOf(this.#paths)
    const pair = { cert: fileOf(cert, 'cert'), key: fileOf(key, 'key') }
    try {
      createSecureContext(pair)
    } catch (error) {
      const why = (error as NodeJS.ErrnoException).code ?? 'not in PEM'
      throw new Fault('CONFIG_INVALID', `listen.tls: ${cert} and ${key} cannot be used together (${why})`)
    }
    return pair
  }

  /** For health: why the certificate that is shown is not the one in the files. */
  problem(): string | undefined {
    return this.#fault && describeFault(this.#fault)
  }

  /** Shows what is in the files to connections made from now on, until it is disposed of. */
  follow(server: Pick<Server, 'setSecureContext'>): Disposable {
    const look = () => {
      // Between the two of them being replaced they do not belong together: what was shown before goes on.
      if (this.#fault === undefined && this.#seen === stampOf(this.#paths)) return
      try {
        server.setSecureContext({ ...tlsOptions, ...this.read() })
        this.#fault = undefined
      } catch (error) {
        this.#fault = asFault(error, 'CONFIG_INVALID')
      }
    }
    const timer = setInterval(look, lookEveryMs).unref()
    return { [Symbol.dispose]: () => clearInterval(timer) }
  }
}

/** Another text when one of the files is another: a link that points elsewhere as well. */
function stampOf({ cert, key }: TlsPaths): string {
  return [cert, key]
    .map(path => {
      const found = statSync(path, { throwIfNoEntry: false })
      return found ? `${found.dev} ${found.ino} ${found.size} ${found.mtimeMs}` : 'none'
    })
    .join(', ')
}

function fileOf(path: string, option: string): Buffer {
  try {
    if (statSync(path).size > fileBytesMax) throw new Error('too large')
    return readFileSync(path)
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code ?? (error as Error).message
    throw new Fault('CONFIG_INVALID', `listen.tls.${option}: ${path} cannot be read (${why})`)
  }
}
