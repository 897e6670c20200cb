-- What OpenMeter's clients say of subjects: names and notes of theirs, which nothing is counted by. `said` is JSON of all
-- but the key; the row with the highest version counts, a deleted one is not there.
create table subjects (
  key String,
  id String,
  said String codec(ZSTD(1)),
  created DateTime64(3, 'UTC'),
  updated DateTime64(3, 'UTC'),
  deleted Bool,
  version UInt64
)
engine = ReplacingMergeTree(version)
order by key
settings fsync_after_insert = 1, fsync_part_directory = 1;
