/**
 * 200 seeds of the simulation, or SIM_SEEDS of them from SIM_FROM on, or the one of SIM_SEED. More than fit into the time of
 * `npm run test:long` run by `SIM_SEEDS=5000 npx vitest run --mode long test/simulation/simulation.long`.
 */
import { constants, setPriority } from 'node:os'
import { afterAll, beforeAll, expect, test } from 'vitest'
import '../rig/clickhouse.ts'
import { Engine } from './engine.ts'
import { meters, simulate } from './simulation.ts'

const blockSeeds = 20
const servers = 2
/** Worlds at once: while one waits for its server another goes on. */
const atOnce = 4

const { SIM_SEED, SIM_SEEDS = '200', SIM_FROM = '1' } = process.env
const from = Number(SIM_SEED ?? SIM_FROM)
const seeds = Array.from(
  { length: SIM_SEED === undefined ? Number(SIM_SEEDS) : 1 },
  (_, index) => from + index,
)
const blocks = Array.from({ length: Math.ceil(seeds.length / blockSeeds) }, (_, index) =>
  seeds.slice(index * blockSeeds, (index + 1) * blockSeeds),
).map(block => ({ block, first: block[0] ?? 0, last: block.at(-1) ?? 0 }))

let engine: Engine

beforeAll(async () => {
  // Whatever runs beside it goes first. The servers inherit it.
  setPriority(constants.priority.PRIORITY_LOW)
  engine = await Engine.start(meters, Math.min(servers, seeds.length))
})
afterAll(async () => {
  await engine?.[Symbol.asyncDispose]()
})

test.each(blocks)(
  'seeds $first to $last end with what the provider said, and every gap known',
  async ({ block }) => {
    const waiting = [...block]
    const failures: Error[] = []
    const work = async () => {
      for (let seed = waiting.shift(); seed !== undefined; seed = waiting.shift())
        try {
          const { comparisons } = await simulate(seed, engine)
          expect(comparisons).toBeGreaterThan(1)
        } catch (error) {
          failures.push(error as Error)
        }
    }
    await Promise.all(Array.from({ length: atOnce }, work))
    expect(failures.map(({ message }) => message).join('\n\n')).toBe('')
  },
)
