"""Held-out error of saescope and of other libraries, like architecture against like, on the same batches.

    python benchmarks/quality.py export STORE DATA --points resid_post.14,mlp_in.14,mlp_out.14
    python benchmarks/quality.py peers DATA CELLS --python PEER_PYTHON [--until 14:30]
    python benchmarks/quality.py ours STORE DATA CELLS --arch topk,batchtopk --seeds 0,1,2 --passes 0.125,0.25,0.5,1
    python benchmarks/quality.py ce CELLS [--tokens 16384]
    python benchmarks/quality.py record CELLS benchmarks/results/quality.jsonl
    python benchmarks/quality.py table benchmarks/results/quality.jsonl [--page docs/comparison.md]

PEER_PYTHON is the interpreter of an environment of its own, whose pins must not meet saescope's:

    pip install torch==2.13.0 sae-lens==6.54.12 natsort schedulefree
    pip install --no-deps dictionary-learning==0.1.0 eai-sparsify==1.3.3

CELLS is a folder of results, a folder a cell; commands go on where they were stopped. See `quality_export`,
`quality_cells`, `quality_queue`, `quality_ours`, `quality_ce`, `quality_tables`, and `peers/` for how each library is driven.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
LIBRARIES = ("sparsify", "dictionary_learning", "sae_lens")
# What reads the export and measures is shared with the peers' environment, where only that folder is on the path.
sys.path.append(str(PEERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    export = commands.add_parser("export", help="a store's rows as plain files")
    export.add_argument("store")
    export.add_argument("data", type=Path)
    export.add_argument("--points", type=_words, required=True)
    export.add_argument("--seeds", type=_integers, default=[0, 1, 2])
    export.add_argument("--passes", type=int, default=3, help="how many passes of batches to write down")
    export.add_argument("--batch-size", type=int, default=4096)
    export.set_defaults(run=_export)

    peers = commands.add_parser("peers", help="train and measure the other libraries")
    peers.add_argument("data", type=Path)
    peers.add_argument("cells", type=Path)
    peers.add_argument("--python", type=Path, required=True)
    peers.add_argument(
        "--libraries", type=_words, default=list(LIBRARIES), help="only these: two commands run side by side"
    )
    peers.add_argument("--recorded", type=Path, help="a record: what it has is not run again")
    peers.add_argument("--until", help="HH:MM, local time: start no cell after it")
    peers.set_defaults(run=_peers)

    ours = commands.add_parser("ours", help="train and measure saescope")
    ours.add_argument("store")
    ours.add_argument("data", type=Path)
    ours.add_argument("cells", type=Path)
    ours.add_argument("--arch", type=_words, required=True)
    ours.add_argument("--reads", default="resid_post.14")
    ours.add_argument("--writes", default="", help="default: what it reads")
    ours.add_argument("--skip", action="store_true", help="a linear skip connection")
    ours.add_argument("--seeds", type=_integers, default=[0])
    ours.add_argument("--passes", type=_numbers, default=[1.0])
    ours.add_argument("--lr", type=_numbers, help="default: saescope's own")
    ours.add_argument("--l0", type=_numbers, default=[32.0])
    ours.add_argument("--d-sae", type=int, default=9216)
    ours.set_defaults(run=_ours)

    ce = commands.add_parser("ce", help="measure the model's loss with each finished coder in it")
    ce.add_argument("cells", type=Path)
    ce.add_argument("--tokens", type=int, default=16384)
    ce.set_defaults(run=_ce)

    record = commands.add_parser("record", help="write down what is finished, one JSON line a cell")
    record.add_argument("cells", type=Path)
    record.add_argument("record", type=Path, help="what it has of other cells stays")
    record.set_defaults(run=_record)

    table = commands.add_parser("table", help="Markdown tables of a record")
    table.add_argument("record", type=Path)
    table.add_argument("--page", type=Path, help="put them into this page, each after a comment of its title")
    table.set_defaults(run=_table)

    given = parser.parse_args()
    given.run(given)


def _export(given: argparse.Namespace) -> None:
    from quality_export import export
    from saescope import Store

    export(Store.open(given.store), given.data, given.points, given.seeds, given.passes, given.batch_size)


def _peers(given: argparse.Namespace) -> None:
    from quality_cells import Finished
    from quality_queue import run

    until = None
    if given.until:
        until = time.mktime(time.strptime(f"{time.strftime('%Y-%m-%d')} {given.until}", "%Y-%m-%d %H:%M"))
    if unknown := set(given.libraries) - set(LIBRARIES):
        raise SystemExit(f"no library called {', '.join(sorted(unknown))}; there are {', '.join(LIBRARIES)}")
    finished = Finished.of(given.cells, _present(given.recorded) if given.recorded else None)
    run(finished, given.data, given.python, PEERS / "train_peer.py", given.libraries, until)


def _ours(given: argparse.Namespace) -> None:
    from exported import Exported

    from quality_ours import cells_of, run
    from saescope import Store

    store, data = Store.open(given.store), Exported(given.data)
    rows = sum(store.shard_rows("train"))
    chosen = (given.arch, given.reads, given.writes, given.skip, given.seeds, given.passes, given.lr, given.l0)
    for cell in cells_of(*chosen, rows, given.d_sae):
        run(cell, store, data, given.cells, given.d_sae)


def _ce(given: argparse.Namespace) -> None:
    from quality_ce import run

    run(given.cells, given.tokens)


def _record(given: argparse.Namespace) -> None:
    from quality_cells import failures, write_record

    write_record(given.cells, given.record)
    print(failures(given.cells))


def _table(given: argparse.Namespace) -> None:
    from quality_tables import put_into, tables

    made = list(tables(_present(given.record)))
    if given.page:
        try:
            given.page.write_text(put_into(given.page.read_text(), made))
        except ValueError as error:
            raise SystemExit(f"{given.page}: {error}") from None
        return
    for title, text in made:
        if text:
            print(f"{title}\n\n{text}\n")


def _present(record: Path) -> Path:
    if not record.is_file():
        raise SystemExit(f"no record at {record}")
    return record


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
