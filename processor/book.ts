/** Reads a price book as people write it, in YAML or JSON, and names every misfit by its place in the file. */
import { type Problem, showProblem, YamlFile } from '../runtime/yaml.ts'
import type { Misfit } from '../schemas/check.ts'
import { Fault } from '../schemas/fault.ts'
import type { Meter } from '../schemas/meters.ts'
import { type Book, bookMeterMisfits, bookMisfits } from '../schemas/pricebook.ts'
import { grammar } from './pricing/list.ts'

/**
 * All that is wrong with a would-be book: with the price models that are built, and, where a catalogue is given,
 * with its meters and their dims.
 */
export function checkBook(value: unknown, meters: readonly Meter[] | undefined): readonly Misfit[] {
  const found = bookMisfits(value, grammar)
  return found.length > 0 || !meters ? found : bookMeterMisfits(value as Book, { meters, grammar })
}

/** The book in the text of a file. @throws Fault CONFIG_INVALID naming every problem, one a line. */
export function readBook(text: string, file: string): Book {
  const yaml = YamlFile.parse(file, text)
  const problems: readonly Problem[] =
    yaml instanceof YamlFile
      ? checkBook(yaml.value, undefined).map(({ path, message }) => yaml.problem(path, message))
      : yaml
  if (yaml instanceof YamlFile && problems.length === 0) return yaml.value as Book
  throw new Fault('CONFIG_INVALID', problems.map(showProblem).join('\n'), { problems: problems.length })
}
