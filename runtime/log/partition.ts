/** Which partition a key belongs to: the same as Kafka's own clients choose, so a key keeps its place whoever sends. Pure. */

/** `partitions` must not change while rows wait that were dealt by it. */
export function partitionOf(key: string, partitions: number): number {
  return (murmur2(Buffer.from(key, 'utf8')) & 0x7fffffff) % partitions
}

/** MurmurHash2 with the seed of Kafka's Java client (org.apache.kafka.common.utils.Utils), as a signed 32-bit number. */
export function murmur2(bytes: Buffer): number {
  const length = bytes.length
  let hash = 0x9747b28c ^ length
  const wholeWords = length - (length % 4)
  for (let at = 0; at < wholeWords; at += 4) {
    let word = Math.imul(bytes.readInt32LE(at), 0x5bd1e995)
    word = Math.imul(word ^ (word >>> 24), 0x5bd1e995)
    hash = Math.imul(hash, 0x5bd1e995) ^ word
  }
  if (wholeWords < length) {
    for (let at = length - 1; at >= wholeWords; at -= 1) hash ^= bytes[at]! << (8 * (at - wholeWords))
    hash = Math.imul(hash, 0x5bd1e995)
  }
  hash = Math.imul(hash ^ (hash >>> 13), 0x5bd1e995)
  return hash ^ (hash >>> 15)
}
