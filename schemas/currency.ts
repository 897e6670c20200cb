/** The currencies of ISO 4217 and how many decimals each has. Pure data. */

/**
 * National currencies and funds; metals, the testing code and XXX are no money one is billed in. The last line
 * are codes that ended since 2020: a period closed in one of them is still re-rated.
 */
const codes = `
  AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD
  CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL
  GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW
  KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD
  NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP
  SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS
  VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
  ANG BGN CUC HRK SLL ZWL`

/** Currencies with other than two decimals. */
const unusualMinorDigits: readonly (readonly [number, string])[] = [
  [0, 'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF'],
  [3, 'BHD IQD JOD KWD LYD OMR TND'],
  [4, 'CLF UYW'],
]

const minorDigitsByCode = new Map(words(codes).map(code => [code, 2]))
for (const [minorDigits, list] of unusualMinorDigits)
  for (const code of words(list)) minorDigitsByCode.set(code, minorDigits)

/** How many decimals an amount of the currency has, or undefined where ISO 4217 knows no such code. */
export function minorDigitsOf(currency: string): number | undefined {
  return minorDigitsByCode.get(currency)
}

export const currencies: readonly string[] = [...minorDigitsByCode.keys()]

function words(text: string): readonly string[] {
  return text.trim().split(/\s+/)
}
