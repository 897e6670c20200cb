/** What may stand in the configuration: each option with its meaning and its default. Reading it is runtime/config.ts. Pure. */
import Type, { type Static, type TString } from 'typebox'
import { keyLimitRanges, keyNameShape, keyScopes, pushBoundsDefault } from './keys.ts'

const strict = { additionalProperties: false }

/** A reference to a secret: an environment variable or a file. */
export const secretShape = '^(\\$\\{env:[A-Za-z_][A-Za-z0-9_]*\\}|\\$\\{file:[^}]+\\}|file:.+)$'

/**
 * An option that holds a secret: a reference, which is read anew at each use. The secret itself may stand there only
 * where the option says `literal: 'allowed'`.
 */
export function Secret(description: string, options: { readonly literal?: 'allowed' } = {}): TString {
  const how = `${description} Write \${env:NAME} or \${file:path}${options.literal ? ', or the text itself' : ''}.`
  const shape = options.literal ? { minLength: 1 } : { pattern: secretShape }
  return Type.String({ ...shape, secret: true, description: how })
}

/** An option that names a file or directory, relative to the file it stands in. */
export function FilePath(description: string): TString {
  return Type.String({ minLength: 1, file: true, description })
}

const Count = (description: string, minimum: number, maximum: number, initial: number) =>
  Type.Integer({ minimum, maximum, default: initial, description })
const Topic = (description: string, initial: string) =>
  Type.String({ pattern: '^[A-Za-z0-9._-]{1,249}$', default: initial, description })

/** The part of a source's options that all kinds have; the rest is checked by the schema of its kind. */
export const SourceFrame = Type.Object({
  kind: Type.String({
    minLength: 1,
    description: 'The kind of source: one of those in docs/reference/sources.md.',
  }),
  name: Type.String({
    pattern: '^[A-Za-z0-9._-]{1,128}$',
    description:
      'Its name: letters, digits, dot, dash and underscore. It is part of every event, so a new name is another source.',
  }),
  from: Type.Optional(
    Type.String({
      minLength: 1,
      description:
        'An RFC 3339 time: nothing before it is read or expected. Without it, from when a scope is first seen.',
    }),
  ),
})
export type SourceFrame = Static<typeof SourceFrame>

const Outbox = Type.Object(
  {
    maxBytes: Count(
      'How much the outbox may hold, in bytes. Events that the log does not have are never dropped: a full outbox stops reading.',
      1024 ** 2,
      Number.MAX_SAFE_INTEGER,
      2 * 1024 ** 3,
    ),
    retentionDays: Count(
      'How many days events that the log has are kept, so that they can be sent again.',
      1,
      365,
      7,
    ),
  },
  { ...strict, default: {}, description: "The collector's durable queue, in a file of the data directory." },
)

const Kafka = Type.Object(
  {
    brokers: Type.Array(
      Type.String({
        pattern: '^[^\\s:/,]+:[0-9]{1,5}$|^\\[[0-9A-Fa-f:.]+\\]:[0-9]{1,5}$',
        description: 'host:port',
      }),
      {
        minItems: 1,
        uniqueItems: true,
        description: 'Where to find the cluster: one or more, each as host:port.',
      },
    ),
    topic: Topic('The topic of the events.', 'meterline.events'),
    rejectedTopic: Topic('The topic of the messages that could not be accepted.', 'meterline.rejected'),
    partitions: Count('How many partitions the topic has. It cannot be changed later.', 1, 10_000, 12),
    replicationFactor: Count(
      'On how many brokers each message is kept; 1 only where there is one broker.',
      1,
      100,
      3,
    ),
    minInSyncReplicas: Count('How many brokers must have a message before it counts as sent.', 1, 100, 2),
    create: Type.Boolean({
      default: true,
      description:
        'Make the topics where they are missing. Those that are there are compared, never changed.',
    }),
    groupId: Type.String({
      minLength: 1,
      maxLength: 249,
      default: 'meterline',
      description: 'The consumer group of the processors.',
    }),
    sessionTimeoutMs: Count(
      'How long a processor that died keeps its partitions from the others, in milliseconds.',
      500,
      3_600_000,
      30_000,
    ),
    ssl: Type.Optional(
      Type.Boolean({ description: 'Speak TLS. A private authority is given in NODE_EXTRA_CA_CERTS.' }),
    ),
    sasl: Type.Optional(
      Type.Object(
        {
          mechanism: Type.Enum(['plain', 'scram-sha-256', 'scram-sha-512'] as const, {
            description: 'How to log in: plain, scram-sha-256 or scram-sha-512.',
          }),
          username: Type.String({ minLength: 1, description: 'Who logs in.' }),
          password: Secret('The password.'),
        },
        { ...strict, description: 'How to log in to the cluster.' },
      ),
    ),
  },
  {
    ...strict,
    description: 'The log between collector and processor. Without it the outbox is read in place.',
  },
)

const StoreConfig = Type.Object(
  {
    url: Type.Optional(
      Type.String({
        pattern: '^https?://[^\\s/@]+(/.*)?$',
        description:
          'Address of the HTTP interface of a ClickHouse server, without user and password. Without it the embedded one is started.',
      }),
    ),
    user: Type.Optional(Type.String({ minLength: 1, description: 'Who logs in to the server at `url`.' })),
    password: Type.Optional(Secret('Their password.')),
    database: Type.String({
      pattern: '^[A-Za-z_][A-Za-z0-9_]{0,63}$',
      default: 'meterline',
      description: 'The database; it is made where it is missing.',
    }),
  },
  { ...strict, default: {}, description: 'Where the ledger is.' },
)

const Query = Type.Object(
  {
    seconds: Count('How long ClickHouse may take for one answer, in seconds.', 1, 600, 60),
    memoryBytes: Count(
      'How much memory ClickHouse may take for one answer, in bytes. Groups and sorting beyond half of it go to its disk.',
      16 * 1024 ** 2,
      Number.MAX_SAFE_INTEGER,
      1024 ** 3,
    ),
    concurrency: Count('How many questions are worked on at once, each on one core.', 1, 64, 3),
    queued: Count(
      'How many questions may wait for their turn. Beyond that the answer is 503, with when to come again.',
      0,
      100_000,
      200,
    ),
  },
  {
    ...strict,
    default: {},
    description: 'What questions for usage may take of the store, so that recording it comes first.',
  },
)

const Suspect = Type.Object(
  {
    percent: Count(
      'A complete read that takes more than so many percent of a measure away from a window of its scope, or all of it, waits before it counts.',
      1,
      100,
      10,
    ),
    confirmAfterMinutes: Count(
      'A later read that agrees is believed when it was made at least so long after.',
      1,
      7 * 24 * 60,
      60,
    ),
  },
  {
    ...strict,
    default: {},
    description:
      'When usage that was there is gone at the next look: an outage of the provider must not lower an invoice.',
  },
)

const Listen = Type.Object(
  {
    host: Type.String({
      minLength: 1,
      default: '127.0.0.1',
      description: 'The address; 0.0.0.0 in a container.',
    }),
    port: Type.Integer({
      minimum: 0,
      maximum: 65_535,
      default: 8080,
      description: 'The port; 0 takes a free one.',
    }),
    push: Type.Optional(
      Type.Boolean({
        description:
          'true: events may be pushed, and a collector without sources is one that only takes them (a sidecar). false: none may. Without it they may, but having neither sources nor keys is a mistake.',
      }),
    ),
    api: Type.Enum(['keys', 'loopback', 'anyone'] as const, {
      default: 'keys',
      description:
        'Whom the API answers, and takes pushed events from, without a key: `keys` nobody; `loopback` programs of the machine it runs on; `anyone` who reaches the port, which is for where something in front of it checks who asks. A key that comes with a request is what counts, whichever this says. Where `keys` are configured pushed events need one, wherever they come from.',
    }),
    metrics: Type.Optional(
      Type.Enum(['keys', 'loopback', 'anyone'] as const, {
        description:
          'Whom `/metrics` answers without a key, and `/readyz` and `/healthz` tell what is wrong in words, not by its code alone. With a key it takes one with the scope read or admin that is bound to no account. Without this option it is as `api`.',
      }),
    ),
    tls: Type.Optional(
      Type.Object(
        {
          cert: FilePath('The certificate in PEM, and after it those between it and its authority.'),
          key: FilePath('Its private key in PEM, without a passphrase.'),
        },
        {
          ...strict,
          description:
            'Everything at the port is served over TLS, 1.2 or later. Files that are replaced count within seconds, for connections made after that.',
        },
      ),
    ),
  },
  { ...strict, default: {}, description: 'Where health, metrics and the API are served.' },
)

const patterns = (description: string) =>
  Type.Array(Type.String({ minLength: 1, maxLength: 1024, description: 'A `*` stands for any text.' }), {
    minItems: 1,
    maxItems: 1000,
    description,
  })

/** The key of somebody who pushes events, or asks. */
export const KeyConfig = Type.Object(
  {
    name: Type.String({
      pattern: keyNameShape.source,
      description: 'Its name, in metrics and as the author of amendments. No secret.',
    }),
    sha256: Type.Optional(
      Type.String({
        pattern: '^[0-9a-f]{64}$',
        description:
          'The SHA-256 of the key, in hexadecimal: `printf %s "$KEY" | sha256sum`. Make keys by `openssl rand -base64 32`; what a person thought of is guessed.',
      }),
    ),
    key: Type.Optional(Secret('The key itself, of 20 characters or more, in place of `sha256`.')),
    scopes: Type.Array(Type.Enum(keyScopes, { description: 'ingest, amend, read, bill or admin' }), {
      minItems: 1,
      uniqueItems: true,
      default: ['ingest'],
      description:
        'ingest: it pushes events and marks. amend: it amends and voids events of its sources, of whatever subject. read: it asks for usage and coverage. bill: for what is charged. admin: it sees what went wrong, and changes meters and keys. None holds another.',
    }),
    account: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$',
        description:
          'The account whose usage it shows, and nothing of any other: the key of a customer. It may have the scopes read and bill. Without it a key shows all.',
      }),
    ),
    expires: Type.Optional(
      Type.String({ minLength: 1, description: 'An RFC 3339 time: from then on it is nobody’s key.' }),
    ),
    sources: Type.Optional(
      patterns(
        'The sources that it may write: `*` are all but those that begin with `meterline/`. Needed with ingest or amend.',
      ),
    ),
    subjects: Type.Optional(
      patterns(
        'The subjects that it may write. Marks without a subject, and amendments, need `*`. Needed with ingest or amend.',
      ),
    ),
    requestsPerMinute: Type.Optional(
      Type.Integer({
        minimum: keyLimitRanges.requestsPerMinute[0],
        maximum: keyLimitRanges.requestsPerMinute[1],
        description: 'How many requests a minute the API answers it, beside those that push.',
      }),
    ),
    rate: Type.Object(
      {
        eventsPerSecond: Count(
          'How many events a second it may push.',
          ...keyLimitRanges.eventsPerSecond,
          pushBoundsDefault.eventsPerSecond,
        ),
        bytesPerSecond: Count(
          'How many bytes a second it may push.',
          ...keyLimitRanges.bytesPerSecond,
          pushBoundsDefault.bytesPerSecond,
        ),
        burstSeconds: Count(
          'For how many seconds it may push all at once, after a rest.',
          ...keyLimitRanges.burstSeconds,
          pushBoundsDefault.burstSeconds,
        ),
      },
      {
        ...strict,
        default: {},
        description:
          'How fast it may push over time: beyond that it is answered 429, and when to come again.',
      },
    ),
    bodyMaxBytes: Count(
      'How large a request may be, in bytes; at most 10 MiB.',
      ...keyLimitRanges.bodyMaxBytes,
      pushBoundsDefault.bodyMaxBytes,
    ),
  },
  strict,
)
export type KeyConfig = Static<typeof KeyConfig>

/** The whole file, `meterline.yaml`. */
export const Config = Type.Object(
  {
    data: Type.String({
      minLength: 1,
      default: './meterline-data',
      file: true,
      description:
        'The directory of the outbox and the embedded store. Written here, it is relative to this file; the default is relative to where the command runs, as is --data.',
    }),
    sources: Type.Array(SourceFrame, {
      default: [],
      description:
        'Where usage is read. Each has a kind and a name; the other options are those of its kind.',
    }),
    outbox: Outbox,
    kafka: Type.Optional(Kafka),
    store: StoreConfig,
    query: Query,
    suspect: Suspect,
    catalogue: Type.Optional(
      FilePath('A YAML file with `meters`. It replaces the meters that come with Meterline.'),
    ),
    accounts: Type.Optional(FilePath('A YAML file with `accounts`: who pays for which usage.')),
    priceBooks: Type.Array(FilePath('A YAML file with one price book.'), {
      default: [],
      description: 'The price books that accounts name by their id.',
    }),
    listen: Listen,
    keys: Type.Array(KeyConfig, {
      maxItems: 1000,
      default: [],
      description:
        'Who may push events and ask the API, with `Authorization: Bearer KEY`. A processor knows those of `meterline key create` as well; a collector only these.',
    }),
  },
  strict,
)
export type Config = Static<typeof Config>
