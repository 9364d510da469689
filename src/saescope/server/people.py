"""What people add to features: labels, notes, stars and lists, in one SQLite file beside the indexes.

Everything is keyed by the coder's fingerprint and the feature's number, so that it survives a new index of the same coder.
A text has a revision. Who writes names the revision they saw; if it is no longer the current one, the write is refused
with `RevisionConflict` and kept in the history all the same: of two people who write at once neither loses a word.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from saescope.errors import RevisionConflict, WorkspaceError
from saescope.server.plain_text import one_line, plain

FILE = "people.sqlite3"
_SCHEMA_VERSION = 1
# How long a writer waits for another, in seconds.
_PATIENCE = 5.0
Subject = Literal["label", "note"]

# `labels` holds one row a feature that has a label of any kind; `words` is the search over what is shown of it.
_SCHEMA = """
CREATE TABLE texts (
    coder TEXT NOT NULL, feature INTEGER NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL, revision INTEGER NOT NULL,
    PRIMARY KEY (coder, feature, subject)) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY, coder TEXT NOT NULL, feature INTEGER NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL,
    revision INTEGER NOT NULL, accepted INTEGER NOT NULL, created TEXT NOT NULL);
CREATE INDEX history_of ON history (coder, feature, subject);
CREATE TABLE stars (coder TEXT NOT NULL, feature INTEGER NOT NULL, PRIMARY KEY (coder, feature)) WITHOUT ROWID;
CREATE TABLE lists (
    name TEXT NOT NULL, coder TEXT NOT NULL, feature INTEGER NOT NULL,
    PRIMARY KEY (coder, feature, name)) WITHOUT ROWID;
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, coder TEXT NOT NULL, feature INTEGER NOT NULL, automatic TEXT NOT NULL, person TEXT NOT NULL,
    UNIQUE (coder, feature));
CREATE VIRTUAL TABLE words USING fts5(text, tokenize = "unicode61 remove_diacritics 2");
CREATE TABLE loaded (coder TEXT PRIMARY KEY, version TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class PersonText:
    """A person's label or note: empty with revision 0 where nobody wrote one."""

    text: str = ""
    revision: int = 0


@dataclass(frozen=True)
class Version:
    """One entry of a text's history. `accepted` is False for a write that came second."""

    text: str
    revision: int
    accepted: bool
    created: str


@dataclass(frozen=True)
class Additions:
    """All that people added to one coder's features."""

    labels: dict[int, str]
    starred: list[int]
    lists: dict[str, list[int]]


class ReadOnly(WorkspaceError):  # noqa: N818 - reads as what it says
    """People's file is in a folder that cannot be written to: it is only read."""


class StillWriting(WorkspaceError):  # noqa: N818 - reads as what it says
    """Another process has held the file for too long. Nothing was lost or written: try again."""


class People:
    """`People(folder)`. Any thread, and any number of processes, may use the same file. Of a file or folder that cannot be
    written to, a private copy is read, and every write by a person is refused with ReadOnly.

    searching: held by who loads labels and then searches them."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._copy: TemporaryDirectory[str] | None = None
        self._local = threading.local()
        self._all: dict[threading.Thread, sqlite3.Connection] = {}
        self._guard = threading.Lock()
        self.searching = threading.Lock()
        with self._errors():
            if not _is_writable(self.path):
                self._copy = TemporaryDirectory(prefix="saescope-")
                _copied(self.path, self._opened)
            with self._writing() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _SCHEMA.strip().split(";\n"):
                        if statement.strip():
                            db.execute(statement)
                    db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            if version > _SCHEMA_VERSION:
                raise WorkspaceError(
                    f"{self.path} was written by a newer saescope (schema {version}); update saescope to open it"
                )

    def close(self) -> None:
        with self._guard:
            for connection in self._all.values():
                connection.close()
            self._all.clear()
        self._local = threading.local()
        if self._copy is not None:
            self._copy.cleanup()

    def text(self, subject: Subject, coder: str, feature: int) -> PersonText:
        with self._reading() as db:
            return self._current(db, subject, coder, feature)

    def write(self, subject: Subject, coder: str, feature: int, text: str, revision: int) -> PersonText:
        """Replace the text that had `revision`; an empty text takes it back. RevisionConflict when it is not current."""
        text = one_line(text) if subject == "label" else plain(text).strip()
        with self._changing() as db:
            current = self._current(db, subject, coder, feature)
            accepted = revision == current.revision
            new = current.revision + 1 if accepted else revision
            db.execute(
                "INSERT INTO history (coder, feature, subject, text, revision, accepted, created) VALUES (?,?,?,?,?,?,?)",
                (coder, feature, subject, text, new, accepted, datetime.now(UTC).isoformat(timespec="milliseconds")),
            )
            if accepted:
                db.execute("REPLACE INTO texts VALUES (?,?,?,?,?)", (coder, feature, subject, text, new))
                if subject == "label":
                    self._show(db, coder, feature, text)
        if not accepted:
            raise RevisionConflict(
                f"the {subject} of feature {feature} was changed meanwhile (revision {current.revision}, you had "
                f"{revision}); yours is kept in its history: look at both and write again"
            )
        return PersonText(text, new)

    def history(self, subject: Subject, coder: str, feature: int) -> list[Version]:
        """Every version that was ever sent, newest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT text, revision, accepted, created FROM history WHERE coder=? AND feature=? AND subject=? "
                "ORDER BY id DESC",
                (coder, feature, subject),
            ).fetchall()
        return [Version(text, revision, bool(accepted), created) for text, revision, accepted, created in rows]

    def star(self, coder: str, feature: int, starred: bool) -> None:
        with self._changing() as db:
            if starred:
                db.execute("INSERT OR IGNORE INTO stars VALUES (?,?)", (coder, feature))
            else:
                db.execute("DELETE FROM stars WHERE coder=? AND feature=?", (coder, feature))

    def is_starred(self, coder: str, feature: int) -> bool:
        with self._reading() as db:
            found = db.execute("SELECT 1 FROM stars WHERE coder=? AND feature=?", (coder, feature)).fetchone()
        return found is not None

    def put_in_lists(self, coder: str, feature: int, names: Iterable[str]) -> list[str]:
        """Make the feature a member of exactly these lists; returns their names as kept."""
        kept = sorted({name for name in map(one_line, names) if name})
        with self._changing() as db:
            db.execute("DELETE FROM lists WHERE coder=? AND feature=?", (coder, feature))
            db.executemany("INSERT INTO lists VALUES (?,?,?)", [(name, coder, feature) for name in kept])
        return kept

    def lists_of(self, coder: str, feature: int) -> list[str]:
        with self._reading() as db:
            rows = db.execute("SELECT name FROM lists WHERE coder=? AND feature=? ORDER BY name", (coder, feature))
            return [name for (name,) in rows]

    def lists(self) -> list[tuple[str, int]]:
        """Every list and how many features it has."""
        with self._reading() as db:
            return db.execute("SELECT name, COUNT(*) FROM lists GROUP BY name ORDER BY name").fetchall()

    def additions(self, coder: str) -> Additions:
        with self._reading() as db:
            labels = db.execute(
                "SELECT feature, text FROM texts WHERE coder=? AND subject='label' AND text != ''", (coder,)
            ).fetchall()
            starred = db.execute("SELECT feature FROM stars WHERE coder=? ORDER BY feature", (coder,)).fetchall()
            members = db.execute("SELECT name, feature FROM lists WHERE coder=? ORDER BY feature", (coder,)).fetchall()
        lists: dict[str, list[int]] = {}
        for name, feature in members:
            lists.setdefault(name, []).append(feature)
        return Additions(dict(labels), [feature for (feature,) in starred], lists)

    def load_automatic(self, coder: str, version: str, labels: Iterable[tuple[int, str]]) -> bool:
        """Make these (feature, text) the coder's automatic labels in the search, unless `version` (empty for none) is loaded
        already; whether it was not. A person's label stays what is found."""
        with self._reading() as db:
            found = db.execute("SELECT version FROM loaded WHERE coder=?", (coder,)).fetchone()
        if (found[0] if found else "") == version:
            return False
        with self._writing() as db:
            # Those not in the new version keep a row only for a person's sake.
            db.execute("DELETE FROM words WHERE rowid IN (SELECT id FROM labels WHERE coder=?)", (coder,))
            db.execute("DELETE FROM labels WHERE coder=?", (coder,))
            people = dict(
                db.execute(
                    "SELECT feature, text FROM texts WHERE coder=? AND subject='label' AND text != ''", (coder,)
                ).fetchall()
            )
            rows = {feature: (plain(text), people.pop(feature, "")) for feature, text in labels}
            rows |= {feature: ("", text) for feature, text in people.items()}
            db.executemany(
                "INSERT INTO labels (coder, feature, automatic, person) VALUES (?,?,?,?)",
                [(coder, feature, *texts) for feature, texts in rows.items()],
            )
            db.execute(
                "INSERT INTO words (rowid, text) SELECT id, CASE person WHEN '' THEN automatic ELSE person END "
                "FROM labels WHERE coder=?",
                (coder,),
            )
            db.execute("REPLACE INTO loaded VALUES (?,?)", (coder, version))
        return True

    def search(self, coder: str, query: str, limit: int = 10_000) -> list[tuple[int, float]]:
        """Features whose label has all the query's words (the last may be a beginning), most relevant first, with a relevance
        above 0. Where no label has the words, labels that hold the query as it stands."""
        words = _words(plain(query))
        with self._reading() as db:
            found: list[tuple[int, float]] = []
            if words:
                # Quoted, each word is only a word: nothing a person types is read as the search's own language.
                expression = " ".join(f'"{word}"' for word in words) + "*"
                found = db.execute(
                    "SELECT labels.feature, -bm25(words) FROM words JOIN labels ON labels.id = words.rowid "
                    "WHERE words MATCH ? AND labels.coder = ? ORDER BY bm25(words), labels.feature LIMIT ?",
                    (expression, coder, limit),
                ).fetchall()
            if not found and query.strip():
                # Scripts without spaces have no words, and signs are none.
                found = db.execute(
                    "SELECT labels.feature, 1e-6 FROM words JOIN labels ON labels.id = words.rowid "
                    "WHERE labels.coder = ? AND instr(lower(words.text), lower(?)) > 0 ORDER BY labels.feature LIMIT ?",
                    (coder, plain(query.strip()), limit),
                ).fetchall()
        return found

    def _show(self, db: sqlite3.Connection, coder: str, feature: int, person: str) -> None:
        """Make a person's label (or its absence) what the search finds."""
        row = db.execute("SELECT id, automatic FROM labels WHERE coder=? AND feature=?", (coder, feature)).fetchone()
        if row is None:
            cursor = db.execute(
                "INSERT INTO labels (coder, feature, automatic, person) VALUES (?,?,'','')", (coder, feature)
            )
            row = (cursor.lastrowid, "")
        identity, automatic = row
        db.execute("UPDATE labels SET person=? WHERE id=?", (person, identity))
        db.execute("DELETE FROM words WHERE rowid=?", (identity,))
        db.execute("INSERT INTO words (rowid, text) VALUES (?,?)", (identity, person or automatic))

    @staticmethod
    def _current(db: sqlite3.Connection, subject: Subject, coder: str, feature: int) -> PersonText:
        row = db.execute(
            "SELECT text, revision FROM texts WHERE coder=? AND feature=? AND subject=?", (coder, feature, subject)
        ).fetchone()
        return PersonText(*row) if row else PersonText()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            yield self._connection()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction for what a person writes."""
        if self._copy is not None:
            raise ReadOnly(
                f"{self.path} cannot be written to; make it and its folder writable and start the server again"
            )
        with self._writing() as db:
            yield db

    @property
    def _opened(self) -> Path:
        return self.path if self._copy is None else Path(self._copy.name) / FILE

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that has the only right to write from its beginning, so that what it reads is still so when it
        writes."""
        with self._errors():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        own: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if own is None:
            own = sqlite3.connect(self._opened, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            own.execute("PRAGMA journal_mode = WAL")
            own.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = own
            with self._guard:
                # A server's threads come and go all day.
                for thread in [thread for thread in self._all if not thread.is_alive()]:
                    self._all.pop(thread).close()
                self._all[threading.current_thread()] = own
        return own

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            # The lowest byte is the kind, what is above it says more.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StillWriting(f"another process is writing {self.path}; try again in a moment") from error
            raise WorkspaceError(
                f"{self.path} cannot be used: {error}; is the folder writable, the disk full?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(
                f"{self.path} is damaged ({error}); move it away to start without people's labels, or restore it"
            ) from error


def _is_writable(path: Path) -> bool:
    """Whether SQLite can write a file here: its journal goes beside it. What is not there at all is told by who opens it."""
    return not path.parent.is_dir() or all(os.access(one, os.W_OK) for one in (path.parent, path) if one.exists())


def _copied(path: Path, copy: Path) -> None:
    if not path.exists():
        return
    # What a server of someone else has not yet put into the file is in the journal beside it; where there is none, SQLite,
    # which would make one, is told that nobody writes.
    address = f"{path.resolve().as_uri()}?mode=ro" + ("" if Path(f"{path}-wal").exists() else "&immutable=1")
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _words(query: str) -> list[str]:
    """The runs of letters and digits in a query, as the search's tokenizer cuts them."""
    return "".join(character if character.isalnum() else " " for character in query).split()[:32]
