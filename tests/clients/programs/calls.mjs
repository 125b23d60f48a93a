// Runs the calls of one client's program and says of each how it went, one JSON line each. Knows no client.
// The twin of calls.py, for Node.

export const URL = process.env.MUSTER_URL;
export const MODEL = process.env.MUSTER_MODEL;
export const KEY = process.env.MUSTER_KEY ?? "unused";

export async function runCalls(calls) {
  let good = true;
  for (const [name, call] of Object.entries(calls)) {
    const began = performance.now();
    let error = "";
    try {
      await call();
    } catch (caught) {
      console.error(caught);
      error = String(caught).slice(0, 500);
    }
    good &&= !error;
    console.log(JSON.stringify({ call: name, error, seconds: Number(((performance.now() - began) / 1000).toFixed(2)) }));
  }
  process.exit(good ? 0 : 1);
}

export function check(condition, what) {
  if (!condition) throw new Error(what);
}
