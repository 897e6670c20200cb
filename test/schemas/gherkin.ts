/** Reads the little of Gherkin that the official CloudEvents feature files use: steps, tables, texts and outlines. */

export interface Step {
  readonly text: string
  readonly docString: string
  readonly table: readonly (readonly string[])[]
}

/** One scenario, its background before it; an outline gives one for each line of its examples. */
export interface Document {
  readonly name: string
  readonly steps: readonly Step[]
}

interface Section {
  readonly name: string
  readonly steps: { text: string; docString: string; table: string[][] }[]
  examples: string[][] | undefined
}

export function features(source: string): readonly Document[] {
  const sections: Section[] = []
  let docString: { readonly indent: number; readonly lines: string[] } | undefined
  for (const line of source.split('\n')) {
    const trimmed = line.trim()
    const section = sections.at(-1)
    const step = section?.steps.at(-1)
    if (trimmed === '"""') {
      if (!docString) docString = { indent: line.indexOf('"'), lines: [] }
      else {
        if (step) step.docString = docString.lines.join('\n')
        docString = undefined
      }
    } else if (docString) docString.lines.push(line.slice(docString.indent))
    else if (trimmed.startsWith('|')) {
      const cells = trimmed
        .slice(1, -1)
        .split('|')
        .map(cell => cell.trim())
      if (section?.examples) section.examples.push(cells)
      else step?.table.push(cells)
    } else if (/^(Background|Scenario|Scenario Outline):/.test(trimmed))
      sections.push({ name: trimmed.replace(/^[^:]*: ?/, ''), steps: [], examples: undefined })
    else if (trimmed === 'Examples:' && section) section.examples = []
    else if (/^(Given|When|Then|And) /.test(trimmed))
      section?.steps.push({ text: trimmed.replace(/^\w+ /, ''), docString: '', table: [] })
  }
  const [background, ...scenarios] = sections
  return scenarios.flatMap(({ name, steps, examples }) => {
    const all = [...(background?.steps ?? []), ...steps]
    if (!examples) return [{ name, steps: all }]
    const [columns = [], ...rows] = examples
    return rows.map(row => {
      const fill = (text: string) =>
        columns.reduce((filled, column, index) => filled.replaceAll(`<${column}>`, row[index] ?? ''), text)
      return {
        name: fill(name),
        steps: all.map(step => ({
          text: fill(step.text),
          docString: fill(step.docString),
          table: step.table.map(cells => cells.map(fill)),
        })),
      }
    })
  })
}
