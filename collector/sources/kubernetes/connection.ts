/**
 * Where the API server is and how to prove who asks: from inside a pod, from a kubeconfig, or from options of its own.
 * All files are read anew at each call, so a rotated token or certificate counts at once.
 */
import { Buffer } from 'node:buffer'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import type { TlsFiles } from '../../../runtime/http.ts'
import { secretFileOf } from '../../../runtime/secrets.ts'
import { Fault } from '../../../schemas/fault.ts'

/** What every pod has, unless its service account says not to mount it. */
const accountFolder = '/var/run/secrets/kubernetes.io/serviceaccount'
const inCluster = {
  url: 'https://kubernetes.default.svc',
  token: `file:${accountFolder}/token`,
  ca: `file:${accountFolder}/ca.crt`,
}

export interface ConnectionOptions {
  readonly url?: string
  readonly token?: string
  readonly ca?: string
  readonly clientCertificate?: string
  readonly clientKey?: string
  readonly kubeconfig?: string
  readonly context?: string
}

export interface Connection {
  /** Without a slash at its end. */
  readonly url: () => string
  readonly headers: () => Readonly<Record<string, string>>
  readonly tls: () => TlsFiles
}

/**
 * A kubeconfig where one is named, else the options, else the service account of the pod.
 * @throws Fault CONFIG_INVALID | SECRET_MISSING, from its functions, at each call
 */
export function connectionOf(options: ConnectionOptions, secret: (reference: string) => string): Connection {
  if (options.kubeconfig !== undefined) return fromKubeconfig(options.kubeconfig, options.context, secret)
  const { clientCertificate, clientKey } = options
  const isInside = options.url === undefined
  const token = options.token ?? (isInside ? inCluster.token : undefined)
  const ca = options.ca ?? (isInside ? inCluster.ca : undefined)
  const url = (options.url ?? inCluster.url).replace(/\/+$/, '')
  return {
    url: () => url,
    headers: () => (token === undefined ? {} : bearer(secret(token))),
    tls: () => ({
      ...(ca !== undefined && { ca: secret(ca) }),
      ...(clientCertificate !== undefined && { cert: secret(clientCertificate) }),
      ...(clientKey !== undefined && { key: secret(clientKey) }),
    }),
  }
}

function bearer(token: string): Readonly<Record<string, string>> {
  return { authorization: `Bearer ${token.trim()}` }
}

interface Entry {
  readonly server: string
  readonly token?: string
  readonly tokenFile?: string
  readonly ca?: string
  readonly caFile?: string
  readonly cert?: string
  readonly certFile?: string
  readonly key?: string
  readonly keyFile?: string
  readonly unverified: boolean
}

function fromKubeconfig(
  reference: string,
  context: string | undefined,
  secret: (reference: string) => string,
): Connection {
  let parsed: { readonly text: string; readonly entry: Entry } | undefined
  const folder = dirname(secretFileOf(reference) ?? '.')
  const current = (): Entry => {
    const text = secret(reference)
    if (parsed?.text !== text) parsed = { text, entry: entryOf(text, context) }
    return parsed.entry
  }
  const either = (text: string | undefined, file: string | undefined) =>
    text ?? (file === undefined ? undefined : secret(`file:${resolve(folder, file)}`))
  return {
    url: () => current().server,
    headers: () => {
      const { token, tokenFile } = current()
      const shown = either(tokenFile === undefined ? token : undefined, tokenFile)
      return shown === undefined ? {} : bearer(shown)
    },
    tls: () => {
      const entry = current()
      const ca = either(entry.ca, entry.caFile)
      const cert = either(entry.cert, entry.certFile)
      const key = either(entry.key, entry.keyFile)
      return {
        ...(ca !== undefined && { ca }),
        ...(cert !== undefined && { cert }),
        ...(key !== undefined && { key }),
        ...(entry.unverified && { verify: 'nobody checks' as const }),
      }
    },
  }
}

type Fields = Readonly<Record<string, unknown>>

/** What would have to be run, or asked for elsewhere, to get a token: such a file belongs to a person. */
const refusedUser = ['exec', 'auth-provider', 'username', 'password', 'as', 'impersonate']
const refusedCluster = ['tls-server-name', 'proxy-url']

function entryOf(text: string, contextName: string | undefined): Entry {
  let file: unknown
  try {
    file = parse(text)
  } catch {
    // The parser's own words would show a line of it.
    throw unfit('is no YAML')
  }
  const whole = fieldsOf(file)
  const name = contextName ?? textOf(whole['current-context'])
  if (name === undefined || name === '') throw unfit('has no current-context: set `context`')
  const context = named(whole, 'contexts', name, 'context')
  const cluster = named(whole, 'clusters', textOf(context.cluster) ?? '', 'cluster')
  const userName = textOf(context.user) ?? ''
  const user = userName === '' ? {} : named(whole, 'users', userName, 'user')
  for (const [fields, refused] of [
    [user, refusedUser],
    [cluster, refusedCluster],
  ] as const)
    for (const field of refused)
      if (fields[field] !== undefined && fields[field] !== '' && fields[field] !== null)
        throw unfit(
          `has \`${field}\`, which is not supported: use the token of a service account, or a client certificate`,
        )
  const server = textOf(cluster.server)
  if (server === undefined || !URL.canParse(server)) throw unfit(`names no server for context ${name}`)
  const text64 = (fields: Fields, field: string) => {
    const data = textOf(fields[field])
    return data === undefined ? undefined : Buffer.from(data, 'base64').toString('utf8')
  }
  return {
    server: server.replace(/\/+$/, ''),
    unverified: cluster['insecure-skip-tls-verify'] === true,
    ...present({
      token: textOf(user.token),
      tokenFile: textOf(user.tokenFile),
      ca: text64(cluster, 'certificate-authority-data'),
      caFile: textOf(cluster['certificate-authority']),
      cert: text64(user, 'client-certificate-data'),
      certFile: textOf(user['client-certificate']),
      key: text64(user, 'client-key-data'),
      keyFile: textOf(user['client-key']),
    }),
  }
}

function present(fields: Readonly<Record<string, string | undefined>>): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(fields).filter((field): field is [string, string] => field[1] !== undefined),
  )
}

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {}
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function named(whole: Fields, list: string, name: string, field: string): Fields {
  const entries = Array.isArray(whole[list]) ? whole[list].map(fieldsOf) : []
  const entry = entries.find(each => each.name === name)
  if (!entry) throw unfit(`has no entry ${name} under ${list}`)
  return fieldsOf(entry[field])
}

function unfit(why: string): Fault {
  return new Fault('CONFIG_INVALID', `the kubeconfig ${why}`, { option: 'kubeconfig' })
}
