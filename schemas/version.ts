/** The version of this Meterline; a test holds it against package.json. Pure. */
export const version = '0.4.0'
