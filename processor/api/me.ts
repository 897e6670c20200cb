/** `GET /api/v1/me`: whom the API takes the caller for. A page knows by it what it need not ask for. */
import Type from 'typebox'
import { type Routes, route } from './route.ts'

const Me = Type.Object(
  {
    name: Type.String({ description: 'Of the key; empty where none was needed.' }),
    scopes: Type.Array(Type.String(), { description: 'What the key may.' }),
    account: Type.Optional(
      Type.String({ description: 'The account that the key is bound to: it sees nothing of others.' }),
    ),
  },
  { additionalProperties: false, title: 'Me' },
)

export function meRoutes(): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/me',
        scope: 'any',
        tags: ['keys'],
        summary: 'Says whom the API takes the caller for',
        answers: { 200: { description: 'The caller.', body: Me } },
      },
      async ({ caller: { name, scopes, account } }) => ({
        name,
        scopes: [...scopes],
        ...(account !== undefined && { account }),
      }),
    )
  }
}
