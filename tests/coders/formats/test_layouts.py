"""Formats whose writers are no installable packages: files made here by their layouts, and their definitions written out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from saescope.coders import SparseCoder, TokenNorm, load, save
from saescope.errors import CoderError, ForeignCoderWarning

D, F, OUT = 12, 20, 9
X = torch.randn(16, D, generator=torch.Generator().manual_seed(1)) * 2 + 0.5
pytestmark = pytest.mark.filterwarnings("ignore::saescope.errors.ForeignCoderWarning")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.5


def agrees(coder: SparseCoder, codes: Tensor, x_hat: Tensor, x: Tensor = X) -> None:
    mine = coder.encode(x)
    torch.testing.assert_close(mine.dense(), codes, rtol=0, atol=2e-5 * float(codes.abs().max()))
    torch.testing.assert_close(coder.decode(mine, x), x_hat, rtol=0, atol=2e-5 * float(x_hat.abs().max()))
    assert 0 < mine.nnz < codes.numel()


def topk(pre: Tensor, k: int) -> Tensor:
    best = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, best.indices, best.values.relu())


def jump(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre * (pre > threshold) * (pre > 0)


# Gemma Scope 1


def gemma(folder: Path, width: int = D) -> dict[str, Tensor]:
    w = {
        "W_enc": random(D, F),
        "W_dec": random(F, width),
        "b_enc": random(F),
        "b_dec": random(width),
        "threshold": random(F).abs(),
    }
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{key: value.numpy() for key, value in w.items()})
    return w


@pytest.mark.parametrize(
    ("repository", "point"),
    [
        ("gemma-scope-2b-pt-res", "resid_post.7"),
        ("models--google--gemma-scope-9b-it-res", "resid_post.7"),
        ("gemma-scope-2b-pt-att", "z.7"),
        ("gemma-scope-2b-pt-mlp", "mlp_out_post.7"),
    ],
)
def test_gemma_scope(repository: str, point: str, tmp_path: Path) -> None:
    folder = tmp_path / repository / "layer_7" / "width_16k" / "average_l0_71"
    w = gemma(folder)
    coder = load(folder)
    codes = jump(X @ w["W_enc"] + w["b_enc"], w["threshold"])
    agrees(coder, codes, codes @ w["W_dec"] + w["b_dec"])
    assert coder.reads[0].point == coder.writes[0].point == point
    assert coder.metadata.model["spec"] == ("google/gemma-2-9b-it" if "9b" in repository else "google/gemma-2-2b")


def test_gemma_scope_transcoder_reads_the_norm_before_its_gain(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_7" / "width_16k" / "average_l0_71"
    w = gemma(folder, OUT)
    with pytest.warns(ForeignCoderWarning, match=r"taken as resid_mid.7 normalised to unit mean square per token"):
        coder = load(folder)
    normalised = X / (X.square().mean(1, keepdim=True) + 1e-6).sqrt()
    codes = jump(normalised @ w["W_enc"] + w["b_enc"], w["threshold"])
    agrees(coder, codes, codes @ w["W_dec"] + w["b_dec"])
    assert (coder.reads[0].point, coder.writes[0].point) == ("resid_mid.7", "mlp_out_post.7")
    # Someone who has the norm's output at hand says so.
    plain = load(folder, reads="mlp_in.7")
    assert (plain.reads[0].point, plain.token_norm) == ("mlp_in.7", None)


def test_gemma_scope_without_its_folders_names_asks(tmp_path: Path) -> None:
    gemma(tmp_path / "somewhere")
    with pytest.raises(
        CoderError, match=r"does not say which hook point it reads; give it with reads='resid_post.14' \(--reads"
    ):
        load(tmp_path / "somewhere" / "params.npz")
    assert load(tmp_path / "somewhere", reads="blocks.3.hook_resid_post").reads[0].point == "resid_post.3"


# Gemma Scope 2


def gemma_2(folder: Path, config: dict[str, Any], width: int = D, skip: bool = False) -> dict[str, Tensor]:
    w = {
        "w_enc": random(D, F),
        "w_dec": random(F, width),
        "b_enc": random(F),
        "b_dec": random(width),
        "threshold": random(F).abs(),
    }
    if skip:
        w["affine_skip_connection"] = random(D, width)
    folder.mkdir(parents=True)
    save_file(w, folder / "params.safetensors")
    base = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "l0": 20, "width": F}
    (folder / "config.json").write_text(json.dumps(base | config))
    return w


def test_gemma_scope_2_sae(tmp_path: Path) -> None:
    w = gemma_2(tmp_path / "sae", {"hf_hook_point_in": "model.layers.10.output"})
    coder = load(tmp_path / "sae")
    codes = jump(X @ w["w_enc"] + w["b_enc"], w["threshold"])
    agrees(coder, codes, codes @ w["w_dec"] + w["b_dec"])
    assert coder.writes[0].point == "resid_post.10"


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_transcoder(skip: bool, tmp_path: Path) -> None:
    points = {
        "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output",
    }
    w = gemma_2(tmp_path / "tc", points, OUT, skip)
    coder = load(tmp_path / "tc")
    codes = jump(X @ w["w_enc"] + w["b_enc"], w["threshold"])
    x_hat = codes @ w["w_dec"] + w["b_dec"] + (X @ w["affine_skip_connection"] if skip else 0)
    agrees(coder, codes, x_hat)
    assert (coder.reads[0].point, coder.writes[0].point) == ("mlp_in.5", "mlp_out_post.5")


def test_gemma_scope_2_cross_layer_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "clt"
    gemma_2(folder, {"hf_hook_point_in": "model.layers.10.output"})
    tensors = {
        "w_enc": random(D, F),
        "w_dec": random(F, 3, D),
        "b_enc": random(F),
        "b_dec": random(D),
        "threshold": random(F).abs(),
    }
    save_file(tensors, folder / "params.safetensors")
    with pytest.raises(CoderError, match="is a cross-layer transcoder"):
        load(folder)
    (folder / "params.safetensors").rename(folder / "params_layer_0.safetensors")
    with pytest.raises(CoderError, match="is a cross-layer transcoder"):
        load(folder)


# Llama Scope


def llama(folder: Path, **config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    w = {
        "encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.weight": random(D, F, seed=3),
        "decoder.bias": random(D),
    }  # fmt: skip
    (folder / "checkpoints").mkdir(parents=True)
    save_file(w, folder / "checkpoints" / "final.safetensors")
    said = {
        "d_model": D, "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.2, "top_k": 4,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 2.5, "out": 2.5}, "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": True,
        "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post",
    } | config  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(said))
    return said, w


@pytest.mark.parametrize("include_norm", [True, False])
@pytest.mark.parametrize("out", [2.5, 4.0])
def test_llama_scope(include_norm: bool, out: float, tmp_path: Path) -> None:
    transcoder = out != 2.5
    points = {"hook_point_in": "blocks.8.mlp.hook_in", "hook_point_out": "blocks.8.hook_mlp_out"} if transcoder else {}
    _, w = llama(
        tmp_path / "coder",
        sparsity_include_decoder_norm=include_norm,
        dataset_average_activation_norm={"in": 2.5, "out": out},
        **points,
    )
    coder = load(tmp_path / "coder")
    # As the library loads it: scales first, then rows of length one, then the threshold.
    s_in, s_out = math.sqrt(D) / 2.5, math.sqrt(D) / out
    W_dec = w["decoder.weight"] * s_in / s_out
    norms = W_dec.norm(dim=0) if include_norm else torch.ones(F)
    pre = X @ (w["encoder.weight"] * norms[:, None]).T + w["encoder.bias"] / s_in * norms
    codes = jump(pre, 0.2)
    agrees(coder, codes, codes @ (W_dec / norms).T + w["decoder.bias"] / s_out)
    # And that is the trained function: the same reconstruction as of the weights as filed, on normalised activations.
    normalised = X * s_in @ w["encoder.weight"].T + w["encoder.bias"]
    plain = normalised * (codes > 0) @ w["decoder.weight"].T + w["decoder.bias"]
    torch.testing.assert_close(coder(X), plain / s_out, rtol=0, atol=1e-5 * float(plain.abs().max()))
    assert coder.kind == ("transcoder" if transcoder else "sae")


def test_llama_scope_topk_without_a_threshold(tmp_path: Path) -> None:
    _, w = llama(tmp_path / "coder", act_fn="topk", jump_relu_threshold=0.0)
    norms, s = w["decoder.weight"].norm(dim=0), math.sqrt(D) / 2.5
    codes = topk((X * s @ w["encoder.weight"].T + w["encoder.bias"]) * norms, 4)
    x_hat = (codes / norms @ w["decoder.weight"].T + w["decoder.bias"]) / s
    coder = load(tmp_path / "coder")
    torch.testing.assert_close(coder(X), x_hat, rtol=0, atol=1e-5 * float(x_hat.abs().max()))
    assert torch.equal(coder.encode(X).dense() != 0, codes != 0)


def llamascopium(folder: Path, **config: Any) -> dict[str, Tensor]:
    w = {
        "W_E": random(D, F), "b_E": random(F), "W_D": random(F, D), "b_D": random(D),
        "activation_function.log_jumprelu_threshold": random(F) - 1,
        "dataset_average_activation_norm.blocks.8.hook_resid_post": torch.tensor(2.5),
    }  # fmt: skip
    folder.mkdir()
    said = {
        "sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu", "norm_activation": "dataset-wise",
        "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post",
    } | config  # fmt: skip
    if said["act_fn"] != "jumprelu":
        del w["activation_function.log_jumprelu_threshold"]
    save_file(w, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps(said))
    return w


@pytest.mark.parametrize("mode", ["dataset-wise", "inference", "token-wise"])
def test_llamascopium(mode: str, tmp_path: Path) -> None:
    w = llamascopium(tmp_path / "coder", norm_activation=mode)
    coder = load(tmp_path / "coder")
    s = {"dataset-wise": math.sqrt(D) / 2.5, "inference": 1.0}.get(mode, math.sqrt(D) / X.norm(dim=1, keepdim=True))
    pre = X * s @ w["W_E"] + w["b_E"]
    codes = pre * (pre * w["W_D"].norm(dim=1) > w["activation_function.log_jumprelu_threshold"].exp())
    agrees(coder, codes, (codes @ w["W_D"] + w["b_D"]) / s)
    assert coder.token_norm == (TokenNorm("constant_norm_rescale") if mode == "token-wise" else None)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"sae_type": "clt"}, "is a 'clt' of Llamascopium"),
        ({"use_glu_encoder": True}, "gated linear encoder"),
        ({"act_fn": "tanh"}, "has act_fn 'tanh'"),
        ({"norm_activation": "batch-wise"}, "'batch-wise', which depends on the batch"),
        ({"d_model": "12"}, "d_model = '12', which is not a positive number"),
    ],
)
def test_llamascopium_refuses_by_name(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    llamascopium(tmp_path / "coder", **config)
    with pytest.raises(CoderError, match=says):
        load(tmp_path / "coder")


# OpenAI


def openai(path: Path, activation: str = "TopK", **state: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "pre_bias": random(D), "latent_bias": random(F), "encoder.weight": random(F, D), "decoder.weight": random(D, F, seed=3),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long), "latents_activation_frequency": torch.ones(F),
        "latents_mean_square": torch.ones(F), "activation": activation,
    }  # fmt: skip
    if activation == "TopK":
        content["activation_state_dict"] = {"k": 4, "postact_fn": "ReLU"} | state
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return content


@pytest.mark.parametrize(
    ("site", "point"),
    [
        ("resid_post_mlp_v5_32k", "resid_post.8"),
        ("resid_post_attn_v5_128k", "resid_mid.8"),
        ("resid_delta_mlp_v5_32k", "mlp_out_post.8"),
        ("resid_delta_attn_v5_32k", "attn_out_post.8"),
    ],
)
def test_openai_v5(site: str, point: str, tmp_path: Path) -> None:
    w = openai(tmp_path / site / "autoencoders" / "8.pt")
    coder = load(tmp_path / site / "autoencoders" / "8.pt")
    mean, spread = (
        X.mean(1, keepdim=True),
        ((X - X.mean(1, keepdim=True)).square().sum(1, keepdim=True) / (D - 1)).sqrt(),
    )
    codes = topk(((X - mean) / (spread + 1e-5) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"], 4)
    agrees(coder, codes, (codes @ w["decoder.weight"].T + w["pre_bias"]) * spread + mean)
    assert coder.reads[0].point == coder.writes[0].point == point


def test_openai_v1_is_not_normalised(tmp_path: Path) -> None:
    w = openai(tmp_path / "mlp_post_act" / "autoencoders" / "3.pt", "ReLU")
    coder = load(tmp_path / "mlp_post_act" / "autoencoders", layer=3)
    codes = torch.relu((X - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    agrees(coder, codes, codes @ w["decoder.weight"].T + w["pre_bias"])
    assert coder.reads[0].point == "mlp_act.3"


def test_openai_says_what_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "resid_post_mlp_v5_32k" / "autoencoders"
    for layer in (3, 8):
        openai(folder / f"{layer}.pt")
    with pytest.raises(
        CoderError, match=r"which of its layers to read \(3 to 8\); give it with layer=14 \(--layer 14\)"
    ):
        load(folder)
    assert load(folder, layer=8).reads[0].point == "resid_post.8"
    openai(folder / "9.pt", postact_fn="Identity")
    with pytest.raises(CoderError, match="applies 'Identity' to its k latents"):
        load(folder / "9.pt")


# circuit-tracer


def circuit_tracer(
    folder: Path, *, skip: bool = False, threshold: bool = False, **config: Any
) -> dict[int, dict[str, Tensor]]:
    layers = {}
    folder.mkdir()
    for layer in (0, 1):
        w = {
            "W_enc": random(F, D, seed=layer), "W_dec": random(F, OUT, seed=layer), "b_enc": random(F, seed=layer),
            "b_dec": random(OUT),
        }  # fmt: skip
        if skip:
            w["W_skip"] = random(OUT, D)
        if threshold:
            w["activation_function.threshold"] = random(F).abs()
        save_file(w, folder / f"layer_{layer}.safetensors")
        layers[layer] = w
    said = {
        "model_name": "meta-llama/Llama-3.2-1B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out", "scan": "a-scan",
    } | config  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(said))
    return layers


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, torch.relu),
        ({"skip": True}, torch.relu),
        ({"activation": "relu"}, torch.relu),
        ({"activation": "topk", "k": 4}, lambda pre: topk(pre, 4)),
        ({"threshold": True, "skip": True}, None),
    ],
)
def test_circuit_tracer(options: dict[str, Any], activation: Any, tmp_path: Path) -> None:
    w = circuit_tracer(tmp_path / "set", **options)[1]
    coder = load(tmp_path / "set", layer=1)
    pre = X @ w["W_enc"].T + w["b_enc"]
    codes = jump(pre, w["activation_function.threshold"]) if activation is None else activation(pre)
    x_hat = codes @ w["W_dec"] + w["b_dec"] + (X @ w["W_skip"].T if "W_skip" in w else 0)
    agrees(coder, codes, x_hat)
    assert (coder.reads[0].point, coder.writes[0].point) == ("mlp_in.1", "mlp_out_post.1")
    for other in (load(tmp_path / "set" / "layer_1.safetensors"), load(tmp_path / "set", file="layer_1.safetensors")):
        assert torch.equal(other(X), coder(X))


def test_circuit_tracer_says_what_it_needs(tmp_path: Path) -> None:
    circuit_tracer(tmp_path / "set")
    with pytest.raises(CoderError, match=r"which of its transcoders to read \(layers 0 to 1\); give it with layer=14"):
        load(tmp_path / "set")
    with pytest.raises(CoderError, match="has no layer 7; it has layers 0 to 1"):
        load(tmp_path / "set", layer=7)
    circuit_tracer(tmp_path / "clt", model_kind="cross_layer_transcoder")
    with pytest.raises(CoderError, match="is a cross-layer transcoder"):
        load(tmp_path / "clt", layer=0)
    save_file({"W_enc_0": random(F, D)}, tmp_path / "set" / "W_enc_0.safetensors")
    with pytest.raises(CoderError, match="is a cross-layer transcoder"):
        load(tmp_path / "set", layer=0)


# Two-model crosscoders


@pytest.mark.parametrize("scales", [None, (0.5, 0.25)])
def test_crosscoder(scales: tuple[float, float] | None, tmp_path: Path) -> None:
    w = {"W_enc": random(2, D, F), "W_dec": random(F, 2, D), "b_enc": random(F), "b_dec": random(2, D)}
    folder = tmp_path / "blocks.14.hook_resid_pre"
    folder.mkdir()
    torch.save(w, folder / "cc_weights.pt")
    config = {
        "d_in": D,
        "dict_size": F,
        "hook_point": "blocks.14.hook_resid_pre",
        "model_name": "gemma-2-2b",
        "seq_len": 1024,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    coder = load(folder, input_scale=scales)
    x = torch.stack([X, X.flip(0) * 3], dim=1)  # [tokens, models, d]
    s = torch.tensor(scales or (1.0, 1.0))[:, None]
    codes = torch.relu(torch.einsum("tmd,mdf->tf", x * s, w["W_enc"]) + w["b_enc"])
    x_hat = (torch.einsum("tf,fmd->tmd", codes, w["W_dec"]) + w["b_dec"]) / s
    agrees(coder, codes, x_hat.flatten(1), x.flatten(1))
    assert [part.point for part in coder.reads] == ["resid_pre.14", "model_b:resid_pre.14"]
    assert coder.kind == "crosscoder"
    again = load(save(coder, tmp_path / "saved"))
    assert (again.reads, again.writes, again.kind) == (coder.reads, coder.writes, "crosscoder")
    assert torch.equal(again(x.flatten(1)), coder(x.flatten(1)))
    assert again.metadata.imported == coder.metadata.imported
    with pytest.raises(CoderError, match=r"input_scale was given as \[0.5\]; give one number for each"):
        load(folder, input_scale=0.5)
