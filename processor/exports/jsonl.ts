/** Line items as JSON, one a line, each with the proof of what made it. */
import type { Export } from './export.ts'

export const jsonl: Export = {
  name: 'jsonl',
  summary: 'Line items as JSON, one a line, with their proof.',
  makes: 'one',
  write: async input => {
    const lines = await input.lineItems()
    return [{ name: 'line-items.jsonl', chunks: lines.values().map(line => `${JSON.stringify(line)}\n`) }]
  },
}
