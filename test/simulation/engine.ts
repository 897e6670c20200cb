/** What simulations run on: the real ClickHouse, a database a seed, made from a template, copied and put back as backups are; and time. */

import { existsSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { registerMeters } from '../../processor/rollups.ts'
import { Store } from '../../processor/store.ts'
import type { Meter } from '../../schemas/meters.ts'
import { cloneDatabase, startClickHouse, type TestClickHouse } from '../rig/clickhouse.ts'
import { virtualTime } from './processes.ts'

interface Server {
  readonly rig: TestClickHouse
  readonly template: Store
}

/** Worlds are small and run beside each other: a second thread for a statement would only wait for its turn. */
const small = { threadsMax: 1 }

export class Engine implements AsyncDisposable {
  readonly #servers: readonly Server[]
  readonly #time = virtualTime()
  #made = 0

  private constructor(servers: readonly Server[]) {
    this.#servers = servers
  }

  /** @param servers how many; one works on a core for most of its time */
  static async start(meters: readonly Meter[], servers = 1): Promise<Engine> {
    const started: Server[] = []
    for (let index = 0; index < servers; index += 1) started.push(await startServer(meters))
    return new Engine(started)
  }

  async open(): Promise<Tables> {
    const made = this.#made++
    const { rig, template } = this.#servers[made % this.#servers.length] ?? fail()
    let copies = 0
    return await Tables.open(rig, template, () => `${rig.database}_${made}_${copies++}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#time[Symbol.dispose]()
    for (const { rig, template } of this.#servers) {
      await template[Symbol.asyncDispose]()
      await rig.stop()
    }
  }
}

function fail(): never {
  throw new Error('an engine has a server')
}

async function startServer(meters: readonly Meter[]): Promise<Server> {
  const { TMPDIR } = process.env
  process.env.TMPDIR = fastDir()
  const rig = await startClickHouse().finally(() => {
    if (TMPDIR === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = TMPDIR
  })
  const template = await Store.open({ ...rig, database: `${rig.database}_template` })
  await registerMeters(template, meters)
  return { rig, template }
}

/** Memory where there is enough of it: what a disk forgets, the simulation decides. */
export function fastDir(): string {
  const memory = '/dev/shm'
  if (!existsSync(memory)) return tmpdir()
  const { bavail, bsize } = statfsSync(memory)
  return bavail * bsize > 2 * 1024 ** 3 ? memory : tmpdir()
}

/** The tables of one seed. */
export class Tables implements AsyncDisposable {
  readonly #rig: TestClickHouse
  readonly #template: Store
  readonly #name: () => string
  readonly #made: string[] = []
  #database: string
  #store: Store
  #copy: string | undefined

  private constructor(
    rig: TestClickHouse,
    template: Store,
    name: () => string,
    database: string,
    store: Store,
  ) {
    this.#rig = rig
    this.#template = template
    this.#name = name
    this.#database = database
    this.#store = store
    this.#made.push(database)
  }

  static async open(rig: TestClickHouse, template: Store, name: () => string): Promise<Tables> {
    const database = name()
    await cloneDatabase(template, `${rig.database}_template`, database)
    return new Tables(rig, template, name, database, await Store.open({ ...rig, database }, small))
  }

  get store(): Store {
    return this.#store
  }

  async copy(): Promise<void> {
    this.#copy = this.#name()
    this.#made.push(this.#copy)
    await cloneDatabase(this.#store, this.#database, this.#copy)
  }

  /** The last copy takes the place of what is there; it can be put back once. */
  async putBack(): Promise<void> {
    if (this.#copy === undefined) throw new Error('there is no copy')
    await this.#store[Symbol.asyncDispose]()
    this.#database = this.#copy
    this.#copy = undefined
    this.#store = await Store.open({ ...this.#rig, database: this.#database }, small)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store[Symbol.asyncDispose]()
    for (const database of this.#made) await this.#template.run(`drop database if exists ${database}`)
  }
}
