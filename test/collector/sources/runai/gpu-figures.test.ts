/** What samples of GPUs say of a window: by example, and over random uneven samples. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import {
  type GpuRules,
  gpuFigures,
  type PodMetric,
  type SampledPod,
  typesFor,
} from '../../../../collector/sources/runai/gpu-figures.ts'
import { exact, isBoundedDecimal, show } from '../../../../schemas/decimal.ts'
import type { Json } from '../../../../schemas/json.ts'
import { hourMs, minuteMs, secondMs, type Window, windowsOver } from '../../../../schemas/window.ts'
import { faultOf } from '../../../faults.ts'

const startMs = Date.parse('2026-03-02T08:00:00Z')
const hour: Window = { startMs, endMs: startMs + hourMs }
const quarter: Window = { startMs, endMs: startMs + 15 * minuteMs }
const rules: GpuRules = { collect: ['utilization', 'idle'], maxGapMs: 120 * secondMs, idlePercent: '0' }
const util: PodMetric = 'GPU_UTILIZATION_PER_GPU'
const at = (seconds: number) => new Date(startMs + seconds * secondMs).toISOString()

type Given = readonly (readonly [seconds: number, value: Json])[]
const series = (gpu: string | null, samples: Given | null, type: string = util): Json => ({
  type,
  labels: gpu === null ? null : { gpu },
  values: samples?.map(([seconds, value]) => ({ value, timestamp: at(seconds) })) ?? null,
})
/** A sample each 30 s from the first on, without the end. */
const every30 = (from: number, to: number, value: string): Given =>
  Array.from({ length: (to - from) / 30 }, (_, index) => [from + 30 * index, value])

const long: SampledPod = {
  gpus: new Fraction(1),
  runs: [{ startMs: startMs - hourMs, endMs: Number.POSITIVE_INFINITY }],
}
const figures = (
  measurements: readonly Json[],
  given: {
    pod?: Partial<SampledPod>
    window?: Window
    rules?: Partial<GpuRules>
    isPartial?: boolean
    unknown?: readonly string[]
  } = {},
) =>
  gpuFigures(
    { ...long, ...given.pod },
    { measurements, isPartial: given.isPartial ?? false, unknown: given.unknown ?? [] },
    given.window ?? quarter,
    { ...rules, ...given.rules },
  )

describe('a sample', () => {
  test('holds until the next of its GPU, from before the window into it, and not beyond its end', () => {
    const { measures, estimated, doubts } = figures([
      series('0', [
        [-30, '100'],
        [60, '50'],
        [120, '0'],
        [200, '10.5'],
        ...every30(230, 890, '0'),
        [890, '100'],
      ]),
    ])
    // 60 s of all, 60 s of half, 30 s of 10.5 %, 10 s of all.
    expect(measures).toEqual({
      gpu_active_seconds: show(new Fraction('103.15')),
      gpu_idle_seconds: String(80 + 660),
    })
    expect([estimated, doubts]).toEqual([false, []])
  })

  test('is read as the provider printed it, digit for digit', () => {
    const { measures } = figures([series('0', every30(0, 900, '12.3456789'))])
    expect(measures.gpu_active_seconds).toBe(show(exact('0.123456789').mul(900)))
    const bytes = figures([series('0', every30(0, 900, '1.5e+09'), 'GPU_MEMORY_USAGE_BYTES_PER_GPU')], {
      rules: { collect: ['memory'] },
    })
    expect(bytes.measures).toEqual({ gpu_memory_byte_seconds: '1350000000000' })
  })

  test('may say its time with a space and no zone, which is UTC', () => {
    const plain = every30(0, 900, '70')
    const spaced: Json = {
      type: util,
      labels: { gpu: '0' },
      values: plain.map(([seconds, value]) => ({
        value,
        timestamp: at(seconds).replace('T', ' ').replace('Z', ''),
      })),
    }
    expect(figures([spaced])).toEqual(figures([series('0', plain)]))
  })

  test('that is null, has no time, or is NaN, says nothing', () => {
    const samples = every30(0, 900, '100')
    const broken: Json = {
      type: util,
      labels: { gpu: '0' },
      values: [
        null,
        { value: '44', timestamp: null },
        // These end what the sample before says: of 20 s and of 20 s nothing is known.
        { value: '', timestamp: at(10) },
        ...samples.map(([seconds, value]) => ({ value, timestamp: at(seconds) })),
        { value: 'NaN', timestamp: at(880) },
      ],
    }
    expect(figures([broken]).measures.gpu_active_seconds).toBe('860')
  })

  test('before the pod ran or after is none of it', () => {
    const pod = { runs: [{ startMs: startMs + 100_500, endMs: startMs + 200_250 }] }
    const { measures, estimated } = figures([series('0', every30(-120, 900, '100'))], { pod })
    expect(measures).toEqual({ gpu_active_seconds: '99.75', gpu_idle_seconds: '0' })
    expect(estimated).toBe(false)
  })

  test.each([
    ['is more than 100 % by a hair', '100.00000000000000000001', 'is a utilization of more than 100 %'],
    ['is more than 100 %', '140', 'is a utilization of more than 100 %'],
    ['is negative', '-1', 'is no quantity'],
    ['is no number', 'busy', 'is no quantity'],
    ['has no end', '+Inf', 'is no quantity'],
  ])('that %s is a fault', (_, value, what) => {
    const fault = faultOf(() => figures([series('0', [...every30(0, 30, '1'), [30, value]])]))
    expect([fault.code, fault.message]).toEqual(['ITEM_UNREADABLE', `/measurements/0/values/1/value ${what}`])
  })

  test('whose time is none is a fault, as are two values at one time', () => {
    const odd: Json = { type: util, labels: { gpu: '0' }, values: [{ value: '1', timestamp: 'yesterday' }] }
    expect(faultOf(() => figures([odd])).message).toContain('/values/0/timestamp is no time')
    const twice = series('0', [
      [0, '1'],
      [0, '2'],
    ])
    expect(faultOf(() => figures([twice])).facts.path).toBe('/measurements/0')
  })
})

describe('GPUs', () => {
  test('are told apart by their label, and all are summed', () => {
    const eight = Array.from({ length: 8 }, (_, gpu) =>
      series(String(gpu), every30(0, 900, String(gpu * 10))),
    )
    const { measures, gpusSampled } = figures(eight, { pod: { gpus: new Fraction(8) } })
    expect(measures).toEqual({ gpu_active_seconds: String(2.8 * 900), gpu_idle_seconds: '900' })
    expect(gpusSampled).toBe(8)
  })

  test('of one label twice are a fault: nobody knows which counts', () => {
    const twice = [series('0', every30(0, 900, '1')), series('0', every30(0, 900, '1'))]
    expect(faultOf(() => figures(twice)).message).toBe(
      '/measurements/1 is GPU_UTILIZATION_PER_GPU of GPU "0" once more',
    )
  })

  test('without a label count too, where there is one alone', () => {
    expect(figures([series(null, every30(0, 900, '100'))]).measures.gpu_active_seconds).toBe('900')
  })

  test('that have no samples while others do are in doubt, each by name', () => {
    const given = [series('0', every30(0, 900, '100')), series('1', null)]
    const { measures, estimated, doubts } = figures(given, { pod: { gpus: new Fraction(2) } })
    expect(measures.gpu_active_seconds).toBe('900')
    expect([estimated, doubts]).toEqual([true, [`${util}: samples of 1 of 2 GPUs`]])
  })

  test('of which a pod has a share are idle by that share', () => {
    const pod = { gpus: new Fraction('0.5') }
    expect(figures([series('0', every30(0, 900, '0'))], { pod }).measures.gpu_idle_seconds).toBe('450')
    const two = [series('0', every30(0, 900, '0')), series('1', every30(0, 900, '3'))]
    // Half of each of two: one whole GPU.
    const whole = figures(two, { pod: { gpus: new Fraction(1) } })
    expect(whole.measures.gpu_idle_seconds).toBe('450')
    expect(whole.doubts).toEqual([])
  })

  test('are idle at most at the configured percentage', () => {
    const given = [series('0', [...every30(0, 450, '5'), ...every30(450, 900, '5.00000000000000000001')])]
    expect(figures(given).measures.gpu_idle_seconds).toBe('0')
    expect(figures(given, { rules: { idlePercent: '5' } }).measures.gpu_idle_seconds).toBe('450')
  })
})

describe('what no sample tells', () => {
  test('counts nothing, and from the longest gap on it is said', () => {
    const given = [series('0', [...every30(0, 300, '100'), ...every30(600, 900, '100')])]
    const { measures, estimated, doubts } = figures(given)
    // The sample at 270 s holds for 120 s; those from 390 to 600 are not known.
    expect(measures.gpu_active_seconds).toBe(String(390 + 300))
    expect([estimated, doubts]).toEqual([true, [`${util} of GPU 0: 690 of 900 s sampled`]])
  })

  test('is how samples are as long as it is short: at a start, or where one scrape was missed', () => {
    const pod = { runs: [{ startMs: startMs + 12_000, endMs: Number.POSITIVE_INFINITY }] }
    const given = [series('0', [...every30(30, 300, '100'), ...every30(360, 900, '100')])]
    const { measures, estimated } = figures(given, { pod })
    expect([measures.gpu_active_seconds, estimated]).toEqual(['870', false])
  })

  test('of a whole type is missing: it is in no measure', () => {
    for (const none of [[], [series('0', null)], [series('0', [])], [series('0', [[60, 'NaN']])]]) {
      const { measures, missing, estimated } = figures(none)
      expect([measures, missing, estimated]).toEqual([{}, [`${util} has no samples`], false])
    }
  })

  test('of windows narrower than the longest gap is missing too', () => {
    const minute = { startMs, endMs: startMs + minuteMs }
    expect(figures([], { window: minute }).missing).toEqual([`${util} has no samples`])
  })

  test('of a pod too short for a sample counts zero, as an estimate', () => {
    const pod = { runs: [{ startMs: startMs + 3000, endMs: startMs + 6000 }] }
    const { measures, missing, estimated } = figures([], { pod })
    expect([measures, missing, estimated]).toEqual([
      { gpu_active_seconds: '0', gpu_idle_seconds: '0' },
      [],
      true,
    ])
  })

  test('of a pod younger than the longest gap is not missing yet, in windows of any width', () => {
    const window = { startMs, endMs: startMs + minuteMs }
    const young = { runs: [{ startMs: startMs - 30 * secondMs, endMs: Number.POSITIVE_INFINITY }] }
    expect(figures([], { window, pod: young })).toMatchObject({ missing: [], estimated: true })
    const old = { runs: [{ startMs: startMs - 90 * secondMs, endMs: Number.POSITIVE_INFINITY }] }
    expect(figures([], { window, pod: old }).missing).toHaveLength(1)
  })

  test('because the type is not known here says so', () => {
    expect(figures([], { unknown: [util] }).missing).toEqual([`${util} is not known to this control plane`])
  })

  test('of NVLink is nothing where PCIe is told and the answer is whole: such GPUs have none', () => {
    const pcie = ['RECEIVED', 'TRANSMITTED'].map(way =>
      series('0', every30(0, 900, '1000'), `GPU_PCIE_${way}_BANDWIDTH_PER_GPU`),
    )
    const bandwidth = { rules: { collect: ['bandwidth'] as const } }
    const told = figures(pcie, bandwidth)
    expect([told.measures, told.missing, told.estimated]).toEqual([
      { pcie_receive_bytes: '900000', pcie_transmit_bytes: '900000' },
      [],
      false,
    ])
    expect(figures(pcie, { ...bandwidth, isPartial: true }).missing).toHaveLength(2)
    expect(figures([], bandwidth).missing).toHaveLength(4)
  })
})

test('each type is asked for once, whatever is collected of it', () => {
  expect(typesFor(['utilization', 'idle'])).toEqual([util])
  expect(typesFor(['bandwidth', 'memory', 'idle'])).toHaveLength(6)
})

describe('over random uneven samples', () => {
  const gpuSamples = fc.array(
    fc.record({
      atMs: fc.integer({ min: -5 * minuteMs, max: hourMs + minuteMs }),
      value: fc.oneof(
        fc.constantFrom('0', '100', 'NaN', '33.333333333333333', '1e-7'),
        fc.integer({ min: 0, max: 100_000 }).map(thousandth => String(thousandth / 1000)),
      ),
    }),
    { maxLength: 60 },
  )
  const days = fc.record({
    gpus: fc.array(gpuSamples, { minLength: 1, maxLength: 4 }),
    run: fc
      .tuple(fc.integer({ min: -hourMs, max: hourMs }), fc.integer({ min: 1, max: 2 * hourMs }))
      .map(([fromMs, lengthMs]) => ({ startMs: startMs + fromMs, endMs: startMs + fromMs + lengthMs })),
    fraction: fc.constantFrom('0.25', '1', '3', '4'),
    maxGapMs: fc.constantFrom(30_000, 120_000, 600_000),
  })
  type Day = typeof days extends fc.Arbitrary<infer T> ? T : never
  const measurementsOf = (day: Day): readonly Json[] =>
    day.gpus.map((samples, gpu) => ({
      type: util,
      labels: { gpu: String(gpu) },
      values: [...new Map(samples.map(sample => [sample.atMs, sample.value]))].map(([atMs, value]) => ({
        value,
        timestamp: new Date(startMs + atMs).toISOString(),
      })),
    }))
  const ask = (day: Day, window: Window, measurements: readonly Json[]) =>
    figures(measurements, {
      window,
      pod: { gpus: new Fraction(day.fraction), runs: [day.run] },
      rules: { maxGapMs: day.maxGapMs },
    })

  test('windows of any width add up to the same totals', () => {
    fc.assert(
      fc.property(days, day => {
        const measurements = measurementsOf(day)
        const totals = ([60, 30, 15, 5, 1] as const).map(width => {
          const sums = { gpu_active_seconds: new Fraction(0), gpu_idle_seconds: new Fraction(0) }
          for (const window of windowsOver(hour, width)) {
            if (day.run.startMs >= window.endMs || day.run.endMs <= window.startMs) continue
            const { measures } = ask(day, window, measurements)
            for (const value of Object.values(measures)) expect(value).toSatisfy(isBoundedDecimal)
            for (const name of ['gpu_active_seconds', 'gpu_idle_seconds'] as const)
              sums[name] = sums[name].add(exact(measures[name] ?? '0'))
          }
          return [show(sums.gpu_active_seconds), show(sums.gpu_idle_seconds)]
        })
        for (const total of totals) expect(total).toEqual(totals[0])
      }),
      { numRuns: 150 },
    )
  })

  test('the order of measurements, and of samples, does not matter', () => {
    fc.assert(
      fc.property(days, fc.infiniteStream(fc.nat()), (day, chance) => {
        const measurements = measurementsOf(day)
        const shuffled = <T>(all: readonly T[]): T[] =>
          all
            .map(each => [chance.next().value ?? 0, each] as const)
            .sort(([a], [b]) => a - b)
            .map(([, each]) => each)
        const mixed = shuffled(measurements).map(measurement => {
          const { values, ...rest } = measurement as { values: Json[] }
          return { ...rest, values: shuffled(values) }
        })
        const { doubts, ...told } = ask(day, hour, measurements)
        const { doubts: mixedDoubts, ...mixedTold } = ask(day, hour, mixed)
        expect(mixedTold).toEqual(told)
        expect([...mixedDoubts].sort()).toEqual([...doubts].sort())
      }),
      { numRuns: 100 },
    )
  })

  test('a GPU is never busy, nor idle, for longer than its pod ran', () => {
    fc.assert(
      fc.property(days, day => {
        const { measures } = ask(day, hour, measurementsOf(day))
        const ran = Math.max(0, Math.min(day.run.endMs, hour.endMs) - Math.max(day.run.startMs, startMs))
        const most = new Fraction(ran * day.gpus.length, 1000)
        const both = exact(measures.gpu_active_seconds ?? '0').add(exact(measures.gpu_idle_seconds ?? '0'))
        expect(both.compare(most)).toBeLessThanOrEqual(0)
      }),
      { numRuns: 100 },
    )
  })
})
