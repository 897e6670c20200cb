/** The page: who looks, what there is, what the address says is looked at; then each panel asks for its part. */
import { ask, keepKey, Refusal, takeKey } from './ask.ts'
import { showControls, showPath, wireControls } from './controls.ts'
import { loadCost } from './cost-panel.ts'
import { loadCoverage } from './coverage-panel.ts'
import { byId } from './elements.ts'
import { likely, type Meter } from './meters.ts'
import { Panel, type Shown } from './panel.ts'
import { loadPipeline } from './pipeline-panel.ts'
import { type Account, type Caller, listOf, type Scene } from './scene.ts'
import type { Table } from './table.ts'
import { csvButton } from './tables.ts'
import { loadRanking, loadUsage, spanLabel, type UsageShown } from './usage-panel.ts'
import type { UsageRow } from './usage-rows.ts'
import { searchOf, spanOf, type View, viewOf } from './view.ts'
import { dayMs, isZone } from './zones.ts'

const pipelineEveryMs = 15_000
const refreshEveryMs = 60_000
const browserZone = new Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC'

/**
 * The zone where the address names none: that in which all who are shown are billed, so that a month here is a month of
 * their invoices; where they have several, the browser's.
 */
function zoneDefault(accounts: readonly Account[]): string {
  const zones = new Set(accounts.map(({ timezone }) => timezone ?? 'UTC'))
  const [zone] = zones
  return zones.size === 1 && zone !== undefined && isZone(zone) ? zone : browserZone
}

/** What does not change while one looks. */
interface Known {
  readonly caller: Caller
  readonly meters: readonly Meter[]
  readonly accounts: readonly Account[]
  readonly names: Map<string, string>
}

let known: Known | undefined
let scene: Scene | undefined
/** Where the newest usage of a meter begins. */
const newest = new Map<string, number | undefined>()
let opening = new AbortController()
/** Counts up whenever all is to be asked anew. */
let asOf = 0

const signIn = (refusal: Refusal) => askForKey(refusal.message)
const panels = {
  usage: new Panel('usage', 'usage', signIn),
  ranking: new Panel('ranking', 'tenants', signIn),
  cost: new Panel('cost', 'costs', signIn),
  coverage: new Panel('coverage', 'coverage', signIn),
  pipeline: new Panel('pipeline', 'the state of the pipeline', signIn),
  start: new Panel('start', 'what there is', signIn),
}

/** Asks who looks and what there is, then shows what the address says. */
async function open(signal: AbortSignal): Promise<Shown> {
  const caller = await ask<Caller>('me', {}, signal)
  const may = (scope: string) => caller.scopes.includes(scope)
  const [meters, accounts] = await Promise.all([
    ask<unknown>('meters', { pageSize: '1000' }, signal).then(answer => listOf<Meter>(answer)),
    may('read') || may('bill')
      ? ask<unknown>('accounts', {}, signal).then(answer => listOf<Account>(answer), noneIf403)
      : [],
  ])
  known = { caller, meters, accounts, names: new Map() }
  const own = accounts.find(({ id }) => id === caller.account)
  byId('who').textContent =
    caller.account === undefined ? caller.name : (own?.name ?? own?.id ?? caller.account)
  byId('heading').textContent = caller.account === undefined ? 'Usage and cost' : 'Your usage and cost'
  byId('sign-out').hidden = takeKey() === undefined
  byId('refresh').hidden = false
  byId('sign-in').hidden = true
  await show(viewOf(location.search, zoneDefault(accounts), isZone), signal)
  return { content: [], said: '' }
}

function noneIf403(error: unknown): readonly never[] {
  if (error instanceof Refusal && (error.status === 403 || error.status === 404)) return []
  throw error
}

/** Where the newest usage of a meter begins, to the month; undefined where there is none. */
async function newestOf(meter: Meter, signal: AbortSignal): Promise<number | undefined> {
  if (newest.has(meter.slug)) return newest.get(meter.slug)
  const to = Math.ceil(Date.now() / dayMs) * dayMs + dayMs
  const months = (from: number) =>
    ask<unknown>(
      'usage',
      {
        meter: meter.slug,
        from: new Date(from).toISOString(),
        to: new Date(to).toISOString(),
        window: 'MONTH',
        zone: 'UTC',
      },
      signal,
    ).then(answer => listOf<UsageRow>(answer))
  // Where there is usage at all it is mostly recent: the short question first.
  let rows = await months(to - 62 * dayMs)
  if (rows.length === 0) rows = await months(to - 3660 * dayMs)
  const found =
    rows.length === 0 ? undefined : Math.max(...rows.map(({ window_start }) => Date.parse(window_start)))
  newest.set(meter.slug, found)
  return found
}

/** The meter of the view; where it names none, the first likely one that has usage. */
async function meterOf(view: View, signal: AbortSignal): Promise<Meter | undefined> {
  const meters = known?.meters ?? []
  const named = meters.find(({ slug }) => slug === view.meter)
  if (named) return named
  const candidates = likely(meters).slice(0, 8)
  for (const meter of candidates) if ((await newestOf(meter, signal)) !== undefined) return meter
  return candidates[0]
}

async function show(view: View, signal: AbortSignal): Promise<void> {
  if (!known) return
  const meter = await meterOf(view, signal)
  if (!meter) {
    byId('page').hidden = true
    byId('start').hidden = false
    throw new Refusal(404, 'There is no meter. Add one to the catalogue.')
  }
  const newestMs = view.range === 'last-data' ? await newestOf(meter, signal) : undefined
  if (signal.aborted) return
  const nowMs = Date.now()
  const { caller, accounts, names, meters } = known
  const span = spanOf(view.range, view.zone, nowMs, newestMs)
  scene = { ask, caller, accounts, meter, view, span, nowMs, names, go }
  byId('start').hidden = true
  byId('page').hidden = false
  showControls(scene, meters, browserZone)
  byId('span').textContent = spanLabel(scene)
  document.title = `${caller.account === undefined ? 'Usage' : 'Your usage'}, ${spanLabel(scene)} · Meterline`
  byId('ranking-heading').textContent = view.tenant ? 'Resources' : 'Tenants'
  const now = scene
  showTable('usage', now, loadUsage)
  panels.ranking.show(async loading => {
    const shown = await loadRanking(now, loading)
    offer('ranking', shown.table)
    // Only now it is known what the tenants are called.
    showPath(now)
    if (now.view.tenant === undefined && (now.view.by === 'tenant' || named(now)))
      showTable('usage', now, loadUsage)
    return shown
  })
  const may = (scope: string) => caller.scopes.includes(scope)
  // A way down to a tenant changes none of these.
  const days = JSON.stringify([asOf, span, view.zone])
  if (may('bill')) showTable('cost', now, loadCost, days)
  else panels.cost.hide()
  if (may('read')) showTable('coverage', now, loadCoverage, days)
  else panels.coverage.hide()
  if (may('admin') && caller.account === undefined)
    panels.pipeline.show(loading => loadPipeline(now, loading), JSON.stringify([asOf, view.zone]))
  else panels.pipeline.hide()
}

/** The chart is by tenants because the meter has nothing else to split by. */
function named({ meter }: Scene): boolean {
  return !('gpu_type' in (meter.groupBy ?? {}))
}

function showTable(
  name: 'usage' | 'cost' | 'coverage',
  now: Scene,
  load: (scene: Scene, signal: AbortSignal) => Promise<UsageShown>,
  key?: string,
): void {
  panels[name].show(async signal => {
    const shown = await load(now, signal)
    offer(name, shown.table)
    return shown
  }, key)
}

/** The CSV of what a panel shows. */
function offer(name: string, table: Table): void {
  const slug = table.caption.toLowerCase().replace(/[^a-z0-9]+/g, '-')
  byId(`${name}-csv`).replaceChildren(csvButton(slug, () => table))
}

/** Another view: into the address bar, so that going back comes back here. */
function go(view: View): void {
  history.pushState(null, '', searchOf(view) || '?')
  reopen()
}

/** Shows what the address says now. */
function reopen(): void {
  opening.abort()
  opening = new AbortController()
  const { signal } = opening
  const look = (until: AbortSignal) =>
    show(viewOf(location.search, zoneDefault(known?.accounts ?? []), isZone), until)
  look(signal).catch((error: unknown) => {
    if (signal.aborted) return
    // Says what is wrong, and then asks for the same again.
    let failed: unknown = error
    panels.start.show(async until => {
      const said = failed
      failed = undefined
      if (said !== undefined) throw said
      await look(until)
      return { content: [], said: '' }
    })
  })
}

function askForKey(why: string): void {
  for (const panel of Object.values(panels)) panel.hide()
  byId('page').hidden = true
  byId('sign-in').hidden = false
  byId('sign-in-why').textContent = takeKey() === undefined ? '' : why
  keepKey(undefined)
  byId('sign-out').hidden = true
  byId('refresh').hidden = true
  byId('who').textContent = ''
  ;(byId('key') as HTMLInputElement).focus()
}

function begin(): void {
  newest.clear()
  asOf += 1
  panels.start.show(open)
}

takeKey()
wireControls(() => scene)
byId('sign-in-form').addEventListener('submit', event => {
  event.preventDefault()
  const field = byId('key') as HTMLInputElement
  keepKey(field.value.trim())
  field.value = ''
  byId('sign-in').hidden = true
  begin()
})
byId('sign-out').addEventListener('click', () => askForKey(''))
function refresh(): void {
  newest.clear()
  asOf += 1
  reopen()
}
byId('refresh').addEventListener('click', refresh)
addEventListener('popstate', reopen)
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#key=') && takeKey() !== undefined) begin()
})
setInterval(() => {
  if (document.visibilityState === 'visible') panels.pipeline.reload()
}, pipelineEveryMs)
setInterval(() => {
  // What has ended does not change while one looks at it; a chart that is being read is left alone.
  const goesOn = scene !== undefined && scene.span.toMs > Date.now()
  if (goesOn && document.visibilityState === 'visible' && !byId('usage').matches(':focus-within, :hover'))
    reopen()
}, refreshEveryMs)
begin()
