-- Meters that were made by API; those of the catalogue file are not here. `definition` is a meter as JSON, `named` what else
-- is said of it (name, metadata). A change is a row with a higher version; one that was removed has `deleted`.
create table meters (
  id String,
  slug String,
  definition String codec(ZSTD(1)),
  named String codec(ZSTD(1)),
  created DateTime64(3, 'UTC'),
  updated DateTime64(3, 'UTC'),
  deleted Nullable(DateTime64(3, 'UTC')),
  version UInt64
)
engine = ReplacingMergeTree(version)
order by id
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Every definition of a meter that was ever computed, under the key of its cells. `state`: building, then ready once all
-- hours of history are in `built`, then retired (another definition of the slug is ready, or the meter is gone), then
-- gone (its cells are deleted). Of a slug the ready one with the highest ordinal answers.
create table builds (
  meter String,
  slug String,
  definition String codec(ZSTD(1)),
  ordinal UInt64,
  state LowCardinality(String),
  rank UInt8,
  at DateTime64(3, 'UTC') default now64(3)
)
engine = ReplacingMergeTree(rank)
order by meter
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- The hours of history that a build has computed, and how many events had a value there that is none (`example` is one).
create table built (
  meter String,
  hour DateTime('UTC'),
  unusable UInt64,
  example String codec(ZSTD(1))
)
engine = ReplacingMergeTree
order by (meter, hour)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- One row a cell and meter, so that a recompute replaces a cell whole: first what the cell is as a whole, then its groups
-- side by side, `dims` and figures as lists of one length. Only what the aggregation needs is filled: of a SUM the sums, of
-- a LATEST (when in ms, log, partition, offset, value), of a UNIQUE_COUNT 128 bits of each text, of a PERCENTILE all values
-- (these two by groups only). A cell without events has no groups. `version` grows with the touches that a recompute knew
-- of; what a build writes has 0. The granules are small: one subject's month is a few rows of each day.
create table cells (
  meter LowCardinality(String),
  source LowCardinality(String),
  subject String,
  hour DateTime('UTC'),
  version UInt64,
  sum Decimal(76, 12) codec(ZSTD(1)),
  count UInt64 codec(ZSTD(1)),
  least Decimal(38, 12) codec(ZSTD(1)),
  greatest Decimal(38, 12) codec(ZSTD(1)),
  latest Tuple(Int64, String, UInt32, UInt64, Decimal(38, 12)) codec(ZSTD(1)),
  dims Array(Array(LowCardinality(String))) codec(ZSTD(1)),
  sums Array(Decimal(76, 12)) codec(ZSTD(1)),
  counts Array(UInt64) codec(ZSTD(1)),
  mins Array(Decimal(38, 12)) codec(ZSTD(1)),
  maxs Array(Decimal(38, 12)) codec(ZSTD(1)),
  latests Array(Tuple(Int64, String, UInt32, UInt64, Decimal(38, 12))) codec(ZSTD(1)),
  uniques Array(Array(UInt128)) codec(ZSTD(1)),
  amounts Array(Array(Decimal(38, 12))) codec(ZSTD(1))
)
engine = ReplacingMergeTree(version)
partition by toYYYYMM(hour)
order by (meter, toDate(hour), source, subject, hour)
settings index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1;

-- Their place is taken by `builds` and `cells`, which are computed from the ledger. An older Meterline on this store stops
-- for want of them, which is better than what it would answer.
drop table if exists rollup_meters;

drop table if exists rollups;
