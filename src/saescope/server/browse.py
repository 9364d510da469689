"""The table of features: filters, sorts and pages, by DuckDB over `features.parquet` and what people added."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from saescope.errors import FeatureIndexError
from saescope.features.index import FeatureIndex
from saescope.features.index.tables import FEATURES
from saescope.server.labels import AutomaticLabels
from saescope.server.people import Additions

Sort = Literal["density", "max", "score", "feature", "label", "relevance"]
_COLUMNS = ("feature", "density", "maximum", "form", "level", "family")
# What each sort orders by; nothing of a request gets into a query's text.
_ORDER = {
    "density": "f.density",
    "max": "f.maximum",
    "score": "score",
    "feature": "f.feature",
    "label": "lower(label)",
    "relevance": "r.relevance",
}
_MEMORY = "256MB"


@dataclass(frozen=True)
class Filters:
    """None, or empty, where nothing is asked. Densities are shares of tokens; features: only these; relevance: of a search's
    findings, all others being left out."""

    form: str | None = None
    level: int | None = None
    min_density: float | None = None
    max_density: float | None = None
    min_score: float | None = None
    starred: bool = False
    list: str | None = None
    relevance: Mapping[int, float] | None = None
    live: bool = True


@dataclass(frozen=True)
class Row:
    feature: int
    density: float
    maximum: float
    form: str | None
    level: int | None
    family: int | None
    relevance: float | None


class FeatureTable:
    """FeatureIndexError, naming the file, where the table cannot be read."""

    def __init__(self, index: FeatureIndex) -> None:
        path = index.path / FEATURES
        try:
            names = set(pq.read_schema(path).names)
            table = pq.read_table(path, columns=[name for name in _COLUMNS if name in names])
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise FeatureIndexError(f"damaged {path}: {reason}; remove the index and build it again") from None
        for name, kind in (("form", pa.string()), ("level", pa.int16()), ("family", pa.int32())):
            if name not in names:
                table = table.append_column(name, pa.nulls(table.num_rows, kind))
        self._database = duckdb.connect(config={"memory_limit": _MEMORY, "threads": "1"})
        self._database.register("given", table)
        self._database.execute("CREATE TABLE features AS SELECT * FROM given")
        self._database.unregister("given")
        self._database.execute("CREATE TABLE automatic (feature INTEGER, text VARCHAR, score DOUBLE)")
        self._database.execute("SET enable_external_access = false")
        self._version = ""
        self._lock = threading.Lock()

    def rows(
        self,
        labels: AutomaticLabels,
        additions: Additions,
        filters: Filters,
        *,
        sort: Sort,
        descending: bool,
        offset: int,
        limit: int,
    ) -> tuple[int, list[Row]]:
        """How many features pass the filters, and a page of them. Equals are in order of their number."""
        # A cursor is a connection of its own, with its own temporary tables: one a call, so that calls don't meet.
        with self._lock:
            self._load(labels)
            cursor = self._database.cursor()
        try:
            return self._query(cursor, additions, filters, sort, descending, offset, limit)
        finally:
            cursor.close()

    def _load(self, labels: AutomaticLabels) -> None:
        if labels.version == self._version:
            return
        rows = labels.by_feature
        given = pa.table(
            {
                "feature": pa.array(rows, pa.int32()),
                "text": pa.array([label.text for label in rows.values()], pa.string()),
                "score": pa.array([label.score for label in rows.values()], pa.float64()),
            }
        )
        self._database.register("given", given)
        self._database.execute("CREATE OR REPLACE TABLE automatic AS SELECT * FROM given")
        self._database.unregister("given")
        self._version = labels.version

    @staticmethod
    def _query(
        cursor: duckdb.DuckDBPyConnection,
        additions: Additions,
        filters: Filters,
        sort: Sort,
        descending: bool,
        offset: int,
        limit: int,
    ) -> tuple[int, list[Row]]:
        people = additions.labels
        cursor.register("people", _column_table(people, list(people.values()), pa.string(), "text"))
        conditions: list[str] = []
        values: list[Any] = []

        def wanted(condition: str, *bound: Any) -> None:
            conditions.append(condition)
            values.extend(bound)

        relevance = filters.relevance or {}
        cursor.register("relevant", _column_table(relevance, list(relevance.values()), pa.float64(), "relevance"))
        if filters.relevance is not None:
            wanted("r.relevance IS NOT NULL")
        if filters.live and filters.relevance is None:
            wanted("f.density > 0")
        if filters.form is not None:
            wanted("f.form = ?", filters.form)
        if filters.level is not None:
            wanted("f.level = ?", filters.level)
        if filters.min_density is not None:
            wanted("f.density >= ?", filters.min_density)
        if filters.max_density is not None:
            wanted("f.density <= ?", filters.max_density)
        if filters.min_score is not None:
            wanted("score >= ?", filters.min_score)
        chosen = [set(additions.starred)] if filters.starred else []
        chosen += [set(additions.lists.get(filters.list, []))] if filters.list is not None else []
        if chosen:
            features = sorted(set.intersection(*chosen))
            cursor.register("chosen", pa.table({"feature": pa.array(features, pa.int32())}))
            wanted("f.feature IN (SELECT feature FROM chosen)")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        # A person's label has no score: it is not the automatic one's.
        joined = f"""
            FROM (SELECT f.*, coalesce(p.text, a.text) AS label, CASE WHEN p.text IS NULL THEN a.score END AS score
                  FROM features f LEFT JOIN automatic a USING (feature) LEFT JOIN people p USING (feature)) f
            LEFT JOIN relevant r USING (feature) {where}"""
        total = cursor.execute(f"SELECT count(*) {joined}", values).fetchone()
        order = f"{_ORDER[sort]} {'DESC' if descending else 'ASC'} NULLS LAST, f.feature ASC"
        found = cursor.execute(
            f"SELECT f.feature, f.density, f.maximum, f.form, f.level, f.family, r.relevance {joined} "
            f"ORDER BY {order} LIMIT ? OFFSET ?",
            [*values, limit, offset],
        ).fetchall()
        assert total is not None
        return int(total[0]), [Row(*row) for row in found]


def _column_table(features: Mapping[int, Any], column: Sequence[Any], kind: pa.DataType, name: str) -> pa.Table:
    return pa.table({"feature": pa.array(list(features), pa.int32()), name: pa.array(column, kind)})
