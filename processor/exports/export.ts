/** The port of an export: what it is given, and the files it makes. One file each, listed in list.ts. */
import type { Window } from '../../schemas/window.ts'
import type { LineItem } from '../line-items.ts'
import type { Store } from '../store.ts'

/** An export takes what it needs: nothing is read that it does not ask for. */
export interface ExportInput {
  readonly period: Window
  readonly nowMs: number
  /** The IANA zone of the wall clock by which files are named. */
  readonly zone: string
  /** In the order of accounts and of their books' charges. */
  readonly lineItems: () => Promise<readonly LineItem[]>
  /** The ledger, for exports of usage. */
  readonly store: Store
}

export interface ExportFile {
  readonly name: string
  /** The text in pieces, so that a large one need not be held whole. */
  readonly chunks: Iterable<string>
}

export interface Export {
  readonly name: string
  readonly summary: string
  /** `one` file can go to stdout or to any name; of `several` each has its own. */
  readonly makes: 'one' | 'several'
  write(input: ExportInput): Promise<readonly ExportFile[]>
}
