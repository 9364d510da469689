"""Runs: early stops, edits, positions, gradients, and what a failed run leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from saescope.errors import EditNeverFired, ModelError, SaescopeError, UsageError
from saescope.lm import Edit, LanguageModel, Positions

ATTENTION_MAPS = ("attn_probs", "attn_scores")
READ_ONLY = (*ATTENTION_MAPS, "resid_mid", "router_logits", "expert_weights", "expert_indices")


def editable(lm: LanguageModel) -> list[str]:
    return [name for name in lm.points() if not name.startswith(READ_ONLY)]


def n_hooks(lm: LanguageModel) -> int:
    """Hooks and replaced forwards on all of a model's modules."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in module.__dict__)
        for module in lm.hf_model.modules()
    )


def unchanged(values: Tensor, positions: Positions) -> Tensor:
    return values


def calls_of(lm: LanguageModel, modules: list[nn.Module], run: Callable[[], object]) -> list[int]:
    counts = [0] * len(modules)

    def counter(place: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[place] += 1

        return hook

    handles = [module.register_forward_pre_hook(counter(place)) for place, module in enumerate(modules)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return counts


# Early stop


def test_an_early_stop_changes_no_value(family_lm: LanguageModel, tokens: Tensor) -> None:
    whole = family_lm.run(
        tokens, capture=[name for name in family_lm.points() if not name.startswith(ATTENTION_MAPS)], logits=True
    )
    for name, value in whole.activations.items():
        alone = family_lm.run(tokens, capture=[name])
        assert torch.equal(alone.activations[name], value), name
        assert alone.logits is None
    with torch.no_grad():
        assert torch.equal(whole.logits, family_lm.hf_model(tokens).logits)


def test_nothing_after_the_last_capture_is_computed(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    watched = [*lm.hf_model.model.layers, lm.hf_model.model.norm, lm.hf_model.lm_head]
    assert calls_of(lm, watched, lambda: lm.run(tokens, capture=["resid_post.0"])) == [1, 0, 0, 0, 0]
    assert calls_of(lm, watched, lambda: lm.run(tokens, capture=["mlp_in.1", "resid_post.0"])) == [1, 1, 0, 0, 0]
    assert calls_of(lm, watched, lambda: lm.run(tokens, capture=["final_norm"])) == [1, 1, 1, 1, 0]
    assert calls_of(lm, watched, lambda: lm.run(tokens, capture=["resid_post.0"], logits=True)) == [1] * 5
    assert calls_of(lm, watched, lambda: lm.run(tokens)) == [0] * 5


def test_a_run_goes_on_until_a_later_edit_has_fired(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    run = tiny("llama").run(tokens, capture=["resid_post.0"], edits=[Edit("resid_post.2", unchanged)])
    assert run.fired == {"resid_post.2": 1}


def test_captures_are_safe_from_what_the_model_overwrites(
    build_lm: Callable[..., LanguageModel], tokens: Tensor
) -> None:
    lm = build_lm("llama")
    expected = lm.run(tokens, capture=["resid_post.0"]).activations["resid_post.0"]
    lm.hf_model.model.layers[1].register_forward_pre_hook(lambda module, args: args[0].mul_(0))
    together = lm.run(tokens, capture=["resid_post.0", "resid_post.2"]).activations
    assert torch.equal(together["resid_post.0"], expected)


# Edits


def test_an_edit_that_changes_nothing_changes_nothing(family_lm: LanguageModel, tokens: Tensor) -> None:
    edits = [Edit(name, unchanged) for name in editable(family_lm)]
    run = family_lm.run(tokens, edits=edits, logits=True)
    with torch.no_grad():
        assert torch.equal(run.logits, family_lm.hf_model(tokens).logits)
    assert run.fired == dict.fromkeys(editable(family_lm), 1)


def test_an_edit_takes_effect_at_every_editable_point(family_lm: LanguageModel, tokens: Tensor) -> None:
    """What was put there is what is read there, and the model goes on from it."""
    plain = family_lm.run(tokens, logits=True).logits
    for sequence, baseline in ((tokens, plain), (tokens[:, :4], plain[:, :4])):
        for name in editable(family_lm):
            new = torch.randn(*sequence.shape, family_lm.width(name), generator=torch.Generator().manual_seed(2))
            edit = Edit(name, lambda values, positions, new=new: new)
            run = family_lm.run(sequence, capture=[name], edits=[edit], logits=True)
            assert torch.equal(run.activations[name], new), name
            assert not torch.allclose(run.logits, baseline, atol=1e-3), name


def test_substituting_one_inputs_values_gives_its_continuation(family_lm: LanguageModel, tokens: Tensor) -> None:
    other = tokens.flip(1)
    wanted = family_lm.run(other, capture=["resid_post.1"], logits=True)
    edit = Edit("resid_post.1", lambda values, positions: wanted.activations["resid_post.1"])
    assert torch.equal(family_lm.run(tokens, edits=[edit], logits=True).logits, wanted.logits)


def test_a_scaled_contribution_is_edited_in_the_streams_own_units(
    build_lm: Callable[..., LanguageModel], tokens: Tensor
) -> None:
    lm = build_lm("granite", residual_multiplier=0.4)
    edit = Edit("mlp_out_post.1", lambda values, positions: values + 1)
    names = ["resid_mid.1", "mlp_out_post.1", "resid_post.1"]
    before = lm.run(tokens, capture=names).activations
    after = lm.run(tokens, capture=names, edits=[edit]).activations
    torch.testing.assert_close(after["mlp_out_post.1"], before["mlp_out_post.1"] + 1)
    torch.testing.assert_close(after["resid_post.1"], before["resid_post.1"] + 1)


def test_an_edit_in_place_is_an_edit_of_its_point_alone(family_lm: LanguageModel, tokens: Tensor) -> None:
    for name in editable(family_lm):
        apart = Edit(name, lambda values, positions: values * 2)
        in_place = Edit(name, lambda values, positions: values.mul_(2))
        expected = family_lm.run(tokens, edits=[apart], logits=True).logits
        assert torch.equal(family_lm.run(tokens, edits=[in_place], logits=True).logits, expected), name


def test_edits_of_one_point_apply_in_order(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    before = lm.run(tokens, capture=["resid_post.1"]).activations["resid_post.1"]
    add = Edit("resid_post.1", lambda values, positions: values + 1)
    double = Edit("resid_post.1", lambda values, positions: values * 2)
    run = lm.run(tokens, capture=["resid_post.1"], edits=[add, double])
    assert torch.equal(run.activations["resid_post.1"], (before + 1) * 2)
    run = lm.run(tokens, capture=["resid_post.1"], edits=[double, add])
    assert torch.equal(run.activations["resid_post.1"], before * 2 + 1)
    assert run.fired == {"resid_post.1": 1}


def test_an_edit_that_never_fired_is_an_error(build_lm: Callable[..., LanguageModel], tokens: Tensor) -> None:
    lm = build_lm("llama")
    lm.hf_model.model.layers[1].forward = lambda hidden_states, **_: hidden_states
    edit = Edit("mlp_out.1", unchanged, name="ablate 17")
    for arguments in ({"logits": True}, {"capture": ["resid_post.0"]}):
        with pytest.raises(EditNeverFired, match=r"'ablate 17' at mlp_out\.1") as caught:
            lm.run(tokens, edits=[edit], **arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(EditNeverFired, match="ablate 17"):
        lm.generate(["w5 w6"], edits=[edit])
    with pytest.raises(ModelError, match=r"mlp_in\.1 was never reached"):
        lm.run(tokens, capture=["mlp_in.1"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values, positions: values[:, :-1], r"shape \(2, 10, 32\)"),
        (lambda values, positions: values[0], r"shape \(11, 32\)"),
        (lambda values, positions: values.double(), "torch.float64"),
        (lambda values, positions: None, "NoneType"),
    ],
)
def test_an_edit_that_returns_something_else_is_refused(
    tiny: Callable[[str], LanguageModel], tokens: Tensor, change: Callable[..., Tensor], said: str
) -> None:
    lm = tiny("llama")
    hooks = n_hooks(lm)
    with pytest.raises(ModelError, match=said) as caught:
        lm.run(tokens, edits=[Edit("resid_post.1", change, name="steer")], logits=True)
    assert "'steer' at resid_post.1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert n_hooks(lm) == hooks


def test_points_that_are_only_reported_cannot_be_edited(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    for family, name in (
        ("llama", "resid_mid.1"),
        ("llama", "attn_probs.1"),
        ("mixtral", "expert_weights.1"),
        ("qwen3_moe", "expert_indices.1"),
    ):
        with pytest.raises(UsageError, match=f"{name} can be read, not edited") as caught:
            tiny(family).run(tokens, edits=[Edit(name, unchanged)], logits=True)
        assert "\n" not in str(caught.value)


# Padding and positions


def test_an_edit_that_only_reads_sees_the_point_and_changes_nothing(family_lm: LanguageModel, tokens: Tensor) -> None:
    captured = family_lm.run(
        tokens, capture=[name for name in ("resid_mid.1", "mlp_in.1") if name in family_lm.points()], logits=True
    )
    for point, values in captured.activations.items():
        seen: list[Tensor] = []

        def look(given: Tensor, _: object, seen: list[Tensor] = seen) -> Tensor:
            seen.append(given)
            return given * 0

        run = family_lm.run(tokens, edits=[Edit(point, look, reads_only=True)], logits=True)
        assert torch.equal(run.logits, captured.logits)
        assert torch.equal(seen[0], values)
        assert run.fired == {point: 1}


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_changes_no_real_value(family_lm: LanguageModel, tokens: Tensor, side: str) -> None:
    lengths = (11, 7)
    left = {"left": 4, "right": 0, "both": 2}[side]
    padded, mask = tokens.clone(), torch.ones_like(tokens)
    padded[1] = 0
    padded[1, left : left + 7], mask[1] = tokens[1, :7], 0
    mask[1, left : left + 7] = 1
    names = [name for name in family_lm.points() if not name.startswith((*ATTENTION_MAPS, "expert_indices"))]
    together = family_lm.run(padded, capture=names, attention_mask=mask, logits=True)
    for row, length in enumerate(lengths):
        alone = family_lm.run(tokens[row : row + 1, :length], capture=names, logits=True)
        own = mask[row].bool()
        for name in names:
            torch.testing.assert_close(
                together.activations[name][row][own], alone.activations[name][0], rtol=1e-4, atol=2e-5, msg=name
            )
        torch.testing.assert_close(together.logits[row][own], alone.logits[0], rtol=1e-4, atol=2e-5)


def test_edits_know_their_positions(tiny: Callable[[str], LanguageModel]) -> None:
    seen: list[Positions] = []

    def record(values: Tensor, positions: Positions) -> Tensor:
        seen.append(positions)
        return values

    tokens = torch.full((3, 5), 7)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    tiny("gpt2").run(tokens, edits=[Edit("resid_post.0", record)], attention_mask=mask)
    tiny("gpt2").run(tokens, edits=[Edit("resid_post.0", record)])
    assert seen[0].index.tolist() == [[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, -1, -1, -1]]
    assert torch.equal(seen[0].real, mask.bool())
    assert seen[1].index.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert bool(seen[1].real.all())


def test_what_an_edit_does_to_padding_reaches_nothing(family_lm: LanguageModel, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0

    def nan_on_padding(values: Tensor, positions: Positions) -> Tensor:
        return torch.where(positions.real.unsqueeze(-1), values, torch.nan)

    edits = [Edit(name, nan_on_padding) for name in editable(family_lm)]
    run = family_lm.run(tokens, edits=edits, attention_mask=mask, logits=True)
    assert torch.equal(run.logits, family_lm.run(tokens, attention_mask=mask, logits=True).logits)
    assert bool(run.logits.isfinite().all())


# Gradients


def test_gradients_of_captures_are_the_slopes_that_edits_see(family_lm: LanguageModel, tokens: Tensor) -> None:
    """d logits / d capture equals the central difference of runs edited along it."""
    weights = torch.randn(*tokens.shape, family_lm.vocab_size, generator=torch.Generator().manual_seed(3))
    layer_of = {name: name.rpartition(".")[2] for name in editable(family_lm)}
    names = [name for name in editable(family_lm) if layer_of[name] in ("1", "embeddings", "final_norm", "")]
    run = family_lm.run(tokens, capture=names, logits=True, grad=True)
    gradients = torch.autograd.grad((run.logits * weights).sum(), [run.activations[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        values = run.activations[name].detach()
        aside = torch.randn(values.shape, generator=torch.Generator().manual_seed(4))
        # Partly along the gradient, so that the slope stands out of rounding; short, so that no expert changes.
        along = gradient / gradient.norm() + 0.5 * aside / aside.norm()
        along *= 1e-4 * values.norm()

        def objective(scale: float, name: str = name, values: Tensor = values, along: Tensor = along) -> float:
            edit = Edit(name, lambda old, positions: values + scale * along)
            logits = family_lm.run(tokens, edits=[edit], logits=True).logits
            return float((logits.double() * weights).sum())

        slope = (objective(1) - objective(-1)) / 2
        predicted = float((gradient.double() * along).sum())
        assert slope == pytest.approx(predicted, rel=5e-3), name


def test_the_gradient_of_resid_mid_is_that_of_the_stream(family_lm: LanguageModel, tokens: Tensor) -> None:
    """Both what the MLP reads and what goes on beside it: the same as for what attention adds to the stream."""
    if "resid_mid.1" not in family_lm.points():
        return
    names = ["mlp_in.1", "attn_out_post.1", "resid_mid.1"]
    run = family_lm.run(tokens, capture=names, logits=True, grad=True)
    _, added, stream = torch.autograd.grad(run.logits[..., 5].sum(), [run.activations[name] for name in names])
    torch.testing.assert_close(added, stream)


def test_an_edit_of_what_the_mlp_reads_leaves_the_stream_beside_it(family_lm: LanguageModel, tokens: Tensor) -> None:
    if "resid_mid.1" not in family_lm.points():
        return
    before = family_lm.run(tokens, capture=["resid_mid.1"]).activations["resid_mid.1"]
    edit = Edit("mlp_in.1", lambda values, positions: values * 2)
    run = family_lm.run(tokens, capture=["resid_mid.1", "resid_post.1", "mlp_out_post.1"], edits=[edit])
    assert torch.equal(run.activations["resid_mid.1"], before)
    assert torch.equal(before + run.activations["mlp_out_post.1"], run.activations["resid_post.1"])


def test_gradients_flow_through_edits_to_their_parameters(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("gemma2")
    strength = torch.tensor(0.5, requires_grad=True)
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(5))

    def total(scale: Tensor, *, grad: bool) -> Tensor:
        edit = Edit("resid_post.0", lambda values, positions: values + scale * direction)
        return lm.run(tokens, edits=[edit], logits=True, grad=grad).logits[:, -1, 7].double().sum()

    total(strength, grad=True).backward()
    with torch.no_grad():
        slope = (total(strength + 1e-2, grad=False) - total(strength - 1e-2, grad=False)) / 2e-2
    assert strength.grad is not None
    assert float(slope) == pytest.approx(float(strength.grad), rel=1e-2)


def test_a_capture_with_gradients_stops_early_too(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    values = lm.run(tokens, capture=["resid_post.0", "resid_post.1"], grad=True).activations
    (gradient,) = torch.autograd.grad(values["resid_post.1"].sum(), values["resid_post.0"])
    assert gradient.abs().max() > 0
    assert all(parameter.grad is None for parameter in lm.hf_model.parameters())


def test_without_grad_nothing_hangs_on_a_graph(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    run = tiny("llama").run(tokens, capture=["resid_post.1", "lm_head"], logits=True)
    assert not run.logits.requires_grad
    assert not any(value.requires_grad for value in run.activations.values())


# What a run leaves behind


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_run_leaves_no_hook_behind(
    family_lm: LanguageModel, tokens: Tensor, error: type[BaseException]
) -> None:
    expected, hooks = family_lm.run(tokens, logits=True).logits, n_hooks(family_lm)
    attention = family_lm.hf_model.config._attn_implementation

    def fail(values: Tensor, positions: Positions) -> Tensor:
        raise error

    values = family_lm.run(tokens, capture=["resid_post.0"]).activations["resid_post.0"]
    for arguments in ({}, {"capture": ["attn_probs.0", "attn_scores.1"]}, {"start": ("resid_post.0", values)}):
        start = "start" in arguments
        with pytest.raises(error):
            family_lm.run(tokens, edits=[Edit("mlp_in.2" if start else "mlp_in.1", fail)], logits=True, **(arguments))
        assert n_hooks(family_lm) == hooks
        assert family_lm.hf_model.config._attn_implementation == attention
    with pytest.raises(error):
        family_lm.generate(["w5 w6"], edits=[Edit("mlp_in.1", fail)])
    assert n_hooks(family_lm) == hooks
    assert torch.equal(family_lm.run(tokens, logits=True).logits, expected)


def test_a_run_inside_an_edit_is_refused(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    hooks = n_hooks(lm)

    def nested(values: Tensor, positions: Positions) -> Tensor:
        return lm.run(tokens, capture=["resid_post.1"]).activations["resid_post.1"]

    with pytest.raises(ModelError, match="inside another run's edit"):
        lm.run(tokens, edits=[Edit("resid_post.1", nested)], logits=True)
    assert n_hooks(lm) == hooks


def test_runs_from_several_threads_keep_apart(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")

    def shifted(shift: int) -> Tensor:
        edit = Edit("resid_post.0", lambda values, positions: values + shift)
        return lm.run(tokens, edits=[edit], logits=True).logits

    expected = [shifted(shift) for shift in range(4)]
    found: dict[tuple[int, int], Tensor] = {}

    def work(shift: int) -> None:
        for attempt in range(10):
            found[shift, attempt] = shifted(shift)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(torch.equal(logits, expected[shift]) for (shift, _), logits in found.items())


# Bad input


@pytest.mark.parametrize(
    ("tokens", "mask", "said"),
    [
        (torch.ones(3).long(), None, r"\[batch, seq\]"),
        (torch.ones(2, 3), None, "whole numbers"),
        (torch.zeros(1, 0).long(), None, r"shape \(1, 0\)"),
        (torch.tensor([[5, 101]]), None, "token id 101 .* vocabulary of 101"),
        (torch.tensor([[-1, 5]]), None, "token id -1"),
        (torch.ones(2, 3).long(), torch.ones(2, 4), "one entry per token"),
        (torch.ones(2, 3).long(), torch.tensor([[1, 1, 1], [0, 0, 0]]), "row 1 .* all padding"),
    ],
)
def test_wrong_tokens_are_refused_in_one_line(
    tiny: Callable[[str], LanguageModel], tokens: Tensor, mask: Tensor | None, said: str
) -> None:
    with pytest.raises(SaescopeError, match=said) as caught:
        tiny("llama").run(tokens, capture=["resid_post.1"], attention_mask=mask)
    assert "\n" not in str(caught.value)


def test_more_tokens_than_positions_is_refused_in_one_line(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("gpt2")
    hooks = n_hooks(lm)
    for refuse in (
        lambda: lm.run(torch.ones(1, 65).long(), capture=["resid_post.1"]),
        lambda: lm.generate(torch.full((1, 60), 5), max_new_tokens=6),
    ):
        with pytest.raises(ModelError, match=r"6\d tokens are more than the 64"):
            refuse()
    assert n_hooks(lm) == hooks


# Starting in the middle


def test_a_start_equals_the_full_run_with_the_values_substituted(family_lm: LanguageModel, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    hooks = n_hooks(family_lm)
    for layer in range(family_lm.n_layers):
        point = f"resid_post.{layer}"
        assert family_lm.can_start_at(point)
        values = torch.randn(*tokens.shape, family_lm.d_model, generator=torch.Generator().manual_seed(layer))
        later = Edit(f"mlp_in.{layer + 1}", lambda old, positions: old * 2) if layer < 2 else None
        edits = [later] if later else []
        capture = [point, "final_norm", *([f"z.{layer + 1}"] if later else [])]
        for attention_mask in (None, mask):
            # On padding a full run keeps its own values, which nothing real attends to.
            real = torch.ones_like(mask) if attention_mask is None else mask
            full = family_lm.run(
                tokens,
                capture=capture,
                edits=[Edit(point, lambda old, positions, new=values: new), *edits],
                attention_mask=attention_mask,
                logits=True,
            )
            resumed = family_lm.run(
                tokens,
                capture=capture,
                edits=edits,
                attention_mask=attention_mask,
                logits=True,
                start=(point, values),
            )
            pairs = [(full.logits, resumed.logits)]
            pairs += [(full.activations[name], resumed.activations[name]) for name in capture]
            for whole, part in pairs:
                # An expert multiplies the tokens routed to it at once, padding too: with other padding in the batch, a
                # product over several threads may round the last bit differently.
                routed = attention_mask is not None and hasattr(family_lm.hf_model.config, "num_experts_per_tok")
                exact = {"rtol": 1e-5, "atol": 1e-5} if routed else {"rtol": 0, "atol": 0}
                torch.testing.assert_close(part[real.bool()], whole[real.bool()], **exact)
    assert n_hooks(family_lm) == hooks


def test_a_start_computes_no_block_before_it(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    assert lm.can_start_at("resid_post.1")
    attention = [block.self_attn for block in lm.hf_model.model.layers]
    values = torch.randn(*tokens.shape, lm.d_model)
    assert calls_of(lm, attention, lambda: lm.run(tokens, logits=True, start=("resid_post.1", values))) == [0, 0, 1]


def test_gradients_reach_the_values_of_a_start(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("gpt_neox")
    values = torch.randn(*tokens.shape, lm.d_model, requires_grad=True)
    resumed = lm.run(tokens, logits=True, grad=True, start=("resid_post.0", values))
    (started,) = torch.autograd.grad(resumed.logits[..., 5].sum(), values)
    edit = Edit("resid_post.0", lambda old, positions: values)
    (edited,) = torch.autograd.grad(lm.run(tokens, edits=[edit], logits=True, grad=True).logits[..., 5].sum(), values)
    assert torch.equal(started, edited)


def test_what_lies_before_a_start_cannot_be_asked_for(tiny: Callable[[str], LanguageModel], tokens: Tensor) -> None:
    lm = tiny("llama")
    values = torch.randn(*tokens.shape, lm.d_model)
    for name in ("embeddings", "resid_post.0", "mlp_out.1", "resid_pre.1"):
        with pytest.raises(UsageError, match=f"{name} lies before resid_post.1"):
            lm.run(tokens, capture=[name], start=("resid_post.1", values))
    with pytest.raises(UsageError, match=r"cannot start at mlp_out\.1"):
        lm.run(tokens, logits=True, start=("mlp_out.1", values))
    with pytest.raises(ModelError, match="start values are"):
        lm.run(tokens, logits=True, start=("resid_post.1", values[:1]))


def test_a_model_whose_later_blocks_need_the_earlier_ones_cannot_start(
    build_lm: Callable[..., LanguageModel],
) -> None:
    """Blocks may pass more than the residual stream between them; that must be found out, not assumed away."""
    lm = build_lm("llama")
    first, last = lm.hf_model.model.layers[0], lm.hf_model.model.layers[2]
    seen: dict[str, Tensor] = {}
    first.mlp.register_forward_hook(lambda module, args, output: seen.update(mlp=output))
    last.register_forward_hook(lambda module, args, output: output + seen.pop("mlp", 0))
    assert not lm.can_start_at("resid_post.1")


@pytest.mark.real
def test_smollm2_starts_exactly_where_a_full_run_would_be(smollm2: LanguageModel) -> None:
    tokens = torch.tensor([smollm2.tokenizer("The Eiffel Tower is in the city of Paris.")["input_ids"]])
    values = smollm2.run(tokens, capture=["resid_post.14"]).activations["resid_post.14"]
    resumed = smollm2.run(tokens, logits=True, start=("resid_post.14", values))
    assert torch.equal(resumed.logits, smollm2.run(tokens, logits=True).logits)
