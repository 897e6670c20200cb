-- Begun by a put, and looked for by the statement that ends it: where it is gone the tables are those of an older copy that
-- took their place meanwhile, and may lack what the put had written.
create table puts (
  log String,
  token UUID,
  at DateTime('UTC') default now()
)
engine = MergeTree
order by token
ttl at + interval 1 day;
