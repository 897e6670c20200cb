/** Tables on the page, from the same value that their CSV is made of. */
import { download, element } from './elements.ts'
import { grouped } from './figures.ts'
import { csvOf, type Table } from './table.ts'

/** `cell` gives what stands in a cell instead of its text. */
export function tableElement(
  table: Table,
  options: {
    readonly cell?: (row: number, column: number) => Node | undefined
    readonly showsCaption?: boolean
    /** On a phone its rows are paragraphs. */
    readonly isProse?: boolean
  } = {},
): HTMLElement {
  const { caption, columns, rows } = table
  return element(
    'div',
    { class: 'table-frame', tabindex: '0', role: 'region', 'aria-label': caption },
    element(
      'table',
      options.isProse === true ? { class: 'gaps' } : {},
      element('caption', options.showsCaption === true ? {} : { class: 'unseen' }, caption),
      element(
        'thead',
        {},
        element(
          'tr',
          {},
          ...columns.map(({ heading, isNumber }) =>
            element('th', { scope: 'col', class: isNumber === true ? 'number' : undefined }, heading),
          ),
        ),
      ),
      element(
        'tbody',
        {},
        ...rows.map((row, at) =>
          element(
            'tr',
            {},
            ...row.map((text, index) => {
              const isNumber = columns[index]?.isNumber === true
              const content = options.cell?.(at, index) ?? (isNumber ? grouped(text) : text)
              return index === 0
                ? element('th', { scope: 'row' }, content)
                : element('td', { class: isNumber ? 'number' : undefined }, content)
            }),
          ),
        ),
      ),
    ),
  )
}

/** A button that saves what is seen. */
export function csvButton(name: string, table: () => Table): HTMLButtonElement {
  return element(
    'button',
    { type: 'button', class: 'quiet', onclick: () => download(`${name}.csv`, csvOf(table())) },
    'CSV',
    element('span', { class: 'unseen' }, ` of ${name}`),
  )
}
