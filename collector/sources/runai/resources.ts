/** What a pod holds while it runs: GPUs, cores and bytes, from what Run:ai says it allocated, else from what was asked. Pure. */
import Fraction from 'fraction.js'
import { roundHalfAway } from '../../../schemas/decimal.ts'
import { fractionOf, isJsonArray, isJsonObject, type Json, JsonNumber } from '../../../schemas/json.ts'
import { Unfit, unfit } from './unfit.ts'

/** In GPUs, cores and bytes; what is not told is not there. */
export interface Held {
  readonly gpus?: Fraction
  readonly cpuCores?: Fraction
  readonly memoryBytes?: Fraction
  readonly gpuMemoryBytes?: Fraction
}

/**
 * Rates are rounded once, to so many places: times whole milliseconds that fits the twelve of a stored value, so
 * windows of any width add up, and the noise in the 16th digit of a double is gone.
 */
const ratePlaces = 9

const quantityShape =
  /^([+-]?)(\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(Ki|Mi|Gi|Ti|Pi|Ei|[numkKMGTPE]|[eE][+-]?\d{1,2})?B?$/
const binarySuffixes = ['Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']
const decimalExponents: Readonly<Record<string, number>> = {
  n: -9,
  u: -6,
  m: -3,
  k: 3,
  K: 3,
  M: 6,
  G: 9,
  T: 12,
  P: 15,
  E: 18,
}

/**
 * A quantity as Kubernetes writes it, also with the B behind it that Run:ai's own example has ("0B"); undefined where it
 * is none.
 */
export function quantityOf(text: string): Fraction | undefined {
  const match = quantityShape.exec(text)
  if (!match) return undefined
  const [, sign, digits = '', suffix = ''] = match
  const [whole = '', decimals = ''] = digits.split('.')
  const value = new Fraction(BigInt(`${whole}${decimals}`), 10n ** BigInt(decimals.length))
  const signed = sign === '-' ? value.neg() : value
  const binary = binarySuffixes.indexOf(suffix)
  if (binary >= 0) return signed.mul(new Fraction(1024n ** BigInt(binary + 1)))
  const exponent = suffix === '' ? 0 : (decimalExponents[suffix] ?? Number(suffix.slice(1)))
  const factor = new Fraction(10n ** BigInt(Math.abs(exponent)))
  return exponent >= 0 ? signed.mul(factor) : signed.div(factor)
}

/**
 * `allocatedResources` of a pod: what Run:ai says that it holds, fractions of GPUs and all.
 * @throws Unfit
 */
export function allocatedOf(value: Json | undefined): Held {
  if (value === undefined || value === null) return {}
  if (!isJsonObject(value)) throw new Unfit('', unfit(value))
  return held({
    gpus: numberAt(value.gpu, '/gpu'),
    cpuCores: numberAt(value.cpu, '/cpu'),
    memoryBytes: quantityAt(value.cpuMemory, '/cpuMemory'),
    gpuMemoryBytes: quantityAt(value.gpuMemory, '/gpuMemory'),
  })
}

/**
 * `requestedResources` of a pod: what it was promised. Limits say how far it may go beyond, not what is set aside.
 * @throws Unfit
 */
export function requestedOf(value: Json | undefined): Held & { readonly by?: string } {
  if (value === undefined || value === null) return {}
  if (!isJsonObject(value)) throw new Unfit('', unfit(value))
  const request = (field: Json | undefined) => (isJsonObject(field) ? field.request : undefined)
  const type = value.gpuRequestType
  return {
    ...held({
      gpus: numberAt(request(value.gpu), '/gpu/request'),
      cpuCores: numberAt(request(value.cpu), '/cpu/request'),
      memoryBytes: quantityAt(request(value.cpuMemory), '/cpuMemory/request'),
      gpuMemoryBytes: quantityAt(request(value.gpuMemory), '/gpuMemory/request'),
    }),
    ...(typeof type === 'string' && type !== '' && { by: type }),
  }
}

export interface Evidence {
  readonly allocated: Held
  readonly requested: Held & { readonly by?: string }
  /** As it was allocated when the pod was last seen running. */
  readonly remembered?: Held
  /** Has the pod ended? Then nothing is allocated to it any more, and zero says nothing. */
  readonly ended: boolean
  /** Memory of one GPU of its node, where that is known. */
  readonly nodeGpuMemoryBytes?: Fraction
}

/**
 * What the pod held while it ran, each resource by the first that tells it: what is allocated, or was when it was last
 * seen running, then what was requested. GPUs that were requested by memory are that memory over the memory of one GPU
 * of the node.
 * @throws Unfit where GPUs were requested and nothing says how many
 */
export function heldBy(evidence: Evidence): Held {
  const { allocated, requested, remembered, ended, nodeGpuMemoryBytes } = evidence
  const first = (name: keyof Held): Fraction | undefined => {
    const now = allocated[name]
    if (now && !(ended && now.n === 0n)) return now
    return remembered?.[name] ?? requested[name] ?? now
  }
  const cpuCores = first('cpuCores')
  const memoryBytes = first('memoryBytes')
  const gpuMemoryBytes = first('gpuMemoryBytes')
  const byMemory = requested.by === 'memory' && requested.gpuMemoryBytes !== undefined
  // A request by memory may say `gpu` too; it is the memory then that was promised.
  const told =
    allocated.gpus && !(ended && allocated.gpus.n === 0n)
      ? allocated.gpus
      : (remembered?.gpus ?? (byMemory ? undefined : (requested.gpus ?? allocated.gpus)))
  let gpus = told
  if (gpus === undefined && byMemory) {
    if (nodeGpuMemoryBytes === undefined || nodeGpuMemoryBytes.n === 0n)
      throw new Unfit(
        '/requestedResources/gpuMemory',
        'is asked for by memory, and the GPU memory of its node is not known',
      )
    gpus = (gpuMemoryBytes ?? requested.gpuMemoryBytes ?? new Fraction(0)).div(nodeGpuMemoryBytes)
  }
  if (gpus === undefined && requested.by === 'migProfile')
    throw new Unfit(
      '/allocatedResources/gpu',
      'is missing, and a MIG profile does not say how much of a GPU it is',
    )
  return held({ gpus, cpuCores, memoryBytes, gpuMemoryBytes })
}

/** MIG profiles that were asked for; Run:ai has them up to 2.19 or so. */
export function migProfilesOf(value: Json | undefined): string | undefined {
  const named = isJsonObject(value) ? value.migProfile : undefined
  if (typeof named === 'string' && named !== '') return named
  if (!isJsonArray(named)) return undefined
  const names = named.filter(name => typeof name === 'string' && name !== '')
  return names.length > 0 ? [...new Set(names)].sort().join(',') : undefined
}

function held(given: { readonly [Name in keyof Held]?: Fraction | undefined }): Held {
  const known: { -readonly [Name in keyof Held]: Held[Name] } = {}
  for (const name of ['gpus', 'cpuCores', 'memoryBytes', 'gpuMemoryBytes'] as const) {
    const value = given[name]
    if (value !== undefined) known[name] = roundHalfAway(value, ratePlaces)
  }
  return known
}

/** JSON numbers; some versions write them as text. */
function numberAt(value: Json | undefined, path: string): Fraction | undefined {
  if (value === undefined || value === null || value === '') return undefined
  const number =
    value instanceof JsonNumber
      ? fractionOf(value)
      : typeof value === 'string'
        ? quantityOf(value)
        : undefined
  return positive(number, value, path)
}

function quantityAt(value: Json | undefined, path: string): Fraction | undefined {
  if (value === undefined || value === null || value === '') return undefined
  const number =
    typeof value === 'string'
      ? quantityOf(value)
      : value instanceof JsonNumber
        ? fractionOf(value)
        : undefined
  return positive(number, value, path)
}

function positive(number: Fraction | undefined, value: Json, path: string): Fraction {
  if (number === undefined || number.s < 0n) throw new Unfit(path, `${unfit(value)}, no quantity`)
  return number
}
