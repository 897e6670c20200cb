/**
 * What all panels work with: who looks, what there is, what is looked at, and how to go on from there.
 *
 * Rows of the API stand in the page as far as it shows them, and are not imported from the processor: even as types alone
 * they would bring the store, Node and typebox into a program that has the browser's types and a folder of its own to be
 * built from. That both say the same is what the tests in Chromium hold against each other.
 */
import type { Ask } from './ask.ts'
import { element } from './elements.ts'
import type { Meter } from './meters.ts'
import { tenantKey } from './usage-rows.ts'
import { type Span, searchOf, type Tenant, type View } from './view.ts'

export interface Account {
  readonly id: string
  readonly name?: string | null
  readonly timezone?: string
}

/** Who holds the key: `GET /api/v1/me`. */
export interface Caller {
  readonly name: string
  readonly scopes: readonly string[]
  /** It sees what this account pays for and nothing else. */
  readonly account?: string
}

export interface Scene {
  readonly ask: Ask
  readonly caller: Caller
  readonly accounts: readonly Account[]
  readonly meter: Meter
  readonly view: View
  readonly span: Span
  readonly nowMs: number
  /** Tenants by what people call them, as far as anybody said. */
  readonly names: Map<string, string>
  readonly go: (view: View) => void
}

export function nameOfTenant({ names }: Scene, { source, subject }: Tenant): string {
  return names.get(tenantKey(source, subject)) ?? subject
}

/** A link to another view of the same page. */
export function linkTo(scene: Scene, view: View, ...content: readonly (Node | string)[]): HTMLAnchorElement {
  return element(
    'a',
    {
      href: searchOf(view),
      onclick: (event: MouseEvent) => {
        if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return
        event.preventDefault()
        scene.go(view)
      },
    },
    ...content,
  )
}

/** An answer that is a list, bare or in a page. */
export function listOf<Row>(answer: unknown): readonly Row[] {
  if (Array.isArray(answer)) return answer
  const found = Object.values((answer ?? {}) as object).find(Array.isArray)
  return (found ?? []) as readonly Row[]
}
