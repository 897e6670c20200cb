/** The log: one JSON object a line, faults as facts, and no secret in it. */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { openLog } from '../../runtime/logs.ts'
import { Fault } from '../../schemas/fault.ts'

function logged(say: (log: ReturnType<typeof openLog>) => void): {
  text: string
  lines: Record<string, unknown>[]
} {
  let text = ''
  say(openLog({ level: 'info', role: 'collector', to: { write: line => (text += line) } }))
  return {
    text,
    lines: text
      .split('\n')
      .filter(Boolean)
      .map(line => JSON.parse(line)),
  }
}

test('a line is one JSON object with its time, level and role', () => {
  const { lines } = logged(log => {
    log.info({ windows: 3 }, 'read')
    log.debug('not at this level')
  })
  expect(lines).toEqual([
    { level: 'info', time: expect.stringMatching(/^\d{4}-.*Z$/), role: 'collector', windows: 3, msg: 'read' },
  ])
})

test('what is called a secret is not printed, here or one level down', () => {
  const { text } = logged(log => {
    log.info({ apiKey: 's3cret', source: { password: 's3cret', token: 's3cret' } }, 'opened')
    log.info({ headers: { authorization: 's3cret', 'x-api-key': 's3cret' } }, 'called')
  })
  expect(text).not.toContain('s3cret')
  expect(text).toContain('[redacted]')
})

test('a fault is its code, fate, message and facts, without a stack', () => {
  const fault = new Fault('SOURCE_DENIED', 'organizations: 401', {
    endpoint: 'rafay.organizations',
    status: 401,
  })
  const { lines } = logged(log => log.warn({ fault }, 'the scopes could not be listed'))
  expect(lines[0]?.fault).toEqual({
    code: 'SOURCE_DENIED',
    fate: 'retry',
    message: 'organizations: 401',
    endpoint: 'rafay.organizations',
    status: 401,
  })
})

test('what Node warns of in a process is a line like all others', () => {
  const script = `const { openLog } = await import(process.argv[1])
    openLog({ level: 'info', role: 'collector' })
    process.emitWarning('too many listeners', 'MaxListenersExceededWarning')
    // kafkajs does this once in every process, and nobody can mend it.
    setTimeout(() => undefined, -5)`
  const { href } = new URL('../../runtime/logs.ts', import.meta.url)
  const args = ['--input-type=module', '-e', script, href]
  const { stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  const lines = stderr
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line))
  expect(lines).toMatchObject([{ level: 'warn', role: 'collector', msg: 'too many listeners' }])
})
