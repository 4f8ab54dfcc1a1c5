"""The long tests: `python tests/soak`, or `make soak`. Prints what was tried, and what was lost."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak import faults, fuzz, kills

_BAD = ("crashed", "hung", "wrong")


def main() -> int:
    """Run all parts; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--faults", type=int, default=120)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; without, a temporary one is used")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lungseg-soak-") as temporary:
        folder = wanted.folder or Path(temporary)
        parts = {
            "kills": (kills.run, wanted.kills),
            "faults": (faults.run, wanted.faults),
            "inputs": (fuzz.run, wanted.inputs),
        }
        results = {
            name: _timed(name, run, count, folder / name, wanted.seed)
            for name, (run, count) in parts.items()
            if count
        }
    lines, lost = _summary(results)
    print("\n".join(lines))
    return 1 if lost else 0


def _timed(name: str, run: Callable[..., dict], count: int, folder: Path, seed: int) -> dict:
    print(f"{name}: {count} …", flush=True)
    started = time.monotonic()
    return run(count, folder, seed) | {"minutes": round((time.monotonic() - started) / 60, 1)}


def _summary(results: dict[str, dict]) -> tuple[list[str], list[str]]:
    """A table as text, and what was lost."""
    rows, lost = [], []
    if result := results.get("kills"):
        rows.append(("kills survived", sum(result["kills"].values()), result["kills"]))
        rows.append(("series finished and compared", result["rounds"], ""))
    if result := results.get("faults"):
        rows.append(("faults injected", sum(result["faults"].values()), result["faults"]))
        ends = {name: result[name] for name in ("refused", "finished") if name in result}
        rows.append(("of these refused, or finished", sum(ends.values()), ends))
        rows += [("not tried", "", note) for note in result["notes"]]
    if result := results.get("inputs"):
        kinds = {name: count for name, count in result.items() if name != "minutes"}
        rows.append(("inputs read or refused", kinds["read"] + kinds["refused"], kinds))
        lost += [f"inputs: {result[name]} {name}" for name in _BAD if result[name]]
    for name, result in results.items():
        rows.append((f"minutes for {name}", result["minutes"], ""))
        lost += [f"{name}: {line}" for line in result.get("lost", [])]
    rows.append(("lost", len(lost), ""))
    lines = [
        f"{title:32} {count!s:>7}  {_listed(detail)}".rstrip() for title, count, detail in rows
    ]
    return lines + lost, lost


def _listed(detail: dict | str) -> str:
    if isinstance(detail, str):
        return detail
    return ", ".join(f"{name} {count}" for name, count in detail.items())


if __name__ == "__main__":
    sys.exit(main())
