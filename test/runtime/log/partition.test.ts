/** Keys land where the Java client and kafkajs would put them. */
import fc from 'fast-check'
import { Partitioners } from 'kafkajs'
import { expect, test } from 'vitest'
import { murmur2, partitionOf } from '../../../runtime/log/partition.ts'

// Written by org.apache.kafka.common.utils.Utils.murmur2 of Kafka 4.3.1.
const ofTheJavaClient: readonly (readonly [string, number])[] = [
  ['', 275646681],
  ['a', -1563381124],
  ['ab', 316155434],
  ['abc', 479470107],
  ['abcd', -1323649548],
  ['meterline/rafay/prod lk5xnd2/h100-8x', -1361658740],
  ['ünïcødé 漢字 🦜', 2113331653],
  ['a-little-bit-longer-string', -1486304829],
]

test('a key hashes as in the Java client', () => {
  for (const [key, hash] of ofTheJavaClient) expect([key, murmur2(Buffer.from(key))]).toEqual([key, hash])
})

test('a key lands in the partition that kafkajs would choose, and always in one that exists', () => {
  const choose = Partitioners.DefaultPartitioner()
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 1, max: 500 }), (key, count) => {
      const partitionMetadata = Array.from({ length: count }, (_, partitionId) => ({
        partitionErrorCode: 0,
        partitionId,
        leader: 1,
        replicas: [1],
        isr: [1],
      }))
      const message = { key, value: null }
      const partition = partitionOf(key, count)
      expect(partition).toBe(choose({ topic: 't', partitionMetadata, message }))
      expect(partition).toBeGreaterThanOrEqual(0)
      expect(partition).toBeLessThan(count)
    }),
  )
})
