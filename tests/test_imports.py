"""What is waited for before anything happens: libraries that a command does not use are not imported."""

from __future__ import annotations

import json
import subprocess
import sys

IMPORTED = """
import json, sys
import saescope
for name in ("load", "Store", "train", "FeatureIndex", "Corpus"):
    getattr(saescope, name)
without_model = sorted({"interp_engine", "transformers"} & sys.modules.keys())
import saescope.evaluation
measuring = sorted({"sklearn", "scipy.stats"} & sys.modules.keys())
print(json.dumps([without_model, measuring, "transformers" in sys.modules]))
"""


def test_work_without_a_model_imports_no_model_library() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    without_model, measuring, with_model = json.loads(done.stdout)
    assert without_model == []
    # What only some probes use.
    assert measuring == []
    # The names looked for are those that get imported.
    assert with_model
