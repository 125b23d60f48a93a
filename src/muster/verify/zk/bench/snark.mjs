// Drives circom2 and snarkjs, which are fetched beside it: `setup SYSTEM DIR POWER` or `prove SYSTEM DIR`.
// Run by `by_snarkjs`; prints one line of JSON last. What it knows of a circuit is the file in DIR.
import * as snarkjs from "snarkjs";
import { writePowers } from "./powers.mjs";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";

const [mode, system, dir, power] = process.argv.slice(2);
const seconds = async (work) => {
  const started = performance.now();
  const result = await work();
  return [result, (performance.now() - started) / 1000];
};
const entropy = () => crypto.getRandomValues(new Uint8Array(32)).join("");
const key = `${dir}/${system}.zkey`;

async function setup() {
  const cli = "node_modules/circom2/cli.js";
  const [, compiled] = await seconds(() =>
    execFileSync(process.execPath, [cli, `${dir}/circuit.circom`, "--r1cs", "--wasm", "-o", dir], { stdio: "pipe" }));
  const tau = `tau-${power}.ptau`;
  let powers = 0;
  if (!existsSync(tau)) {
    [, powers] = await seconds(() => writePowers(`${tau}.0`, Number(power)));
    renameSync(`${tau}.0`, tau);
  }
  const { nConstraints } = await snarkjs.r1cs.info(`${dir}/circuit.r1cs`);
  const [, keys] = await seconds(async () => {
    if (system === "groth16") {
      await snarkjs.zKey.newZKey(`${dir}/circuit.r1cs`, tau, `${key}.0`);
      await snarkjs.zKey.contribute(`${key}.0`, key, "one", entropy());
    } else {
      const failed = await snarkjs.plonk.setup(`${dir}/circuit.r1cs`, tau, key);
      if (failed === -1) throw new Error("circuit too large for these powers of tau");
    }
  });
  writeFileSync(`${dir}/${system}.vk.json`, JSON.stringify(await snarkjs.zKey.exportVerificationKey(key)));
  const vk = JSON.parse(readFileSync(`${dir}/${system}.vk.json`));
  const size = system === "groth16" ? nConstraints : 2 ** vk.power;
  return { setup_s: compiled + keys, powers_s: powers, setup_bytes: statSync(key).size, size };
}

async function holds(vk, signals, proof) {
  try {
    return await snarkjs[system].verify(vk, signals, proof);
  } catch {
    return false;
  }
}

async function prove() {
  const input = JSON.parse(readFileSync(`${dir}/input.json`));
  const wasm = `${dir}/circuit_js/circuit.wasm`;
  const [{ proof, publicSignals }, prove_s] = await seconds(() => snarkjs[system].fullProve(input, wasm, key));
  const vk = JSON.parse(readFileSync(`${dir}/${system}.vk.json`));
  const [good, verify_s] = await seconds(() => holds(vk, publicSignals, proof));
  if (!good) throw new Error("its own proof does not hold");
  let accepted = 0;
  for (let i = 0; i < publicSignals.length; i++) {
    const changed = publicSignals.map((one, j) => (i === j ? String(BigInt(one) + 1n) : one));
    accepted += await holds(vk, changed, proof);
  }
  const cut = Object.fromEntries(Object.entries(proof).slice(1));
  accepted += await holds(vk, publicSignals, cut);
  if (existsSync(`${dir}/other.vk.json`)) {
    accepted += await holds(JSON.parse(readFileSync(`${dir}/other.vk.json`)), publicSignals, proof);
  }
  const proof_bytes = JSON.stringify(proof).length;
  return { prove_s, verify_ms: verify_s * 1000, proof_bytes, signals: publicSignals, accepted };
}

// A worker that finds no address space for its memory says nothing, and what waits for it never ends: Node's code 13.
process.on("exit", (code) => {
  if (code === 13) writeFileSync(2, "a worker of snarkjs found no address space; raise `ulimit -v`\n");
});
const done = await (mode === "setup" ? setup() : prove());
writeFileSync(1, "\n" + JSON.stringify(done) + "\n");
process.exit(0);
