/** `POST /api/v1/events`: CloudEvents into the log. What is taken, and what is answered, is of runtime/log/ingest.ts. */
import { eventsPath, type Ingest } from '../../runtime/log/ingest.ts'
import type { Routes } from './api.ts'

export function eventRoutes({ ingest }: { readonly ingest: Ingest }): Routes {
  return app => {
    void app.register(async scope => {
      // The body is read here, in whatever type it comes, with bounds of its own.
      scope.removeAllContentTypeParsers()
      scope.addContentTypeParser('*', { bodyLimit: Number.MAX_SAFE_INTEGER }, (_request, _body, done) =>
        done(null),
      )
      // Keys say who may, and those that have one may be anywhere.
      const options = { bodyLimit: Number.MAX_SAFE_INTEGER, config: { guarded: true } }
      scope.post(eventsPath, options, async (request, reply) => {
        reply.hijack()
        await ingest.serve(request.raw, reply.raw)
      })
    })
  }
}
