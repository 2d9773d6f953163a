// Whole numbers beyond 2^53, which JavaScript's own JSON rounds without a word.
//
// Invariant: a whole number that is read or written here keeps every digit.

const TOKEN = /"(?:[^"\\]+|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
const LONG = /^-?\d{16,}$/; // 2^53 has sixteen digits
const WHOLE = /^[+-]?\d+$/;

/** JSON as JSON.parse reads it, but for whole numbers of sixteen digits and more: those come as text. */
export function parse(text) {
  return JSON.parse(text.replace(TOKEN, (token) => (LONG.test(token) ? `"${token}"` : token)));
}

/** A JSON object of these values, a BigInt as a number with all its digits. */
export function encode(values) {
  const pairs = Object.entries(values).map(([name, value]) => {
    return `${JSON.stringify(name)}:${typeof value === "bigint" ? value : JSON.stringify(value)}`;
  });
  return `{${pairs}}`;
}

/** What was typed as a BigInt; the text itself where it is no whole number, so that the server can say so. */
export function whole(text) {
  return WHOLE.test(text) ? BigInt(text.replace("+", "")) : text;
}
