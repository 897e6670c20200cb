/** Reads secrets where a reference points: anew at each call, so that a rotated one counts at once. */
import { closeSync, openSync, readSync } from 'node:fs'
import { Fault } from '../schemas/fault.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** A secret is a line of text: whatever is larger is another file. */
const secretBytesMax = 64 * 1024

const envShape = /^\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}$/
const fileShape = /^(?:\$\{file:([^}]+)\}|file:(.+))$/

/** The file a reference names, undefined where it is no reference to a file. */
export function secretFileOf(reference: string): string | undefined {
  const match = fileShape.exec(reference)
  return match?.[1] ?? match?.[2]
}

/**
 * What `${env:NAME}`, `${file:path}` or `file:path` points at, without a newline at its end. Anything else is the
 * secret itself, which is taken only where `literal` is `allowed`.
 * @throws Fault SECRET_MISSING naming the reference and the option, never a secret.
 */
export function readSecret(
  reference: string,
  options: { readonly env: Environment; readonly option: string; readonly literal?: 'allowed' },
): string {
  const { env, option } = options
  const name = envShape.exec(reference)?.[1]
  const file = secretFileOf(reference)
  if (name === undefined && file === undefined) {
    if (options.literal === 'allowed' && reference !== '') return reference
    throw new Fault('SECRET_MISSING', `${option} is no reference: write \${env:NAME} or \${file:path}`, {
      option,
    })
  }
  const secret = name === undefined ? fileText(file ?? '', reference, option) : env[name]
  if (secret === undefined || secret === '')
    throw new Fault(
      'SECRET_MISSING',
      `${option}: ${reference} is ${secret === undefined ? 'not set' : 'empty'}`,
      {
        option,
        reference,
      },
    )
  return secret
}

function fileText(file: string, reference: string, option: string): string {
  const missing = (why: string, cause?: unknown) =>
    new Fault('SECRET_MISSING', `${option}: ${reference} ${why}`, { option, reference }, { cause })
  const buffer = Buffer.alloc(secretBytesMax + 1)
  let length = 0
  try {
    const descriptor = openSync(file, 'r')
    try {
      let read = -1
      while (read !== 0 && length < buffer.length) {
        read = readSync(descriptor, buffer, length, buffer.length - length, null)
        length += read
      }
    } finally {
      closeSync(descriptor)
    }
  } catch (error) {
    throw missing(`cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`, error)
  }
  if (length > secretBytesMax) throw missing(`is larger than ${secretBytesMax} bytes`)
  return buffer.toString('utf8', 0, length).replace(/\r?\n$/, '')
}
