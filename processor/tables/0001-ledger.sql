-- The ledger: every reading ever accepted. The key ends in the identity of the reading and its readat, so a replay
-- replaces itself (the first position wins: `rank` falls with the offset) and the history of re-reads stays.
-- The hour comes first in the key: a recompute reads the rows of its hours and no others, and parts of later hours
-- stand behind those of earlier ones, so that reading them together needs no merge.
create table events (
  source LowCardinality(String),
  scope String,
  type LowCardinality(String),
  subject String,
  start DateTime('UTC') codec(Delta, ZSTD(1)),
  end DateTime('UTC') codec(Delta, ZSTD(1)),
  used_start DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
  used_end DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
  identity UInt128,
  readat DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
  resource_kind LowCardinality(String),
  resource_id String,
  resource_name String,
  measures Map(LowCardinality(String), Decimal(38, 12)),
  labels Map(LowCardinality(String), String),
  parts UInt32,
  estimated Bool,
  content UInt64,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64 codec(Delta, ZSTD(1)),
  rank UInt64 default 18446744073709551615 - offset codec(Delta, ZSTD(1))
)
engine = ReplacingMergeTree(rank)
partition by toYYYYMM(start)
order by (toStartOfHour(start), type, source, subject, start, identity, readat)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- The marks. `content_readat` is the read that holds the readings: its own, or the one a mark-only re-read repeats.
-- `bad` and `listed` are JSON: items that could not be taken, and the scopes that a listing found.
-- `subjects` are those of its readings, so that a read that replaces it knows which cells change.
-- `held`: the ledger has exactly what the mark says. A row is written again, with a higher version, when that changes.
create table reads (
  source LowCardinality(String),
  scope String,
  start DateTime('UTC'),
  end DateTime('UTC'),
  readat DateTime64(3, 'UTC'),
  content_readat DateTime64(3, 'UTC'),
  outcome LowCardinality(String),
  held Bool,
  events UInt32,
  digest UInt64,
  subjects Array(String) codec(ZSTD(1)),
  settled Bool,
  estimated Bool,
  bad String codec(ZSTD(1)),
  listed String codec(ZSTD(1)),
  fault_code LowCardinality(String),
  fault_message String,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  version UInt64
)
engine = ReplacingMergeTree(version)
partition by toYYYYMM(start)
order by (start, source, scope, readat)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- What became of each span of each partition of the log; written after its rows, in the same store. A start resumes
-- at the end of what stands here without a hole. `messages` is less than the span where the log had lost some.
create table positions (
  log String,
  partition UInt32,
  first UInt64,
  last UInt64,
  messages UInt64,
  events UInt64,
  reads UInt64,
  duplicates UInt64,
  conflicts UInt64,
  rejects UInt64,
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree
order by (log, partition, first, last)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Messages that could not be accepted: the first 64 KiB of their bytes, the length and sha256 of the whole.
create table rejected (
  log String,
  partition UInt32,
  offset UInt64,
  code LowCardinality(String),
  reason String,
  value_base64 String codec(ZSTD(1)),
  bytes UInt64,
  sha256 String,
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree
order by (log, partition, offset)
settings fsync_after_insert = 1, fsync_part_directory = 1;
