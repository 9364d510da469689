"""A Wikipedia dump as JSON lines of `{"title", "text"}`: articles only, markup removed, what a reader reads kept."""

from __future__ import annotations

import bz2
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import mwparserfromhell
from mwparserfromhell.wikicode import Wikicode

from saescope.errors import AssetError

ARTICLES_IN_SAMPLE = 106
_ARTICLES = "0"
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_UNSPOKEN_TAG = re.compile(r"<(gallery|timeline|imagemap|score|math|ce|chem)\b[^>]*>.*?</\1\s*>", re.S | re.I)
_REPEATED_NOTE = re.compile(r"<ref\b[^<>]*?/\s*>", re.I)
_NOTE = re.compile(r"<ref\b[^<>]*>(.*?)</ref\s*>", re.S | re.I)
_SHORTEST_NOTE = 20
_IMAGE = re.compile(r"^\s*(?:file|image|media)\s*:", re.I)
_NAVIGATION = re.compile(r"^\s*(?:category|[a-z]{2,3}(?:-[a-z]+)*)\s*:", re.I)
_IMAGE_OPTION = re.compile(
    r"^\s*(?:thumb(?:nail)?|left|right|center|none|frame(?:d|less)?|border|baseline|middle|top|bottom|text-top"
    r"|upright(?:\s*=?[\d. ]*)?|[\dx ]+px|(?:alt|link|class|page|lang|thumb)\s*=.*)\s*$",
    re.I | re.S,
)
_BRACKETS_AND_BARS = re.compile(r"(\[\[|\]\]|\{\{|\}\}|\|)")
_TABLE_OPENS = re.compile(r"^[\s:*#]*\{\|")
_TABLE_CLOSES = re.compile(r"^\s*\|\}(?!\})")
_HEADING = re.compile(r"^=+[^=].*=+\s*$")
_CELL_ATTRIBUTES = re.compile(r"^[^|\[\]{}]*=[^|\[\]{}]*\|(?!\|)")
_LEFTOVER_LINE = re.compile(r"^\s*(?:\||!\s|\{\||\|\}|\[\[(?:File|Image):)")
_TAG = re.compile(r"</?[a-z]+[0-9]?(?:\s[^<>]*)?/?>", re.I)
_LINE_BREAK = re.compile(r"<br\b[^<>]*>", re.I)
_MAGIC_WORD = re.compile(r"__[A-Z]+__")
_EMPTIED_BRACKET = re.compile(r"\(\s*(?:[;,]\s*)+")
_EMPTY_BRACKETS = re.compile(r" ?\(\s*\)")
_EMPTY_CELLS = re.compile(r"(?:\s*\|)*\s*$")
_SPACE_BEFORE_STOP = re.compile(r"(?<=\w) +(?=[,;.)](?:\s|$))")
_SPACES = re.compile(r"[ \t\u00a0]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def convert(dump: Path, out: Path, advance: Callable[[int], None]) -> dict[str, str]:
    """Write the articles of a bz2 XML dump to `out`; `advance` is told how many are done.

    Returns the versions of the packages that decided the result. AssetError when the dump is unreadable or empty.
    """
    count = 0
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for title, wikitext in articles(dump):
            file.write(json.dumps({"title": title, "text": plain_text(wikitext)}, ensure_ascii=False) + "\n")
            count += 1
            advance(count)
    if not count:
        raise AssetError(f"{dump.name} holds no article; refused")
    return {"mwparserfromhell": str(mwparserfromhell.__version__)}


def articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Title and wikitext of every page of the main namespace that is not a redirect, in the dump's order."""
    try:
        with bz2.open(dump) as stream:
            for _, element in ElementTree.iterparse(stream):
                if _local(element.tag) != "page":
                    continue
                fields = {_local(child.tag): child for child in element.iter()}
                namespace, title, text = (fields.get(name) for name in ("ns", "title", "text"))
                is_article = namespace is not None and namespace.text == _ARTICLES and "redirect" not in fields
                if is_article and title is not None and text is not None and text.text:
                    yield title.text or "", text.text
                element.clear()
    except (OSError, EOFError, ElementTree.ParseError) as error:
        raise AssetError(f"{dump.name} is no readable Wikipedia dump ({error}); refused") from error


def plain_text(wikitext: str) -> str:
    """The article as its reader meets it: prose, headings, lists, captions, one line a table row, notes at the end.

    Templates, formulas, categories and links to other languages go; the words of everything else stay.
    """
    source = _LINE_BREAK.sub(" ", _UNSPOKEN_TAG.sub("", _COMMENT.sub("", wikitext)))
    # Before parsing: left in place, a note would stand in the middle of the sentence it belongs to.
    source = _REPEATED_NOTE.sub("", source)
    notes = dict.fromkeys(" ".join(_prose(note).split()) for note in _NOTE.findall(source))
    # A bare address or "p. 12" says nothing once it stands alone.
    kept = [note for note in notes if len(note) >= _SHORTEST_NOTE and " " in note]
    body = _prose(_tables_as_rows(_NOTE.sub("", source)))
    return "\n".join([body, "", *kept] if kept else [body])


def _prose(wikitext: str) -> str:
    code = mwparserfromhell.parse(wikitext)
    _unwrap_images(code)
    text = str(code.strip_code(normalize=True, collapse=True))
    text = _MAGIC_WORD.sub("", _TAG.sub("", text)).replace("''", "")
    text = _EMPTY_BRACKETS.sub("", _EMPTIED_BRACKET.sub("(", text))
    kept = [line for line in text.split("\n") if not _LEFTOVER_LINE.match(line)]
    lines = [_EMPTY_CELLS.sub("", _SPACE_BEFORE_STOP.sub("", _SPACES.sub(" ", line))).strip() for line in kept]
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _tables_as_rows(wikitext: str) -> str:
    """Each `{| … |}` as lines of `cell | cell | cell`; nested tables follow one another."""
    lines: list[str] = []
    row: list[str] = []
    depth = 0

    def end_row() -> None:
        if any(cell.strip() for cell in row):
            lines.append(" | ".join(cell.strip() for cell in row))
        row.clear()

    for line in wikitext.split("\n"):
        # A template may run over several lines that begin with the same bar as a cell.
        inside_template = bool(row) and row[-1].count("{{") > row[-1].count("}}")
        if _TABLE_OPENS.match(line):
            end_row()
            depth += 1
        elif not depth or _HEADING.match(line):
            end_row()
            depth = 0
            lines.append(line)
        elif inside_template:
            row[-1] += "\n" + line
        elif _TABLE_CLOSES.match(line):
            end_row()
            depth -= 1
        elif line.lstrip().startswith("|-"):
            end_row()
        elif line.lstrip().startswith("|+"):
            end_row()
            row.append(_CELL_ATTRIBUTES.sub("", line.lstrip()[2:]))
            end_row()
        elif line.lstrip().startswith(("|", "!")):
            cells = line.lstrip()[1:].replace("!!", "||") if line.lstrip()[0] == "!" else line.lstrip()[1:]
            row.extend(_CELL_ATTRIBUTES.sub("", cell) for cell in cells.split("||"))
        elif row:
            row[-1] += " " + line.lstrip("*#: ")
    end_row()
    return "\n".join(lines)


def _unwrap_images(code: Wikicode) -> None:
    """Put an image's caption where the image was; drop links to categories and other languages."""
    for link in code.filter_wikilinks(recursive=True):
        title = str(link.title)
        if _IMAGE.match(title):
            instead = _caption(str(link.text or ""))
        elif _NAVIGATION.match(title):
            instead = ""
        else:
            continue
        try:
            code.replace(link, instead)
        except ValueError:
            # It sat inside a link that is already replaced.
            continue


def _caption(parameters: str) -> str:
    """The last parameter of an image that is no option, as a line of its own."""
    captions = [part for part in _split_parameters(parameters) if not _IMAGE_OPTION.match(part)]
    return f"{captions[-1]}\n" if captions and captions[-1].strip() else ""


def _split_parameters(parameters: str) -> list[str]:
    """Split at the bars that are not inside a link or template."""
    parts = [""]
    depth = 0
    for token in _BRACKETS_AND_BARS.split(parameters):
        depth += (token in ("[[", "{{")) - (token in ("]]", "}}"))
        if token == "|" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts
