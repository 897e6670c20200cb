-- A cell keeps only what its aggregation needs: of a SUM the sums, of a LATEST (when, log, partition, offset, value), of a
-- UNIQUE_COUNT 128 bits of each text, of a PERCENTILE every value. The lists of `dims` and of what is kept go side by side.
alter table rollups
  add column if not exists latests Array(Tuple(Int64, String, UInt32, UInt64, Decimal(38, 12))),
  add column if not exists uniques Array(Array(UInt128)),
  add column if not exists amounts Array(Array(Decimal(38, 12)));
