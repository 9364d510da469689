"""Are the numbers of `saescope eval --compat` those of the packages themselves?

    python benchmarks/conventions_agreement.py CODER --peer PYTHON [--sequences 24] [--batch 8] [--corpus lee-news]

PYTHON is the interpreter of an environment of its own:

    pip install torch==2.13.0 sae-lens==6.54.12 tabulate && pip install --no-deps sae-bench==0.6.0

The packages' own functions run there on the same token batches: sae-lens's on its own SAE loaded from CODER, sae-bench's on
that SAE too; the model is the same Hugging Face model in float32, hooked as these functions ask. Prints every number of both
and the largest relative difference.
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
from functools import partial
from types import SimpleNamespace
import sae_lens, torch
from sae_bench.evals.core import main as bench
from sae_lens import evals as lens
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

coder, model_folder, given = sys.argv[1:]
tensors = load_file(given)
batches, special = tensors["tokens"], tensors["special"].tolist()
sae = sae_lens.SAE.load_from_disk(coder)
hook = sae.cfg.metadata.hook_name
layer = int(hook.split(".")[1])
hf = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


class Model:
    "What the packages' functions ask of a hooked model, on a Hugging Face one."

    def __call__(self, tokens, return_type="both", loss_per_token=True, change=None):
        def edit(module, args, output):
            values = output[0] if isinstance(output, tuple) else output
            self.seen = values
            if change is None:
                return output
            changed = change(values, hook=None)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed
        handle = hf.model.layers[layer].register_forward_hook(edit)
        try:
            logits = hf(tokens).logits
        finally:
            handle.remove()
        log_p = logits[:, :-1].log_softmax(-1)
        return logits, -log_p.gather(2, tokens[:, 1:, None]).squeeze(2)

    def run_with_cache(self, tokens, **options):
        self(tokens)
        return None, {hook: self.seen}

    def run_with_hooks(self, tokens, fwd_hooks, **options):
        return self(tokens, change=fwd_hooks[0][1])


class Tokens:
    def __init__(self):
        self.left = list(batches)

    def get_batch_tokens(self, size):
        return self.left.pop(0)


wrapped = SimpleNamespace(
    encode=sae.encode, decode=sae.decode, device=sae.device,
    cfg=SimpleNamespace(hook_name=hook, hook_layer=layer, hook_head_index=None, d_sae=sae.cfg.d_sae),
)
n, size = batches.shape[:2]
wanted = dict(compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
              compute_featurewise_density_statistics=True, n_batches=n, eval_batch_size_prompts=size, model_kwargs={})
losses = dict(compute_kl=True, compute_ce_loss=True, n_batches=n, eval_batch_size_prompts=size)
with torch.no_grad():
    found = {
        "saelens": lens.get_downstream_reconstruction_metrics(
            sae, Model(), Tokens(), ActivationScaler(), ignore_tokens=special, **losses)
        | lens.get_sparsity_and_variance_metrics(
            sae, Model(), Tokens(), ActivationScaler(), ignore_tokens=special, **wanted)[0],
        "saebench": bench.get_downstream_reconstruction_metrics(
            wrapped, Model(), Tokens(), ignore_tokens=set(special), **losses)
        | bench.get_sparsity_and_variance_metrics(
            wrapped, Model(), Tokens(), ignore_tokens=set(special), **wanted)[0],
    }
print(json.dumps(found))
"""


def main() -> int:
    import torch
    from safetensors.torch import save_file

    import saescope
    from saescope.evaluation import CONVENTIONS, Subject
    from saescope.evaluation.conventions import numbers_as
    from saescope.evaluation.held_out import held_out_text

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coder", type=Path)
    parser.add_argument("--peer", required=True, help="Python of an environment with sae-lens and sae-bench")
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--corpus", default="lee-news")
    given = parser.parse_args()
    subject = Subject.of(given.coder)
    lm = saescope.LanguageModel.load(subject.model_spec(), dtype="float32")
    options = subject.sequence_options()
    text = held_out_text(saescope.Corpus.open(given.corpus), lm.tokenizer, options, set(), 2**16)
    whole = [torch.from_numpy(one.tokens).long() for one in text.sequences if len(one) == options.context]
    batches = torch.stack(whole[: given.sequences]).unflatten(0, (-1, given.batch))
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        lm.hf_model.save_pretrained(f"{folder}/model")
        special = torch.tensor(sorted(lm.special_ids))
        save_file({"tokens": batches, "special": special}, f"{folder}/given.safetensors")
        done = subprocess.run(
            [given.peer, "-c", PEER, str(given.coder), f"{folder}/model", f"{folder}/given.safetensors"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    for name, rule in CONVENTIONS.items():
        ours = numbers_as(rule, subject.coder, lm, list(batches), lm.special_ids)
        for key, value in ours.items():
            difference = abs(value - theirs[name][key]) / max(abs(theirs[name][key]), 1e-3)
            worst = max(worst, difference)
            print(f"{name:9s} {key:30s} {value:14.6f} {theirs[name][key]:14.6f}   {difference:.1e}")
    print(
        f"largest relative difference {worst:.1e}, target {TARGET:.0e}: {'agrees' if worst <= TARGET else 'DISAGREES'}"
    )
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
