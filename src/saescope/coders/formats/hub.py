"""Coders in repositories of the Hugging Face hub: `owner/name`, `owner/name/sub/folder`, `hf:owner/name@revision/...`.

Only the files that a format asks for are fetched. Without network, or with HF_HUB_OFFLINE set, what the local hub cache
holds of the repository.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from saescope.coders.formats.source import LocalSource, Source, listed
from saescope.errors import CoderError

_PART = r"[A-Za-z0-9][\w.-]*"
_SPEC = re.compile(rf"(?:hf:(?://)?)?(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w./-]+?))?(?P<inside>/.+)?/?")
_PROBE_SECONDS = 10.0


class HubSource(Source):
    """Files below `inside` in a repository, fetched one by one when they are read."""

    def __init__(
        self, spec: str, repo: str, revision: str | None, inside: str, files: frozenset[str], chosen: str | None = None
    ) -> None:
        super().__init__(spec, chosen, "/".join(part for part in (repo, inside, chosen) if part))
        self.repo, self.revision, self.inside = repo, revision, inside
        self._files = files
        prefix = f"{inside}/" if inside else ""
        self._names = frozenset(file.removeprefix(prefix) for file in files if file.startswith(prefix))

    @property
    def names(self) -> frozenset[str]:
        return self._names

    def path(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        file = f"{self.inside}/{name}" if self.inside else name
        try:
            return Path(hf_hub_download(self.repo, file, revision=self.revision))
        except Exception as error:
            raise CoderError(f"{file} of {self.repo} could not be fetched: {_first_line(error)}") from None

    def with_file(self, file: str) -> Source:
        whole = f"{self.inside}/{file}" if self.inside else file
        if whole not in self._files:
            raise CoderError(f"{self.spec} has no file {file}; it has {listed(self.names)}")
        path = PurePosixPath(whole)
        parent = "" if str(path.parent) == "." else str(path.parent)
        return HubSource(f"{self.spec.rstrip('/')}/{file}", self.repo, self.revision, parent, self._files, path.name)


def is_hub_spec(spec: str) -> bool:
    """Whether `spec` may name a repository, given that there is nothing of this name on this machine."""
    if spec.startswith("hf:"):
        return True
    first = Path(spec).parts[0] if Path(spec).parts else ""
    # A folder that is there, of which a part is not, is a mistyped path.
    return bool(_SPEC.fullmatch(spec)) and not Path(first).exists()


def hub_source(spec: str) -> Source:
    """The files of a repository. CoderError, in one line, when there is none, or the hub does not answer and the local cache
    has nothing of it."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise CoderError(
            f"{spec!r} is not a hub repository; write owner/name, owner/name/folder or hf:owner/name@revision"
        )
    repo, revision, inside = found["repo"], found["revision"], (found["inside"] or "").strip("/")
    files, why = _online(spec, repo, revision)
    if files is None:
        return _cached(spec, repo, revision, inside, why)
    if inside in files:
        path = PurePosixPath(inside)
        parent = "" if str(path.parent) == "." else str(path.parent)
        return HubSource(spec, repo, revision, parent, files, path.name)
    source = HubSource(spec, repo, revision, inside, files)
    if not source.names:
        raise CoderError(f"{repo} has nothing at {inside}; it has {listed(files)}")
    return source


def _online(spec: str, repo: str, revision: str | None) -> tuple[frozenset[str] | None, str]:
    """The repository's files, or None and why they are not known."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    try:
        # Asked once and briefly: downloads would retry for half a minute before they said the same.
        info: Any = HfApi().model_info(repo, revision=revision, timeout=_PROBE_SECONDS)
    except GatedRepoError:
        raise CoderError(
            f"{repo} is gated on the hub; accept its terms there and log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise CoderError(f"{repo} has no revision {revision!r} on the hub") from None
    except RepositoryNotFoundError:
        raise CoderError(
            f"no coder at {spec}: there is no such folder, and the hub has no {repo}, or it is private"
        ) from None
    except Exception as error:
        return None, f"the hub did not answer ({_first_line(error)})"
    return frozenset(file.rfilename for file in info.siblings or []), ""


def _cached(spec: str, repo: str, revision: str | None, inside: str, why: str) -> Source:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True)) / inside
    except Exception:
        raise CoderError(
            f"no coder at {spec}: there is no such folder, nothing of {repo} in the local hub cache, and {why}"
        ) from None
    if folder.is_file():
        return LocalSource(spec, folder.parent, folder.name)
    if not folder.is_dir():
        raise CoderError(f"no coder at {spec}: the local hub cache of {repo} has nothing at {inside}, and {why}")
    return LocalSource(spec, folder)


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:200]
