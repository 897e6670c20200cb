/** The kinds of sources there are: a new one is a file beside this and a line here. */
import type { SourceKind } from '../source.ts'
import { clickhouse } from './clickhouse.ts'
import { kubernetes } from './kubernetes.ts'
import { postgresql } from './postgresql.ts'
import { prometheus } from './prometheus.ts'
import { rafay } from './rafay.ts'
import { runai } from './runai.ts'

export const sources: readonly SourceKind[] = [rafay, kubernetes, prometheus, postgresql, clickhouse, runai]
