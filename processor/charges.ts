/** Finds the charges of a price book that take a piece of usage, by its meter and dims. Pure. */
import type { Charge } from '../schemas/pricebook.ts'

type Dims = Readonly<Record<string, string>>

/** Gives the places, in book order, of the charges that take usage of this meter and these dims. */
export type ChargeFinder = (meter: string, dims: Dims) => readonly number[]

/**
 * Books made from ratecards have thousands of charges and accounts thousands of rows: each charge is filed under the
 * first dim of its `where`, so a row is held only against those that share a value with it.
 */
export function chargeFinder(charges: readonly Charge[]): ChargeFinder {
  const byMeter = new Map<
    string,
    { readonly free: number[]; readonly filed: Map<string, Map<string, number[]>> }
  >()
  for (const [place, charge] of charges.entries()) {
    if (charge.meter === undefined) continue
    const files = getOr(byMeter, charge.meter, () => ({ free: [], filed: new Map() }))
    const first = Object.entries(charge.where ?? {})[0]
    if (!first) files.free.push(place)
    else
      getOr(
        getOr(files.filed, first[0], () => new Map()),
        first[1],
        () => [],
      ).push(place)
  }
  return (meter, dims) => {
    const files = byMeter.get(meter)
    if (!files) return []
    const places = [...files.free]
    for (const [dim, byValue] of files.filed) {
      const value = dimOf(dims, dim)
      for (const place of (value !== undefined && byValue.get(value)) || [])
        if (matches(charges[place]!, dims)) places.push(place)
    }
    return places.sort((a, b) => a - b)
  }
}

/** Dims without a value match nothing. */
export function dimOf(dims: Dims, dim: string): string | undefined {
  const value = Object.hasOwn(dims, dim) ? dims[dim] : undefined
  return value === '' ? undefined : value
}

function matches(charge: Charge, dims: Dims): boolean {
  return Object.entries(charge.where ?? {}).every(([dim, value]) => dimOf(dims, dim) === value)
}

function getOr<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  const held = map.get(key)
  if (held !== undefined) return held
  const made = make()
  map.set(key, made)
  return made
}
