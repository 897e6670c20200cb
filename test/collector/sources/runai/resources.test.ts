/** What a pod holds: quantities to the last digit, and which word of Run:ai counts. */
import fc from 'fast-check'
import Fraction from 'fraction.js'
import { describe, expect, test } from 'vitest'
import {
  allocatedOf,
  type Evidence,
  heldBy,
  migProfilesOf,
  quantityOf,
  requestedOf,
} from '../../../../collector/sources/runai/resources.ts'
import { Unfit } from '../../../../collector/sources/runai/unfit.ts'
import { show } from '../../../../schemas/decimal.ts'
import { JsonNumber } from '../../../../schemas/json.ts'

const number = (text: string) => new JsonNumber(text)
const shown = (held: object) =>
  Object.fromEntries(Object.entries(held).map(([name, value]) => [name, show(value as Fraction)]))

test.each([
  ['0B', '0'],
  ['0', '0'],
  ['200M', '200000000'],
  ['200Mi', '209715200'],
  ['1.5Gi', '1610612736'],
  ['100m', '0.1'],
  ['1e3', '1000'],
  ['1E3', '1000'],
  ['1E', '1000000000000000000'],
  ['12GB', '12000000000'],
  ['+7', '7'],
  ['.5', '0.5'],
  ['123456789012345678901234567890', '123456789012345678901234567890'],
])('%s is %s', (text, value) => {
  const read = quantityOf(text)
  expect(read && show(read)).toBe(value)
})

test.each(['', 'B', 'many', '1 Gi', '0x10', '1e999', '1..2', 'NaN', 'Infinity', '--1'])(
  '"%s" is no quantity',
  text => {
    expect(quantityOf(text)).toBeUndefined()
  },
)

test('a quantity of any digits and suffix is what integers say of it', () => {
  const factors = {
    '': 1n,
    Ki: 1024n,
    Mi: 1024n ** 2n,
    Gi: 1024n ** 3n,
    k: 1000n,
    M: 10n ** 6n,
    G: 10n ** 9n,
  }
  fc.assert(
    fc.property(
      fc.bigInt(0n, 10n ** 18n),
      fc.constantFrom(...(Object.keys(factors) as (keyof typeof factors)[])),
      (whole, suffix) => {
        expect(quantityOf(`${whole}${suffix}`)?.equals(new Fraction(whole * factors[suffix]))).toBe(true)
      },
    ),
  )
})

describe('what counts', () => {
  const evidence = (more: Partial<Evidence> = {}): Evidence => ({
    allocated: {},
    requested: {},
    ended: false,
    ...more,
  })
  const asked = (type: string, more = {}) =>
    requestedOf({
      gpuRequestType: type,
      gpu: { request: number('1'), limit: number('1.5') },
      gpuMemory: { request: '20Gi', limit: '40Gi' },
      cpu: { request: number('2') },
      cpuMemory: { request: '4Gi' },
      ...more,
    })

  test('what is allocated wins, fractions and noise of doubles and all', () => {
    const allocated = allocatedOf({
      gpu: number('0.30000000000000004'),
      gpuMemory: '200Mi',
      cpu: number('.5'.padStart(3, '0')),
      cpuMemory: '0B',
    })
    expect(shown(heldBy(evidence({ allocated, requested: asked('portion') })))).toEqual({
      gpus: '0.3',
      cpuCores: '0.5',
      memoryBytes: '0',
      gpuMemoryBytes: '209715200',
    })
  })

  test('what was requested, not its limit, counts where nothing is allocated', () => {
    expect(shown(heldBy(evidence({ requested: asked('portion') })))).toEqual({
      gpus: '1',
      cpuCores: '2',
      memoryBytes: '4294967296',
      gpuMemoryBytes: '21474836480',
    })
  })

  test('a pod that has ended holds nothing any more: it held what it was seen to hold, or what it asked for', () => {
    const allocated = allocatedOf({ gpu: number('0'), cpu: number('0'), cpuMemory: '0B' })
    const requested = asked('portion')
    const remembered = { gpus: new Fraction('1.5') }
    expect(shown(heldBy(evidence({ allocated, requested, ended: true }))).gpus).toBe('1')
    expect(shown(heldBy(evidence({ allocated, requested, remembered, ended: true }))).gpus).toBe('1.5')
    expect(shown(heldBy(evidence({ allocated: {}, requested, remembered, ended: true }))).gpus).toBe('1.5')
    // While it runs, nothing allocated is nothing.
    expect(shown(heldBy(evidence({ allocated, requested }))).gpus).toBe('0')
    // What asked for none, held none.
    expect(shown(heldBy(evidence({ allocated, ended: true }))).gpus).toBe('0')
  })

  test('GPUs asked for by memory are that memory over the memory of a GPU of the node', () => {
    const requested = asked('memory', { gpu: { request: number('1') } })
    const nodeGpuMemoryBytes = new Fraction(80n * 1024n ** 3n)
    expect(shown(heldBy(evidence({ requested, nodeGpuMemoryBytes }))).gpus).toBe('0.25')
    expect(() => heldBy(evidence({ requested }))).toThrow(Unfit)
    // What Run:ai itself says of the share needs no node.
    expect(shown(heldBy(evidence({ requested, allocated: { gpus: new Fraction('0.26') } }))).gpus).toBe(
      '0.26',
    )
  })

  test('a share without an end is kept as the ratio it is', () => {
    const requested = asked('memory', { gpuMemory: { request: '1G' } })
    const { gpus } = heldBy(evidence({ requested, nodeGpuMemoryBytes: new Fraction(3_000_000_000) }))
    expect(gpus && show(gpus)).toBe('1/3')
  })

  test('a MIG slice is its compute slices of those of a GPU, where Run:ai does not say it in GPUs', () => {
    const requested = requestedOf({ gpuRequestType: 'migProfile' })
    const gpus = (mig: string, allocated = {}) => shown(heldBy(evidence({ requested, allocated, mig }))).gpus
    expect(gpus('1g.10gb')).toBe('1/7')
    expect(gpus('1g.5gb,3g.20gb')).toBe('4/7')
    expect(gpus('7g.40gb')).toBe('1')
    expect(gpus('1g.10gb', { gpus: new Fraction(0) })).toBe('1/7')
    expect(gpus('1g.10gb', { gpus: new Fraction('0.14') })).toBe('0.14')
    // Of a GPU of four slices.
    expect(() => gpus('1g.6gb')).toThrow(Unfit)
  })

  test('nothing told is nothing held, and no zero', () => {
    expect(heldBy(evidence())).toEqual({})
    expect(allocatedOf(null)).toEqual({})
    expect(requestedOf(undefined)).toEqual({})
    expect(
      requestedOf({ gpu: null, gpuMemory: null, cpu: null, cpuMemory: null, gpuRequestType: null }),
    ).toEqual({})
  })
})

test.each([
  ['/gpu', { gpu: 'many' }],
  ['/gpu', { gpu: number('-1') }],
  ['/gpu', { gpu: number('1e999') }],
  ['/gpu', { gpu: true }],
  ['/cpuMemory', { cpuMemory: '5 apples' }],
])('what is no quantity is not taken for none: %s', (path, more) => {
  try {
    allocatedOf(more)
    expect.unreachable()
  } catch (error) {
    expect(error).toBeInstanceOf(Unfit)
    expect((error as Unfit).path).toBe(path)
  }
})

test('MIG profiles are a label, in one order', () => {
  expect(migProfilesOf({ migProfile: '1g.10gb' })).toBe('1g.10gb')
  expect(migProfilesOf({ migProfile: ['2g.20gb', '1g.10gb', null] })).toBe('1g.10gb,2g.20gb')
  expect(migProfilesOf({ migProfile: [] })).toBeUndefined()
  expect(migProfilesOf(null)).toBeUndefined()
})
