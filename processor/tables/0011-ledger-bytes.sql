-- The ledger in less space. What repeats within a cell is packed closer, and `id_hash` is made when it is asked for: it is a
-- function of the row, and kept it took eight bytes that no codec shortens and a SHA-256 of each row that came. Rows that
-- are there already are written anew as they are merged.
alter table events
  modify column id_hash UInt64 alias reinterpretAsUInt64(reverse(substring(SHA256(concat(
    source, ' ', lower(leftPad(hex(identity), 32, '0')), '@', formatDateTime(readat, '%Y-%m-%dT%H:%i:%S', 'UTC'), '.',
    leftPad(toString(toUnixTimestamp64Milli(readat) % 1000), 3, '0'), 'Z')), 1, 8))),
  modify column scope String codec(ZSTD(1)),
  modify column subject String codec(ZSTD(1)),
  modify column resource_id String codec(ZSTD(1)),
  modify column resource_name String codec(ZSTD(1)),
  modify column measures Map(LowCardinality(String), Decimal(38, 12)) codec(ZSTD(1)),
  modify column labels Map(LowCardinality(String), String) codec(ZSTD(1)),
  modify column partition UInt32 codec(ZSTD(1));
