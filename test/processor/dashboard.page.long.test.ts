/** The page in a real browser over a running Meterline: what it shows is what the API answers, to whoever looks. */
import { readFileSync } from 'node:fs'
import type { Browser, BrowserContextOptions, Locator, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { LineItem } from '../../processor/line-items.ts'
import type { UsageRow } from '../../schemas/meters.ts'
import { startChromium } from '../rig/chromium.ts'
import { type DashboardWorld, gapHours, openDashboardWorld, source, type Who } from './dashboard-world.ts'

let world: DashboardWorld
let browser: Browser
/** June as the provider sees it: tests that only look share it. */
let looking: Opened
beforeAll(async () => {
  ;[world, browser] = await Promise.all([openDashboardWorld(), startChromium()])
  looking = await openPage('provider')
})
afterAll(async () => {
  await browser?.close()
  await world?.[Symbol.asyncDispose]()
})

const june = '?range=2025-06-01..2025-06-30&zone=UTC'
const juneSpan = 'meter=gpu_hours&from=2025-06-01T00:00:00Z&to=2025-07-01T00:00:00Z'

interface Opened extends AsyncDisposable {
  readonly page: Page
  /** Whatever the page asked for, with its method. */
  readonly requests: readonly string[]
  /** What the browser refused, or had to say. */
  readonly complaints: readonly string[]
}

async function openPage(whose: Who, search = june, options: BrowserContextOptions = {}): Promise<Opened> {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    timezoneId: 'America/New_York',
    ...options,
  })
  const page = await context.newPage()
  const requests: string[] = []
  const complaints: string[] = []
  page.on('request', request => requests.push(`${request.method()} ${request.url()}`))
  page.on('console', message => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text())
  })
  page.on('pageerror', error => complaints.push(error.message))
  await page.goto(world.pageOf(whose, search))
  await page.locator('#page').waitFor()
  await settled(page)
  return { page, requests, complaints, [Symbol.asyncDispose]: () => context.close() }
}

/** Nothing is being read any longer. */
async function settled(page: Page): Promise<void> {
  await page.locator('section[aria-busy="true"]').first().waitFor({ state: 'detached' })
}

const usage = (query: string, whose: Who = 'provider') =>
  world.ask<UsageRow[]>(whose, `usage?${juneSpan}&zone=UTC${query}`)

/** As a person reads it. */
const textOf = async (place: Locator) => (await place.allInnerTexts()).join('\n')

/** Texts of the cells of a table, row by row. */
async function cells(page: Page, table: string): Promise<readonly (readonly string[])[]> {
  const rows = await page.locator(`${table} tbody tr`).all()
  return await Promise.all(
    rows.map(async row => (await row.locator('th, td').allInnerTexts()).map(text => text.trim())),
  )
}

async function csvOf(page: Page, panel: string): Promise<string> {
  const [saved] = await Promise.all([
    page.waitForEvent('download'),
    page.locator(`#${panel}-csv button`).click(),
  ])
  return readFileSync(await saved.path(), 'utf8')
}

test('usage on the page is what the API answers, to the last digit', async () => {
  const { page } = looking
  const [whole] = await usage('&groupBy=,')
  expect(whole?.value).toBe('333')
  expect(await textOf(page.locator('#usage-total'))).toBe('333 h')

  const totals = (await usage('&groupBy=gpu_type')).map(row => [row.group_by.gpu_type, `${row.value} h`])
  const legend = (await cells(page, '.legend')).map(([name, , total]) => [name, total])
  expect(legend.toSorted()).toEqual(totals.toSorted())

  await page.locator('#as').click()
  await settled(page)
  const days = await usage('&window=DAY&groupBy=gpu_type')
  expect((await cells(page, '#usage-body table')).map(row => row.slice(2))).toEqual(
    days.map(row => [row.group_by.gpu_type, row.value, 'h']),
  )
  // Not only whole hours.
  expect(days.some(({ value }) => /\.\d\d$/.test(value))).toBe(true)
  await page.locator('#as').click()
  await settled(page)

  const tenants = await usage('&groupBy=subject,organization')
  expect(
    (await cells(page, '#ranking-body table')).map(([name, value]) => [name?.split('\n')[0], value]).sort(),
  ).toEqual(tenants.map(row => [row.group_by.organization, row.value]).sort())
})

test('cost on the page is that of the line items, account by account', async () => {
  const { page } = looking
  const lines = await world.ask<LineItem[]>(
    'provider',
    'line-items?from=2025-06-01T00:00:00Z&to=2025-07-01T00:00:00Z',
  )
  expect(await textOf(page.locator('#cost-total'))).toMatch(/^723\.67\s*USD$/)
  const shown = await Promise.all(
    (await page.locator('#cost .account').all()).map(async account => {
      const name = await textOf(account.locator('.account-name'))
      const rows = await account.locator('tbody tr').all()
      return await Promise.all(
        rows.map(async row => {
          const [charge, quantity, price, amount] = await row.locator('th, td').allInnerTexts()
          return `${name} ${charge} ${quantity?.replace(/\s+/g, ' ')} ${price} ${amount}`
        }),
      )
    }),
  )
  expect(shown.flat().sort()).toEqual(
    lines
      .map(({ account, charge, quantity, unit, price, amount }) =>
        [account, charge, quantity, unit, price, amount].join(' '),
      )
      .sort(),
  )
  // The page shows it in the summary too.
  expect(await textOf(page.locator('#cost-summary dd'))).toContain('723.67 USD')
})

test('what is missing is red, with its reason, and is reached by keyboard', async () => {
  await using opened = await openPage('provider', '?range=2025-06-29..2025-07-02&zone=UTC')
  const { page } = opened
  const gap = page.getByRole('gridcell', { name: /1 Jul 2025/ })
  expect(await gap.getAttribute('class')).toContain('gap')
  expect(await page.evaluate('getComputedStyle(document.querySelector("td.gap")).backgroundColor')).toBe(
    'rgb(198, 47, 37)',
  )
  const days = await world.ask<
    { start: string; states: Record<string, number>; gaps: { code?: string }[] }[]
  >('provider', 'coverage/days?from=2025-06-29T00:00:00Z&to=2025-07-03T00:00:00Z&zone=UTC')
  const july = days.find(({ start }) => start === '2025-07-01T00:00:00Z')
  expect(july?.states.failed).toBe(2 * gapHours)

  // The map is one stop of the tab key, at the first gap; arrows walk in it.
  await page.locator('#coverage-csv button').focus()
  await page.keyboard.press('Tab')
  expect(await page.evaluate('document.activeElement.getAttribute("aria-label")')).toMatch(/1 Jul 2025/)
  const reason = page.locator('#coverage-reason')
  expect(await textOf(reason)).toContain(`${2 * gapHours} reading failed`)
  expect(await textOf(reason)).toContain(july!.gaps.find(gap => gap.code)!.code)
  await page.keyboard.press('ArrowLeft')
  expect(await textOf(reason)).toContain('30 Jun 2025: all 72 windows read')
  await page.keyboard.press('Home')
  expect(await textOf(reason)).toContain('29 Jun 2025')
  await page.keyboard.press('Tab')
  expect(await page.evaluate('document.activeElement.getAttribute("role")')).not.toBe('gridcell')
})

test('a customer sees its own, and nothing says that there is anybody else', async () => {
  await using opened = await openPage('Org-A')
  const { page, requests } = opened
  expect(await textOf(page.locator('#usage-total'))).toBe('140 h')
  expect(await textOf(page.locator('#cost-total'))).toMatch(/^346\.60\s*USD$/)
  expect(await textOf(page.locator('h1:visible'))).toBe('Your usage and cost')
  expect(await page.locator('#pipeline').isVisible()).toBe(false)
  expect(requests.filter(request => /\/api\/v1\/(status|rejected|conflicts|keys)/.test(request))).toEqual([])
  const text = await page.content()
  for (const foreign of ['Org-B', 'Org-C', 'rk29wzn', '4mx8k5n', '723.67', '333'])
    expect(text).not.toContain(foreign)
  // Also where the address names somebody else.
  await page.goto(world.pageOf('Org-A', `${june}&tenant=rk29wzn&source=${encodeURIComponent(source)}`))
  await settled(page)
  expect(await textOf(page.locator('#usage-body'))).toContain('No usage')
})

test('from a tenant to its resources and back, each view at an address of its own', async () => {
  await using opened = await openPage('provider')
  const { page } = opened
  await page.getByRole('link', { name: 'Org-B' }).click()
  await settled(page)
  const ofB = await usage('&subject=rk29wzn&groupBy=,')
  expect(await textOf(page.locator('#usage-total'))).toBe(`${ofB[0]?.value} h`)
  const resources = await usage('&subject=rk29wzn&groupBy=instance')
  expect(await page.locator('#ranking-body tbody tr').count()).toBe(resources.length)
  const [largest] = resources.toSorted((a, b) => Number(b.value) - Number(a.value))
  await page.getByRole('link', { name: largest!.group_by.instance! }).click()
  await settled(page)
  expect(await textOf(page.locator('#usage-total'))).toBe(`${largest!.value} h`)
  expect((await textOf(page.locator('#path'))).split('\n').map(text => text.trim())).toEqual([
    ...['All tenants', 'Org-B', largest!.group_by.instance],
  ])

  // The address alone brings it back, in the zone of who sent it.
  const address = page.url()
  expect(address).toContain('zone=UTC')
  expect(address).not.toContain('key')
  await page.goto('about:blank')
  await page.goto(address)
  await page.locator('#page').waitFor()
  await settled(page)
  expect(await textOf(page.locator('#usage-total'))).toBe(`${largest!.value} h`)
  await page.getByRole('navigation', { name: 'Path' }).getByRole('link', { name: 'All tenants' }).click()
  await settled(page)
  expect(await textOf(page.locator('#usage-total'))).toBe('333 h')
})

test('a CSV is what is seen', async () => {
  const { page } = looking
  const rows = await usage('&window=DAY&groupBy=gpu_type')
  expect((await csvOf(page, 'usage')).trimEnd().split('\r\n')).toEqual([
    'From,To,GPU type,GPU hours,Unit',
    ...rows.map(({ window_start, window_end, group_by, value, unit }) =>
      [window_start, window_end, group_by.gpu_type, value, unit].join(','),
    ),
  ])
  const seen = await cells(page, '#ranking-body table')
  const saved = (await csvOf(page, 'ranking')).trimEnd().split('\r\n').slice(1)
  expect(saved.map(line => line.split(',')).map(([name, , , value, share]) => [name, value, share])).toEqual(
    seen.map(([name, value, share]) => [name?.split('\n')[0], value, share]),
  )
  expect(await csvOf(page, 'cost')).toContain('Org-C,gpu.h100,,33,GPU-Hours,2.99,98.67,USD')
})

test('nothing leaves the machine, nothing is refused by the policy, and the key leaves the address', async () => {
  const { page, requests, complaints } = looking
  await page.locator('#theme').click()
  await page.locator('#by').selectOption('tenant')
  await settled(page)
  await page.locator('.plot').focus()
  await page.keyboard.press('ArrowRight')
  await page.locator('#by').selectOption('gpu_type')
  await settled(page)
  expect(complaints).toEqual([])
  expect(requests.length).toBeGreaterThan(10)
  expect(
    requests.filter(request => !request.startsWith(`GET ${world.url}/`) && !request.includes('blob:')),
  ).toEqual([])
  expect(requests.filter(request => request.includes('key-of'))).toEqual([])
  expect(page.url()).not.toContain('key')
  const policy = (await page.request.get(world.url)).headers()['content-security-policy']
  expect(policy).toContain("default-src 'none'")
  expect(policy).not.toContain('unsafe')
})

test('the chart is read by keyboard, window by window', async () => {
  const { page } = looking
  const days = await usage('&window=DAY&groupBy=gpu_type')
  await page.getByRole('application').focus()
  await page.keyboard.press('Home')
  const said = await textOf(page.locator('#announcements'))
  expect(said).toContain('1 Jun 2025: ')
  for (const row of days.filter(({ window_start }) => window_start === '2025-06-01T00:00:00Z'))
    expect(said).toContain(`${row.group_by.gpu_type} ${row.value} h`)
  await page.keyboard.press('End')
  expect(await textOf(page.locator('#announcements'))).toContain('30 Jun 2025')
  // The legend is of buttons that hide and show.
  const key = page.getByRole('button', { name: 'H100' })
  await key.press('Enter')
  expect(await key.getAttribute('aria-pressed')).toBe('false')
  await key.press('Enter')
  expect(await key.getAttribute('aria-pressed')).toBe('true')
})

test('the chart is drawn in the colours of its legend, in light and in dark', async () => {
  const { page } = looking
  const drawn = async () =>
    (await page.evaluate(`(() => {
      const { data } = (canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height))(
        document.querySelector('.plot canvas'))
      const colours = new Set()
      for (let at = 0; at < data.length; at += 4)
        if (data[at + 3] === 255) colours.add('rgb(' + data.slice(at, at + 3).join(', ') + ')')
      return [...document.querySelectorAll('.swatch')].map(one => getComputedStyle(one).backgroundColor)
        .map(colour => [colour, colours.has(colour)])
    })()`)) as readonly (readonly [string, boolean])[]
  const before = await drawn()
  await page.locator('#theme').click()
  const after = await drawn()
  for (const [colour, isDrawn] of [...before, ...after])
    expect(`${colour} ${isDrawn}`).toMatch(/^rgb.* true$/)
  expect(before.length).toBe(3)
  for (const [index, [colour]] of after.entries()) expect(colour).not.toBe(before[index]?.[0])
})

test('a phone needs no scrolling to the side', async () => {
  const { page } = looking
  await page.setViewportSize({ width: 360, height: 800 })
  const widths = await page.evaluate('[document.documentElement.scrollWidth, innerWidth]')
  expect(widths).toEqual([360, 360])
  expect(await page.locator('#usage-total').isVisible()).toBe(true)
})
