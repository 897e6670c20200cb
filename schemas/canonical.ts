/** One text for one JSON value, whatever the order of its keys: what hashes are made of. Pure. */

/** JSON without spaces, keys sorted by code unit, absent where undefined (as JSON.stringify does). */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  )
}
