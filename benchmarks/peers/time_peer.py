"""Another library's training steps, timed on request; see `timed` for the requests and `time_*.py` for each library.

    PEER_PYTHON time_peer.py --library sae_lens [--threads 2]

A subject's spec: arch, data (an export's folder) or synthetic (a width), device, point, d_sae, k, batch, seed, dead (share of
latents counted as dead, 0 for none), autocast (bfloat16) and, for SAELens, sparse (its sparse activations).
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from timed import Subject, serve

PACKAGES = {"sae_lens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=sorted(PACKAGES), required=True)
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own choice")
    given = parser.parse_args()

    def make(spec: dict[str, Any]) -> Subject:
        module = "sae_lens_text" if spec.get("kind") == "text" else given.library
        return importlib.import_module(f"time_{module}").make(spec)

    serve(make, [PACKAGES[given.library]], given.threads)


if __name__ == "__main__":
    main()
