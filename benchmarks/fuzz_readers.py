"""Feeds every reader with spoilt files: `python benchmarks/fuzz_readers.py [--records 100000] [--reader NAME ...]`.

A case is one file: sound records are drawn, most of them are spoilt, and then the file itself may be. After each file
it is checked that
- nothing was raised;
- every record was yielded or rejected, where the damage leaves no doubt where a record ends;
- all that was yielded can be written and read again unchanged (so no NaN, no infinity, no lone surrogate), and reasons
  and origins of what was rejected can be counted and found;
- what users wrote, told in the words of the templates, holds no control token and no second `<image>`;
- a sound record was not rejected for what is wrong with its neighbours;
- no file took seconds.
A failure names its case: `--reader NAME --seed S --case N` repeats it and keeps its file. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import fuzz_damage as damage
from benchmarks import fuzz_files as files
from benchmarks import fuzz_records as draw
from benchmarks.fuzz_checks import Case, Tally, check
from benchmarks.fuzz_kind import Kind, Wrong
from benchmarks.fuzz_kinds import KINDS
from input_pipeline.errors import UserError
from input_pipeline.sources import media

LONGEST = 5.0  # seconds for one file, which should take a hundredth of one
HUNG = 60  # seconds by the clock
LONGEST_LINE = 1000  # characters of what is said of a file
MOST_FAILURES = 20


class Hung(BaseException):
    """A file that takes too long. No reader may catch it."""


# --- one case ----------------------------------------------------------------------------------------------


def make(kind: Kind, rng: Random, folder: Path) -> Case:
    """Draws and writes a case's file."""
    layout = rng.choice(kind.layouts)
    modes = ("fields", "wild", "bytes", "wrapped", "cut")
    # A format of bytes has more to be hit than one of text.
    by_bytes = 50 if layout == "parquet" or kind.is_binary else 12
    shares = (60, 12, by_bytes, 10, 6 if kind.packs else 0)
    mode = rng.choices(modes, shares)[0]
    if kind.names and layout == "lines" and rng.random() < 0.15:
        mode = "line"  # one line is broken, and no other
    alone = layout in kind.lines  # one record to a line
    rows = [{"": kind.record(rng)} for _ in range(kind.size)]
    expected = sum(kind.count(row[""]) for row in rows) if kind.count else None
    said = [dict(cue) for cue in rows[0][""]["cues"]] if kind.write is files.as_track else []
    changes = 0
    hit = rng.randrange(kind.size) if mode == "line" else 0
    there: set[str] = set()
    for index, row in enumerate(rows):
        if mode == "line" or (index == 0 and kind.size > 1) or rng.random() < 0.2:
            # The first keeps the names of all columns.
            if kind.names and (mode in ("fields", "wrapped") or (mode == "line" and index != hit)):
                there.update(kind.names(row[""]))
            continue
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            changes += 1
            if kind.parts and mode != "wild":
                if part := rng.choice(kind.parts(row[""])):
                    damage.spoil(rng, part, kind.kept)
            elif row:
                damage.spoil(rng, row, breaking=alone or mode == "wild")
    records = [row.get("") for row in rows]
    account: Callable[[list[Any]], tuple[int, int]] | None
    if expected is not None:
        account = lambda items: (expected, len(items))
    else:
        account = lambda items: kind.account(records, items)
    if mode == "wild" and (kind.parts or not alone):
        account = None
    # A name that is not UTF-8.
    odd = "\udcff\udce9" if rng.random() < 0.02 and not kind.is_named else ""
    suffix = rng.choice((".gz", ".zst")) if kind.packs and (mode == "cut" or rng.random() < 0.05) else ""
    paths = []
    for name, content in kind.write(rng, records, layout).items():
        data = content
        if mode == "line":
            data, account = _one_line_hit(rng, data, hit), None
        elif mode == "bytes" and alone and kind.size > 1 and rng.random() < 0.5:
            data = damage.flip(rng, data)
            lines = sum(bool(line.strip(b" \t\r\n\xef\xbb\xbf")) for line in data.split(b"\n"))
            account = lambda items, lines=lines: (lines, len(items))
        elif mode == "bytes":
            lightly = (layout == "parquet" or kind.is_binary) and rng.random() < 0.7
            data, account = damage.hit(rng, data) if lightly else damage.wreck(rng, data), None
        elif mode == "wrapped" and layout != "parquet" and not kind.is_binary:
            data = damage.wrap(rng, data, rows=layout in ("csv", "tsv"), wide=kind.packs)
        if suffix:
            # A file that ends where a frame ends cannot be told from a whole one.
            data = damage.pack(rng, data, suffix, frames=1 if mode == "cut" else rng.randint(1, 2))
        if mode == "cut":
            data, account = data[: rng.randrange(1, len(data))], None
        paths.append(folder / (odd + name + suffix))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(data)
    most_bad = 3 * changes if kind.apart and mode in ("fields", "wrapped") else None
    return Case(
        kind,
        paths,
        kind.size,
        account,
        most_bad,
        mode == "cut",
        _heard(said, records) if mode == "fields" else set(),
        there,
    )


def _one_line_hit(rng: Random, data: bytes, number: int) -> bytes:
    """A file with one line that is broken; no line more, and none less."""
    lines = data.split(b"\n")
    change = damage.flip if rng.random() < 0.5 else damage.wreck
    lines[number] = change(rng, lines[number]).replace(b"\n", b" ")
    return b"\n".join(lines)


def _heard(before: list[dict[str, Any]], records: list[Any]) -> set[str]:
    """The first words of the cues that were left as they were, unless a bracket makes a sound of them."""
    cues = records[0].get("cues") if isinstance(records[0], dict) else None
    if not isinstance(cues, list) or "[" in repr([cue for cue in cues if cue not in before]):
        return set()
    return {cue["text"].split()[0] for cue in before if cue in cues}


# --- all cases ---------------------------------------------------------------------------------------------


def library_in(folder: Path) -> media.Library:
    """The media that sound records name."""
    root = folder / "root"
    (root / "frames").mkdir(parents=True)
    for name in (*draw.PICTURES, *(f"{video}.jpg" for video in draw.VIDEOS), draw.FRAMES):
        (root / name).write_bytes(b"x")
    return media.build([root], folder / "media.sqlite")


def run(name: str, folder: Path, library: media.Library, seed: int, number: int, tally: Tally) -> Path | None:
    """Runs one case and returns its file where it fails."""
    kind = KINDS[name]
    rng = Random(f"{name}/{seed}/{number}")
    case = make(kind, rng, folder)
    items: list[Any] = []
    former = signal.signal(signal.SIGALRM, _hang)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, HUNG)
        try:
            items.extend(kind.read(case.paths[0], library))
        except UserError as error:
            if kind.refuses and not case.there:
                _refused(error, case, tally)
                return _done(case)
            if case.account is not None:  # else the names of the columns may be what is lost
                raise
            case.is_cut = False
        spent = time.perf_counter() - start
        check(case, items, number, tally)
        if spent > LONGEST:
            raise Wrong(f"took {spent:.1f} s")
        tally.slowest_file = max(tally.slowest_file, spent)
    except (Exception, Hung) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error}"[:600].encode("ascii", "backslashreplace").decode()
        tally.failures.append(
            f"--reader {name} --seed {seed} --case {number}: {message} ({where.filename}:{where.lineno})"
        )
        return case.paths[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        tally.records += case.size
    return _done(case)


def _done(case: Case) -> None:
    for path in case.paths:
        path.unlink()


def _refused(error: UserError, case: Case, tally: Tally) -> None:
    """Of a file as a whole one line is told, and which file."""
    said = str(error)
    places = {name for path in case.paths for name in (path.name, str(path.parent))}
    if "\n" in said or len(said) > LONGEST_LINE or not any(name in said for name in places):
        raise Wrong(f"not one clear line: {said}")
    tally.rejected["the file as a whole"] += 1


def fuzz(name: str, records: int, seed: int = 0, reached: Synchronized[int] | None = None) -> Tally:
    """Runs cases until so many records have been read. `reached` is told the number of each case as it begins."""
    tally = Tally()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        library = library_in(root)
        for number in itertools.count():
            if tally.records >= records or len(tally.failures) >= MOST_FAILURES:
                break
            if reached is not None:
                reached.value = number
            run(name, root, library, seed, number, tally)
    tally.seconds = time.process_time() - start
    return tally


def fuzz_apart(name: str, records: int, seed: int) -> Tally:
    """`fuzz` in a process of its own: broken parquet has been known to end Arrow's."""
    context = multiprocessing.get_context("fork")
    reached = context.Value("q", 0)
    answer = context.SimpleQueue()
    process = context.Process(target=lambda: answer.put(fuzz(name, records, seed, reached)))
    process.start()
    while process.is_alive() and answer.empty():
        process.join(0.1)
    if not answer.empty():
        tally = answer.get()
        process.join()
        return tally
    message = (
        f"--reader {name} --seed {seed} --case {reached.value}: the process ended with {process.exitcode}"
    )
    return Tally(failures=[message])


def _hang(*_: Any) -> None:
    raise Hung("still reading")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000, help="per reader")
    parser.add_argument("--reader", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="repeat this one and keep its file")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    if args.case is not None:
        folder = Path(tempfile.mkdtemp()).resolve()
        tally = Tally()
        path = run(args.reader[0], folder, library_in(folder), args.seed, args.case, tally)
        print(*tally.failures, path or "sound", tally.rejected, sep="\n")
        sys.exit(bool(tally.failures))
    results: dict[str, Any] = {}
    print("| reader | records | accepted | rejected | the most frequent reasons | seconds | slowest file |")
    print("|---|--:|--:|--:|---|--:|--:|")
    failures: list[str] = []
    for name in args.reader:
        tally = fuzz_apart(name, args.records, args.seed)
        reasons = ", ".join(f"{reason} ({count})" for reason, count in tally.rejected.most_common(3))
        print(
            f"| {name} | {tally.records} | {tally.accepted} | {tally.rejected.total()} | {reasons} "
            f"| {tally.seconds:.1f} | {tally.slowest_file:.2f} |",
            flush=True,
        )
        print("".join(f"  {failure}\n" for failure in tally.failures), end="", file=sys.stderr)
        results[name] = {
            **asdict(tally),
            "rejected": dict(tally.rejected.most_common()),
            "failures": len(tally.failures),
        }
        failures += tally.failures
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB",
        file=sys.stderr,
    )
    if failures:
        print(f"\n{len(failures)} failures", file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
