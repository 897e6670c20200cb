/** What a person sets: meter, range, zone, split, window, chart or table, light or dark; and the way back up from a resource. */
import { byId, element } from './elements.ts'
import { dimName, type Meter, meterName, splitsOf } from './meters.ts'
import { linkTo, nameOfTenant, type Scene } from './scene.ts'
import { splitOf } from './usage-panel.ts'
import { daysOf, fittingStep, type Preset, presetNames, presets, steps, type View } from './view.ts'
import { isZone, type Step } from './zones.ts'

const select = (id: string) => byId(id) as HTMLSelectElement
const field = (id: string) => byId(id) as HTMLInputElement

const stepNames: Readonly<Record<Step, string>> = {
  HOUR: 'Hour',
  DAY: 'Day',
  WEEK: 'Week',
  MONTH: 'Month',
}

/** Wires the controls once; `current` is the scene that is shown when one of them is used. */
export function wireControls(current: () => Scene | undefined): void {
  const change = (how: (view: View) => View) => {
    const scene = current()
    if (scene) scene.go(how(scene.view))
  }
  select('meter').addEventListener('change', ({ target }) =>
    change(({ by: _by, resource: _resource, ...view }) => ({
      ...view,
      meter: (target as HTMLSelectElement).value,
    })),
  )
  select('by').addEventListener('change', ({ target }) =>
    change(view => ({ ...view, by: (target as HTMLSelectElement).value })),
  )
  select('window').addEventListener('change', ({ target }) => {
    const chosen = steps.find(step => step === (target as HTMLSelectElement).value)
    change(({ window: _window, ...view }) => ({ ...view, ...(chosen !== undefined && { window: chosen }) }))
  })
  select('zone').addEventListener('change', ({ target }) => {
    const { value } = target as HTMLSelectElement
    if (isZone(value)) change(view => ({ ...view, zone: value }))
  })
  byId('presets').addEventListener('click', ({ target }) => {
    const preset = (target as HTMLElement).closest('button')?.dataset.preset as Preset | undefined
    if (preset) change(({ window: _window, ...view }) => ({ ...view, range: preset }))
  })
  byId('days').addEventListener('submit', event => {
    event.preventDefault()
    const [first, last] = [field('first').value, field('last').value]
    const wrong = first > last ? 'The last day lies before the first.' : ''
    field('last').setCustomValidity(wrong)
    if (wrong !== '') field('last').reportValidity()
    else change(({ window: _window, ...view }) => ({ ...view, range: { first, last } }))
  })
  field('last').addEventListener('input', () => field('last').setCustomValidity(''))
  byId('as').addEventListener('click', () =>
    change(view => ({ ...view, as: view.as === 'table' ? 'chart' : 'table' })),
  )
  byId('presets').replaceChildren(
    ...presets.map(preset =>
      element(
        'button',
        { type: 'button', 'data-preset': preset, 'aria-pressed': 'false' },
        presetNames[preset],
      ),
    ),
  )
  wireTheme()
}

/** Sets the controls to what is shown. */
export function showControls(scene: Scene, meters: readonly Meter[], browserZone: string): void {
  const { view, span, meter } = scene
  options(
    select('meter'),
    meters.map(({ slug, name }) => [slug, meterName({ slug, ...(name && { name }) })]),
    meter.slug,
  )
  byId('meter-description').textContent = meter.description ?? ''
  options(
    select('by'),
    splitsOf(meter, view.tenant !== undefined).map(dim => [dim, dimName(dim)]),
    splitOf(scene),
  )
  options(
    select('window'),
    [
      ['', `Automatic (${stepNames[fittingStep(span)].toLowerCase()})`],
      ...steps.map(step => [step, stepNames[step]] as const),
    ],
    view.window ?? '',
  )
  showZones(scene, browserZone)
  for (const button of byId('presets').querySelectorAll('button'))
    button.setAttribute('aria-pressed', String(button.dataset.preset === view.range))
  const days = daysOf(span, view.zone)
  field('first').value = days.first
  field('last').value = days.last
  const as = byId('as')
  as.textContent = view.as === 'table' ? 'Chart' : 'Table'
  as.setAttribute('aria-label', view.as === 'table' ? 'Show as a chart' : 'Show as a table')
  showPath(scene)
}

function options(
  place: HTMLSelectElement,
  wanted: readonly (readonly [value: string, text: string])[],
  chosen: string,
): void {
  place.replaceChildren(...wanted.map(([value, text]) => element('option', { value }, text)))
  place.value = chosen
}

function showZones({ view, accounts }: Scene, browserZone: string): void {
  const near = new Map([[browserZone, `${browserZone} (this browser)`]])
  const bills = Map.groupBy(accounts, ({ timezone }) => timezone ?? 'UTC')
  for (const [zone, [first, ...others]] of bills)
    if (first && !near.has(zone))
      near.set(zone, `${zone} (invoices${others.length === 0 ? ` of ${first.name ?? first.id}` : ''})`)
  if (!near.has('UTC')) near.set('UTC', 'UTC')
  if (!near.has(view.zone)) near.set(view.zone, view.zone)
  const all = Intl.supportedValuesOf('timeZone').filter(zone => !near.has(zone))
  const place = select('zone')
  place.replaceChildren(
    element(
      'optgroup',
      { label: 'At hand' },
      ...[...near].map(([zone, text]) => element('option', { value: zone }, text)),
    ),
    element('optgroup', { label: 'All zones' }, ...all.map(zone => element('option', { value: zone }, zone))),
  )
  place.value = view.zone
}

/** Where one is, and the way up. */
export function showPath(scene: Scene): void {
  const { view, caller } = scene
  const { tenant, resource, by: _by, ...top } = view
  const { resource: _resource, ...ofTenant } = view
  const all = caller.account === undefined ? 'All tenants' : 'All of yours'
  const items: Node[][] = [
    [tenant ? linkTo(scene, top, all) : element('span', { 'aria-current': 'page' }, all)],
  ]
  if (tenant) {
    const name = nameOfTenant(scene, tenant)
    items.push([
      resource !== undefined
        ? linkTo(scene, ofTenant, name)
        : element('span', { 'aria-current': 'page' }, name),
    ])
  }
  if (resource !== undefined) items.push([element('span', { 'aria-current': 'page' }, resource)])
  byId('path').replaceChildren(...items.map(item => element('li', {}, ...item)))
}

const themeName = 'meterline-theme'
type Theme = 'light' | 'dark'

function wireTheme(): void {
  const system = matchMedia('(prefers-color-scheme: dark)')
  const shown = (): Theme =>
    (document.documentElement.dataset.theme as Theme | undefined) ?? (system.matches ? 'dark' : 'light')
  const button = byId('theme')
  const say = () => {
    button.textContent = shown() === 'dark' ? 'Light' : 'Dark'
    button.setAttribute('aria-label', `Switch to ${shown() === 'dark' ? 'light' : 'dark'} colours`)
  }
  const kept = localStorage.getItem(themeName)
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept
  say()
  system.addEventListener('change', say)
  button.addEventListener('click', () => {
    const wanted = shown() === 'dark' ? 'light' : 'dark'
    document.documentElement.dataset.theme = wanted
    localStorage.setItem(themeName, wanted)
    say()
    document.dispatchEvent(new Event('themechange'))
  })
}
