/** Who pays: accounts, what usage is theirs and since when, and in which currency, zone and price book. Pure. */
import Type, { type Static } from 'typebox'
import { type Misfit, pointerPart } from './check.ts'
import { minorDigitsOf } from './currency.ts'
import { instantMs, isZone } from './window.ts'

const strict = { additionalProperties: false }
const instant = (description: string) => Type.Optional(Type.String({ minLength: 1, description }))

/** A tenant of a source, and when the account pays for it. */
export const AccountSubject = Type.Object(
  {
    source: Type.String({
      minLength: 1,
      maxLength: 1024,
      description: 'The `source` of its events, such as meterline/rafay/prod.',
    }),
    subject: Type.String({
      minLength: 1,
      maxLength: 1024,
      description: "The `subject` of its events: the tenant by the provider's id.",
    }),
    from: instant('An RFC 3339 time: the account pays from here. Without it, from the beginning.'),
    to: instant('An RFC 3339 time: the account pays until here, exclusive. Without it, without end.'),
  },
  strict,
)
export type AccountSubject = Static<typeof AccountSubject>

export const Account = Type.Object(
  {
    id: Type.String({
      pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$',
      description: 'Its id, which never changes: letters, digits, dot, dash and underscore.',
    }),
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 256, description: 'What people call it.' })),
    currency: Type.String({
      pattern: '^[A-Z]{3}$',
      description:
        'The currency it pays in, by its ISO 4217 code in capitals, such as USD; that of its price book.',
    }),
    timezone: Type.String({
      minLength: 1,
      default: 'UTC',
      description: 'The IANA time zone of its periods, such as Europe/Berlin.',
    }),
    priceBook: Type.String({ minLength: 1, maxLength: 256, description: 'The id of its price book.' }),
    dims: Type.Optional(
      Type.Record(Type.String({ pattern: '^.{1,256}$' }), Type.String({ maxLength: 4096 }), {
        description: 'Dims of its contract, such as plan: they win over those of the usage.',
      }),
    ),
    uncovered: Type.Optional(
      Type.Union([Type.Literal('refuse'), Type.Literal('allow')], {
        description:
          'Whether a period may close over pushed events of a source that posts no marks, so that nobody can tell what is missing: refuse, or allow. Such a source is named either way. Without it, refuse.',
      }),
    ),
    subjects: Type.Array(AccountSubject, { description: 'The tenants it pays for.' }),
  },
  strict,
)
export type Account = Static<typeof Account>

/** The accounts file. */
export const AccountsFile = Type.Object(
  { accounts: Type.Array(Account, { description: 'All who pay.' }) },
  strict,
)

/** What a schema cannot say of accounts that fit it. Paths are pointers into the accounts file. */
export function accountMisfits(accounts: readonly Account[]): readonly Misfit[] {
  const found: Misfit[] = []
  const byId = new Map<string, number>()
  for (const [index, account] of accounts.entries()) {
    const path = `/accounts/${index}`
    const first = byId.get(account.id)
    if (first !== undefined)
      found.push({ path: `${path}/id`, message: `"${account.id}" is also the id of accounts[${first}]` })
    else byId.set(account.id, index)
    if (minorDigitsOf(account.currency) === undefined)
      found.push({ path: `${path}/currency`, message: `"${account.currency}" is no currency of ISO 4217` })
    if (!isZone(account.timezone))
      found.push({
        path: `${path}/timezone`,
        message: `"${account.timezone}" is no IANA time zone such as Europe/Berlin`,
      })
    for (const dim of Object.keys(account.dims ?? {}))
      if (account.dims?.[dim] === '')
        found.push({
          path: `${path}/dims/${pointerPart(dim)}`,
          message: 'is empty, and an empty dim matches nothing',
        })
  }
  return [...found, ...subjectMisfits(accounts)]
}

interface Binding {
  readonly account: string
  readonly path: string
  readonly fromMs: number
  readonly toMs: number
}

/** Every usage has one payer: two bindings of a tenant must not share an instant, in one account or in two. */
function subjectMisfits(accounts: readonly Account[]): readonly Misfit[] {
  const found: Misfit[] = []
  const byTenant = new Map<string, Binding[]>()
  for (const [index, account] of accounts.entries())
    for (const [place, subject] of account.subjects.entries()) {
      const path = `/accounts/${index}/subjects/${place}`
      const fromMs = subject.from === undefined ? Number.NEGATIVE_INFINITY : instantMs(subject.from)
      const toMs = subject.to === undefined ? Number.POSITIVE_INFINITY : instantMs(subject.to)
      if (fromMs === undefined) found.push({ path: `${path}/from`, message: notAnInstant(subject.from) })
      if (toMs === undefined) found.push({ path: `${path}/to`, message: notAnInstant(subject.to) })
      if (fromMs === undefined || toMs === undefined) continue
      if (fromMs >= toMs) {
        found.push({ path: `${path}/to`, message: 'must be after `from`' })
        continue
      }
      const tenant = JSON.stringify([subject.source, subject.subject])
      const bindings = byTenant.get(tenant) ?? []
      const rival = bindings.find(other => other.fromMs < toMs && fromMs < other.toMs)
      if (rival)
        found.push({
          path,
          message: `is paid by account "${rival.account}" at the same time: end one with \`to\` where the other begins`,
        })
      bindings.push({ account: account.id, path, fromMs, toMs })
      byTenant.set(tenant, bindings)
    }
  return found
}

function notAnInstant(text: string | undefined): string {
  return `"${text}" is not an RFC 3339 time such as 2026-02-12T08:00:00Z`
}
