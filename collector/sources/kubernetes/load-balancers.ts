/** When a Service is a load balancer that costs. Pure. */
import type { Service } from './objects.ts'

/**
 * From when it has an address until it is gone, or is made another type: an address that is lost in between is still
 * paid for. The API has no time for either, so both are the times at which they were seen.
 * @param before what this said of the same Service when it was last seen
 */
export function isBalancing(service: Service, before: boolean): boolean {
  return service.type === 'LoadBalancer' && (before || service.hasAddress === true)
}
