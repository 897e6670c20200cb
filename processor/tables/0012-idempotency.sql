-- What was done under an Idempotency-Key, and what was answered, so that the same request is done once. `key` is a hash of
-- who asked and of the key they gave; of an answer that shows something once, only that it was given.
create table idempotency (
  key FixedString(64),
  request FixedString(64),
  status UInt16,
  type String,
  body String codec(ZSTD(1)),
  kept Bool,
  at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(at)
order by key
ttl toDateTime(at) + interval 2 day delete
settings fsync_after_insert = 1, fsync_part_directory = 1;
