/** A vitest reporter that keeps test-reports/running….json: what runs at this moment, so that run.ts can name what hung. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Reporter, TestCase, TestModule } from 'vitest/node'

/** @param part of a run that is made of several, '' where it is one */
export function runningFile(part: string): string {
  return `test-reports/${['running', part].filter(Boolean).join('-')}.json`
}

export default class Running implements Reporter {
  readonly #names = new Map<string, string>()
  readonly #file = runningFile(process.env.METERLINE_TEST_PART ?? '')

  onInit(): void {
    mkdirSync(dirname(this.#file), { recursive: true })
    this.#write()
  }
  onTestModuleQueued(module: TestModule): void {
    this.#names.set(module.id, module.relativeModuleId)
    this.#write()
  }
  onTestModuleEnd(module: TestModule): void {
    this.#names.delete(module.id)
    this.#write()
  }
  onTestCaseReady(test: TestCase): void {
    this.#names.set(test.id, `${test.module.relativeModuleId} > ${test.fullName}`)
    this.#write()
  }
  onTestCaseResult(test: TestCase): void {
    this.#names.delete(test.id)
    this.#write()
  }

  #write(): void {
    writeFileSync(this.#file, JSON.stringify([...this.#names.values()]))
  }
}
