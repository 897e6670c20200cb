-- The meters that have rollups: `ready` once every cell of history was marked stale for them.
create table rollup_meters (
  meter String,
  definition String,
  ready Bool,
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree
order by (meter, ready)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Cells (source, subject, hour) whose rollups do not stand for the ledger, all of one touch in a row. Each touch has a
-- token of its own; a recompute finishes exactly the tokens that it saw before it read the ledger. A cell with an
-- unfinished token is answered from the ledger. Finished rows go after an hour; one that comes back only costs a
-- recompute.
create table stale (
  source LowCardinality(String),
  hour DateTime('UTC'),
  token UInt64,
  subjects Array(String) codec(ZSTD(1)),
  done UInt8,
  at DateTime('UTC') default now()
)
engine = ReplacingMergeTree(done)
order by (source, hour, token)
ttl at + interval 1 hour delete where done = 1
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- What one recompute took on: the tokens it saw.
create table recomputes (
  run UInt64,
  source LowCardinality(String),
  hour DateTime('UTC'),
  token UInt64,
  subjects Array(String) codec(ZSTD(1)),
  at DateTime('UTC') default now()
)
engine = MergeTree
order by (run, source, hour)
ttl at + interval 1 hour;

-- One row a cell and meter, its groups side by side, so that a recompute replaces a cell whole: a group that
-- vanished is simply not in the newer row. `version` grows with the touches that a recompute knew of.
create table rollups (
  meter LowCardinality(String),
  source LowCardinality(String),
  subject String,
  hour DateTime('UTC'),
  version UInt64,
  dims Array(Array(String)),
  sums Array(Decimal(76, 12)),
  counts Array(UInt64),
  mins Array(Decimal(38, 12)),
  maxs Array(Decimal(38, 12))
)
engine = ReplacingMergeTree(version)
partition by toYYYYMM(hour)
order by (meter, toDate(hour), source, subject, hour)
settings fsync_after_insert = 1, fsync_part_directory = 1;
