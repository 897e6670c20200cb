/** The process's Prometheus registry: modules define their metrics against it, the health server prints it. */
import { collectDefaultMetrics, Registry } from 'prom-client'

export const registry = new Registry()

/** Once at the start of a role: CPU, memory and event loop of the process itself. */
export function collectProcessMetrics(): void {
  collectDefaultMetrics({ register: registry })
}
