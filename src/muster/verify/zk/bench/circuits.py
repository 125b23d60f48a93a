"""What circom compiles: a Merkle path by Poseidon, and a network of whole numbers with ReLU by decomposition into bits.

Linear layers with known weights cost Groth16 no constraint at all; each ReLU costs as many as its number has bits.
"""

from muster.verify.zk.bench.networks import TrainedNetwork, Whole

LEVELS = 11
"""As ZKPerf's circuit."""


def merkle_path() -> str:
    """`root` is public; leaf and path are not. Hashes by circomlib, which is fetched, not shipped."""
    return f"""pragma circom 2.0.0;
include "../../node_modules/circomlib/circuits/poseidon.circom";
template MerklePath(levels) {{
    signal input leaf;
    signal input sibling[levels];
    signal input right[levels];
    signal output root;
    signal at[levels + 1];
    signal swap[levels];
    component hash[levels];
    at[0] <== leaf;
    for (var i = 0; i < levels; i++) {{
        right[i] * (1 - right[i]) === 0;
        swap[i] <== right[i] * (sibling[i] - at[i]);
        hash[i] = Poseidon(2);
        hash[i].inputs[0] <== at[i] + swap[i];
        hash[i].inputs[1] <== sibling[i] - swap[i];
        at[i + 1] <== hash[i].out;
    }}
    root <== at[levels];
}}
component main = MerklePath({LEVELS});
"""


def merkle_input() -> dict[str, object]:
    index = 511
    return {
        "leaf": 7,
        "sibling": [1000 + level for level in range(LEVELS)],
        "right": [index >> level & 1 for level in range(LEVELS)],
    }


def network(trained: TrainedNetwork) -> str:
    """Inputs and outputs are public, weights are constants of the circuit. Two layers."""
    (first, last), (bias, end) = trained.matrices, trained.biases
    bits = int(abs(trained.run(trained.x_SK)).max() * 64).bit_length()
    hidden, inner, outputs = len(first), first.shape[1], len(last)
    lines = [f"    relu[{i}].in <== {_sum('x', row, b)};" for i, (row, b) in enumerate(zip(first, bias, strict=True))]
    lines += [f"    y[{i}] <== {_sum('z', row, b)};" for i, (row, b) in enumerate(zip(last, end, strict=True))]
    return f"""pragma circom 2.0.0;
template ReLU(n) {{
    signal input in;
    signal output out;
    signal bit[n + 1];
    var sum = 0;
    for (var i = 0; i <= n; i++) {{
        bit[i] <-- ((in + (1 << n)) >> i) & 1;
        bit[i] * (1 - bit[i]) === 0;
        sum += bit[i] * (1 << i);
    }}
    sum === in + (1 << n);
    out <== bit[n] * in;
}}
template Network() {{
    signal input x[{inner}];
    signal output y[{outputs}];
    signal z[{hidden}];
    component relu[{hidden}];
    for (var i = 0; i < {hidden}; i++) {{ relu[i] = ReLU({bits}); }}
{chr(10).join(lines[:hidden])}
    for (var i = 0; i < {hidden}; i++) {{ z[i] <== relu[i].out; }}
{chr(10).join(lines[hidden:])}
}}
component main {{public [x]}} = Network();
"""


def _sum(name: str, row: Whole, bias: int) -> str:
    return " + ".join([*(f"({int(w)}) * {name}[{i}]" for i, w in enumerate(row)), f"({int(bias)})"])
