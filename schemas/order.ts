/** The one order of texts in Meterline's outputs: by code point, whatever the locale. Pure. */

/**
 * JavaScript's `<` compares UTF-16 units, which puts U+10000 and above before U+E000; Python, ClickHouse and
 * UTF-8 bytes compare code points.
 */
export function byCodePoint(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let place = 0; place < length; place += 1) {
    const unitA = a.charCodeAt(place)
    const unitB = b.charCodeAt(place)
    if (unitA !== unitB) return lifted(unitA) - lifted(unitB)
  }
  return a.length - b.length
}

/** Surrogates stand for code points above all other units. */
function lifted(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit
}
