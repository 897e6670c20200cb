/** `POST /api/v1/events`: CloudEvents into the log. What is taken, and what is answered, is of runtime/log/ingest.ts. */
import Type from 'typebox'
import { eventsPath, type Ingest } from '../../runtime/log/ingest.ts'
import { type Routes, route } from './route.ts'

const text = (description: string) => Type.String({ minLength: 1, description })

/** What it says of CloudEvents is for people: the one who reads them knows more. */
const CloudEvent = Type.Object(
  {
    specversion: Type.Literal('1.0'),
    id: text('With `source` it names the event: the first of a name counts.'),
    source: text('A URI reference of the application.'),
    type: text('What happened.'),
    subject: Type.Optional(text('Whose usage it is.')),
    time: Type.Optional(
      Type.String({
        format: 'date-time',
        description: 'When it happened; when it came where it is not said.',
      }),
    ),
    datacontenttype: Type.Optional(Type.String({ description: 'application/json.' })),
    dataschema: Type.Optional(Type.String()),
    data: Type.Optional(Type.Unknown({ description: 'JSON: what meters count is in it.' })),
  },
  { title: 'CloudEvent', description: 'A CloudEvent 1.0; extension attributes are kept.' },
)
const Batch = Type.Array(CloudEvent, { maxItems: 10_000 })

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
          reads: {
            'application/cloudevents+json': CloudEvent,
            'application/cloudevents-batch+json': Batch,
            'application/json': Type.Union([CloudEvent, Batch]),
          },
          answers: { 204: { description: 'The log has them all.' } },
        },
        async ({ request, reply }) => {
          reply.hijack()
          reply.raw.setHeader('x-request-id', request.id)
          await ingest.serve(request.raw, reply.raw)
          return reply
        },
      )
    })
  }
}
