/** Volumes and their claims: what is held when, and that it is never both. */
import { describe, expect, test } from 'vitest'
import { volumeClaimOf, volumeOf } from '../../../../collector/sources/kubernetes/objects.ts'
import { heldByClaim, keptByVolume } from '../../../../collector/sources/kubernetes/storage.ts'
import { show } from '../../../../schemas/decimal.ts'
import { faultOf } from '../../../faults.ts'
import { everything, json } from './manifests.ts'

const claim = (status: object, spec: object = { storageClassName: 'fast', volumeName: 'pv-1' }) =>
  volumeClaimOf(
    json({ metadata: { name: 'data', namespace: 'team', uid: 'uid-c' }, spec, status }),
    everything,
  )
const volume = (phase: string, more: object = {}) =>
  volumeOf(
    json({
      metadata: { name: 'pv-1', uid: 'uid-v' },
      spec: {
        capacity: { storage: '10Gi' },
        storageClassName: 'fast',
        persistentVolumeReclaimPolicy: 'Retain',
        claimRef: { kind: 'PersistentVolumeClaim', namespace: 'team', name: 'data', uid: 'uid-c' },
        ...more,
      },
      status: { phase, lastPhaseTransitionTime: '2026-02-12T08:00:00Z' },
    }),
  )
const sinceMs = Date.UTC(2026, 1, 12, 8)

describe('a claim', () => {
  test('that is bound holds what it was given, not what it asked for, since its volume says so', () => {
    const spec = { storageClassName: 'fast', resources: { requests: { storage: '8Gi' } } }
    const held = heldByClaim(claim({ phase: 'Bound', capacity: { storage: '10Gi' } }, spec), volume('Bound'))
    expect(held && show(held.bytes)).toBe(String(10 * 1024 ** 3))
    expect(held).toMatchObject({ storageClass: 'fast', sinceMs })
  })

  test.each(['Pending', 'Lost'])('that is %s holds nothing', phase => {
    expect(heldByClaim(claim({ phase, capacity: { storage: '10Gi' } }), undefined)).toBeUndefined()
  })

  test('of no class says so, and is not one whose class is unset', () => {
    const status = { phase: 'Bound', capacity: { storage: '1k' } }
    expect(heldByClaim(claim(status, { storageClassName: '' }), undefined)?.storageClass).toBe('')
    expect(heldByClaim(claim(status, {}), undefined)).not.toHaveProperty('storageClass')
  })

  test('does not take the time of a volume that is bound to another', () => {
    const other = volume('Bound', { claimRef: { namespace: 'team', name: 'data', uid: 'uid-before' } })
    expect(heldByClaim(claim({ phase: 'Bound', capacity: { storage: '1' } }), other)).not.toHaveProperty(
      'sinceMs',
    )
  })

  test.each([undefined, {}, { storage: 'big' }, { storage: '-1' }])(
    'that is bound to a capacity of %j is a fault',
    capacity => {
      const fault = faultOf(() => heldByClaim(claim({ phase: 'Bound', capacity }), undefined))
      expect(fault).toMatchObject({
        code: 'ITEM_UNREADABLE',
        facts: { subject: 'team', volume_claim: 'data' },
      })
    },
  )
})

describe('a volume', () => {
  test('that was released costs on, and its last claim tells whom', () => {
    const kept = keptByVolume(volume('Released'))
    expect(kept && show(kept.bytes)).toBe(String(10 * 1024 ** 3))
    expect(kept).toMatchObject({ namespace: 'team', claimUid: 'uid-c', storageClass: 'fast', sinceMs })
  })

  test('whose removal failed costs on too', () => {
    expect(keptByVolume(volume('Failed'))).toMatchObject({ namespace: 'team' })
  })

  test.each(['Bound', 'Available', 'Pending'])('that is %s is not billed by itself', phase => {
    expect(keptByVolume(volume(phase))).toBeUndefined()
  })

  test('is billed by its claim or by itself, never both', () => {
    for (const phase of ['Pending', 'Available', 'Bound', 'Released', 'Failed']) {
      // The API has a claim Bound to a volume that is Bound, and Lost once its volume is not.
      const claimPhase = phase === 'Bound' ? 'Bound' : 'Lost'
      const held = heldByClaim(claim({ phase: claimPhase, capacity: { storage: '1Gi' } }), volume(phase))
      expect(held !== undefined && keptByVolume(volume(phase)) !== undefined).toBe(false)
    }
  })

  test('that nobody ever claimed is nobody’s', () => {
    expect(keptByVolume(volume('Released', { claimRef: undefined }))).toBeUndefined()
  })

  test('without a capacity is a fault for whom it was', () => {
    const fault = faultOf(() => keptByVolume(volume('Released', { capacity: {} })))
    expect(fault).toMatchObject({ code: 'ITEM_UNREADABLE', facts: { subject: 'team', volume: 'pv-1' } })
  })
})
