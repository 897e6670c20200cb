/** The exports that there are: adding one is a file here and a line below. */
import { csv } from './csv.ts'
import type { Export } from './export.ts'
import { jsonl } from './jsonl.ts'
import { rafayCsv } from './rafay-csv.ts'

export const exportFormats: readonly Export[] = [csv, jsonl, rafayCsv]
