/** The failures Meterline knows: each has a code, a fate and a remedy, in one table. Pure. */

/**
 * What happens next. `retry`: the same call may succeed later, the window stays due. `reject`: this item or message
 * is set aside with its reason and the rest goes on. `halt`: a person must act, the process or command stops.
 */
export type Fate = 'retry' | 'reject' | 'halt'

interface FaultEntry {
  readonly fate: Fate
  readonly meaning: string
  readonly remedy: string
}

/** The one table: docs/reference/faults.md is made from it, and a test holds it against the code. */
export const faults = {
  // -- reading a source
  SOURCE_UNREACHABLE: {
    fate: 'retry',
    meaning: 'The provider could not be reached, or the connection broke or timed out.',
    remedy: 'Check the address, DNS, the proxy and the CA file; the window is read again by itself.',
  },
  SOURCE_BUSY: {
    fate: 'retry',
    meaning: 'The provider answered 408, 425, 429 or 5xx after all retries.',
    remedy: 'Nothing to do: the window stays due. If it lasts, lower `concurrency`.',
  },
  SOURCE_DENIED: {
    fate: 'retry',
    meaning: 'The provider answered 401 or 403.',
    remedy: 'Check the key and its role; a rotated secret is read again at the next call.',
  },
  SOURCE_MISSING: {
    fate: 'retry',
    meaning: 'The provider answered 404 or 410 for something that Meterline asked for.',
    remedy: 'Check `url` and `dialect`, and whether the organization or profile still exists.',
  },
  SOURCE_REFUSED: {
    fate: 'retry',
    meaning: 'The provider answered another 4xx, or a redirect (not followed: the key would go along).',
    remedy: 'Read the message: the request or an option does not fit this provider version.',
  },
  BODY_UNREADABLE: {
    fate: 'retry',
    meaning:
      'The body of an answer is not what the API promises: truncated, HTML, not JSON, of another shape.',
    remedy: 'The window stays due and counts as failed, never as empty. If it lasts, look at the provider.',
  },
  BODY_TOO_LARGE: {
    fate: 'retry',
    meaning: 'An answer is larger than the bound on a response.',
    remedy: 'Lower `pageSize`.',
  },
  PAGES_DRIFTED: {
    fate: 'retry',
    meaning: 'Pages repeated or shifted while they were read, several times in a row.',
    remedy: 'Nothing to do: the window is read again. If it lasts, raise `pageSize`.',
  },
  ITEM_UNREADABLE: {
    fate: 'reject',
    meaning: 'One item of an answer lacks a field that is billed, or holds a value that is no quantity.',
    remedy: 'Mend it at the provider and read the window again; the rest of the read counts.',
  },
  FIGURES_DIFFER: {
    fate: 'reject',
    meaning:
      'Two figures of a provider for one resource contradict each other. The reading counts; it is no gap.',
    remedy:
      'Compare both at the provider. Where the reading is wrong, mend its cause and read the window again.',
  },
  READING_TWICE: {
    fate: 'retry',
    meaning: 'One answer names the same resource twice where it must be unique.',
    remedy: 'Nothing to do: the window is read again.',
  },
  WINDOW_UNKNOWABLE: {
    fate: 'retry',
    meaning: 'The source cannot know this window (behind its retention, or before it began).',
    remedy: 'The window cannot be read; waive it or bill it by hand.',
  },
  ABORTED: {
    fate: 'retry',
    meaning: 'The work was stopped before it was done.',
    remedy: 'Nothing to do: what was not finished is still due.',
  },
  // -- events
  EVENT_NOT_JSON: {
    fate: 'reject',
    meaning: 'The message is not JSON.',
    remedy: 'Mend the sender, and send it again.',
  },
  EVENT_INVALID: {
    fate: 'reject',
    meaning: 'The message is not a CloudEvent 1.0, or not one of the types Meterline takes.',
    remedy: 'Mend the sender; the message names the attribute.',
  },
  EVENT_DATA_INVALID: {
    fate: 'reject',
    meaning: 'The data of a Meterline event does not fit its schema.',
    remedy: 'Mend the sender; the message names the path.',
  },
  VALUE_OUT_OF_BOUNDS: {
    fate: 'reject',
    meaning:
      'A quantity is negative, beyond 1e24, has more than 12 decimals, or is more than its window can hold.',
    remedy: 'Mend the source: values are rejected, never rounded.',
  },
  EVENT_TOO_LARGE: {
    fate: 'reject',
    meaning: 'The message is larger than the bound.',
    remedy: 'Send less in one event.',
  },
  TIME_OUT_OF_BOUNDS: {
    fate: 'reject',
    meaning: 'An event says a time before the year 2000, after 2099, or more than a day after it was sent.',
    remedy: 'Mend the clock or the sender; one that was only too early may be replayed later.',
  },
  SOURCE_RESERVED: {
    fate: 'reject',
    meaning:
      "An event that is pushed names a source `meterline/…` or a type `io.meterline.…` other than that of a mark or an amendment: these are Meterline's own.",
    remedy: 'Name a source and a type of your own.',
  },
  KEY_UNKNOWN: {
    fate: 'reject',
    meaning: 'A request names no key, or one that is not known, was revoked or has expired.',
    remedy: 'Send `Authorization: Bearer KEY` with a key of `keys`, or one made by `meterline key create`.',
  },
  KEY_FORBIDS: {
    fate: 'reject',
    meaning:
      'A key lacks the scope that is asked for, or may not write the source or subject of this event. Nothing was taken of it.',
    remedy: 'Use a key that may, or widen `scopes`, `sources` or `subjects` of this one.',
  },
  RATE_EXCEEDED: {
    fate: 'retry',
    meaning: 'A key has pushed more events or bytes than its bounds allow.',
    remedy: 'Send it again after the seconds that `Retry-After` says, or raise `rate` of the key.',
  },
  MARK_DIFFERS: {
    fate: 'retry',
    meaning: "A pusher's mark says another number of events for its window than the ledger has.",
    remedy:
      'Send what is missing again, each event under its source and id, or a later mark with the number there is.',
  },
  // -- outbox and log
  OUTBOX_FULL: {
    fate: 'retry',
    meaning:
      'The outbox has reached `outbox.maxBytes`, or its disk is full: reading has stopped, nothing is dropped.',
    remedy: 'Bring the log back, free the disk, or raise `outbox.maxBytes`.',
  },
  OUTBOX_LOCKED: {
    fate: 'halt',
    meaning: 'Another process uses this outbox.',
    remedy: 'Give each collector a data directory of its own, or stop the other one.',
  },
  OUTBOX_UNREADABLE: {
    fate: 'halt',
    meaning: 'The outbox file cannot be opened or written, or was made by a later Meterline.',
    remedy: 'Check the disk and the rights of the data directory.',
  },
  OUTBOX_DAMAGED: {
    fate: 'halt',
    meaning:
      'The outbox file is damaged. The collector begins anew: it sets the file aside as `outbox.db.damaged-<time>`, brings over the waiting rows that can be read, and reads all windows within the retention again.',
    remedy:
      'Check the disk. Events that were pushed, waited and could not be read are to be pushed again; then take the damaged file away: health is red until then.',
  },
  GRID_OVERLAP: {
    fate: 'halt',
    meaning:
      'A window overlaps one of another width that was read, or marked by its pusher, before in the same scope.',
    remedy: 'Begin a new width at an hour of which nothing was read or marked.',
  },
  LOG_UNREACHABLE: {
    fate: 'retry',
    meaning: 'Kafka did not acknowledge for a while.',
    remedy: 'Check the brokers; rows stay in the outbox until they are acknowledged.',
  },
  LOG_UNSAFE: {
    fate: 'halt',
    meaning: 'The topic is weaker than, or not cut as, the config says.',
    remedy: 'Change the topic, or the config if the other value is meant.',
  },
  LOG_TRUNCATED: {
    fate: 'retry',
    meaning:
      'The log begins after the place where the ledger ends: messages are gone from it. Or an outbox that is read in place is an older copy of what the ledger has read.',
    remedy: 'Send again what outboxes still hold; what is still missing is due again.',
  },
  // -- ledger
  STORE_UNREACHABLE: {
    fate: 'retry',
    meaning: 'ClickHouse does not answer, or is too busy to.',
    remedy: 'Nothing to do: the log keeps what is not in yet. Check the server if it lasts.',
  },
  STORE_FULL: {
    fate: 'retry',
    meaning: 'The disk of ClickHouse is full.',
    remedy: 'Free it, or give it a larger one: the log keeps what is not in yet, and it goes on by itself.',
  },
  STORE_READONLY: {
    fate: 'retry',
    meaning: 'ClickHouse takes no writes now: its table, its disk or our user is read-only.',
    remedy: 'Lift that: the log keeps what is not in yet, and it goes on by itself.',
  },
  STORE_POISON: {
    fate: 'reject',
    meaning: 'ClickHouse refuses a message for its content, though it was fit to be accepted.',
    remedy: 'Read the words of ClickHouse in its reject, and report them: Meterline should have refused it.',
  },
  STORE_PUT_BACK: {
    fate: 'retry',
    meaning: 'The ledger was put back to an older copy of itself while something was put into it.',
    remedy: 'None is needed: the log is read again from where that copy ends.',
  },
  STORE_REFUSED: {
    fate: 'halt',
    meaning: 'ClickHouse refuses a statement.',
    remedy: 'Read the message: rights, disk, or a newer schema.',
  },
  QUERY_TOO_LARGE: {
    fate: 'reject',
    meaning: 'A question takes more time or memory than `query` of the configuration lets one have.',
    remedy:
      'Ask for less time, wider windows, fewer groups or one subject; or raise `query.seconds` or `query.memoryBytes`.',
  },
  QUERY_BUSY: {
    fate: 'retry',
    meaning: 'More questions wait for their turn than `query.queued` lets.',
    remedy:
      'Ask again after the seconds that `Retry-After` says, or raise `query.concurrency` where there are cores for it.',
  },
  STORE_LOCKED: {
    fate: 'halt',
    meaning: 'The embedded store is in use by another process.',
    remedy: 'Stop that process, or use another --data directory.',
  },
  STORE_MISSING: {
    fate: 'halt',
    meaning: 'The embedded ClickHouse (the optional package chdb) is not installed.',
    remedy: 'npm install chdb, or configure `store.url` of a ClickHouse server.',
  },
  MIGRATION_CHANGED: {
    fate: 'halt',
    meaning: 'A migration that was applied has since been changed.',
    remedy: 'Use the Meterline version that made this store, or a later one.',
  },
  // -- configuration and use
  INTERNAL: {
    fate: 'halt',
    meaning: 'Meterline met a state that it holds impossible.',
    remedy: 'This is a bug: report it with the message and the stack.',
  },
  USAGE: {
    fate: 'halt',
    meaning: 'A command or a request was used wrongly.',
    remedy: 'The message names what; see meterline --help, and /api/openapi.json of a running processor.',
  },
  NOT_THERE: {
    fate: 'reject',
    meaning: 'What a request names is not there, or is not for this key.',
    remedy: 'Check the name: the list beside it has all that the key may see.',
  },
  IDEMPOTENCY_RUNNING: {
    fate: 'retry',
    meaning: 'A request with the same Idempotency-Key is still being done.',
    remedy: 'Send it again in a moment: it gets the answer of the first.',
  },
  IDEMPOTENCY_DIFFERS: {
    fate: 'reject',
    meaning:
      'An Idempotency-Key was used before, for another request or one whose answer is shown once only.',
    remedy: 'Send a new request under a new key; look first at what the other one did.',
  },
  CONFIG_INVALID: {
    fate: 'halt',
    meaning: 'The configuration, catalogue, accounts or price book has errors.',
    remedy: 'Each is named with its file, path and line: mend them.',
  },
  SECRET_MISSING: {
    fate: 'halt',
    meaning: 'A secret is named that is not there.',
    remedy: 'Set the environment variable or the file.',
  },
  METER_UNKNOWN: {
    fate: 'halt',
    meaning: 'There is no meter, or no group of it, of this name.',
    remedy: 'The catalogue names them; docs/reference/meters.md those that come with Meterline.',
  },
  // -- money
  METER_INVALID: {
    fate: 'halt',
    meaning: 'The definition of a meter is none, or cannot be computed.',
    remedy: 'Mend what the message names; docs/reference/meters.md has all fields.',
  },
  METER_EXISTS: {
    fate: 'halt',
    meaning: 'There is a meter of this slug already.',
    remedy: 'Change that one, or take another slug.',
  },
  METER_FIXED: {
    fate: 'halt',
    meaning: 'The meter is of the catalogue file, which the API does not change.',
    remedy: 'Change the file and start again.',
  },
  CASE_INVALID: {
    fate: 'halt',
    meaning: 'A rating case, its usage or its book does not fit the format.',
    remedy: 'The message names the place.',
  },
  UNPRICED: {
    fate: 'halt',
    meaning: 'Usage that no charge of the price book takes.',
    remedy: 'Add a charge, or say `unpriced: report`.',
  },
  WEIGHT_MISSING: {
    fate: 'halt',
    meaning: 'A weight table has no entry for a value.',
    remedy: 'Add it: a missing weight is never taken for 0 or 1.',
  },
  PRICE_AMBIGUOUS: {
    fate: 'halt',
    meaning: 'Two charges take the same usage and neither is marked additive.',
    remedy: 'Narrow one `where`, or mark it `additive: true`.',
  },
  RATECARD_INVALID: {
    fate: 'halt',
    meaning: 'A Rafay ratecard does not fit the format.',
    remedy: 'The message names the profile and field.',
  },
} as const satisfies Record<string, FaultEntry>

export type FaultCode = keyof typeof faults

/** Facts are shown and logged: never put a secret or a raw provider object in them. */
export type FaultFacts = Readonly<Record<string, string | number | boolean | null | undefined>>

/** A failure with a code of the table, what it is about (`facts`), and one sentence for a person. */
export class Fault extends Error {
  override readonly name = 'Fault'
  readonly code: FaultCode
  readonly facts: FaultFacts

  /** @param message one sentence: what is wrong and where; the remedy is in the table. */
  constructor(code: FaultCode, message: string, facts: FaultFacts = {}, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
    this.facts = facts
  }

  get fate(): Fate {
    return faults[this.code].fate
  }
}

/** Any thrown thing as a Fault; what is not one becomes `otherwise` with its message. */
export function asFault(error: unknown, otherwise: FaultCode, facts: FaultFacts = {}): Fault {
  if (error instanceof Fault) return error
  return new Fault(otherwise, wordsOf(error), facts, { cause: error })
}

function wordsOf(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message
  try {
    return String(thrown)
  } catch {
    // Anything can be thrown, also an object that refuses to become text.
    return `a thrown ${typeof thrown} that has no text`
  }
}

/** One line for a person: `CODE message (fact=value …)`. */
export function describeFault(fault: Fault): string {
  const facts = Object.entries(fault.facts)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `${key}=${value}`)
  return `${fault.code} ${fault.message}${facts.length > 0 ? ` (${facts.join(' ')})` : ''}`
}
