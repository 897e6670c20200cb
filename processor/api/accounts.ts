/** `GET /api/v1/accounts`: who pays for which usage, as the configuration has them. */
import Type from 'typebox'
import { Account as ConfiguredAccount } from '../../schemas/accounts.ts'
import { Fault } from '../../schemas/fault.ts'
import { cutToPage, pageQuery } from './lists.ts'
import { type Caller, type Routes, route } from './route.ts'

const Account = Type.Object(ConfiguredAccount.properties, { additionalProperties: false, title: 'Account' })

export type Accounts = () => Promise<readonly ConfiguredAccount[]>

/** Those that a caller may know of, in order of their ids: of who is bound to one that one alone, or none. */
export async function accountsFor(caller: Caller, accounts: Accounts): Promise<readonly ConfiguredAccount[]> {
  const all = (await accounts()).filter(({ id }) => caller.account === undefined || id === caller.account)
  return all.toSorted((a, b) => (a.id < b.id ? -1 : 1))
}

/**
 * The account that is asked for.
 * @throws Fault NOT_THERE where there is none, and alike where it is not the caller's
 */
export async function accountFor(caller: Caller, accounts: Accounts, id: string): Promise<ConfiguredAccount> {
  const found = (await accountsFor(caller, accounts)).find(account => account.id === id)
  if (!found) throw new Fault('NOT_THERE', `there is no account "${id}"`)
  return found
}

export function accountRoutes({ accounts }: { readonly accounts: Accounts }): Routes {
  return app => {
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/accounts',
        scope: 'read',
        tags: ['accounts'],
        summary: 'Lists who pays',
        description: 'In order of their ids. A key that is bound to an account sees that one.',
        query: Type.Object(pageQuery, { additionalProperties: false }),
        etag: true,
        answers: { 200: { description: 'The accounts.', body: Type.Array(Account) } },
      },
      async asked => cutToPage(await accountsFor(asked.caller, accounts), asked),
    )
    route(
      app,
      {
        method: 'GET',
        url: '/api/v1/accounts/:id',
        scope: 'read',
        tags: ['accounts'],
        summary: 'Gives an account',
        params: Type.Object(
          { id: Type.String({ minLength: 1, maxLength: 128, description: 'Its id.' }) },
          { additionalProperties: false },
        ),
        etag: true,
        answers: { 200: { description: 'The account.', body: Account } },
      },
      async ({ caller, params }) => await accountFor(caller, accounts, params.id),
    )
  }
}
