/** The page when something is wrong, to who may see less, in light and dark, and to a screen reader; and that of the demo itself. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startChromium } from '../rig/chromium.ts'
import { start } from '../rig/meterline.ts'
import { type DashboardWorld, openDashboardWorld } from './dashboard-world.ts'

let world: DashboardWorld
let browser: Browser
beforeAll(async () => {
  ;[world, browser] = await Promise.all([openDashboardWorld(), startChromium()])
})
afterAll(async () => {
  await browser?.close()
  await world?.[Symbol.asyncDispose]()
})

const june = '?range=2025-06-01..2025-06-30&zone=UTC'

async function settled(page: Page): Promise<void> {
  await page.locator('#page').waitFor()
  await page.locator('section[aria-busy="true"]').first().waitFor({ state: 'detached' })
}

test('without a key it asks for one; a wrong one is said to be wrong, and the right one opens the page', async () => {
  const page = await browser.newPage()
  await page.goto(world.url + june)
  const field = page.getByLabel('API key')
  await field.waitFor()
  expect(await page.evaluate('document.activeElement.id')).toBe('key')
  expect(await page.locator('.top-actions button:visible').allInnerTexts()).toEqual(['Dark'])
  await field.fill('mtl_of_nobody_at_all')
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('alert').filter({ hasText: /key/ }).waitFor()
  expect(await page.locator('#page').isVisible()).toBe(false)
  await field.fill(decodeURIComponent(world.pageOf('provider').split('key=')[1]!))
  await page.keyboard.press('Enter')
  await settled(page)
  expect(await page.locator('#usage-total').count()).toBe(1)
  // It is forgotten with the tab, and when that is asked for.
  await page.getByRole('button', { name: 'Sign out' }).click()
  expect(await page.evaluate('sessionStorage.length')).toBe(0)
  expect(await page.locator('#page').isVisible()).toBe(false)
  await page.close()
})

test('a key shows what it may: without bill no cost, without admin no pipeline, to push nothing at all', async () => {
  const page = await browser.newPage()
  await page.goto(world.pageOf('reader', june))
  await settled(page)
  expect(await page.locator('#cost').isVisible()).toBe(false)
  expect(await page.locator('#pipeline').isVisible()).toBe(false)
  expect(await page.locator('#coverage').isVisible()).toBe(true)
  await page.close()
  const other = await browser.newPage()
  await other.goto(world.pageOf('pusher', june))
  await other.getByRole('alert').filter({ hasText: 'This key may not see this' }).waitFor()
  expect(await other.getByRole('alert').filter({ hasText: 'scope read' }).count()).toBe(1)
  await other.close()
})

test('a busy server and a lost connection are said, and come back by themselves', async () => {
  const page = await browser.newPage()
  let answers: 'busy' | 'away' | 'well' = 'busy'
  await page.route('**/api/v1/usage?*', async route => {
    if (answers === 'well') return await route.continue()
    if (answers === 'away') return await route.abort()
    await route.fulfill({
      status: 503,
      headers: { 'retry-after': '1', 'content-type': 'application/problem+json' },
      body: JSON.stringify({
        title: 'Service Unavailable',
        detail: 'Too many ask at once.',
        code: 'QUERY_BUSY',
      }),
    })
  })
  await page.goto(world.pageOf('provider', `${june}&meter=gpu_hours`))
  const trouble = page.locator('#usage').getByRole('alert')
  await trouble.filter({ hasText: 'Too many ask at once.' }).waitFor()
  await trouble.filter({ hasText: 'asked again by itself in 1 second' }).waitFor()
  // The others are not taken along.
  await page.locator('#cost-total').waitFor()
  answers = 'away'
  await trouble.filter({ hasText: 'No connection' }).waitFor()
  answers = 'well'
  await page.locator('#usage-total').waitFor()
  expect(await page.locator('#usage').getByRole('alert').count()).toBe(0)
  await page.close()
})

test('a range without usage says so, and where to look', async () => {
  const page = await browser.newPage()
  await page.goto(world.pageOf('provider', '?range=2024-01-01..2024-01-31&zone=UTC'))
  await settled(page)
  await page.getByText('No usage from 1 Jan 2024 to 31 Jan 2024').waitFor()
  await page.getByText('No source was asked').waitFor()
  await page.getByText('Nothing is charged').waitFor()
  await page.close()
})

test('what is wrong with the pipeline stands in words, first', async () => {
  world.health.report('log', 'LOG_UNREACHABLE broker-1 does not answer')
  const page = await browser.newPage()
  await page.goto(world.pageOf('provider', june))
  await settled(page)
  await page.getByRole('list', { name: 'What is wrong' }).getByText('LOG_UNREACHABLE broker-1').waitFor()
  expect((await page.locator('#pipeline-summary').allInnerTexts()).join()).toContain('1 wrong')
  world.health.report('log', undefined)
  await page.getByRole('button', { name: 'Refresh' }).click()
  await page.locator('#pipeline-summary').filter({ hasText: 'All well' }).waitFor()
  await page.close()
})

test('a screen reader finds landmarks, headings and names, and each control has one', async () => {
  const page = await browser.newPage()
  await page.goto(world.pageOf('provider', june))
  await settled(page)
  const tree = await page.locator('body').ariaSnapshot()
  for (const line of [
    '- banner',
    '- main',
    '- contentinfo',
    '- heading "Usage and cost" [level=1]',
    '- navigation "Path"',
    '- region "Usage over time"',
    '- region "Cost"',
    '- region "Coverage"',
    '- grid "Coverage by source and day"',
    '- combobox "Meter"',
    '- combobox "Time zone"',
    '- group "Range"',
    '- table "Legend with totals"',
  ])
    expect(tree).toContain(line)
  const nameless = (await page.evaluate(`[...document.querySelectorAll('button, select, input, a')]
    .filter(one => one.checkVisibility())
    .filter(one => !one.getAttribute('aria-label') && !one.textContent.trim() && !(one.labels && one.labels.length))
    .map(one => one.outerHTML)`)) as string[]
  expect(nameless).toEqual([])
  // By keyboard alone: the first stop leads past the head, and what has the focus shows it.
  await page.evaluate('document.activeElement.blur()')
  await page.keyboard.press('Tab')
  expect(await page.evaluate('document.activeElement.className')).toBe('skip')
  const seen = new Set<string>()
  for (let stops = 0; stops < 60; stops += 1) {
    await page.keyboard.press('Tab')
    const [name, outline] = (await page.evaluate(
      '[document.activeElement.id || document.activeElement.className, getComputedStyle(document.activeElement).outlineStyle]',
    )) as [string, string]
    seen.add(name)
    if (name !== '') expect(`${name} ${outline}`).not.toMatch(/ none$/)
  }
  for (const id of ['meter', 'zone', 'first', 'last', 'by', 'window', 'as', 'plot'])
    expect([...seen]).toContain(id)
  await page.close()
})

test.each(['light', 'dark'] as const)(
  'text stands out from what is behind it, by 4.5 at least: %s',
  async colorScheme => {
    const page = await browser.newPage({ colorScheme })
    await page.goto(world.pageOf('provider', '?range=2025-06-29..2025-07-02&zone=UTC'))
    await settled(page)
    // The fade of what was just read is over.
    await page.waitForTimeout(400)
    const faint = (await page.evaluate(`(() => {
    const channels = text => text.match(/[\\d.]+/g).map(Number)
    const light = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      return 0.2126 * x + 0.7152 * y + 0.0722 * z
    }
    const behind = one => {
      for (let at = one; at; at = at.parentElement) {
        const found = channels(getComputedStyle(at).backgroundColor)
        if (found[3] === undefined || found[3] > 0.99) return found
      }
      return [255, 255, 255]
    }
    return [...document.querySelectorAll('body *')]
      .filter(one => one.checkVisibility() && !one.closest('.unseen') && !one.matches('.skip, option, optgroup'))
      .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
      .map(one => {
        const [a, b] = [light(channels(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x)
        return [one.outerHTML.slice(0, 120), (a + 0.05) / (b + 0.05)]
      })
      .filter(([, ratio]) => ratio < 4.5)
  })()`)) as unknown[]
    expect(faint).toEqual([])
    await page.close()
  },
)

test('the page of the API shows every operation and asks it with a key, from nowhere but here', async () => {
  const page = await browser.newPage()
  const complaints: string[] = []
  page.on('console', message => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text())
  })
  page.on('pageerror', error => complaints.push(error.message))
  page.on('request', request => {
    if (!request.url().startsWith(`${world.url}/`) && !request.url().startsWith('data:'))
      complaints.push(request.url())
  })
  await page.goto(`${world.url}/api/docs`)
  await page.locator('.opblock').first().waitFor()
  const { paths } = (await (await fetch(`${world.url}/api/openapi.json`)).json()) as {
    readonly paths: Readonly<Record<string, object>>
  }
  const declared = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`),
  )
  expect(declared.length).toBeGreaterThan(25)
  const shown = (await page.evaluate(`[...document.querySelectorAll('.opblock')].map(one =>
    one.querySelector('.opblock-summary-method').textContent + ' ' +
    one.querySelector('.opblock-summary-path').dataset.path)`)) as string[]
  expect(shown.toSorted()).toEqual(declared.toSorted())

  await page.getByRole('button', { name: 'Authorize' }).click()
  const key = decodeURIComponent(world.pageOf('reader').split('key=')[1]!)
  await page.locator('.auth-container input').fill(key)
  await page.locator('.auth-btn-wrapper .authorize').click()
  await page.locator('.auth-btn-wrapper .btn-done').click()
  const operation = page.locator('.opblock').filter({ has: page.locator('[data-path="/api/v1/me"]') })
  await operation.locator('.opblock-summary-control').click()
  await operation.getByRole('button', { name: 'Try it out' }).click()
  await operation.getByRole('button', { name: 'Execute' }).click()
  const answer = operation.locator('.live-responses-table')
  await answer.filter({ hasText: '"reader"' }).waitFor()
  expect(complaints).toEqual([])
  await page.close()
})

test('npm start ends with the address of a page that makes sense of June 2025', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'meterline-demo-page-'))
  try {
    await using demo = start(['demo', '--data', dir])
    const addressOf = (name: string) => new RegExp(`^${name}: (http\\S+)$`, 'm').exec(demo.stderr())?.[1]
    await expect.poll(() => addressOf('as Org-A sees it'), { timeout: 90_000 }).toBeDefined()
    const page = await browser.newPage({ timezoneId: 'Asia/Tokyo' })
    await page.goto(addressOf('the page')!)
    await settled(page)
    // The newest month with usage, in the zone of the invoices.
    expect((await page.locator('#span').allInnerTexts()).join()).toBe('1 Jun 2025 to 30 Jun 2025')
    expect((await page.locator('#usage-total').allInnerTexts()).join()).toBe('333 h')
    expect((await page.locator('#cost-total').allInnerTexts()).join()).toMatch(/723\.67\s*USD/)
    await page.goto('about:blank')
    await page.goto(addressOf('as Org-A sees it')!)
    await settled(page)
    expect((await page.locator('#usage-total').allInnerTexts()).join()).toBe('140 h')
    await page.close()
    expect(await demo.stop()).toBe(0)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
