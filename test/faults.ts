/** The fault that what is tested ends with: its code, fate and facts are what tests look at. */
import { Fault } from '../schemas/fault.ts'

/** @throws what the work throws that is no Fault, and Error where it throws nothing */
export function faultOf(work: () => unknown): Fault {
  try {
    work()
  } catch (error) {
    return asThrown(error)
  }
  throw new Error('nothing was thrown')
}

/** As `faultOf`, of work under way. */
export async function faultFrom(work: Promise<unknown>): Promise<Fault> {
  return await work.then(
    () => Promise.reject(new Error('nothing was thrown')),
    error => asThrown(error),
  )
}

function asThrown(error: unknown): Fault {
  if (error instanceof Fault) return error
  throw error
}
