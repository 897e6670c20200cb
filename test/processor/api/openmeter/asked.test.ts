/** What a query asks, as each of OpenMeter's clients writes it: the JS client by its own serializer, Python's by its `repr`. */
import { OpenMeter } from '@openmeter/sdk'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { askedInAddress, askedInBody, readDict } from '../../../../processor/api/openmeter/asked.ts'
import { AddressParameters } from '../../../../processor/api/openmeter/query.ts'
import { partChecker, type Unfit } from '../../../../processor/api/route.ts'

/** As `repr` of Python prints a text: in single quotes unless only these stand in it; what cannot be printed, escaped. */
function repr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = Array.from(text, character => {
    const code = character.codePointAt(0)!
    if (character === quote || character === '\\') return `\\${character}`
    if (character === '\n') return '\\n'
    if (character === '\r') return '\\r'
    if (character === '\t') return '\\t'
    const hex = (digits: number) => code.toString(16).padStart(digits, '0')
    if (code < 32 || (code >= 127 && code < 161) || code === 173) return `\\x${hex(2)}`
    if (/[\p{C}\p{Zl}\p{Zp}]|[^\S ]/u.test(character)) return code > 0xffff ? `\\U${hex(8)}` : `\\u${hex(4)}`
    return character
  })
  return `${quote}${escaped.join('')}${quote}`
}

const text = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: 'binary' }),
  fc.constantFrom("it's", '"', `'"`, '\\', '\n'),
)
const dims = fc.dictionary(
  text.filter(name => name !== '__proto__'),
  text,
  { noNullPrototype: true },
)

test("a dict as Python's client prints it is read as it was", () => {
  fc.assert(
    fc.property(dims, filters => {
      const printed = `{${Object.entries(filters)
        .map(([dim, value]) => `${repr(dim)}: ${repr(value)}`)
        .join(', ')}}`
      expect(readDict(printed)).toEqual(filters)
    }),
  )
  fc.assert(
    fc.property(text, fc.array(text), (dim, values) => {
      fc.pre(dim !== '__proto__')
      expect(readDict(`{${repr(dim)}: [${values.map(repr).join(', ')}]}`)).toEqual({ [dim]: values })
    }),
  )
})

test('what is no such dict is none, whatever it is', () => {
  for (const wrong of [
    '',
    '{',
    '{}x',
    "{'a'}",
    "{'a': }",
    "{'a': 'b',}",
    "{'a': 1}",
    "{'a': 'b'",
    "{'a': '\\q'}",
    "{a: 'b'}",
    "{'a': ['b'}",
  ])
    expect(readDict(wrong), wrong).toBeUndefined()
  fc.assert(fc.property(text, any => void readDict(any)))
})

describe('the parameters of an address', () => {
  /** What the JS client writes into the address. */
  const written = async (query: Record<string, unknown>): Promise<string> => {
    let address = ''
    const fetch = async ({ url }: Request) => {
      address = new URL(url).search.slice(1)
      return Response.json({ data: [] })
    }
    const client = new OpenMeter({ baseUrl: 'http://localhost', fetch })
    await client.meters.query('any', query as Parameters<typeof client.meters.query>[1])
    return address
  }
  const check = partChecker({ schema: AddressParameters, httpPart: 'querystring' })
  /** As Fastify hands them over. */
  const read = (address: string) => {
    const raw: Record<string, unknown> = {}
    for (const [name, value] of new URLSearchParams(address))
      raw[name] = name in raw ? [raw[name], value].flat() : value
    const checked = check(raw)
    if ('error' in checked) throw checked.error
    return askedInAddress(checked.value as Parameters<typeof askedInAddress>[0])
  }
  // A name in brackets is for whoever made a dim of one.
  const dim = fc.stringMatching(/^[A-Za-z0-9_]{1,10}$/).filter(name => name !== '__proto__')
  const some = fc.stringMatching(/^[^\s]{1,10}$/)

  test('say the same as the body, from the JS client and from that of Python', async () => {
    const query = fc.record(
      {
        from: fc.constant('2026-02-01T00:00:00.000Z'),
        to: fc.constant('2026-03-01T00:00:00.000Z'),
        windowSize: fc.constantFrom('MINUTE' as const, 'HOUR' as const, 'DAY' as const, 'MONTH' as const),
        windowTimeZone: fc.constantFrom('Asia/Kathmandu', 'UTC'),
        subject: fc.array(some, { minLength: 1, maxLength: 3 }),
        groupBy: fc.array(fc.oneof(dim, fc.constant('subject')), { minLength: 1, maxLength: 3 }),
        filterGroupBy: fc.dictionary(dim, some, { minKeys: 1, maxKeys: 3, noNullPrototype: true }),
      },
      { requiredKeys: [] },
    )
    await fc.assert(
      fc.asyncProperty(query, async ({ filterGroupBy, ...rest }) => {
        const lists =
          filterGroupBy &&
          Object.fromEntries(Object.entries(filterGroupBy).map(([name, value]) => [name, [value]]))
        const asked = askedInBody({ ...rest, ...(lists && { filterGroupBy: lists }) } as Parameters<
          typeof askedInBody
        >[0])
        expect(read(await written({ ...rest, ...(filterGroupBy && { filterGroupBy }) }))).toEqual(asked)
        const printed = filterGroupBy && {
          filterGroupBy: `{${Object.entries(filterGroupBy)
            .map(([name, value]) => `${repr(name)}: ${repr(value)}`)
            .join(', ')}}`,
        }
        expect(read(await written({ ...rest, ...printed }))).toEqual(asked)
        expect(
          read(await written({ ...rest, ...(lists && { filterGroupBy: JSON.stringify(lists) }) })),
        ).toEqual(asked)
      }),
    )
  })

  test('a dim that is filtered twice has any of the values, and the filter as well', () => {
    const advanced = JSON.stringify({ gpu: { $ne: 'H100', $eq: null }, model: { $or: [{ $like: 'a%' }] } })
    const address = `filterGroupBy[gpu]=H100&filterGroupBy[gpu]=L40&advancedMeterGroupByFilters=${encodeURIComponent(advanced)}`
    expect(read(address)).toEqual({
      zone: 'UTC',
      groupBy: [],
      bySubject: false,
      where: {
        gpu: { $and: [{ $in: ['H100', 'L40'] }, { $ne: 'H100' }] },
        model: { $or: [{ $like: 'a%' }] },
      },
    })
  })

  test('subjects are told apart where some are asked for, or where they are to be', () => {
    expect(read('subject=a&subject=b&subject=a')).toMatchObject({
      subjects: ['a', 'b'],
      bySubject: true,
      groupBy: [],
    })
    expect(read('groupBy=subject&groupBy=gpu')).toMatchObject({ bySubject: true, groupBy: ['gpu'] })
    expect(read('groupBy=gpu')).toMatchObject({ bySubject: false, groupBy: ['gpu'] })
  })

  test.each([
    ['from=2026', 'query from'],
    ['from=2026-02-01T00:00:00Z&to=2026-02-01T00:00:00Z', 'query to'],
    ['windowTimeZone=Mars', 'query windowTimeZone'],
    ['filterCustomerId=01G65Z755AFWAKHE12NY0CQ9FH', 'query filterCustomerId'],
    ['filterGroupBy={gpu', 'query filterGroupBy'],
    ['filterGroupBy={"gpu": 1}', 'query filterGroupBy'],
    ['advancedMeterGroupByFilters={', 'query advancedMeterGroupByFilters'],
    ['advancedMeterGroupByFilters=[1]', 'query advancedMeterGroupByFilters'],
    ['advancedMeterGroupByFilters={"gpu":{"$eq":1}}', 'query advancedMeterGroupByFilters/gpu/$eq'],
    ['advancedMeterGroupByFilters={"gpu":{"$near":"x"}}', 'query advancedMeterGroupByFilters/gpu/$near'],
    ['advancedMeterGroupByFilters={"gpu":{}}', 'query advancedMeterGroupByFilters/gpu'],
    ['advancedMeterGroupByFilters={"gpu":{"$like":"x\\\\"}}', 'query advancedMeterGroupByFilters/gpu'],
  ])('%s is refused, and %s named', (address, field) => {
    const misfits = () => {
      try {
        read(address)
      } catch (error) {
        return (error as Unfit).misfits.map(misfit => misfit.field)
      }
      return []
    }
    expect(misfits()).toEqual([field])
  })
})
