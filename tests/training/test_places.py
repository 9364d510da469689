"""One coder here, several there: from expressions to the coders of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from saescope.errors import UsageError
from saescope.lm import PointNames
from saescope.training import resolve
from saescope.training.places import Place, labels, places_of

HERE = PointNames([f"{name}.{layer}" for layer in range(30) for name in ("mlp_in", "mlp_out")], "the model")


def test_groups_pair_in_order() -> None:
    assert places_of("mlp_in.0-1", "mlp_out.0-1", HERE) == [
        Place(("mlp_in.0",), ("mlp_out.0",)),
        Place(("mlp_in.1",), ("mlp_out.1",)),
    ]
    assert places_of("mlp_in.3+mlp_in.4", "mlp_out.4", HERE) == [Place(("mlp_in.3", "mlp_in.4"), ("mlp_out.4",))]
    assert len(places_of("", "", HERE)) == 60
    with pytest.raises(UsageError, match=r"of 2 coders and --writes of 1 coder; .* \(a\+b joins points of one coder\)"):
        places_of("mlp_in.3,mlp_in.4", "mlp_out.4", HERE)
    with pytest.raises(UsageError, match="give --reads"):
        places_of("", "mlp_out.4", HERE)


@pytest.mark.parametrize(
    ("reads", "writes", "expected"),
    [
        ("mlp_in.3", "mlp_out.3", [""]),
        ("mlp_in.3,mlp_out.4", "", ["mlp_in.3", "mlp_out.4"]),
        ("mlp_in.3-4", "mlp_out.3-4", ["mlp_out.3", "mlp_out.4"]),
        ("mlp_in.3,mlp_in.4", "mlp_out.4,mlp_out.4", ["mlp_in.3", "mlp_in.4"]),
        (
            "mlp_in.3,mlp_in.3,mlp_in.4",
            "mlp_out.4,mlp_out.3,mlp_out.4",
            ["mlp_in.3-to-mlp_out.4", "mlp_in.3-to-mlp_out.3", "mlp_in.4-to-mlp_out.4"],
        ),
        ("mlp_in.3+mlp_in.4,mlp_in.5", "", ["mlp_in.3+mlp_in.4", "mlp_in.5"]),
    ],
)
def test_coder_names_are_distinct_and_short(reads: str, writes: str, expected: list[str]) -> None:
    assert labels(places_of(reads, writes, HERE)) == expected


def test_a_coder_over_all_layers_still_has_a_name_a_file_system_takes() -> None:
    whole = "+".join(f"mlp_in.{layer}" for layer in range(30))
    assert labels(places_of(f"{whole},mlp_in.0", "", HERE)) == ["mlp_in.0-29", "mlp_in.0"]


def test_a_grid_at_every_layer() -> None:
    config = resolve(
        None, {}, {"d_sae": 64}, archs=["batchtopk", "matryoshka"], l0s=[4, 8], reads="mlp_in.*", writes="mlp_out.*",
        available=HERE,
    )  # fmt: skip
    assert len({coder.name for coder in config.coders}) == len(config.coders) == 120
    assert config.coders[-1].name == "matryoshka-l0-8-mlp_out.29"
    assert config.points == tuple(point for layer in range(30) for point in (f"mlp_in.{layer}", f"mlp_out.{layer}"))


def test_a_file_keeps_its_coders_and_takes_one_place(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(resolve(None, {}, {"d_sae": 64}, reads="mlp_in.1", writes="mlp_out.1", available=HERE).to_yaml())
    moved = resolve(path, {}, {}, reads="mlp_in.2+mlp_in.3", available=HERE).coders[0]
    assert (moved.reads, moved.writes) == (("mlp_in.2", "mlp_in.3"), ("mlp_out.1",))
    with pytest.raises(UsageError, match="with --config, --writes takes the points of one coder"):
        resolve(path, {}, {}, writes="mlp_out.*", available=HERE)
