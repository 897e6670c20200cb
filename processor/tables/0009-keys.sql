-- Keys to the API, known by their hash alone: what a key is was shown to whoever made it, and stands nowhere. A row is never
-- changed; one with revision 1 takes a key back. What it may is told in schemas/keys.ts.
create table api_keys (
  prefix String,
  name String,
  sha256 String,
  scopes Array(String),
  account String,
  sources Array(String),
  subjects Array(String),
  created_at DateTime64(3, 'UTC'),
  created_by String,
  expires_at Nullable(DateTime64(3, 'UTC')),
  revoked_at Nullable(DateTime64(3, 'UTC')),
  revoked_by String,
  revision UInt8
)
engine = ReplacingMergeTree(revision)
order by prefix
settings fsync_after_insert = 1, fsync_part_directory = 1;

-- In which hour a key was used last. It is noted in passing, and may be lost with a process.
create table api_key_uses (
  prefix String,
  hour DateTime('UTC')
)
engine = ReplacingMergeTree(hour)
order by prefix;
