/**
 * Serves the page at `/`, with its scripts and styles, from the package: nothing comes from anywhere else, and the browser
 * is told to take nothing from anywhere else. What the page shows it asks the API for.
 */
import { hash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire, stripTypeScriptTypes } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Routes } from './route.ts'

/** The page's first module, as the package has it; a checkout has TypeScript, whose types are taken out when it is asked for. */
const built = new URL('../dashboard/main.js', import.meta.url)
const written = new URL('../dashboard/main.ts', import.meta.url)

const types: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
}

/** Scripts, styles, pictures and answers of this origin alone; no form goes anywhere, and nobody frames the page. */
export const pagePolicy = [
  "default-src 'none'",
  ...['script-src', 'style-src', 'img-src', 'connect-src'].map(kind => `${kind} 'self'`),
  ...['base-uri', 'form-action', 'frame-ancestors'].map(kind => `${kind} 'none'`),
].join('; ')

interface PageFile {
  readonly type: string
  readonly etag: string
  readonly content: Buffer | string
}

/** A file of the page by its name in the address; undefined where there is none. Each is read once. */
export function pageFiles(): (name: string) => PageFile | undefined {
  const isBuilt = existsSync(built)
  const folder = isBuilt ? built : written
  const require = createRequire(import.meta.url)
  const paths = new Map<string, string>([
    ['uplot.js', require.resolve('uplot/dist/uPlot.iife.min.js')],
    ['uplot.css', require.resolve('uplot/dist/uPlot.min.css')],
    ...readdirSync(new URL('.', folder)).map(name => [name, fileURLToPath(new URL(name, folder))] as const),
  ])
  const read = new Map<string, PageFile>()
  return name => {
    const known = read.get(name)
    if (known) return known
    const extension = /\.([a-z]+)$/.exec(name)?.[1] ?? ''
    // The page names main.js in either case; written modules name each other by their own names.
    const path = paths.get(name) ?? (isBuilt ? undefined : paths.get(name.replace(/\.js$/, '.ts')))
    const type = types[extension === 'ts' ? 'js' : extension]
    if (path === undefined || type === undefined) return undefined
    const content = path.endsWith('.ts') ? withoutTypes(readFileSync(path, 'utf8')) : readFileSync(path)
    const file = { type, content, etag: `"${hash('sha256', content, 'base64url').slice(0, 32)}"` }
    read.set(name, file)
    return file
  }
}

/** Node runs this repository by the same function and says each time that it may still change: once is enough, and not here. */
function withoutTypes(code: string): string {
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    return stripTypeScriptTypes(code)
  } finally {
    process.emitWarning = emitWarning
  }
}

export function dashboardRoutes(): Routes {
  return app => {
    const fileOf = pageFiles()
    const answer = (name: string, request: FastifyRequest, reply: FastifyReply) => {
      const file = fileOf(name)
      if (!file) return reply.callNotFound()
      reply.headers({
        'content-type': file.type,
        'content-security-policy': pagePolicy,
        'cross-origin-opener-policy': 'same-origin',
        // Asked for again each time, so that after an upgrade nobody runs half of the page before.
        'cache-control': 'no-cache',
        etag: file.etag,
      })
      if (request.headers['if-none-match'] === file.etag) return reply.code(304).send()
      return reply.send(file.content)
    }
    const options = { config: { open: true } }
    app.get('/', options, async (request, reply) => answer('page.html', request, reply))
    app.get<{ Params: { name: string } }>('/dashboard/:name', options, async (request, reply) =>
      answer(request.params.name, request, reply),
    )
  }
}
