/** `POST /api/v1/events`: CloudEvents into the log. What is taken, and what is answered, is of runtime/log/ingest.ts. */
import { eventsPath, type Ingest } from '../../runtime/log/ingest.ts'
import { type Routes, route } from './route.ts'

export function eventRoutes({ ingest }: { readonly ingest: Ingest }): Routes {
  return app => {
    void app.register(async scope => {
      // The body is read where it is taken, in whatever type it comes, with bounds of its own.
      scope.removeAllContentTypeParsers()
      scope.addContentTypeParser('*', { bodyLimit: Number.MAX_SAFE_INTEGER }, (_request, _body, done) =>
        done(null),
      )
      route(
        scope,
        {
          method: 'POST',
          url: eventsPath,
          scope: 'ingest',
          guarded: true,
          tags: ['events'],
          summary: 'Pushes CloudEvents',
          description:
            'One event (structured or binary) or a batch of up to 10,000. 204 says that the log has all of them. What is refused is named, one by one; the rest of a batch is taken all the same.',
          bodyMaxBytes: Number.MAX_SAFE_INTEGER,
          answers: { 204: { description: 'The log has them all.' } },
          problems: [413, 429],
        },
        async ({ request, reply }) => {
          reply.hijack()
          await ingest.serve(request.raw, reply.raw)
          return reply
        },
      )
    })
  }
}
