/**
 * The differential test: random meters, events, re-reads, crashes, zones and questions; what the API answers is what the
 * oracle says, to the last digit. What failed says its seed and path:
 * `METERLINE_ORACLE_SEED=1 METERLINE_ORACLE_PATH=3:0 npx vitest run --mode long test/processor/usage.oracle.long.test.ts` replays one world,
 * `METERLINE_ORACLE_SHRINK=1` beside it looks for a smaller one, `METERLINE_ORACLE_WORLDS=1000` asks for as many.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startClickHouse } from '../rig/clickhouse.ts'
import { type Bench, holdsFor, openBench } from './usage.oracle-run.ts'

const {
  METERLINE_ORACLE_SEED,
  METERLINE_ORACLE_PATH,
  METERLINE_ORACLE_SHRINK,
  METERLINE_ORACLE_WORLDS,
  METERLINE_ORACLE_SECONDS,
} = process.env
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

test(
  'what the API answers is what a plain sum over all messages is, whatever is said and asked',
  async () => {
    const byHand = METERLINE_ORACLE_WORLDS !== undefined || METERLINE_ORACLE_PATH !== undefined
    const seed = Number(METERLINE_ORACLE_SEED ?? Date.now() % 2 ** 31)
    const found = await holdsFor(bench, {
      seed,
      worlds: Number(METERLINE_ORACLE_WORLDS ?? 40),
      sizes: { stages: 3, questions: 50 },
      ...(METERLINE_ORACLE_PATH !== undefined && { path: METERLINE_ORACLE_PATH }),
      shrinks: METERLINE_ORACLE_SHRINK !== undefined,
      timeMaxMs:
        METERLINE_ORACLE_SECONDS !== undefined
          ? Number(METERLINE_ORACLE_SECONDS) * 1000
          : byHand
            ? 24 * 3_600_000
            : 80_000,
    })
    console.log(`the oracle agrees: ${JSON.stringify({ seed, ...found })}`)
    expect(found.rows).toBeGreaterThan(found.cases / 4)
  },
  24 * 3_600_000,
)
