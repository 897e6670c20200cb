/** The golden console as a provider of hours, and the source that reads it: for tests of whole commands. */
import { readFileSync } from 'node:fs'
import { loadGoldenFixture, type RafayDouble, startRafayDouble } from '../../deploy/demo/rafay.ts'

const golden = new URL('../fixtures/rafay/golden/golden.json', import.meta.url)

/**
 * Starts the console with these instances alone. Its rows are the same for every hour; those of more than an hour cannot
 * be of one.
 */
export async function startGolden(instances: readonly string[]): Promise<RafayDouble> {
  const fixture = loadGoldenFixture(readFileSync(golden, 'utf8'))
  fixture.instances = fixture.instances.filter(({ name }) => instances.includes(name))
  return await startRafayDouble({ fixture })
}

/** The source of a config that reads it, as `meterline/rafay/prod`; its key is in RAFAY_DEFAULT_API_KEY. */
export function goldenSource({ url }: RafayDouble, from = '2025-06-01T00:00:00Z') {
  const apiKey = '${env:RAFAY_DEFAULT_API_KEY}'
  return { kind: 'rafay', name: 'prod', dialect: 'console', url, apiKey, from }
}
