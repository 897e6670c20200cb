-- What the ledger needs to hold back a read that takes too much away, to answer as of an earlier position, and to tell
-- of every message what became of it.

-- 64 bits of the event's identity, as the outbox keeps them: sums of these tell whether both hold the same events.
alter table events add column if not exists id_hash UInt64 default reinterpretAsUInt64(reverse(substring(SHA256(concat(
  source, ' ', lower(leftPad(hex(identity), 32, '0')), '@', formatDateTime(readat, '%Y-%m-%dT%H:%i:%S', 'UTC'), '.',
  leftPad(toString(toUnixTimestamp64Milli(readat) % 1000), 3, '0'), 'Z')), 1, 8)));

-- `totals`: the sum of each measure over the read's readings. `suspect`: it takes more away than is likely, and waits for
-- a second read or a person. `counts_from`: the offset of the message since which the read counts: its own mark, or the
-- later mark or decision that confirmed it; the largest number while none has.
-- `content`: 64 bits of what the mark says, so that another one under its readat is known as a conflict.
alter table reads
  add column if not exists totals Map(LowCardinality(String), Decimal(76, 12)),
  add column if not exists suspect Bool,
  add column if not exists counts_from UInt64 default offset,
  add column if not exists id_hash UInt64,
  add column if not exists content UInt64;

alter table positions add column if not exists decisions UInt64, add column if not exists pushed UInt64;

-- What a person decided of a span of a scope, with name and reason: to take a suspect read as it is (`confirm`, naming its
-- readat), to close over a gap (`waive`, of one subject where it names one), or that a scope is expected no longer (`end`,
-- from `start` on).
create table decisions (
  source LowCardinality(String),
  scope String,
  start DateTime('UTC'),
  end DateTime('UTC'),
  action LowCardinality(String),
  readat DateTime64(3, 'UTC'),
  subject String,
  author String,
  reason String,
  decided DateTime64(3, 'UTC'),
  id String,
  id_hash UInt64,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  rank UInt64 default 18446744073709551615 - offset
)
engine = ReplacingMergeTree(rank)
order by (source, scope, start, action, id)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Messages that are in the ledger already: a `duplicate` says the same as the first of its source and id, a `conflict`
-- something else, which `value` keeps (the row it would have been). With these, with `rejected` and with the offsets that
-- accepted rows carry, each offset of the log has exactly one fate.
create table passed (
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  fate LowCardinality(String),
  source LowCardinality(String),
  id String,
  id_hash UInt64,
  value String codec(ZSTD(1)),
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree(at)
order by (log, partition, offset)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- The end of each partition at a moment that an `as of` named: looked up once, so that the answer never changes.
create table moments (
  moment DateTime64(3, 'UTC'),
  log String,
  partition UInt32,
  next UInt64,
  noted DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree(noted)
order by (moment, log, partition)
settings fsync_after_insert = 1, fsync_part_directory = 1;
