"""Feeds every reader with spoilt files: `python benchmarks/fuzz_readers.py [--records 100000] [--reader NAME ...]`.

A case is one file: sound records are drawn, most of them are spoilt, and then the file itself may be. After each file
it is checked that
- nothing was raised;
- every record was yielded or rejected, where the damage leaves no doubt where a record ends;
- all that was yielded can be written and read again unchanged (so no NaN, no infinity, no lone surrogate), and reasons
  and origins of what was rejected can be counted and found;
- what users wrote, told in the words of the templates, holds no control token and no second `<image>`;
- no file took seconds.
A failure names its case: `--reader NAME --seed S --case N` repeats it and keeps its file. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import fuzz_records as draw
from input_pipeline.behavior import statements, templates
from input_pipeline.errors import UserError
from input_pipeline.sources import (
    blift,
    captions,
    content_corpus,
    lambda_json,
    llava_json,
    media,
    reddit,
    reddit_api,
    table,
    text,
    youtube,
    youtube_api,
)
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply

Read = Callable[[Path, media.Library], Iterator[Any]]
Write = Callable[[Random, list[Any], str], dict[str, bytes]]

TEMPLATES = (
    "image_behavior_v1",
    "reddit_image_v1",
    "youtube_thumbnail_v1",
    "video_listing_v1",
    "title_v1",
    "video_scenes_in_question_v0",
    "reddit_video_v1",
)
TOKENS = (
    "</s>",
    "<s>",
    "###",
    "USER:",
    "ASSISTANT:",
    "<|",
    "[INST]",
    "[/INST]",
    "<<",
    "<unk>",
    "<video>",
    '"\n2. "\n',
)
LONGEST = 5.0  # seconds of the processor for one file
REASONS = 40  # of one reader
HUNG = 60  # seconds by the clock


class Hung(BaseException):
    """A file that takes too long. No reader may catch it."""


class Wrong(AssertionError):
    """What a reader yielded is not as it should be."""


# --- files -------------------------------------------------------------------------------------------------


def _json(rng: Random, rows: list[Any], layout: str, broken: float = 0.2) -> dict[str, bytes]:
    ascii_only = rng.random() > broken  # else lone surrogates become bytes that are not UTF-8
    if layout == "list":
        indent = rng.choice((None, None, 1))
        return {"a.json": draw.dumps(rows, ensure_ascii=ascii_only, indent=indent)}
    return {"a.jsonl": b"\n".join(draw.dumps(row, ensure_ascii=ascii_only) for row in rows) + b"\n"}


def _answers(wrap: Callable[[list[Any]], Any]) -> Write:
    """Records in answers of an API: one per line, in a list, or one alone."""

    def write(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
        if layout == "one":
            return {"a.json": draw.dumps(wrap(rows), indent=rng.choice((None, 1)))}
        some = []
        while rows:
            size = rng.randint(1, 5)
            some.append(wrap(rows[:size]))
            rows = rows[size:]
        return _json(rng, some, layout, broken=0)

    return write


def _pairs(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    sides = {"q": [], "a": []}
    for row in rows:
        row = row if isinstance(row, dict) else {}
        sides["q"].append(row.get("question"))
        sides["a"].append(row.get("answer"))
    if rng.random() < 0.5:
        rng.shuffle(sides["a"])
    return {f"bs_{side}.json": draw.dumps(found) for side, found in sides.items()}


def _cell(value: Any) -> str:
    if isinstance(value, str | float | int) or value is None:
        return "" if value is None else str(value)[:9000]
    return draw.dumps(value).decode("utf-8", "surrogatepass")


def _rows(rows: list[Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of the first row, which is sound, and the rows as far as they are any."""
    return list(rows[0]), [row if isinstance(row, dict) else {} for row in rows]


def _csv(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    names, found = _rows(rows)
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter="," if layout == "csv" else "\t",
        lineterminator=rng.choice(("\n", "\r\n")),
        quoting=csv.QUOTE_ALL,
    )
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in found)
    return {f"a.{layout}": out.getvalue().encode("utf-8", "surrogatepass")}


def _parquet(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    names, found = _rows(rows)
    columns = {name: _column(rng, [row.get(name) for row in found]) for name in names}
    out = io.BytesIO()
    for name, column in columns.items():
        try:
            pq.write_table(pa.table({name: column}), io.BytesIO())
        except pa.ArrowNotImplementedError:  # objects without a key
            columns[name] = pa.nulls(len(rows))
    pq.write_table(
        pa.table(columns),
        out,
        row_group_size=rng.choice((7, 1000)),
        compression=rng.choice(("none", "snappy", "zstd", "gzip")),
        use_dictionary=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
        data_page_size=rng.choice((64, 2**20)),
    )
    return {"a.parquet": out.getvalue()}


def _column(rng: Random, values: list[Any]) -> pa.Array:
    """A column as somebody may have written it: in its own type as far as that goes, or in another one."""
    style = rng.choice(
        ("own",) * 20 + ("text", "bytes", "flawed", "time", "date", "decimal", "float", "none", "words")
    )
    try:
        if style == "own":
            return _own([_plain(value) for value in values])
        if style == "none":
            return pa.nulls(len(values))
        if style == "float":
            return pa.array([float(v) if isinstance(v, int | float) else None for v in values], pa.float64())
        if style in ("time", "date", "decimal"):
            kind = {
                "time": rng.choice(
                    (pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.duration("s"), pa.time64("us"))
                ),
                "date": rng.choice((pa.date32(), pa.date64())),
                "decimal": pa.decimal128(38, 4),
            }[style]
            whole = [v % 10**9 if isinstance(v, int) else rng.choice((None, 2**40)) for v in values]
            if style == "decimal":
                return pa.array(whole, pa.int64()).cast(kind)
            store = pa.int32() if kind in (pa.date32(),) else pa.int64()
            return pa.array([None if v is None else v % 2**31 for v in whole], store).cast(kind, safe=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass
    plain = pa.array(
        [None if v is None else _cell(v).encode("utf-8", "surrogatepass") for v in values], pa.binary()
    )
    if style == "bytes":
        return plain
    if style == "flawed":  # marked as text, whatever the bytes are
        return plain.cast(pa.string(), safe=False)
    clean = pa.array([None if v is None else _cell(v).encode("utf-8", "replace").decode() for v in values])
    return clean.dictionary_encode() if style == "words" else clean


def _own(values: list[Any]) -> pa.Array:
    """The type of the first value that has one, and null for what does not fit it."""
    kinds = (pa.array([value]).type for value in values if value)
    kind = next((kind for kind in kinds if not pa.types.is_null(kind)), pa.string())
    fitting = []
    for value in values:
        try:
            fitting.append(pa.scalar(value, kind).as_py())
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            fitting.append(None)
    return pa.array(fitting, kind)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).encode("utf-8", "replace").decode(): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _any(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    return {"csv": _csv, "tsv": _csv, "parquet": _parquet}.get(layout, _json)(rng, rows, layout)


def _track(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    write = {"vtt": draw.as_vtt, "srt": draw.as_srt, "json3": draw.as_json3, "srv3": draw.as_srv3}[layout]
    return {f"a.{layout}": write(rows[0])}


def _video(rng: Random, rows: list[Any], layout: str) -> dict[str, bytes]:
    return {"a.info.json": draw.dumps(rows[0], ensure_ascii=rng.random() < 0.8)}


# --- readers -----------------------------------------------------------------------------------------------


def _read_track(path: Path, library: media.Library) -> Iterator[Post | Rejected]:
    try:
        words = captions.transcript(captions.read(path))
    except captions.CaptionsError as error:
        yield Rejected("file:1", "", "captions", str(error))
    else:
        yield Post("v", "youtube", "Title", "file:1", asr=words)


def _read_table(path: Path, library: media.Library) -> Iterator[Any]:
    columns = table.Columns()
    if path.parent.name == "comments":
        return table.read_comments(path, columns)
    return table.read_posts(path, columns, library)


def _one_each(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return len(records), len(items)


def _things(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return sum(len(draw.things(record)) for record in records), len(items)


def _threads(records: list[Any], items: list[Any]) -> tuple[int, int]:
    return sum(1 + len(record["replies"]["comments"]) for record in records), len(items)


def _joined(records: list[Any], items: list[Any]) -> tuple[int, int]:
    """A question and its answer are two records that make one item."""
    alone = ("element is not an object", "no question_id", "question_id is given twice", "question without an answer",
             "answer without a question")  # fmt: skip
    single = sum(isinstance(item, Rejected) and item.reason in alone for item in items)
    return 2 * len(records), 2 * len(items) - single


def _comments_too(records: list[Any], items: list[Any]) -> tuple[int, int]:
    """A video, then all its comments: in the post, or rejected."""
    (record,) = records
    row = record if isinstance(record, dict) else {}
    meta = row.get("yt_meta_dict", {})
    row = (meta.get("info") if isinstance(meta, dict) else None) if "yt_meta_dict" in row else row
    rows = row.get("comments") if isinstance(row, dict) else None
    first, *others = items
    if isinstance(first, Rejected):
        return 1, len(items)
    bad = sum(item.stage == "comment" and not item.origin.endswith(":1") for item in others)
    return 1 + (len(rows) if isinstance(rows, list) else 0), 1 + len(first.comments) + bad


@dataclass(frozen=True)
class Kind:
    """One reader, and how its files are made.

    `parts` gives the dicts of a record that may be spoilt without a change in the number of records; None: the whole
    record may be. `kept` are keys whose values would change it. `lines` are layouts with a record to a line.
    """

    record: Callable[[Random], Any]
    read: Read
    write: Write = _json
    layouts: tuple[str, ...] = ("lines",)
    lines: tuple[str, ...] = ("lines",)
    parts: Callable[[Any], list[Any]] | None = None
    kept: tuple[str, ...] = ()
    account: Callable[[list[Any], list[Any]], tuple[int, int]] = _one_each
    size: int = 50  # records a file
    packs: bool = True  # may be .gz or .zst
    before: bool = False  # `account` looks at the records as they were


def _table(layout: str, packs: bool = True) -> Kind:
    return Kind(_table_row, _read_table, _any, (layout,), ("lines",), packs=packs)


def _table_row(rng: Random) -> Any:
    raise NotImplementedError  # the case chooses


KINDS: dict[str, Kind] = {
    "reddit_submissions": Kind(draw.submission, lambda path, library: reddit.read_submissions(path, library)),
    "reddit_comments": Kind(draw.comment, lambda path, library: reddit.read_comments(path, {"pics"})),
    "reddit_api": Kind(
        draw.thing,
        lambda path, library: reddit_api.read(path, library),
        _answers(lambda rows: {"kind": "Listing", "data": {"children": rows}}),
        ("lines", "list", "one"),
        (),
        lambda record: [thing["data"] for thing in draw.things(record)],
        ("replies",),
        _things,
        before=True,
    ),
    "youtube_info": Kind(draw.info, youtube.read_video, _video, account=_comments_too, size=1, packs=False),
    "video2dataset": Kind(
        draw.info_of_video2dataset, youtube.read_video, _video, account=_comments_too, size=1, packs=False
    ),
    "youtube_api_videos": Kind(
        draw.video_item, youtube_api.read, _answers(lambda rows: {"items": rows}), ("lines", "list", "one"), ()
    ),
    "youtube_api_threads": Kind(
        draw.thread,
        youtube_api.read,
        _answers(lambda rows: {"items": rows}),
        ("lines", "list", "one"),
        (),
        lambda record: [record["snippet"]["topLevelComment"], *record["replies"]["comments"]],
        account=_threads,
        before=True,
    ),
    **{
        f"captions_{layout}": Kind(draw.track, _read_track, _track, (layout,), (), size=1, packs=False)
        for layout in captions.FORMATS
    },
    "blift_parquet": Kind(draw.blift_row, blift.read, _any, ("parquet",), (), packs=False),
    "blift_jsonl": Kind(draw.blift_row, blift.read, layouts=("lines", "list")),
    "corpus_parquet": Kind(draw.corpus_row, content_corpus.read, _any, ("parquet",), (), packs=False),
    "corpus_jsonl": Kind(draw.corpus_row, content_corpus.read, layouts=("lines", "list")),
    "lambda_pairs": Kind(
        draw.pair, lambda path, library: lambda_json.read(path, path.parent / "root", text_only=True), _pairs, ("list",), (),
        account=_joined, packs=False,
    ),
    "lambda_conversations": Kind(
        draw.lambda_conversation, lambda path, library: lambda_json.read(path, path.parent / "root"), _json, ("list", "lines"), (),
    ),
    "table_csv": _table("csv"),
    "table_tsv": _table("tsv"),
    "table_jsonl": _table("lines"),
    "table_parquet": _table("parquet", packs=False),
    "llava_json": Kind(
        draw.conversation, lambda path, library: llava_json.read(path, path.parent / "root", library), _json, ("list", "lines"), (),
    ),
    "text": Kind(draw.document, lambda path, library: text.read(path)),
}  # fmt: skip


# --- one case ----------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One file, and how its items are to be counted."""

    path: Path
    records: list[Any]
    counted: Callable[[list[Any]], tuple[int, int]] | None
    cut: bool = False
    sound: set[str] = field(default_factory=set)  # words of captions that must come through


def make(kind: Kind, rng: Random, folder: Path) -> Case:
    """Draws and writes a case's file."""
    if kind.record is _table_row:
        side = rng.choice(("posts", "comments"))
        record: Any = draw.table_post if side == "posts" else draw.table_comment
        folder = folder / side
        folder.mkdir(exist_ok=True)
    else:
        record = kind.record
    layout = rng.choice(kind.layouts)
    mode = rng.choices(
        ("fields", "wild", "bytes", "wrapped", "cut"), (60, 12, 12, 10, 6 if kind.packs else 0)
    )[0]
    flat = layout in kind.lines
    rows = [{"": record(rng)} for _ in range(kind.size)]
    before = [row[""] for row in rows]
    expected = kind.account(before, [])[0] if kind.before else None
    sound: set[str] = set()
    for index, row in enumerate(rows):
        if index == 0 and kind.size > 1 or rng.random() < 0.2:
            continue  # the first keeps the names of all columns
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if kind.parts and mode != "wild":
                parts = kind.parts(row[""])
                if parts and (part := rng.choice(parts)):
                    draw.spoil(rng, part, kind.kept)
            elif row:
                draw.spoil(rng, row, () if mode == "wild" else kind.kept, breaking=flat or mode == "wild")
    records = [row.get("") for row in rows]
    files = kind.write(rng, records, layout)
    counted: Callable[[list[Any]], tuple[int, int]] | None
    counted = lambda items: (
        (expected or kind.account(records, items)[0], kind.account(before, items)[1])
        if kind.before
        else kind.account(records, items)
    )
    if mode == "wild" and (kind.parts or not flat):
        counted = None
    suffix = ""
    for name, data in files.items():
        if mode == "bytes":
            if flat and kind.size > 1 and rng.random() < 0.5:
                data = draw.flip(rng, data)
                lines = sum(bool(line.strip(b" \t\r\n\xef\xbb\xbf")) for line in data.split(b"\n"))
                counted = lambda items, lines=lines: (lines, len(items))
            else:
                data, counted = draw.wreck(rng, data), None
        elif mode in ("wrapped", "cut") and not name.endswith(".parquet"):
            data = _wrapped(rng, data, kind)
            if kind.packs and (mode == "cut" or rng.random() < 0.6):
                suffix = rng.choice((".gz", ".zst"))
                data = draw.pack(rng, data, suffix)
            if mode == "cut":
                data, counted = data[: rng.randrange(1, len(data))], None
        files[name] = data
    odd = b"\xff\xe9" if rng.random() < 0.02 else b""  # a name that is not UTF-8
    paths = []
    for name, data in files.items():
        paths.append(folder / (odd.decode("utf-8", "surrogateescape") + name + suffix))
        paths[-1].write_bytes(data)
    if kind.write is _track and mode == "fields":
        sound = _untouched(before, records)
    return Case(paths[0], records, counted, mode == "cut" and bool(suffix), sound)


def _wrapped(rng: Random, data: bytes, kind: Kind) -> bytes:
    """The same text as other programs may have saved it."""
    pick = rng.random()
    if pick < 0.3:
        return b"\xef\xbb\xbf" + data
    if pick < 0.5 and kind.write is not _csv:
        return data.replace(b"\n", b"\r\n")
    if pick < 0.7 and kind.packs:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32")))
    return data + rng.choice((b"", b"\n\n", b" ", b"\r\n"))


def _untouched(before: list[Any], after: list[Any]) -> set[str]:
    return set()


def check(case: Case, items: list[Any], number: int, tally: Tally) -> None:
    """Raises Wrong, or whatever writing and reading again raises."""
    if case.counted is not None:
        wanted, got = case.counted(
            [one for i in items for one in ([i] * i.count if isinstance(i, Passed) else [i])]
        )
        if wanted != got:
            raise Wrong(f"{wanted} records, but {got} yielded or rejected")
    if case.cut and not any(
        isinstance(i, Rejected) and ("broken" in i.reason or "cannot be read" in i.reason) for i in items
    ):
        raise Wrong("a cut file, and nobody says so")
    comments: list[Comment] = []
    for index, item in enumerate(items):
        if isinstance(item, Passed):
            tally.rejected[item.reason] += item.count
            continue
        _writable(item)
        if isinstance(item, Rejected):
            tally.rejected[item.reason] += 1
            if len(tally.rejected) > REASONS or not item.origin.rpartition(":")[0]:
                raise Wrong(f"too many reasons to be counted, or no origin: {item}")
            continue
        tally.accepted += 1
        if isinstance(item, Post):
            _told(item, TEMPLATES[(number + index) % len(TEMPLATES)])
        elif isinstance(item, Reply):
            comments.append(item.comment)
        elif isinstance(item, llava_json.Sample):
            human = "".join(turn.text for turn in item.conversations if turn.role == "human")
            answers = "".join(turn.text for turn in item.conversations if turn.role == "gpt")
            if human.count("<image>") != len(item.images) + len(item.videos) or "<image>" in answers:
                raise Wrong(f"marks and media differ: {item}")
    for start in range(0, len(comments), 5):
        _told(
            Post("p", "other", "Title", "", comments=tuple(comments[start : start + 5])),
            TEMPLATES[number % 4],
        )


_ENCODE, _ENCODE_JSON = msgspec.msgpack.encode, msgspec.json.encode
_DECODERS = {
    kind: msgspec.json.Decoder(kind).decode
    for kind in (Post, Reply, Rejected, llava_json.Sample, text.Document)
}


def _writable(item: Any) -> None:
    _ENCODE(item)
    # JSON has neither NaN nor infinity: what held one comes back as something else, or not at all.
    if _DECODERS[type(item)](_ENCODE_JSON(item)) != item:
        raise Wrong(f"changes on being written: {item}")


def _told(post: Post, name: str) -> None:
    template = templates.get(name)
    known = statements.facts(msgspec.structs.replace(post, content="The tone is warm."))
    written = statements.write(template, known)
    if written is None:
        return
    question, answer = written.question, written.answer
    for ask, tell in _forms(question, answer):
        if ask.count("<image>") != 1 or "<image>" in tell:
            raise Wrong(f"{name}: marks of images: {ask!r} {tell!r}")
        told = ask + tell.replace(">>> BEHAVIOR <<<", "", 1)
        for token in TOKENS:
            if token in told:
                raise Wrong(f"{name}: {token!r} in {told!r}")


def _forms(question: str, answer: str) -> Iterator[tuple[str, str]]:
    yield question, answer
    if not (question.isascii() and answer.isascii()):
        yield unicodedata.normalize("NFKC", question), unicodedata.normalize("NFKC", answer)


# --- all cases ---------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of one reader's records."""

    records: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0  # file
    failures: list[str] = field(default_factory=list)


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
    start = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, HUNG)
        try:
            items.extend(kind.read(case.path, library))
        except UserError:
            if case.counted is not None:  # else the names of the columns may be what is lost
                raise
            case.cut = False
        spent = time.process_time() - start
        check(case, items, number, tally)
        if spent > LONGEST:
            raise Wrong(f"took {spent:.1f} s")
        tally.slowest = max(tally.slowest, spent)
    except (Exception, Hung) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error}"[:600].encode("ascii", "backslashreplace").decode()
        tally.failures.append(
            f"--reader {name} --seed {seed} --case {number}: {message} ({where.filename}:{where.lineno})"
        )
        return case.path
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        tally.records += len(case.records)
    case.path.unlink()
    return None


def fuzz(name: str, records: int, seed: int = 0, first: int = 0) -> Tally:
    """Runs cases until so many records have been read."""
    tally = Tally()
    signal.signal(signal.SIGALRM, _hang)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        library = library_in(root)
        number = first
        while tally.records < records and len(tally.failures) < 20:
            run(name, root, library, seed, number, tally)
            number += 1
    tally.seconds = time.process_time() - start
    return tally


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
        signal.signal(signal.SIGALRM, _hang)
        folder = Path(tempfile.mkdtemp()).resolve()
        tally = Tally()
        path = run(args.reader[0], folder, library_in(folder), args.seed, args.case, tally)
        print(*tally.failures, path or "sound", tally.rejected, sep="\n")
        sys.exit(bool(tally.failures))
    results: dict[str, Any] = {}
    print(
        "| reader | records | accepted | rejected | the most frequent reasons | seconds | slowest file, s |"
    )
    print("|---|--:|--:|--:|---|--:|--:|")
    failures: list[str] = []
    for name in args.reader:
        tally = fuzz(name, args.records, args.seed)
        reasons = ", ".join(f"{reason} ({count})" for reason, count in tally.rejected.most_common(3))
        print(
            f"| {name} | {tally.records} | {tally.accepted} | {tally.rejected.total()} | {reasons} | {tally.seconds:.1f} "
            f"| {tally.slowest:.2f} |",
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
    if failures:
        print(f"\n{len(failures)} failures", file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
