/**
 * The differential test: random meters, events, re-reads, crashes, zones and questions; what the API answers is what the
 * oracle says, to the last digit. What failed says its seed and path:
 * `METERLINE_ORACLE_SEED=1 METERLINE_ORACLE_PATH=3:0 npx vitest run --mode long test/processor/usage.oracle.long.test.ts` replays one world,
 * `METERLINE_ORACLE_SHRINK=1` beside it looks for a smaller one, `METERLINE_ORACLE_WORLDS=1000` asks for as many. The seed is
 * always the same unless one is given: a new one is for whoever looks for faults, not for whoever has to pass.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { dayMs, minuteMs } from '../../schemas/window.ts'
import { startClickHouse } from '../rig/clickhouse.ts'
import { type Bench, holdsFor, openBench } from './usage.oracle-run.ts'

const {
  METERLINE_ORACLE_SEED,
  METERLINE_ORACLE_PATH,
  METERLINE_ORACLE_SHRINK,
  METERLINE_ORACLE_WORLDS,
  METERLINE_ORACLE_SECONDS,
} = process.env
/** What is asked for by hand may take its time. */
const byHand = [METERLINE_ORACLE_WORLDS, METERLINE_ORACLE_PATH, METERLINE_ORACLE_SECONDS].some(
  text => text !== undefined,
)
/** Fewer are no test, however slow the machine. */
const casesLeast = 150
let rig: Awaited<ReturnType<typeof startClickHouse>>
let bench: Bench

beforeAll(async () => {
  rig = await startClickHouse()
  bench = await openBench(rig)
})
afterAll(async () => {
  await bench?.[Symbol.asyncDispose]()
  await rig?.stop()
})

test('what was told anew, recomputed and asked again is what the oracle says', async () => {
  // In this world both faults show that test/simulation/mutations.ts plants in answers.
  const sizes = { stages: 3, questions: 4, again: 6, slots: 2, crowds: false }
  const found = await holdsFor(bench, { seed: 1, worlds: 1, sizes, timeMaxMs: 5 * minuteMs, casesMin: 1 })
  expect(found.cases).toBeGreaterThan(20)
  expect(found.meanwhile).toBeGreaterThan(0)
})

test(
  'what the API answers is what a plain sum over all messages is, whatever is said and asked',
  async () => {
    const seed = Number(METERLINE_ORACLE_SEED ?? 1)
    const casesMin = byHand ? 1 : casesLeast
    const seconds = METERLINE_ORACLE_SECONDS ?? (byHand ? 24 * 3600 : 90)
    const found = await holdsFor(bench, {
      seed,
      worlds: Number(METERLINE_ORACLE_WORLDS ?? (byHand ? 200 : 2)),
      sizes: { stages: 3, questions: 40, again: 6, slots: 6, crowds: true },
      ...(METERLINE_ORACLE_PATH !== undefined && { path: METERLINE_ORACLE_PATH }),
      shrinks: METERLINE_ORACLE_SHRINK !== undefined,
      timeMaxMs: Number(seconds) * 1000,
      casesMin,
    })
    console.log(`the oracle agrees: ${JSON.stringify({ seed, ...found })}`)
    expect(found.cases).toBeGreaterThanOrEqual(casesMin)
    expect(found.rows).toBeGreaterThan(found.cases / 10)
  },
  byHand ? dayMs : 10 * minuteMs,
)
