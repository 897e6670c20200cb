-- Events that others push. One identity (source and id) is one event: the first message of it counts.

-- Where the first message of each identity stands, and 64 bits of what it says: written before its row, so that another
-- one of it is known as a duplicate or a conflict wherever its time or type would have put it. A row of `pushed` counts
-- where it stands at this place. The granules are small: it is asked for thousands of identities at once.
create table pushed_firsts (
  id_hash UInt64,
  identity UInt128,
  content UInt64,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  rank UInt64 default 18446744073709551615 - offset
)
engine = ReplacingMergeTree(rank)
order by (id_hash, identity)
settings index_granularity = 256, fsync_after_insert = 1, fsync_part_directory = 1;

-- `time_text` is as it was sent, to the last digit, '' where it was not: then `time` is when the log took it. `data` is
-- JSON, '' where there is none; `attributes` is JSON of what else the envelope says.
create table pushed (
  source String,
  id String,
  identity UInt128,
  id_hash UInt64,
  type String,
  subject String,
  time DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
  time_text String,
  data String codec(ZSTD(1)),
  attributes String codec(ZSTD(1)),
  content UInt64,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  rank UInt64 default 18446744073709551615 - offset
)
engine = ReplacingMergeTree(rank)
partition by toYear(time)
order by (toStartOfHour(time), type, source, subject, identity)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- What is to be taken instead of a pushed event (`amend`), or that it is void: the latest in the log counts, the event
-- itself stays. `identity` is of the event, `amendment` names the amendment itself.
create table amendments (
  source String,
  id String,
  identity UInt128,
  action LowCardinality(String),
  type String,
  subject String,
  time DateTime64(3, 'UTC'),
  time_text String,
  data String codec(ZSTD(1)),
  author String,
  reason String,
  decided DateTime64(3, 'UTC'),
  amendment String,
  id_hash UInt64,
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  rank UInt64 default 18446744073709551615 - offset
)
engine = ReplacingMergeTree(rank)
order by (identity, amendment)
settings fsync_after_insert = 1, fsync_part_directory = 1;

alter table positions add column if not exists amendments UInt64;

-- The headers of the original message, as JSON: they say what its bytes are. `origin` is how it came: `log`, or `http`
-- where that refused it.
alter table rejected
  add column if not exists headers String codec(ZSTD(1)),
  add column if not exists origin LowCardinality(String);

-- Rejected messages that came again: the place of the reject (and which event of it, where it held several), where it
-- came to, and what became of it there.
create table replays (
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  part UInt32,
  via_log LowCardinality(String),
  via_partition UInt32,
  via_offset UInt64,
  fate LowCardinality(String),
  code LowCardinality(String),
  reason String,
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree(at)
order by (log, partition, offset, part, via_log, via_partition, via_offset)
settings fsync_after_insert = 1, fsync_part_directory = 1;
