/**
 * What a cell of a rollup keeps of each kind of aggregation, how it is made of rows of the ledger, how several become one,
 * and what the answer is of that. The same words serve rows, cells and answers, so that a figure is one thing whichever
 * way it came. Pure: SQL only.
 */
import type { Meter } from '../schemas/meters.ts'

/** One figure that is kept of a group: in rows it is a column of this name, in `cells` a list of them is in `column`. */
export interface Figure {
  readonly name: 'sum' | 'count' | 'least' | 'greatest' | 'latest' | 'uniques' | 'amounts'
  readonly column: 'sums' | 'counts' | 'mins' | 'maxs' | 'latests' | 'uniques' | 'amounts'
  readonly type: string
  /** Aggregates rows of `ledgerRows`, of the meter of this number there. */
  readonly ofRows: (meter: number) => string
  /** Aggregates several of this figure, in the column of this name. */
  readonly merge: (name: string) => string
  /** The aggregate function that makes one of a list of it; undefined where `cells` does not keep that for a cell. */
  readonly whole: 'sum' | 'min' | 'max' | undefined
}

const decimal = 'Decimal(38, 12)'

const sum: Figure = {
  name: 'sum',
  column: 'sums',
  type: 'Decimal(76, 12)',
  // Wide before it is added: a sum of Decimal(38, 12) wraps silently.
  ofRows: i => `sumIf(toDecimal256(value${i}, 12), has${i})`,
  merge: name => `sum(${name})`,
  whole: 'sum',
}
const count: Figure = {
  name: 'count',
  column: 'counts',
  type: 'UInt64',
  ofRows: i => `countIf(has${i})`,
  merge: name => `sum(${name})`,
  whole: 'sum',
}
const least: Figure = {
  name: 'least',
  column: 'mins',
  type: decimal,
  ofRows: i => `minIf(value${i}, has${i})`,
  merge: name => `min(${name})`,
  whole: 'min',
}
const greatest: Figure = {
  name: 'greatest',
  column: 'maxs',
  type: decimal,
  ofRows: i => `maxIf(value${i}, has${i})`,
  merge: name => `max(${name})`,
  whole: 'max',
}
/** When it happened, then its place in the log, then what it was: the greatest is the latest. */
const latest: Figure = {
  name: 'latest',
  column: 'latests',
  type: `Tuple(Int64, String, UInt32, UInt64, ${decimal})`,
  ofRows: i => `maxIf((at_ms, toString(log), partition, offset, value${i}), has${i})`,
  merge: name => `max(${name})`,
  whole: 'max',
}
/** 128 bits of each text. */
const uniques: Figure = {
  name: 'uniques',
  column: 'uniques',
  type: 'Array(UInt128)',
  ofRows: i => `groupUniqArrayIf(reinterpretAsUInt128(sipHash128(value${i})), has${i})`,
  merge: name => `groupUniqArrayArray(${name})`,
  whole: undefined,
}
/** Every value: a percentile of parts cannot be had from percentiles. */
const amounts: Figure = {
  name: 'amounts',
  column: 'amounts',
  type: `Array(${decimal})`,
  ofRows: i => `groupArrayIf(value${i}, has${i})`,
  merge: name => `groupArrayArray(${name})`,
  whole: undefined,
}

const kept: Readonly<Record<Meter['aggregation'], readonly Figure[]>> = {
  SUM: [sum],
  COUNT: [count],
  AVG: [sum, count],
  MIN: [least],
  MAX: [greatest],
  LATEST: [latest],
  UNIQUE_COUNT: [uniques],
  PERCENTILE: [amounts],
}

/** What is kept of a meter; the other columns of its rollups are empty. */
export function figuresOf({ aggregation }: Pick<Meter, 'aggregation'>): readonly Figure[] {
  return kept[aggregation]
}

/** SQL of a figure that stands for nothing, where a row has to have one. */
export function noFigure({ type }: Figure): string {
  return `defaultValueOfTypeName('${type}')`
}

/** The divisor of an answer that is its amount. */
export const one = 'toUInt64(1)'

/**
 * The answer, given the SQL of each figure merged into one: it is amount ÷ divisor, both exact, before the meter's `per`. Of
 * a group that has figures the divisor is never 0.
 */
export function answerOf(
  meter: Pick<Meter, 'aggregation' | 'percentile'>,
  merged: (figure: Figure) => string,
): { readonly amount: string; readonly divisor: string } {
  switch (meter.aggregation) {
    case 'SUM':
      return { amount: merged(sum), divisor: one }
    case 'COUNT':
      return { amount: merged(count), divisor: one }
    case 'AVG':
      return { amount: merged(sum), divisor: merged(count) }
    case 'MIN':
      return { amount: merged(least), divisor: one }
    case 'MAX':
      return { amount: merged(greatest), divisor: one }
    case 'LATEST':
      return { amount: `tupleElement(${merged(latest)}, 5)`, divisor: one }
    case 'UNIQUE_COUNT':
      return { amount: `length(${merged(uniques)})`, divisor: one }
    case 'PERCENTILE': {
      const { numerator, denominator } = percentile(meter.percentile ?? '95')
      const all = merged(amounts)
      // Nearest rank: the smallest value that at least so many percent of the values do not exceed.
      const rank = `greatest(1, intDiv(length(${all}) * ${numerator} + ${denominator - 1}, ${denominator}))`
      return { amount: `arraySort(${all})[${rank}]`, divisor: one }
    }
  }
}

/** Of a decimal that the schema of meters takes, in whole numbers: the part of all values. */
function percentile(text: string): { readonly numerator: number; readonly denominator: number } {
  const [whole = '', fraction = ''] = text.split('.')
  return { numerator: Number(whole + fraction), denominator: 100 * 10 ** fraction.length }
}

/**
 * The groups of a meter's cells, one a row, as a select in parentheses: `source`, `subject`, `hour`, `dims` and the
 * figures by their names, as rows of the ledger would give them.
 * @param key SQL of the rollup key
 * @param where a condition on `source`, `subject` and `hour`, which should name days by `toDate(hour)`
 */
export function cellRows(meter: Pick<Meter, 'aggregation'>, key: string, where: string): string {
  const figures = figuresOf(meter)
  const lists = ['dims', ...figures.map(({ column }) => column)]
  const entries = figures.map(({ name }, index) => `g.${index + 2} as ${name}`)
  return `(select source, subject, hour, g.1::Array(String) as dims, ${entries.join(', ')}
    from (select source, subject, hour, arrayJoin(arrayZip(${lists.join(', ')})) as g
      from cells final where meter = ${key} and ${where}))`
}

/**
 * As `cellRows`, a row a cell with its groups in one, without `dims`: where nothing asks for these it is much cheaper. What
 * it gives stands behind a `from` and ends it: each level of a statement is planned, so there is none that only hands on.
 */
export function wholeCellRows(meter: Pick<Meter, 'aggregation'>, key: string, where: string): string {
  const figures = figuresOf(meter)
  // Of the lists their length alone is read.
  const rows = `cells final where meter = ${key} and ${where} and dims.size0 > 0`
  if (figures.every(({ whole }) => whole !== undefined)) return rows
  const read = figures.map(({ name, column, whole }) => (whole === undefined ? column : name))
  // Names of figures are names of columns too, so they are made outside of what is read.
  const made = figures.map(({ name, column, whole }) =>
    whole === undefined ? `arrayFlatten(${column}) as ${name}` : name,
  )
  return `(select source, subject, hour, ${made.join(', ')}
    from (select source, subject, hour, ${read.join(', ')} from ${rows}))`
}
