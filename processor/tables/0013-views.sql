-- What Grafana and other tools may read. The tables behind these change with versions; the names and columns here stay.

-- Cells that are not what the ledger says, and since when: their rows in usage_hourly are those of before, or not there yet.
-- Mostly none, and each for seconds.
create or replace view stale_cells as
select toString(source) as source, subject, hour, min(at) as since
from (select source, hour, at, arrayJoin(subjects) as subject from stale final where not done)
group by source, subject, hour;

-- Usage of the meters that add up (SUM and COUNT) by hour, tenant and dims, under the definition that answers now.
-- `amount` is exact; divided by `per` it is what the API answers, which `quantity` is for charts, as a double. Of a row
-- that is `is_stale` the API has a newer answer from the ledger, and so it may of cells in stale_cells without a row.
create or replace view usage_hourly as
with (
  select (groupArray(key), groupArray((slug, unit, per, names))) from (
    select slug, argMax(meter, ordinal) as key, argMax(definition, ordinal) as said,
      JSONExtractString(said, 'aggregation') as aggregation, JSONExtractString(said, 'unit') as unit,
      if(JSONExtractString(said, 'per') = '', '1', JSONExtractString(said, 'per')) as per,
      arraySort(JSONExtractKeys(said, 'groupBy')) as names
    from builds final where state = 'ready' group by slug)
  where aggregation in ('SUM', 'COUNT')
) as meters
select said.1 as meter, said.2 as unit, source, subject, hour, mapFromArrays(said.4, arrayMap(text -> toString(text), one.1)) as dims,
  one.2 as amount, said.3 as per, toFloat64(amount) / toFloat64(per) as quantity,
  (source, subject, hour) in (select source, subject, hour from stale_cells) as is_stale
from (
  select meters.2[indexOf(meters.1, toString(meter))] as said, toString(source) as source, subject, hour,
    arrayJoin(arrayZip(dims, if(notEmpty(sums), sums, arrayMap(count -> toDecimal256(count, 12), counts)))) as one
  from cells final
  where notEmpty(dims) and has(meters.1, toString(meter)));

-- Every window that was tried, in the state in which `coverage` has it; those that nobody tried are not here.
create or replace view tried_windows as
select toString(source) as source, scope, start, end, state, tried_at,
  if(state = 'failed', tupleElement(said, 3), '') as fault_code, if(state = 'failed', tupleElement(said, 4), '') as fault_message
from (
  select source, scope, start, end, tried_at, said,
    multiIf(is_there and waiting > counting, 'suspect', is_there and settled_at >= counting.2, 'settled', is_there, 'read',
      tupleElement(said, 1) = 'failed', 'failed', tupleElement(said, 2), 'suspect', 'incomplete') as state
  from (
    select source, scope, start, end, max(readat) as tried_at, max(counts) as is_there, maxIf(rank, counts) as counting,
      maxIf(rank, waits) as waiting, maxIf(readat, counts and settled) as settled_at,
      argMaxIf((toString(outcome), held, toString(fault_code), fault_message), readat, not counts) as said
    from (
      select source, scope, start, end, readat, settled, outcome, held, fault_code, fault_message,
        held and outcome = 'complete' and not suspect as counts, held and outcome = 'complete' and suspect as waits,
        (not estimated, readat) as rank
      from reads final)
    group by source, scope, start, end));

-- The readings that count, each once, exact as soon as a batch is acknowledged. Dearer than usage_hourly: name a span of
-- `start`. `measures` are exact, in base units.
create or replace view current_readings as
select toString(source) as source, scope, toString(type) as type, subject, start, end, used_start, used_end,
  toString(resource_kind) as resource_kind, resource_id, resource_name, measures, labels, estimated
from events final
where (source, scope, start, readat) in (
  select source, scope, start, argMax(content_readat, (not estimated, readat)) from reads final
  where held and outcome = 'complete' and not suspect group by source, scope, start);
