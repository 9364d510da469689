"""Where models come from, what is said when one cannot be had, and how one is known again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants, errors
from safetensors.torch import load_file, save_file
from torch import nn

from saescope.errors import ModelError, SaescopeError, UsageError
from saescope.lm import LanguageModel, resolve_device, resolve_dtype
from saescope.lm.identity import comparable, weights_differ, weights_fingerprint


@pytest.fixture
def saved(tiny: Callable[[str], LanguageModel], tmp_path: Path) -> Path:
    lm = tiny("llama")
    folder = tmp_path / "my-llama"
    lm.hf_model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def write_gguf(path: Path, lm: LanguageModel) -> None:
    """A tiny Llama as llama.cpp stores it, its query and key rows interleaved for its rotary embedding."""
    config = lm.hf_model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(0x100 + index) for index in range(config.vocab_size - 1)]
    writer.add_token_list([*letters, letters[5] + letters[6]])
    writer.add_token_merges([f"{letters[5]} {letters[6]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in lm.hf_model.state_dict().items():
        values = parameter.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for projection, n in heads.items():
            if projection in name:
                values = values.reshape(n, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        stored = names.get_name(name, try_suffixes=(".weight",))
        assert stored is not None
        writer.add_tensor(stored, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_folder_loads_as_the_model_it_holds(
    saved: Path, tiny: Callable[[str], LanguageModel], tokens: torch.Tensor
) -> None:
    lm, original = LanguageModel.load(str(saved), dtype="float32", device="cpu"), tiny("llama")
    assert (lm.spec, lm.name, lm.dtype, lm.device.type) == (str(saved), "my-llama", torch.float32, "cpu")
    assert (lm.n_layers, lm.d_model, lm.vocab_size) == (3, 32, 101)
    assert lm.special_ids == {0, 1, 2}
    assert torch.equal(lm.run(tokens, logits=True).logits, original.run(tokens, logits=True).logits)
    assert not any(parameter.requires_grad for parameter in lm.hf_model.parameters())


def test_a_gguf_file_loads_unpacked(
    build_lm: Callable[..., LanguageModel], tmp_path: Path, tokens: torch.Tensor
) -> None:
    original = build_lm("llama")
    write_gguf(tmp_path / "tiny.gguf", original)
    lm = LanguageModel.load(str(tmp_path / "tiny.gguf"), dtype="float32", device="cpu")
    assert lm.name == "tiny"
    assert all(type(parameter) is nn.Parameter for parameter in lm.hf_model.parameters())
    torch.testing.assert_close(lm.run(tokens, logits=True).logits, original.run(tokens, logits=True).logits)


def test_loading_says_nothing(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LanguageModel.load(str(saved), device="cpu")
    assert capfd.readouterr() == ("", "")


def one_line(spec: str, **arguments: Any) -> str:
    with pytest.raises(SaescopeError) as caught:
        LanguageModel.load(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_model_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    assert "there is no folder" in one_line(str(tmp_path / "absent"))
    assert "there is no file" in one_line(str(tmp_path / "absent.gguf"))
    assert "no config.json" in one_line(str(tmp_path))
    assert "not a .gguf" in one_line(str(tmp_path / "notes.txt"))
    assert "broken.gguf could not be loaded" in one_line(str(tmp_path / "broken.gguf"))
    assert "smollm2, gemma3-270m" in one_line("")
    assert "is not a model" in one_line("two words")
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{saved} could not be loaded" in one_line(str(saved))
    (saved / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    assert f"{saved} could not be loaded" in one_line(str(saved))


def test_weights_that_are_missing_are_not_made_up(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    whole = {name: value for name, value in tensors.items() if "layers.1.mlp" not in name}
    save_file(whole, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"my-llama lacks 3 of the model's weights \(model\.layers\.1\.mlp") as refused:
        LanguageModel.load(str(saved))
    assert "\n" not in str(refused.value)
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(ModelError, match=r"the config\.json that belongs to these weights"):
        LanguageModel.load(str(saved))


def test_tokens_that_only_the_tokenizers_file_marks_are_special(saved: Path) -> None:
    path = saved / "tokenizer.json"
    content = json.loads(path.read_text())
    before = LanguageModel.load(str(saved))
    content["added_tokens"].append(
        {"id": 97, "content": before.tokenizer.convert_ids_to_tokens(97), "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False, "special": True}
    )
    path.write_text(json.dumps(content))
    assert LanguageModel.load(str(saved)).special_ids == before.special_ids | {97}


def test_a_hub_id_offline_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for spec in ("smollm", "nobody/nothing-here"):
        message = one_line(spec)
        assert f"{spec} is no demo model" in message
        assert "HF_HUB_OFFLINE is set" in message
    assert "nearest: smollm2" in one_line("smollm")


def test_why_the_hub_has_no_model_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Response:
        def __init__(self) -> None:
            self.headers: dict[str, str] = {}
            self.request = None

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for error, said in (
        (ConnectionError("name\nnot known"), "the hub did not answer (name not known)"),
        (errors.RepositoryNotFoundError("404", response=Response()), "the hub has no model nobody/nothing"),
        (errors.GatedRepoError("403", response=Response()), "accept its terms"),
    ):

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(HfApi, "model_info", refuse)
        assert said in one_line("nobody/nothing")


def test_a_hub_id_in_the_local_hub_cache_loads_offline(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--somebody--tiny-llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    saved.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lm = LanguageModel.load("somebody/tiny-llama", device="cpu")
    assert (lm.spec, lm.name) == ("somebody/tiny-llama", "tiny-llama")


def test_dtypes_and_devices() -> None:
    cpu = resolve_device("cpu")
    assert resolve_dtype("bf16", cpu) is torch.bfloat16
    assert resolve_dtype(torch.float16, cpu) is torch.float16
    assert resolve_dtype("auto", cpu) in (torch.bfloat16, torch.float32)
    assert resolve_dtype("auto", torch.device("mps")) is torch.float32
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for refuse, said in (
        (lambda: resolve_dtype("float31", cpu), "nearest: float32"),
        (lambda: resolve_dtype(torch.int8, cpu), "cannot hold"),
        (lambda: resolve_device("gpu"), "use auto, cpu, cuda"),
        (lambda: resolve_device("cuda:99"), "is not here"),
        (lambda: resolve_device("meta"), "is none that saescope runs on"),
    ):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_model_out_of_memory_is_said_in_one_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[str], LanguageModel]
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    lm = LanguageModel.load(str(saved), device="cpu")
    lm.hf_model.model.layers[1].forward = exhausted
    with pytest.raises(ModelError, match="out of memory on cpu; use fewer or shorter"):
        lm.run(torch.ones(1, 4).long(), logits=True)


# Identity


def test_identity_is_json_and_survives_saving_and_loading(saved: Path, tiny: Callable[[str], LanguageModel]) -> None:
    original = tiny("llama").identity()
    assert json.loads(json.dumps(original)) == original
    loaded = LanguageModel.load(str(saved), dtype="float32", device="cpu").identity()
    differing = {key for key in original if original[key] != loaded[key]}
    assert differing == {"spec", "name"}


def test_precision_changes_the_dtype_and_not_the_fingerprint(saved: Path) -> None:
    single = LanguageModel.load(str(saved), dtype="float32", device="cpu").identity()
    half = LanguageModel.load(str(saved), dtype="bfloat16", device="cpu").identity()
    assert {key for key in single if single[key] != half[key]} == {"dtype"}


@pytest.mark.parametrize("change", ["one layer a little", "one norm's last value", "rotary base", "vocabulary"])
def test_another_model_has_another_identity(
    build_lm: Callable[..., LanguageModel], tmp_path: Path, change: str
) -> None:
    base = build_lm("llama").identity()
    if change == "rotary base":
        other = build_lm("llama", rope_parameters={"rope_type": "default", "rope_theta": 20_000.0})
    else:
        other = build_lm("llama")
        with torch.no_grad():
            if change == "one layer a little":
                down = other.hf_model.model.layers[1].mlp.down_proj.weight
                down += 0.01 * torch.outer(torch.ones(32), torch.randn(48))
            elif change == "one norm's last value":
                other.hf_model.model.norm.weight[-1] += 0.1
    if change == "vocabulary":
        other.tokenizer.save_pretrained(tmp_path)
        text = (tmp_path / "tokenizer.json").read_text().replace('"w50"', '"other"')
        (tmp_path / "tokenizer.json").write_text(text)
        other = LanguageModel.from_hf(other.hf_model, type(other.tokenizer).from_pretrained(tmp_path))
        assert other.identity()["tokenizer"] != base["tokenizer"]
    else:
        assert other.identity()["weights"] != base["weights"]
        assert other.identity()["tokenizer"] == base["tokenizer"]


def test_what_a_library_adds_to_a_config_changes_nothing(build_lm: Callable[..., LanguageModel]) -> None:
    """One version of transformers writes defaults that the next leaves out, and spells the rotary base in another way."""
    lm = build_lm("llama")
    config = copy.deepcopy(lm.hf_model.config)
    before = weights_fingerprint(lm.hf_model, config)
    assert before.startswith("2:")
    config.torchscript, config.top_k, config.pruned_heads, config.use_cache = False, 50, {}, False
    assert weights_fingerprint(lm.hf_model, config) == before
    # As versions before 5 have it.
    base = config.rope_parameters["rope_theta"]
    config.rope_parameters = None
    config.rope_theta = int(base)
    assert weights_fingerprint(lm.hf_model, config) == before
    config.rope_theta = 2 * base
    assert weights_fingerprint(lm.hf_model, config) != before
    config.rope_theta = base
    config.hidden_act = "relu"
    assert weights_fingerprint(lm.hf_model, config) != before


def test_only_fingerprints_by_one_rule_are_compared() -> None:
    assert weights_differ("2:aa", "2:bb")
    assert weights_differ("aa", "bb")
    assert not weights_differ("2:aa", "2:aa")
    for one, other in (("2:aa", "bb"), ("2:aa", "3:bb"), (None, "2:aa"), ("2:aa", None), (None, None)):
        assert not weights_differ(one, other)

    def equal(one: str, other: str, **changed: object) -> bool:
        records = ({"model": {"weights": one, "layers": 2}, "seed": 0}, {"model": {"weights": other, "layers": 2}})
        mine, theirs = comparable(records[0], records[1] | {"seed": 0} | changed)
        return mine == theirs

    assert equal("2:aa", "bb")
    assert not equal("2:aa", "2:bb")
    assert not equal("2:aa", "bb", seed=1)
    assert not equal("2:aa", "bb", model={"layers": 3})


@pytest.mark.real
def test_smollm2_is_what_it_says(smollm2: LanguageModel) -> None:
    assert (smollm2.n_layers, smollm2.d_model, smollm2.vocab_size) == (30, 576, 49_152)
    assert smollm2.width("mlp_act.14") == 1536
    assert smollm2.identity()["spec"] == "smollm2"
    generation = smollm2.generate("The Eiffel Tower is located in the city of", max_new_tokens=4)
    assert generation.texts[0].startswith(" Paris, France")
