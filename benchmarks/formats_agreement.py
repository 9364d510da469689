"""Do exported coders mean the same to the packages that they are exported for?

    python benchmarks/formats_agreement.py DIR --python PYTHON

Writes a random coder of every architecture and kind into DIR, for every format that has a place for it. PYTHON is the
interpreter of an environment of its own with `sae-lens`, `dictionary-learning` and `eai-sparsify`: there the format's own
package loads each, encodes and decodes the same activations, and the largest differences relative to the values' maximum are
printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

TARGET = 1e-4
D_IN, D_SAE, D_OUT, TOKENS = 48, 160, 40, 512

# Each reads one folder and gives codes [tokens, d_sae] and x_hat [tokens, d_out] of x.
PEER = """
import json, sys
from importlib.metadata import version
from pathlib import Path
import torch
from safetensors.torch import load_file

def of_sae_lens(folder, x):
    import sae_lens
    sae = sae_lens.SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)

def of_dictionary_learning(folder, x):
    from dictionary_learning.utils import load_dictionary
    ae, _ = load_dictionary(folder, "cpu")
    return ae.encode(x), ae(x)

def of_sparsify(folder, x):
    from sparsify import SparseCoder
    coder = SparseCoder.load_from_disk(folder)
    values, indices, _ = coder.encode(x)
    return torch.zeros(x.shape[0], coder.num_latents).scatter(1, indices, values), coder(x).sae_out

PACKAGES = {"sae_lens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify"}
READERS = {"sae_lens": of_sae_lens, "saescope": of_sae_lens, "sparsify": of_sparsify}
READERS["dictionary_learning"] = of_dictionary_learning

def relative(mine, theirs):
    return float((mine - theirs).abs().max() / theirs.abs().max())

for given in sys.argv[1:]:
    folder = Path(given)
    values = load_file(folder.with_suffix(".safetensors"))
    with torch.no_grad():
        codes, x_hat = READERS[folder.parent.name](str(folder), values["x"])
    package = PACKAGES.get(folder.parent.name, "sae-lens")
    print("FOUND " + json.dumps({
        "folder": str(folder), "package": f"{package} {version(package)}", "l0": float((codes != 0).float().sum(1).mean()),
        "encode": relative(values["codes"], codes), "decode": relative(values["x_hat"], x_hat),
    }))
"""


def coders() -> dict[str, object]:
    """Random coders of every kind by name, thresholds and biases such that some latents are active."""
    import torch

    from saescope.coders import Slice, SparseCoder, TokenNorm, make_architecture

    options = {"topk": {"k": 8}, "abstopk": {"k": 8}, "matching_pursuit": {"max_iterations": 8}}
    kinds = {
        "sae": (D_IN, False),
        "transcoder": (D_OUT, False),
        "skip_transcoder": (D_OUT, True),
        "square_transcoder": (D_IN, True),
    }
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name in ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit"):
        for kind, (d_out, skip) in kinds.items():
            if name == "matching_pursuit" and kind != "sae":
                continue
            reads = [Slice(point="resid_post.3", width=D_IN)]
            writes = reads if kind == "sae" else [Slice(point="mlp_out_post.3", width=d_out)]
            for norm in (None, "layer_norm", "constant_norm_rescale") if kind == "sae" else (None,):
                architecture = make_architecture(name, D_SAE, options.get(name, {}))
                token_norm = TokenNorm(norm) if norm else None
                coder = SparseCoder(architecture, reads, writes, skip=skip, token_norm=token_norm)
                with torch.no_grad():
                    for parameter in coder.parameters():
                        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
                    if name == "jumprelu":
                        coder.extra("threshold").abs_().add_(1)
                    # Pursuit wants unit rows; dictionary_learning gives its AutoEncoder unit rows whenever it loads one.
                    if name in ("matching_pursuit", "standard"):
                        coder.W_dec.div_(coder.W_dec.norm(dim=1, keepdim=True))
                    architecture.settle(coder)
                label = "-".join(part for part in (name, kind, norm) if part)
                made[label] = coder.eval().requires_grad_(False)
                if kind == "sae" and norm is None:
                    other = SparseCoder(architecture, reads, writes, apply_b_dec_to_input=False)
                    other.load_state_dict(coder.state_dict())
                    made[f"{label}-b_dec_not_subtracted"] = other.eval().requires_grad_(False)
    # Pursuit without b_dec subtracted has none at all in SAELens.
    made.pop("matching_pursuit-sae-b_dec_not_subtracted")
    return made


def main() -> int:
    import torch
    from safetensors.torch import save_file

    from saescope.coders import FORMATS, export
    from saescope.coders.formats.sae_lens import architecture_of
    from saescope.errors import CoderError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--python", required=True, help="Python of an environment with the three packages")
    given = parser.parse_args()
    x = torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(1)) * 2 + 0.3
    written, refused = [], []
    for row in FORMATS:
        for name, coder in coders().items() if row.writes else ():
            folder = given.folder / row.name / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            if row.name == "saescope" and architecture_of(coder).startswith("saescope_"):
                continue  # ours alone, and marked so
            try:
                export(coder, folder, row.name)
            except CoderError as error:
                refused.append(f"{row.name}: {error}")
                continue
            codes = coder.encode(x)
            values = {"x": x, "codes": codes.dense(), "x_hat": coder.decode(codes, x)}
            save_file(values, folder.with_suffix(".safetensors"))
            written.append(folder)
    done = subprocess.run([given.python, "-c", PEER, *map(str, written)], capture_output=True, text=True, check=False)
    found = [json.loads(line.removeprefix("FOUND ")) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    for row in found:
        folder = Path(row["folder"])
        print(f"{folder.parent.name:20} {folder.name:42} {row['package']:28} L0 {row['l0']:6.2f}  "
              f"encode {row['encode']:.1e}  decode {row['decode']:.1e}")  # fmt: skip
    if len(found) != len(written):
        print(done.stderr, file=sys.stderr)
        return 1
    worst = max(max(row["encode"], row["decode"]) for row in found)
    verdict = "agree" if worst <= TARGET else "DISAGREE"
    print(f"{len(found)} exports of torch {version('torch')}, {len(refused)} refused for want of a place; largest difference "
          f"{worst:.1e} of the maximum, target {TARGET:.0e}: {verdict}")  # fmt: skip
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
