"""The explorer's feature card and prompt view in a notebook (anywidget; `pip install 'saescope[widget]'`).

    from saescope.server.widget import FeatureCard, PromptView
    FeatureCard("run/coder/index", 1234)
    PromptView("run/coder/index", lm, "The Eiffel Tower is in Paris.", feature=1234)

They show what the page shows, from the same answers; people's labels are those of the folder that is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from saescope.errors import SaescopeError, UsageError
from saescope.lm import LanguageModel
from saescope.server.prompting import encoded, prompt_result, tokenized
from saescope.server.routes.feature import feature as feature_answer
from saescope.server.served_coder import ServedCoder
from saescope.server.workspace import Workspace

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise UsageError(f"widgets need {error.name}: pip install 'saescope[widget]'") from None

_WEB = files("saescope.server") / "web"


def _read(name: str) -> str:
    return (_WEB / name).read_text("utf-8")


@cache
def _style() -> str:
    """The page's colours and tokens, for what is inside a widget only."""
    palette = _read("style/base.css").split("*, *::before", 1)[0].replace(":root", ".saescope")
    return palette + _read("style/tokens.css") + _read("widget.css")


class _View(anywidget.AnyWidget):
    _esm = _read("widget.js")
    _css = _style()
    kind = traitlets.Unicode("").tag(sync=True)
    content = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)

    def _attempt(self, work: Callable[[], dict[str, Any]]) -> None:
        """Show what `work` gives, or in one line why it cannot."""
        try:
            self.content, self.error = work(), ""
        except SaescopeError as error:
            self.error = str(error)


class FeatureCard(_View):
    """A feature of an index: label, numbers, output tokens, examples by strength. Set `feature` for another.

    workspace: an index, or a folder of indexes whose `coder` (default: the first) is meant.
    """

    feature = traitlets.Int(0).tag(sync=True)

    def __init__(self, workspace: str | Path, feature: int, *, coder: str | None = None) -> None:
        self._coder = _opened(workspace, coder)
        self._coder.index.check_feature(feature)
        super().__init__(kind="card", feature=feature)
        self.observe(lambda change: self._show(), names="feature")
        self._show()

    def _show(self) -> None:
        def work() -> dict[str, Any]:
            self._coder.index.check_feature(self.feature)
            return _answered(self._coder, self.feature)

        self._attempt(work)


class PromptView(_View):
    """A text through the model and a coder: tokens coloured by `feature`, and the features that fire most unexpectedly.
    Typing changes `text`; a click on a feature changes `feature`."""

    text = traitlets.Unicode("").tag(sync=True)
    feature = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        workspace: str | Path,
        lm: LanguageModel,
        text: str,
        *,
        feature: int | None = None,
        coder: str | None = None,
    ) -> None:
        self._coder, self._lm = _opened(workspace, coder), lm
        if feature is not None:
            self._coder.index.check_feature(feature)
        super().__init__(kind="prompt", text=text, feature=feature)
        self.observe(lambda change: self._show(), names=["text", "feature"])
        self._show()

    def _show(self) -> None:
        self._attempt(lambda: _prompted(self._coder, self._lm, self.text, self.feature))


def _opened(folder: str | Path, coder: str | None) -> ServedCoder:
    workspace = Workspace(folder)
    if coder is None:
        return next(iter(workspace.coders.values()))
    found = workspace.coder(coder)
    if found is None:
        raise UsageError(f"there is no coder {coder!r} in {folder}; there are {', '.join(workspace.coders)}")
    return found


def _answered(coder: ServedCoder, feature: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(bytes(feature_answer(coder, feature).body))
    return answer


def _prompted(coder: ServedCoder, lm: LanguageModel, text: str, feature: int | None) -> dict[str, Any]:
    subject = coder.subject(lm.device)
    codes = encoded(lm, [subject], tokenized(lm, text, None, subject.sequence_options()))[0]
    strongest = [] if feature is None else [coder.index.check_feature(feature)]
    result = prompt_result(lm, coder.index, codes, strongest, 5)
    labels = coder.labels.by_feature
    own = coder.people.additions(coder.fingerprint).labels
    for number in result["maxima"]:
        label = own.get(int(number)) or (labels[int(number)].text if int(number) in labels else "")
        result["labels"][number] = label
    if feature is None and result["strongest"]:
        best = result["strongest"][0]["feature"]
        return {**prompt_result(lm, coder.index, codes, [best], 5), "labels": result["labels"], "shown": best}
    return {**result, "shown": feature}
