from __future__ import annotations

from pathlib import Path

import pytest
from tests.features.labels.planted import PlantedIndex, planted_index


@pytest.fixture(scope="session")
def _planted() -> PlantedIndex:
    return planted_index()


@pytest.fixture
def planted(_planted: PlantedIndex, tmp_path: Path) -> PlantedIndex:
    return PlantedIndex(_planted.arrays, _planted.documents, _planted.d_sae, tmp_path)
