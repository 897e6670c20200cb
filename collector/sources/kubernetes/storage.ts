/**
 * What is billed of a volume: its claim while it is bound, and the volume itself where the claim is gone and it is
 * kept. Never both. Pure.
 */
import type Fraction from 'fraction.js'
import { Fault } from '../../../schemas/fault.ts'
import { nanoOf, unitsOf } from '../../quantity.ts'
import type { Volume, VolumeClaim } from './objects.ts'

/** What is held from now on, until the object says otherwise or is gone. */
export interface HeldStorage {
  readonly bytes: Fraction
  /** An empty one says that it is of no class. */
  readonly storageClass?: string
  /** Since when, where the API says so: in whole seconds. */
  readonly sinceMs?: number
}

/**
 * A claim holds what it was given, not what it asked for, while it is bound: also while it is being deleted, since what
 * uses it keeps it. An expansion changes `bytes` when it is done.
 * @param volume that it is bound to, where it is known: it alone says since when
 * @throws Fault ITEM_UNREADABLE where it is bound and its capacity is not there, or no quantity
 */
export function heldByClaim(claim: VolumeClaim, volume: Volume | undefined): HeldStorage | undefined {
  if (claim.phase !== 'Bound') return undefined
  const storageClass = claim.storageClass ?? volume?.storageClass
  const isItsVolume = volume?.phase === 'Bound' && volume.claim?.uid === claim.uid
  return {
    bytes: bytesOf('volume claim', claim),
    ...(storageClass !== undefined && { storageClass }),
    // Its phase became Bound then; expansions do not change it.
    ...(isItsVolume && volume.phaseSinceMs !== undefined && { sinceMs: volume.phaseSinceMs }),
  }
}

/** What a volume holds that nobody can use any more and that is still there, and whose it was. */
export interface KeptStorage extends HeldStorage {
  readonly namespace: string
  /** The claim that held it before: the volume holds from where that ended, if this is known. */
  readonly claimUid?: string
}

/**
 * A volume of reclaim policy Retain, or one whose removal failed, costs on. One that is bound is billed by its claim, one
 * that nobody claimed yet is nobody's.
 * @throws Fault ITEM_UNREADABLE where its capacity is not there, or no quantity
 */
export function keptByVolume(volume: Volume): KeptStorage | undefined {
  const { phase, claim, storageClass, phaseSinceMs } = volume
  if ((phase !== 'Released' && phase !== 'Failed') || !claim?.namespace) return undefined
  return {
    bytes: bytesOf('volume', volume),
    namespace: claim.namespace,
    ...(claim.uid !== undefined && { claimUid: claim.uid }),
    ...(storageClass !== undefined && { storageClass }),
    // A volume that failed was released before, at a time that it does not say any more.
    ...(phase === 'Released' && phaseSinceMs !== undefined && { sinceMs: phaseSinceMs }),
  }
}

function bytesOf(kind: 'volume' | 'volume claim', object: Volume | VolumeClaim): Fraction {
  const { capacity, name, namespace, uid } = object
  const nano = capacity === undefined ? undefined : nanoOf(capacity)
  if (nano !== undefined && nano >= 0n) return unitsOf(nano)
  const subject = namespace || ('claim' in object ? object.claim?.namespace : undefined)
  const what = capacity === undefined ? 'is missing' : `is "${capacity.slice(0, 80)}", not a quantity`
  throw new Fault(
    'ITEM_UNREADABLE',
    `${kind} ${namespace === '' ? '' : `${namespace}/`}${name}: its capacity ${what}`,
    {
      subject,
      [kind.replace(' ', '_')]: name,
      uid,
    },
  )
}
