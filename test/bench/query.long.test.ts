/** The benchmark of questions works: its figures are of no use here, its comparison of all sums is. */
import { expect, test, vi } from 'vitest'
import { benchQuery } from './query.ts'

test('questions are asked of both, and all sums are equal', { timeout: 120_000 }, async () => {
  const said: string[] = []
  const log = vi.spyOn(console, 'log').mockImplementation(line => void said.push(String(line)))
  try {
    await benchQuery(['short', '20000'])
  } finally {
    log.mockRestore()
  }
  expect(said.join('\n')).toContain('are equal to the last digit')
  const [, ...questions] = said.filter(line => line.startsWith('| ')).map(line => line.split('|')[1]?.trim())
  expect(questions).toEqual([
    'all subjects, by hour',
    'one type, by hour',
    'one subject, by hour',
    'one subject of one type, by hour',
    'one subject, by day',
    'all subjects, by day',
    'top 10 subjects of all of it',
    'by hour and a group, subjects put together',
  ])
})
