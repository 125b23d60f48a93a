// Powers of a secret number for Groth16 and PLONK, in the file that snarkjs reads, made by one party at once: who knows
// tau multiplies a fixed point by known numbers. A ceremony, and snarkjs, who may not know it, transform points: 2**13
// takes them minutes and this seconds. As sound as any set-up by one party: only if the verifier made it.
import { createBinFile, startWriteSection, endWriteSection, writeBigInt } from "@iden3/binfileutils";
import { getCurveFromName } from "ffjavascript";

export async function writePowers(path, power) {
  const curve = await getCurveFromName("bn128");
  const { Fr, G1, G2 } = curve;
  const [tau, alpha, beta] = [Fr.random(), Fr.random(), Fr.random()];
  const file = await createBinFile(path, "ptau", 1, 11);
  const section = async (number, write) => {
    await startWriteSection(file, number);
    await write();
    await endWriteSection(file);
  };
  const points = async (group, scalars) => {
    const times = multiplier(group, Fr);
    const size = group.F.n8 * 3;
    const all = new Uint8Array(scalars.length * size);
    scalars.forEach((one, i) => all.set(times(one), i * size));
    await file.write(await group.batchToAffine(all));
  };
  const powers = (count) => {
    const found = [Fr.one];
    while (found.length < count) found.push(Fr.mul(found.at(-1), tau));
    return found;
  };
  // L_i(tau) = (tau**n - 1) / n * w**i / (tau - w**i)  for the n-th roots of unity w**i
  const lagrange = (p) => {
    const n = 2 ** p;
    const factor = Fr.div(Fr.sub(Fr.exp(tau, n), Fr.one), Fr.e(n));
    const found = [];
    for (let i = 0, root = Fr.one; i < n; i++, root = Fr.mul(root, Fr.w[p])) {
      found.push(Fr.mul(factor, Fr.div(root, Fr.sub(tau, root))));
    }
    return found;
  };
  const scaled = (scalars, factor) => scalars.map((one) => Fr.mul(one, factor));
  const size = 2 ** power;
  const straight = powers(2 * size - 1);
  const first = straight.slice(0, size);
  const bases = [];
  for (let p = 0; p <= power; p++) bases.push(...lagrange(p));
  await section(1, async () => {
    await file.writeULE32(curve.F1.n64 * 8);
    await writeBigInt(file, curve.q, curve.F1.n64 * 8);
    await file.writeULE32(power);
    await file.writeULE32(power);
  });
  await section(2, () => points(G1, straight));
  await section(3, () => points(G2, first));
  await section(4, () => points(G1, scaled(first, alpha)));
  await section(5, () => points(G1, scaled(first, beta)));
  await section(6, () => points(G2, [beta]));
  await section(7, () => file.writeULE32(0));
  // Of the largest basis, the power x**(n - 1) is missing: each L_i is without its leading coefficient, w**i / n.
  const shorter = () => {
    const n = 2 * size;
    let leading = Fr.div(Fr.exp(tau, n - 1), Fr.e(n));
    return lagrange(power + 1).map((one) => {
      const less = Fr.sub(one, leading);
      leading = Fr.mul(leading, Fr.w[power + 1]);
      return less;
    });
  };
  await section(12, () => points(G1, [...bases, ...shorter()]));
  await section(13, () => points(G2, bases));
  await section(14, () => points(G1, scaled(bases, alpha)));
  await section(15, () => points(G1, scaled(bases, beta)));
  await file.close();
}

// Multiplies the generator: a sum of one entry for each byte of the scalar, from a table made once.
function multiplier(group, Fr) {
  const table = [];
  for (let byte = 0, step = group.one; byte < 32; byte++) {
    const row = [group.zero];
    while (row.length < 256) row.push(group.add(row.at(-1), step));
    step = group.add(row.at(-1), step);
    table.push(row);
  }
  const bytes = new Uint8Array(32);
  return (scalar) => {
    Fr.toRprLE(bytes, 0, scalar);
    return table.reduce((sum, row, i) => group.add(sum, row[bytes[i]]), group.zero);
  };
}
