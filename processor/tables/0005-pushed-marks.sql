-- What pushers say of the windows of their own sources: how many events, counted by source and id, have their time in each.
-- `scope` is the tenant that a mark speaks for, or `all`. All marks stay; which of a window counts is found when asked.
create table pushed_marks (
  source String,
  scope String,
  start DateTime('UTC') codec(Delta, ZSTD(1)),
  end DateTime('UTC') codec(Delta, ZSTD(1)),
  events UInt64,
  settled Bool,
  id String,
  identity UInt128,
  id_hash UInt64,
  content UInt64,
  appended DateTime64(3, 'UTC'),
  log LowCardinality(String),
  partition UInt32,
  offset UInt64,
  rank UInt64 default 18446744073709551615 - offset
)
engine = ReplacingMergeTree(rank)
order by (source, scope, start, identity)
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- Where a message stands that was taken for the first of its identity, and was not: the partition had been read on from a
-- later offset before. Its row counts for nothing. Few, so that counting pushed events need not ask pushed_firsts of each.
create table pushed_displaced (
  log LowCardinality(String),
  partition UInt32,
  offset UInt64
)
engine = ReplacingMergeTree
order by (log, partition, offset)
settings fsync_after_insert = 1, fsync_part_directory = 1;

alter table positions add column if not exists pushed_marks UInt64;
