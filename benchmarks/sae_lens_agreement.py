"""Do saved coders mean the same to SAELens itself?

    python benchmarks/sae_lens_agreement.py STORE CODER... --peer PYTHON

PYTHON is the interpreter of an environment of its own with `sae-lens`. Encodes and decodes raw activations of STORE with
saescope and with `sae_lens.SAE.load_from_disk`, and prints the largest differences relative to the values' maximum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = 1e-4

PEER = """
import json, sys
import sae_lens
import torch
from safetensors.torch import load_file

folder, given = sys.argv[1:]
tensors = load_file(given)
sae = sae_lens.SAE.load_from_disk(folder)
with torch.no_grad():
    codes = sae.encode(tensors["x"])
    # A skip transcoder's output depends on its input as well.
    x_hat = sae(tensors["x"])
def relative(mine, theirs):
    return float((mine - theirs).abs().max() / theirs.abs().max())
print(json.dumps({
    "sae_lens": sae_lens.__version__,
    "class": type(sae).__name__,
    "encode": relative(tensors["codes"], codes),
    "decode": relative(tensors["x_hat"], x_hat),
    "l0": float((codes != 0).float().sum(1).mean()),
}))
"""


def main() -> int:
    import torch
    from safetensors.torch import save_file

    import saescope

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("coders", nargs="+", type=Path)
    parser.add_argument("--peer", required=True, help="Python of an environment with sae-lens")
    parser.add_argument("--tokens", type=int, default=2048)
    given = parser.parse_args()
    worst = 0.0
    for folder in given.coders:
        coder = saescope.load(folder)
        stream = saescope.StoreStream(saescope.Store.open(given.store), [part.point for part in coder.reads])
        x = stream.held_out_rows(given.tokens).float()
        with torch.no_grad(), tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            codes = coder.encode(x)
            save_file({"x": x, "codes": codes.dense(), "x_hat": coder.decode(codes, x)}, file.name)
            done = subprocess.run(
                [given.peer, "-c", PEER, str(folder), file.name], capture_output=True, text=True, check=False
            )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found = json.loads(done.stdout.strip().splitlines()[-1])
        worst = max(worst, found["encode"], found["decode"])
        print(f"{folder}: {found['class']} of sae-lens {found['sae_lens']}, L0 {found['l0']:.2f}: "
              f"encode {found['encode']:.1e}, decode {found['decode']:.1e} of the maximum")  # fmt: skip
    print(f"largest difference {worst:.1e}, target {TARGET:.0e}: {'agrees' if worst <= TARGET else 'DISAGREES'}")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
