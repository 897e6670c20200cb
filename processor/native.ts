/**
 * Columns in ClickHouse's Native format: what it reads without parsing. A row as JSON costs it 13 µs to take apart, the
 * same row as columns 1.3 (decision 0026). Values are appended one by one; nothing of them is kept but their bytes.
 *
 * Who appends vouches for the values: unlike a format of texts this one refuses none that a column cannot hold.
 * Pure. The format: https://clickhouse.com/docs/interfaces/formats/Native; how LowCardinality stands in it is measured.
 */

/** Rows, each span from its first to before its last, in order. */
export type Spans = readonly (readonly [from: number, to: number])[]

/** A column of a block. */
export interface Column {
  /** As ClickHouse spells it. */
  readonly type: string
  /** What stands once before all values. */
  head(): readonly Buffer[]
  values(spans: Spans): readonly Buffer[]
}

/** A block of these columns by name. Blocks may stand behind each other in one body; none may be without rows. */
export function nativeBlock(columns: Readonly<Record<string, Column>>, spans: Spans): Buffer {
  const named = Object.entries(columns)
  return Buffer.concat([
    varint(named.length),
    varint(rowsOf(spans)),
    ...named.flatMap(([name, column]) => [
      shortText(name),
      shortText(column.type),
      ...column.head(),
      ...column.values(spans),
    ]),
  ])
}

/** Puts a value at a place of both, which are of the same bytes. */
type Write<Value> = (view: DataView, value: Value, at: number, bytes: Buffer) => void

/** Values of one width behind each other. */
class Fixed<Value> implements Column {
  readonly type: string
  readonly #width: number
  readonly #write: Write<Value>
  #bytes: Buffer
  #view: DataView
  #end = 0

  constructor(type: string, width: number, rows: number, write: Write<Value>) {
    this.type = type
    this.#width = width
    this.#write = write
    this.#bytes = Buffer.allocUnsafe(rows * width)
    this.#view = viewOf(this.#bytes)
  }

  add(value: Value): void {
    if (this.#end === this.#bytes.length) {
      this.#bytes = grown(this.#bytes, this.#end, this.#width)
      this.#view = viewOf(this.#bytes)
    }
    this.#write(this.#view, value, this.#end, this.#bytes)
    this.#end += this.#width
  }

  /** The bytes of a row's value. */
  at(row: number): Buffer {
    return this.#bytes.subarray(row * this.#width, (row + 1) * this.#width)
  }

  head(): readonly Buffer[] {
    return []
  }

  values(spans: Spans): readonly Buffer[] {
    return spans.map(([from, to]) => this.#bytes.subarray(from * this.#width, to * this.#width))
  }
}

export type FixedColumn<Value> = Fixed<Value>

export const uint32s = (rows: number) =>
  new Fixed<number>('UInt32', 4, rows, (view, value, at) => view.setUint32(at, value, true))

export const uint64s = (rows: number) =>
  new Fixed<bigint>('UInt64', 8, rows, (view, value, at) => view.setBigUint64(at, value, true))

/** Of 32 hex digits. */
export const uint128s = (rows: number) =>
  new Fixed<string>('UInt128', 16, rows, (_, value, at, bytes) => {
    bytes.write(value, at, 16, 'hex')
    for (let from = at, to = at + 15; from < to; from += 1, to -= 1) {
      const byte = bytes[from] as number
      bytes[from] = bytes[to] as number
      bytes[to] = byte
    }
  })

export const bools = (rows: number) =>
  new Fixed<boolean>('Bool', 1, rows, (view, value, at) => view.setUint8(at, value ? 1 : 0))

/** Of whole seconds in ms. */
export const times = (rows: number) =>
  new Fixed<number>("DateTime('UTC')", 4, rows, (view, ms, at) => view.setUint32(at, ms / 1000, true))

/** Of ms since 1970. */
export const timesMs = (rows: number) =>
  new Fixed<number>("DateTime64(3, 'UTC')", 8, rows, (view, ms, at) => setWhole(view, ms, at))

const places = 12
const scale = 10n ** BigInt(places)

/** Of texts of bounded decimals (`isBoundedDecimal`). */
export const decimals = (rows: number) =>
  new Fixed<string>(`Decimal(38, ${places})`, 16, rows, (view, text, at) => {
    const point = text.indexOf('.')
    const units =
      point < 0
        ? BigInt(text) * scale
        : BigInt(text.slice(0, point) + text.slice(point + 1).padEnd(places, '0'))
    view.setBigUint64(at, units, true)
    view.setBigInt64(at + 8, units >> 64n, true)
  })

/** String: of well-formed texts. */
export class Texts implements Column {
  readonly type = 'String'
  readonly #ends: Ends
  #bytes: Buffer
  #end = 0

  constructor(rows: number) {
    this.#ends = new Ends(rows)
    this.#bytes = Buffer.allocUnsafe(32 * rows)
  }

  add(text: string): void {
    // No unit of UTF-16 takes more than three bytes of UTF-8.
    const most = 3 * text.length + 5
    if (this.#bytes.length - this.#end < most) this.#bytes = grown(this.#bytes, this.#end, most)
    // Nearly all lengths take one byte, which is known once the text is written.
    const written = this.#bytes.write(text, this.#end + 1)
    if (written < 128) {
      this.#bytes[this.#end] = written
      this.#end += written + 1
    } else {
      const length = varint(written)
      this.#bytes.copyWithin(this.#end + length.length, this.#end + 1, this.#end + 1 + written)
      length.copy(this.#bytes, this.#end)
      this.#end += length.length + written
    }
    this.#ends.add(this.#end)
  }

  head(): readonly Buffer[] {
    return []
  }

  values(spans: Spans): readonly Buffer[] {
    return this.#ends.within(spans).map(([from, to]) => this.#bytes.subarray(from, to))
  }
}

/** LowCardinality(String): each text once, and which one a row has. */
export class Names implements Column {
  readonly type = 'LowCardinality(String)'
  readonly #places = new Map<string, number>()
  readonly #names = new Texts(16)
  readonly #indexes: FixedColumn<number>
  #last = ''
  #lastPlace = -1

  constructor(rows: number) {
    this.#indexes = uint32s(rows)
  }

  add(text: string): void {
    if (text !== this.#last || this.#lastPlace < 0) {
      this.#last = text
      this.#lastPlace = this.#placeOf(text)
    }
    this.#indexes.add(this.#lastPlace)
  }

  #placeOf(text: string): number {
    const place = this.#places.get(text)
    if (place !== undefined) return place
    this.#names.add(text)
    this.#places.set(text, this.#places.size)
    return this.#places.size - 1
  }

  head(): readonly Buffer[] {
    return [whole(keysVersion)]
  }

  values(spans: Spans): readonly Buffer[] {
    const rows = rowsOf(spans)
    if (rows === 0) return []
    return [
      whole(ownKeys + indexesOf32Bits),
      whole(this.#places.size),
      ...this.#names.values([[0, this.#places.size]]),
      whole(rows),
      ...this.#indexes.values(spans),
    ]
  }
}

const keysVersion = 1
/** The texts stand with the values. */
const ownKeys = 0x200
const indexesOf32Bits = 2

/** Map(LowCardinality(String), …) */
export class Maps<Values extends Column & { add(value: string): void }> implements Column {
  readonly type: string
  readonly #ends: Ends
  readonly #keys: Names
  readonly #values: Values
  #entries = 0

  /** @param entries about so many in a row */
  constructor(rows: number, entries: number, valuesOf: (rows: number) => Values) {
    this.#ends = new Ends(rows)
    this.#keys = new Names(rows * entries)
    this.#values = valuesOf(rows * entries)
    this.type = `Map(${this.#keys.type}, ${this.#values.type})`
  }

  add(record: Readonly<Record<string, string>>): void {
    for (const key in record) {
      this.#keys.add(key)
      this.#values.add(record[key] as string)
      this.#entries += 1
    }
    this.#ends.add(this.#entries)
  }

  head(): readonly Buffer[] {
    return [...this.#keys.head(), ...this.#values.head()]
  }

  values(spans: Spans): readonly Buffer[] {
    const entries = this.#ends.within(spans)
    return [this.#ends.offsets(spans), ...this.#keys.values(entries), ...this.#values.values(entries)]
  }
}

/** Where what belongs to each row ends. */
class Ends {
  #ends: Uint32Array
  #rows = 0

  constructor(rows: number) {
    this.#ends = new Uint32Array(rows)
  }

  add(end: number): void {
    if (this.#rows === this.#ends.length) {
      const more = new Uint32Array(2 * this.#rows + 16)
      more.set(this.#ends)
      this.#ends = more
    }
    this.#ends[this.#rows++] = end
  }

  #before(row: number): number {
    return row === 0 ? 0 : (this.#ends[row - 1] ?? 0)
  }

  within(spans: Spans): Spans {
    return spans.map(([from, to]) => [this.#before(from), this.#before(to)])
  }

  /** The ends as they are without what is between the spans. */
  offsets(spans: Spans): Buffer {
    const offsets = Buffer.allocUnsafe(8 * rowsOf(spans))
    const view = viewOf(offsets)
    let at = 0
    let passed = 0
    let before = 0
    for (const [from, to] of spans) {
      passed += this.#before(from) - before
      for (let row = from; row < to; row += 1, at += 8) setWhole(view, (this.#ends[row] ?? 0) - passed, at)
      before = this.#before(to)
    }
    return offsets
  }
}

function rowsOf(spans: Spans): number {
  return spans.reduce((sum, [from, to]) => sum + to - from, 0)
}

function grown(bytes: Buffer, end: number, atLeast: number): Buffer {
  const larger = Buffer.allocUnsafe(2 * bytes.length + atLeast)
  bytes.copy(larger, 0, 0, end)
  return larger
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

/** Sets a whole number of 64 bits that is safe and not negative. */
function setWhole(view: DataView, value: number, at: number): void {
  view.setUint32(at, value, true)
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
}

function whole(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(8)
  setWhole(viewOf(bytes), value, 0)
  return bytes
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest])
    bytes.push((rest % 128) + 128)
  }
}

function shortText(text: string): Buffer {
  return Buffer.concat([varint(Buffer.byteLength(text)), Buffer.from(text)])
}
