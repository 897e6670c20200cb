/** What a test opens a source with: the client it gives, no secrets unless it names some, and a state that ends with it. */
import type { SourceContext } from '../../collector/source.ts'
import { openHttp } from '../../runtime/http.ts'
import { passingState } from '../../runtime/log/source-state.ts'

export function sourceContext(given: Pick<SourceContext, 'http'> & Partial<SourceContext>): SourceContext {
  return {
    client: options => openHttp({ retries: 2, deadlineMs: 2000, random: () => 0, ...options }),
    state: passingState(),
    secret: () => '',
    nowMs: Date.now,
    ...given,
  }
}
