/** Quantities and money as the API writes them, decimal text: grouped for reading, added and compared without a float. Pure. */

interface Scaled {
  readonly units: bigint
  readonly places: number
}

const decimal = /^(-?)(\d+)(?:\.(\d+))?$/

function scaled(value: string): Scaled {
  const [, sign = '', whole = '', part = ''] = decimal.exec(value) ?? []
  if (whole === '') throw new RangeError(`"${value}" is no decimal`)
  const units = BigInt(whole + part)
  return { units: sign === '' ? units : -units, places: part.length }
}

function atPlaces({ units, places }: Scaled, wanted: number): bigint {
  return units * 10n ** BigInt(wanted - places)
}

/** Both at the places of the finer one. */
function aligned(a: string, b: string): readonly [bigint, bigint, number] {
  const [left, right] = [scaled(a), scaled(b)]
  const places = Math.max(left.places, right.places)
  return [atPlaces(left, places), atPlaces(right, places), places]
}

/** The shortest text of it: no zeros that say nothing. */
function written(units: bigint, places: number): string {
  const digits = (units < 0n ? -units : units).toString().padStart(places + 1, '0')
  const whole = digits.slice(0, digits.length - places)
  const part = digits.slice(digits.length - places).replace(/0+$/, '')
  return `${units < 0n ? '-' : ''}${whole}${part === '' ? '' : `.${part}`}`
}

/** @throws RangeError where one is no decimal */
export function added(values: readonly string[]): string {
  const all = values.map(scaled)
  const places = Math.max(0, ...all.map(value => value.places))
  return written(
    all.reduce((sum, value) => sum + atPlaces(value, places), 0n),
    places,
  )
}

/** Below zero where a is smaller. */
export function compared(a: string, b: string): number {
  const [left, right] = aligned(a, b)
  return left < right ? -1 : left > right ? 1 : 0
}

/** `1234567.25` as `1,234,567.25`: each digit as it came, none more and none less. What is no decimal stays as it is. */
export function grouped(value: string): string {
  const [, sign, whole, part] = decimal.exec(value) ?? []
  if (whole === undefined) return value
  const minus = sign === '-' ? '\u2212' : ''
  return `${minus}${whole.replace(/\B(?=(\d{3})+$)/g, ',')}${part === undefined ? '' : `.${part}`}`
}

/** `12.5 %` of the whole, to one place, half up; empty where the whole is nothing or either is negative. */
export function share(part: string, whole: string): string {
  const [left, right] = aligned(part, whole)
  if (right <= 0n || left < 0n) return ''
  const thousandths = (left * 2000n + right) / (right * 2n)
  return `${thousandths / 10n}.${thousandths % 10n} %`
}

/** For pixels only. */
export function pixels(value: string): number {
  const number = Number(value)
  return Number.isFinite(number) ? number : 0
}

const unitNames: Readonly<Record<string, string>> = {
  h: 'h',
  'core.h': 'core-h',
  'GiB.h': 'GiB-h',
  By: 'bytes',
  token: 'tokens',
}

/** As it stands beside a number. */
export function unitName(unit: string): string {
  return unitNames[unit] ?? unit
}

/** A number on an axis: short, and no exact answer. */
export function axisLabel(value: number): string {
  const steps = [
    [1e12, 'T'],
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const
  for (const [size, letter] of steps)
    if (Math.abs(value) >= size * 10) return `${Number((value / size).toPrecision(4))} ${letter}`
  return `${Number(value.toPrecision(6))}`
}
