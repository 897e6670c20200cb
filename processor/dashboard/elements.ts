/** Makes elements of the page. Text is always text: nothing that the API says becomes markup. */

type Attributes = Readonly<Record<string, string | boolean | ((event: never) => void) | undefined>>
export type Child = Node | string | undefined | false

/** `on…` attributes are listeners; `true` is an attribute without a value; false and undefined are left out. */
export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(key.slice(2), value as EventListener)
    else if (value === true) made.setAttribute(key, '')
    else if (typeof value === 'string') made.setAttribute(key, value)
  }
  made.append(...children.filter(child => child !== undefined && child !== false))
  return made
}

/** What page.html has under an id. */
export function byId(id: string): HTMLElement {
  const found = document.getElementById(id)
  if (!found) throw new Error(`the page has no #${id}`)
  return found
}

/** Said to who does not see the page. */
export function announce(text: string): void {
  byId('announcements').textContent = text
}

/** Hands a text to the browser as a file. */
export function download(name: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }))
  element('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
