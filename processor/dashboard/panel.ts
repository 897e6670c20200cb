/** A part of the page that shows one answer: while it is read, when it is there, when there is none, and when it failed. */
import { Refusal } from './ask.ts'
import { announce, byId, type Child, element } from './elements.ts'

/** Shown, and what is said of it to who does not see it. */
export interface Shown {
  readonly content: readonly Child[]
  readonly said: string
  /** For the summary at the top of the page. */
  readonly summary?: Summary
}

export interface Summary {
  readonly value: string
  readonly about: string
  readonly mood?: 'good' | 'bad'
}

type Load = (signal: AbortSignal) => Promise<Shown>

export class Panel {
  readonly #section: HTMLElement
  readonly #body: HTMLElement
  readonly #name: string
  readonly #onSignIn: (refusal: Refusal) => void
  #loading = new AbortController()
  #again: ReturnType<typeof setTimeout> | undefined
  #load: Load | undefined
  /** Of what is shown or being read; none where that failed. */
  #key: string | undefined
  #said = ''

  /** The section with this id, whose body has the same with `-body` behind it. */
  constructor(id: string, name: string, onSignIn: (refusal: Refusal) => void) {
    this.#section = byId(id)
    this.#body = byId(`${id}-body`)
    this.#name = name
    this.#onSignIn = onSignIn
    addEventListener('online', () => {
      if (this.#again !== undefined) this.reload()
    })
  }

  hide(): void {
    this.#stop()
    this.#load = undefined
    this.#key = undefined
    this.#section.hidden = true
    this.#summarize(undefined)
  }

  /**
   * Shows what the load gives, and leaves what is there until then. What is shown already under the same key, or being
   * read, is left alone.
   */
  show(load: Load, key?: string): void {
    this.#load = load
    this.#section.hidden = false
    if (key !== undefined && key === this.#key) return
    this.#key = key
    void this.#run()
  }

  reload(): void {
    if (this.#load) void this.#run()
  }

  #stop(): void {
    this.#loading.abort()
    clearTimeout(this.#again)
    this.#again = undefined
  }

  async #run(): Promise<void> {
    const load = this.#load
    if (!load) return
    this.#stop()
    this.#loading = new AbortController()
    const { signal } = this.#loading
    this.#section.setAttribute('aria-busy', 'true')
    if (this.#body.childElementCount === 0) this.#body.replaceChildren(this.#skeleton())
    try {
      const { content, said, summary } = await load(signal)
      if (signal.aborted) return
      this.#summarize(summary)
      this.#body.replaceChildren(...content.filter(child => child !== undefined && child !== false))
      if (said !== this.#said) announce(said)
      this.#said = said
    } catch (error) {
      if (signal.aborted) return
      this.#key = undefined
      this.#said = ''
      if (error instanceof Refusal && error.status === 401) return this.#onSignIn(error)
      this.#body.replaceChildren(this.#trouble(error))
      this.#summarize({ value: '–', about: 'not available' })
      if (error instanceof Refusal && error.retryAfterMs !== undefined)
        this.#again = setTimeout(() => this.reload(), error.retryAfterMs)
      else if (!(error instanceof Refusal)) console.error(error)
    }
    this.#section.setAttribute('aria-busy', 'false')
  }

  /** In its tile; without a summary there is no tile. */
  #summarize(summary: Summary | undefined): void {
    const tile = document.getElementById(`${this.#section.id}-summary`)
    if (!tile) return
    tile.hidden = summary === undefined
    if (!summary) return
    const { value, about, mood } = summary
    tile
      .querySelector('dd')
      ?.replaceChildren(element('span', { class: mood }, value), ' ', element('small', {}, about))
  }

  #skeleton(): HTMLElement {
    return element(
      'div',
      { class: 'loading' },
      element('p', {}, `Reading ${this.#name} …`),
      element('div', { class: 'bar' }),
      element('div', { class: 'bar' }),
      element('div', { class: 'bar' }),
    )
  }

  #trouble(error: unknown): HTMLElement {
    const refusal = error instanceof Refusal ? error : undefined
    const heading =
      refusal === undefined
        ? 'This page made a mistake'
        : refusal.status === 0
          ? 'No connection'
          : refusal.status === 403
            ? 'This key may not see this'
            : refusal.retryAfterMs !== undefined
              ? 'Not available right now'
              : 'This could not be answered'
    const seconds = Math.ceil((refusal?.retryAfterMs ?? 0) / 1000)
    return element(
      'div',
      { class: 'trouble', role: 'alert' },
      element('p', { class: 'trouble-heading' }, heading),
      element('p', {}, error instanceof Error ? error.message : String(error)),
      refusal?.retryAfterMs !== undefined &&
        element(
          'p',
          {},
          `It is asked again by itself in ${seconds} ${seconds === 1 ? 'second' : 'seconds'}.`,
        ),
      element('button', { type: 'button', onclick: () => this.reload() }, 'Try again now'),
    )
  }
}

/** There is nothing, and why that may be. */
export function nothing(heading: string, why: string): HTMLElement {
  return element(
    'div',
    { class: 'nothing' },
    element('p', { class: 'nothing-heading' }, heading),
    element('p', {}, why),
  )
}
