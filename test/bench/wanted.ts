/** What the benchmarks are to show, and whether they do: printed behind each figure that has a bound. */

/** `(wanted: at least 0.5: holds)`. */
export function atLeast(value: number, bound: number): string {
  return said(`at least ${bound}`, value >= bound)
}

/** `(wanted: at most 0.5: MISSED)`. */
export function atMost(value: number, bound: number, unit = ''): string {
  return said(`at most ${bound}${unit}`, value <= bound)
}

function said(bound: string, isHeld: boolean): string {
  return `(wanted: ${bound}: ${isHeld ? 'holds' : 'MISSED'})`
}

/** Runs a benchmark and says at its end how long it took. */
export async function timed(name: string, run: () => Promise<void>): Promise<void> {
  const startedMs = performance.now()
  try {
    await run()
  } finally {
    console.log(`${name} took ${((performance.now() - startedMs) / 60_000).toFixed(1)} minutes`)
  }
}
