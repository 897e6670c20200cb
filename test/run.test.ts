/** How the test run is counted: nothing that failed or did not run is lost from the last line. */
import { describe, expect, test } from 'vitest'
import { addTallies, countReport, type Report } from './run.ts'

const file = (name: string, status: string, ...tests: string[]): Report['testResults'][number] => ({
  name,
  status,
  assertionResults: tests.map((outcome, index) => ({ fullName: `test ${index}`, status: outcome })),
})

describe('a report is counted', () => {
  const inCi = { skippedFail: true }

  test('by its tests, over all files', () => {
    const report = {
      success: false,
      testResults: [file('a', 'passed', 'passed', 'passed'), file('b', 'failed', 'passed', 'failed')],
    }
    expect(countReport(report, inCi)).toEqual({ passed: 3, failed: 1, remarks: [] })
  })

  test('a test that did not run fails in CI and is named, and elsewhere is only named', () => {
    const report = {
      success: true,
      testResults: [file('a', 'passed', 'passed', 'pending', 'todo', 'skipped')],
    }
    const remarks = ['not run: a > test 1', 'not run: a > test 2', 'not run: a > test 3']
    expect(countReport(report, inCi)).toEqual({ passed: 1, failed: 3, remarks })
    expect(countReport(report, { skippedFail: false })).toEqual({ passed: 1, failed: 0, remarks })
  })

  test('a file that could not be loaded is one failure, and is named', () => {
    const report = { success: false, testResults: [file('a', 'passed', 'passed'), file('b', 'failed')] }
    expect(countReport(report, inCi)).toEqual({
      passed: 1,
      failed: 1,
      remarks: ['failed outside its tests: b'],
    })
  })

  test('an error outside of every file is one failure', () => {
    const report = { success: false, testResults: [file('a', 'passed', 'passed')] }
    expect(countReport(report, inCi)).toMatchObject({ passed: 1, failed: 1 })
  })

  test('no test at all is a failure', () => {
    expect(countReport({ success: true, testResults: [] }, inCi)).toMatchObject({ passed: 0, failed: 1 })
  })
})

test('tallies add up', () => {
  const sum = addTallies([
    { passed: 2, failed: 0, remarks: [] },
    { passed: 1, failed: 3, remarks: ['a'] },
    { passed: 0, failed: 1, remarks: ['b', 'c'] },
  ])
  expect(sum).toEqual({ passed: 3, failed: 4, remarks: ['a', 'b', 'c'] })
})
