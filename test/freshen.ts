/** Rollups of a test's store, computed while nobody asks. */
import { recompute } from '../processor/rollups.ts'
import { newToken } from '../processor/stale.ts'
import type { Store } from '../processor/store.ts'

/** Recomputes until no cell is stale and no meter building; resolves to how much there was to do. */
export async function freshen(
  store: Store,
  options: { readonly cellsMax?: number; readonly rowsMax?: number } = {},
): Promise<number> {
  for (let done = 0; ; ) {
    const some = await recompute(store, { run: newToken(), cellsMax: 1000, settleMs: 0, ...options })
    if (some === 0) return done
    done += some
  }
}
