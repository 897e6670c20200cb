/** What who asks may see: the tenants that the account of their key pays for, or all. */
import type { Account, AccountSubject } from '../../schemas/accounts.ts'
import type { Caller } from './route.ts'

/** The usage of a subject of a source, from and until an RFC 3339 time where these are given. */
export type Tenant = AccountSubject

/**
 * The tenants that an answer is bound to, whatever else is asked for; undefined for who sees all. It is empty, and nothing
 * is seen, where the account has none or is no longer there.
 * @param accounts asked only for a key that is bound to an account, for each request anew
 */
export async function tenantsOf(
  { account: id }: Caller,
  accounts: () => Promise<readonly Account[]>,
): Promise<readonly Tenant[] | undefined> {
  if (id === undefined) return undefined
  return (await accounts()).find(account => account.id === id)?.subjects ?? []
}
