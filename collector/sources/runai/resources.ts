/** What a pod holds while it runs: GPUs, cores and bytes, from what Run:ai says it allocated, else from what was asked. Pure. */
import Fraction from 'fraction.js'
import { roundHalfAway } from '../../../schemas/decimal.ts'
import { fractionOf, isJsonArray, isJsonObject, type Json, JsonNumber } from '../../../schemas/json.ts'
import { nanoOf, unitsOf } from '../../quantity.ts'
import { Unfit, unfit } from './unfit.ts'

/** In GPUs, cores and bytes; what is not told is not there. */
export interface Held {
  readonly gpus?: Fraction
  readonly cpuCores?: Fraction
  readonly memoryBytes?: Fraction
  readonly gpuMemoryBytes?: Fraction
}

/** Run:ai writes doubles: what is beyond so many places is their noise (0.30000000000000004), and nobody's GPU. */
const ratePlaces = 9
/** Profiles that Run:ai offered, as long as it did: of GPUs that have seven compute slices. */
const migShape = /^([12347])g\.(?:5|10|20|40|80)gb$/
const migSlices = 7

/**
 * A quantity as Kubernetes writes it, also with the B behind it that Run:ai's own example has ("0B") and with a large K
 * for kilo, which the pattern of its files allows; undefined where it is none.
 */
export function quantityOf(text: string): Fraction | undefined {
  const nano = nanoOf(text.replace(/B$/, '').replace(/K$/, 'k'))
  return nano === undefined ? undefined : unitsOf(nano)
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
  /** Its MIG profiles, with commas between. */
  readonly mig?: string
  /** Memory of one GPU of its node, where that is known. */
  readonly nodeGpuMemoryBytes?: Fraction
}

/**
 * What the pod held while it ran, each resource by the first that tells it: what is allocated, or was when it was last
 * seen running, then what was requested. GPUs that were requested by memory are that memory over the memory of one GPU
 * of the node; a MIG slice is its compute slices of those of a GPU (decision 0016).
 * @throws Unfit where GPUs were requested and nothing says how many
 */
export function heldBy(evidence: Evidence): Held {
  const { allocated, requested, remembered, ended, mig } = evidence
  const told = (name: keyof Held): Fraction | undefined => {
    const now = allocated[name]
    return now && !(ended && now.n === 0n) ? now : remembered?.[name]
  }
  const first = (name: keyof Held) => told(name) ?? requested[name] ?? allocated[name]
  return known({
    gpus: gpusOf(evidence, told('gpus'), mig),
    cpuCores: first('cpuCores'),
    memoryBytes: first('memoryBytes'),
    gpuMemoryBytes: first('gpuMemoryBytes'),
  })
}

function gpusOf(
  { allocated, requested, remembered, nodeGpuMemoryBytes }: Evidence,
  told: Fraction | undefined,
  mig: string | undefined,
): Fraction | undefined {
  // A slice may be allocated without being a GPU.
  if (mig !== undefined && (told === undefined || told.n === 0n)) return slicesOf(mig)
  if (told !== undefined) return told
  // A request by memory may say `gpu` too; it is the memory then that was promised.
  if (requested.by !== 'memory' || requested.gpuMemoryBytes === undefined)
    return requested.gpus ?? allocated.gpus
  if (nodeGpuMemoryBytes === undefined || nodeGpuMemoryBytes.n === 0n)
    throw new Unfit(
      '/requestedResources/gpuMemory',
      'is asked for by memory, and neither its share nor the memory of a GPU of its node is told (gpuMemory)',
    )
  const bytes = [allocated.gpuMemoryBytes, remembered?.gpuMemoryBytes].find(each => each && each.n !== 0n)
  return (bytes ?? requested.gpuMemoryBytes).div(nodeGpuMemoryBytes)
}

/** Of profiles with commas between. */
function slicesOf(mig: string): Fraction {
  return mig.split(',').reduce((sum, profile) => {
    const slices = migShape.exec(profile)?.[1]
    if (slices === undefined)
      throw new Unfit('/requestedResources/migProfile', 'is no profile of seven slices')
    return sum.add(new Fraction(BigInt(slices), BigInt(migSlices)))
  }, new Fraction(0))
}

/** MIG profiles that were asked for; Run:ai has them up to 2.19 or so. */
export function migProfilesOf(value: Json | undefined): string | undefined {
  const named = isJsonObject(value) ? value.migProfile : undefined
  if (typeof named === 'string' && named !== '') return named
  if (!isJsonArray(named)) return undefined
  const names = named.filter(name => typeof name === 'string' && name !== '')
  return names.length > 0 ? names.sort().join(',') : undefined
}

/** As told by Run:ai, without the noise of its doubles. */
function held(given: Given): Held {
  return known({
    gpus: given.gpus && roundHalfAway(given.gpus, ratePlaces),
    cpuCores: given.cpuCores && roundHalfAway(given.cpuCores, ratePlaces),
    memoryBytes: given.memoryBytes && roundHalfAway(given.memoryBytes, ratePlaces),
    gpuMemoryBytes: given.gpuMemoryBytes && roundHalfAway(given.gpuMemoryBytes, ratePlaces),
  })
}

type Given = { readonly [Name in keyof Held]?: Fraction | undefined }

/** Without the names of what is not told. */
function known(given: Given): Held {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Held
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
