"""Properties that every architecture must have, over all of them from one place."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.coders.conftest import D_SAE, OPTIONS, on_its_device, small_coder, some_x
from torch import Tensor

from saescope.coders import (
    CoderMetadata,
    Codes,
    Normalization,
    SparseCoder,
    architecture_names,
    architecture_type,
    fold,
    load,
    make_architecture,
    save,
    unfold,
)
from saescope.errors import CoderError, UsageError
from saescope.kernels import IMPLEMENTATIONS, room, using
from saescope.training import AuxTerm, objective
from saescope.training.resolve import resolve

ALL = architecture_names()
TRAINED = architecture_names(trainable=True)
SHAPES = {"sae": {}, "transcoder": {"d_out": 7}, "skip_transcoder": {"d_out": 7, "skip": True}}


PRICE = 3.0


def normalizations(coder: SparseCoder) -> tuple[Normalization, Normalization]:
    generator = torch.Generator().manual_seed(5)

    def of(width: int, scale: float) -> Normalization:
        mean = torch.randn(width, generator=generator, dtype=torch.float64) * 3
        return Normalization(mean, torch.full((width,), scale, dtype=torch.float64))

    reads = of(coder.d_in, 0.3)
    return reads, (reads if coder.reads == coder.writes else of(coder.d_out, 1.7))


def test_every_architecture_is_tested_here() -> None:
    assert set(OPTIONS) == set(ALL)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
def test_gradients_equal_the_dense_reference(
    name: str, shape: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = on_its_device(small_coder(name, **SHAPES[shape]), kernels)
    if "price_level" in coder.extra_names:
        coder.architecture.set_price(coder, PRICE)
    x = some_x().to(coder.device)
    y = x if shape == "sae" else some_x(width=7, seed=2).to(coder.device)
    aux = AuxTerm(torch.arange(0, D_SAE, 3, device=coder.device), k=3, tokens=20, coefficient=0.5)
    with using(kernels):
        if kernels == "cuda":
            # Later in a run, these know how much place to make, and fill it up with entries that count for nothing.
            monkeypatch.setattr(room, "_SWINGING", 0)
            objective(coder, x, y, selection=torch.float64, aux=aux)
        loss = objective(coder, x, y, selection=torch.float64, aux=aux)
        loss.backward()
        assert loss.done.codes.nnz > 0
    mine = {key: parameter.grad.clone() for key, parameter in coder.named_parameters()}
    coder.zero_grad()
    dense = dense_loss(coder, x, y, loss.done.codes, aux)
    dense.backward()
    torch.testing.assert_close(loss.total, dense, rtol=0, atol=1e-10)
    for key, parameter in coder.named_parameters():
        torch.testing.assert_close(mine[key], parameter.grad, rtol=0, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
        assert mine[key].abs().max() > 0, f"{key} got no gradient"


def dense_loss(coder: SparseCoder, x: Tensor, y: Tensor, codes: Codes, aux: AuxTerm) -> Tensor:
    """The objective, written again in dense torch; where the rule ranks latents, for the support of `codes`."""
    rest = coder.b_dec + (x @ coder.W_skip.T if coder.W_skip is not None else 0)

    def pre() -> Tensor:
        centred = x - coder.b_dec if coder.apply_b_dec_to_input else x
        return centred @ coder.W_enc + coder.b_enc

    f, penalty = dense_codes(coder, pre(), codes)
    if coder.architecture.name == "gated":
        # The auxiliary reconstruction from the gates, through a frozen decoder.
        frozen = torch.relu(pre()) @ coder.W_dec.detach() + rest.detach()
        penalty = penalty + (y - frozen).pow(2).mean()
    outputs = [f[:, :level] @ coder.W_dec[:level] + rest for level in coder.architecture.levels()]
    loss = torch.stack([(y - output).pow(2).mean() for output in outputs]).mean() + penalty
    error = (y - outputs[-1]).detach()[: aux.tokens]
    silent = torch.full_like(pre()[: aux.tokens], -torch.inf).index_copy(1, aux.dead, pre()[: aux.tokens, aux.dead])
    strongest = torch.zeros_like(silent, dtype=torch.bool)
    strongest.scatter_(1, silent.topk(aux.k, dim=1).indices, True)
    revived = torch.where(strongest & (silent > 0), silent, 0.0)
    return loss + aux.coefficient * (error - revived @ coder.W_dec).pow(2).sum() / error.pow(2).sum()


def dense_codes(coder: SparseCoder, pre: Tensor, codes: Codes) -> tuple[Tensor, Tensor]:
    """f and the penalty on it, with each architecture's estimators written as surrogates."""
    name, size = coder.architecture.name, pre.shape[0] * coder.d_out
    price = PRICE / size
    if name in ("topk", "batchtopk", "matryoshka"):
        return torch.relu(pre) * (codes.dense().detach() > 0), torch.zeros(())
    if name == "standard":
        f = torch.relu(pre)
        return f, price * f.sum()
    if name == "gated":
        magnitude = (pre - coder.b_enc) * coder.extra("r_mag").exp() + coder.extra("b_mag")
        return torch.relu(magnitude) * (pre.detach() > 0), price * torch.relu(pre).sum()
    theta, width = coder.extra("threshold"), coder.architecture.options.bandwidth
    on = (pre.detach() > theta.detach()).double()
    # Straight-through: theta moves the jump by -theta/width, and the count by -1/width, within the window above zero.
    slope = ((pre - theta).detach().abs() < width / 2) * (pre.detach() > 0) * (theta - theta.detach()) / width
    return pre * on - theta.detach() * slope, price * (on - slope).sum()


@pytest.mark.parametrize("name", TRAINED)
def test_aux_gradient_reaches_only_dead_latents_and_their_encoder(name: str) -> None:
    coder = small_coder(name)
    x = some_x()
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[5] = True
    gradients = []
    for aux in (AuxTerm(dead.nonzero().squeeze(1), 1, 30, 1.0), None):
        objective(coder, x, x, selection=torch.float64, aux=aux).backward()
        assert coder.W_enc_rows.grad is not None
        gradients.append(coder.W_enc_rows.grad.clone())
        coder.zero_grad()
    difference = gradients[0] - gradients[1]
    assert difference[5].abs().max() > 0
    assert difference[~dead].abs().max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRAINED)
def test_folding_changes_no_value(name: str, shape: str) -> None:
    coder = small_coder(name, **SHAPES[shape])
    reads, writes = normalizations(coder)
    raw = reads.undo(some_x())
    coder.architecture.calibrate(coder, [reads.apply(raw)])
    folded = fold(coder, reads, writes)
    inside, outside = coder.encode(reads.apply(raw)), folded.encode(raw)
    assert outside.nnz > 0
    torch.testing.assert_close(outside.indices, inside.indices)
    norms = folded.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    torch.testing.assert_close(
        folded.decode(outside, raw).double(), writes.undo(coder.decode(inside, reads.apply(raw))), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRAINED)
def test_unfolding_inverts_folding(name: str, shape: str) -> None:
    coder = small_coder(name, **SHAPES[shape])
    reads, writes = normalizations(coder)
    again = small_coder(name, **SHAPES[shape], seed=9)
    unfold(fold(coder, reads, writes), again, reads, writes)
    for key, parameter in coder.named_parameters():
        torch.testing.assert_close(again.get_parameter(key), parameter, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", TRAINED)
def test_calibration_gives_the_wanted_l0(name: str) -> None:
    coder = small_coder(name)
    batches = [some_x(200, seed=seed) for seed in range(5)]
    coder.architecture.calibrate(coder, batches)
    found = sum(coder.encode(x).nnz for x in batches) / 1000
    assert found == pytest.approx(coder.architecture.wanted_l0, abs=1e-9)


def test_refit_of_standard_takes_back_a_common_shrinkage() -> None:
    """Values shrunk by one factor, whatever did it, come back; the support and L0 stay."""
    coder = small_coder("standard")
    x = some_x(200)
    y = coder(x).detach()
    before = coder.encode(x)
    with torch.no_grad():
        coder.W_enc_rows.mul_(0.4)
        coder.b_enc.mul_(0.4)
    coder.architecture.refit(coder, [(x[:120], y[:120]), (x[120:], y[120:])])
    torch.testing.assert_close(coder(x), y)
    assert torch.equal(coder.encode(x).indices, before.indices)


def described_forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode as SAELens's file format describes its architectures, written from the description."""
    config = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    assert config["normalize_activations"] == "none"
    assert tuple(w["W_enc"].shape) == (config["d_in"], config["d_sae"])
    assert tuple(w["W_dec"].shape) == (config["d_sae"], config.get("d_out", config["d_in"]))
    product = (x - w["b_dec"] if config["apply_b_dec_to_input"] else x) @ w["W_enc"]
    name = config["architecture"].removeprefix("saescope_")
    if name.startswith("gated"):
        assert "b_enc" not in w
        codes = torch.relu(product * w["r_mag"].exp() + w["b_mag"]) * (product + w["b_gate"] > 0)
    elif name.startswith("topk"):
        assert config["rescale_acts_by_decoder_norm"] is False
        strongest = (product + w["b_enc"]).topk(config["k"], dim=1)
        codes = torch.zeros_like(product).scatter(1, strongest.indices, strongest.values.relu())
    elif name.startswith("jumprelu"):
        pre = product + w["b_enc"]
        codes = torch.relu(pre) * (pre > w["threshold"])
    else:
        assert name in ("standard", "transcoder", "skip_transcoder")
        codes = torch.relu(product + w["b_enc"])
    out = codes @ w["W_dec"] + w["b_dec"]
    return codes, out + x @ w["W_skip"].T if "W_skip" in w else out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRAINED)
def test_saved_files_mean_the_same_to_sae_lens(name: str, shape: str, tmp_path: Path) -> None:
    coder = small_coder(name, **SHAPES[shape], dtype=torch.float32)
    reads, writes = normalizations(coder)
    raw = reads.undo(some_x()).float()
    coder.architecture.calibrate(coder, [reads.apply(raw).float()])
    folded = fold(coder, reads, writes)
    save(folded, tmp_path / "coder")
    codes, out = described_forward(tmp_path / "coder", raw)
    mine = folded.encode(raw)
    torch.testing.assert_close(mine.dense(), codes, rtol=0, atol=1e-4 * float(codes.max()))
    torch.testing.assert_close(folded.decode(mine, raw), out, rtol=0, atol=1e-4 * float(out.abs().max()))


@pytest.mark.parametrize("name", ALL)
def test_saving_and_loading_gives_the_same_coder(name: str, tmp_path: Path) -> None:
    coder = small_coder(name, dtype=torch.float32)
    identity = Normalization.identity(10)
    coder = fold(coder, identity, identity) if name in TRAINED else coder
    coder.metadata.trained_documents = ["ab", "cd"]
    save(coder, tmp_path / "coder", reference={"mean.resid_post.1": torch.arange(10.0)})
    again = load(tmp_path / "coder")
    for key, value in coder.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    x = some_x(dtype=torch.float32)
    assert torch.equal(again(x), coder(x))
    assert again.metadata == coder.metadata
    assert (again.reads, again.writes, again.kind) == (coder.reads, coder.writes, coder.kind)
    assert not list(tmp_path.glob(".*")), "no temporary folder stays"


@pytest.mark.parametrize("name", ALL)
def test_empty_constant_and_all_dead_inputs(name: str) -> None:
    coder = small_coder(name)
    empty = coder.encode(torch.zeros(0, 10))
    assert (empty.n_tokens, empty.nnz) == (0, 0)
    assert coder.decode(empty).shape == (0, 10)
    constant = coder(torch.ones(6, 10))
    assert torch.equal(constant, constant[:1].expand_as(constant)), "a token's codes do not depend on its batch"
    if name not in TRAINED:
        return  # no bias silences them
    with torch.no_grad():
        coder.b_enc.fill_(-1e6)
    silent = coder.encode(some_x())
    assert silent.nnz == 0
    torch.testing.assert_close(coder.decode(silent), coder.b_dec.expand(30, 10))


@pytest.mark.parametrize("name", TRAINED)
def test_training_on_awkward_batches_stays_finite(name: str) -> None:
    for x, bias in ((torch.zeros(0, 10), 0.0), (torch.ones(6, 10), 0.0), (some_x(), -1e6)):
        coder = small_coder(name)
        with torch.no_grad():
            coder.b_enc.add_(bias)
        dead = torch.arange(D_SAE)
        loss = objective(coder, x.double(), x.double(), selection=torch.float64, aux=AuxTerm(dead, 3, 20, 1.0))
        if x.shape[0]:
            loss.backward()
            assert torch.isfinite(loss.total)
            assert all(torch.isfinite(p.grad).all() for p in coder.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", TRAINED)
def test_impossible_options_are_one_line(name: str) -> None:
    option = architecture_type(name).l0_option
    with pytest.raises(UsageError, match=rf"{option} = 49 is more than the 48 latents"):
        make_architecture(name, D_SAE, {**OPTIONS[name], option: 49}).check()
    with pytest.raises(
        UsageError, match=rf"{name!r} has no option '{option}x'; it has .*{option}.*; nearest: {option}"
    ):
        make_architecture(name, D_SAE, {f"{option}x": 2})
    with pytest.raises(UsageError, match=f"option {option}"):
        make_architecture(name, D_SAE, {**OPTIONS[name], option: 0})
    with pytest.raises(UsageError, match="nearest: batchtopk"):
        make_architecture("batchtop", D_SAE, {})


@pytest.mark.parametrize("name", ALL)
def test_wrong_width_is_one_line(name: str) -> None:
    with pytest.raises(CoderError, match=r"reads \[tokens, 10\] \(resid_post.1\), got \[30, 11\]"):
        small_coder(name).encode(some_x(width=11))


def test_metadata_survives_json() -> None:
    metadata = CoderMetadata(name="a", history=[{"step": 1.0}])
    assert CoderMetadata.model_validate_json(metadata.model_dump_json()) == metadata


@pytest.mark.parametrize("name", sorted(set(ALL) - set(TRAINED)))
def test_what_is_only_run_refuses_training_in_one_line(name: str) -> None:
    coder, says = small_coder(name), rf"{name} is read and run, not trained; saescope trains batchtopk, .*topk"
    with pytest.raises(UsageError, match=says):
        coder.architecture.check()
    with pytest.raises(UsageError, match=says):
        coder.architecture.training_pass(coder, some_x(), some_x(), torch.float64)
    with pytest.raises(UsageError, match=says):
        resolve(None, {}, {}, archs=[name], l0s=[4], reads="resid_post.1")


def test_a_misspelt_architecture_is_offered_what_can_be_trained() -> None:
    with pytest.raises(UsageError, match=r"'jumpreul'; saescope trains batchtopk, .*; nearest: jumprelu") as error:
        resolve(None, {}, {}, archs=["jumpreul"], l0s=[4], reads="resid_post.1")
    assert "abstopk" not in str(error.value)


def test_abstopk_keeps_the_largest_magnitudes_and_their_signs() -> None:
    coder, x = small_coder("abstopk"), some_x()
    dense, pre = coder.encode(x).dense(), (x - coder.b_dec) @ coder.W_enc + coder.b_enc
    kept = dense != 0
    assert (dense < 0).any()
    assert (dense > 0).any()
    assert torch.equal(kept.sum(1), torch.full((30,), 4))
    torch.testing.assert_close(dense[kept], pre[kept])
    assert (pre.abs().masked_fill(kept, 0).amax(1) <= pre.abs().masked_fill(~kept, torch.inf).amin(1)).all()


def test_matching_pursuit_takes_from_the_residual_what_it_codes() -> None:
    """With unit rows each step shortens the residual by exactly its coefficient (Pythagoras), and stops when asked to."""
    x = some_x()
    coder = small_coder("matching_pursuit")
    lengths = []
    for steps in range(1, 6):
        options = {"residual_threshold": 0.0, "max_iterations": steps, "stop_on_duplicate_support": False}
        coder.architecture = make_architecture("matching_pursuit", D_SAE, options)
        codes = coder.encode(x)
        assert int(codes.pointers.diff().max()) <= steps
        lengths.append((x - coder.decode(codes)).square().sum(1))
    strongest = ((x - coder.b_dec) @ coder.W_dec.T).amax(1).relu()
    torch.testing.assert_close(lengths[0], (x - coder.b_dec).square().sum(1) - strongest.square())
    assert all((after <= before + 1e-12).all() for before, after in itertools.pairwise(lengths))
    done = float(lengths[1].detach().max()) ** 0.5 + 1e-9
    coder.architecture = make_architecture("matching_pursuit", D_SAE, {"residual_threshold": done})
    assert (coder.encode(x).pointers.diff() <= 2).all()
