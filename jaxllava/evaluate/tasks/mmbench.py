"""MMBench, dev, in English and Chinese: multiple choice, each question asked again with its choices
rotated.

The release (open-compass/MMBench) is a table of tabs, a row a question, with columns index, question, hint,
A to D, answer, category, image (base64), source, l2-category, comment, split; the rotations of row i are
rows whose index is i modulo 1e6. Names and columns differ between versions: LLaVA's are
mmbench_dev_20230712.tsv in mmbench/ and mmbench_dev_cn_20231003.tsv in mmbench_cn/ (by its script) or
mmbench/ (by its docs); MMBench_DEV_EN.tsv and its kin are read too, also where a row's image is only the
index of the row that has it. LLaVA reads them with pandas, so what pandas takes for missing is missing
here.

The submission is LLaVA's (scripts/convert_mmbench_for_submission.py): the table as xlsx without hint,
category, source, image, comment and l2-category, and with a column `prediction` as the seventh.
"""

from __future__ import annotations

import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from jaxllava.evaluate.scoring import letters
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import LETTER, SCRIPT_TOKENS, options, said
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Task

_ASKS = {"en": LETTER, "cn": "请直接回答选项字母。"}
_PATTERNS = {
    "en": "mmbench/[mM][mM][bB]ench_[dD][eE][vV]_[!cC]*.tsv",
    "cn": "mmbench*/[mM][mM][bB]ench_[dD][eE][vV]_[cC][nN]*.tsv",
}
_LLAVA = ("mmbench_dev_20230712.tsv", "mmbench_dev_cn_20231003.tsv")
_COLUMNS = ("index", "question", "A", "B", "answer", "image")
_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION = 6  # its place in the submission, from 0
_ROTATION = 1_000_000
_REFERENCE = 64  # base64 of a picture is longer; what is not is the index of another row

# What pandas.read_table takes for a missing value.
_MISSING = frozenset(
    {
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
    }
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)

Row = Mapping[str, str]


def load(root: Path, split: str, *, language: str) -> Iterator[Item | Rejected]:
    path = _table(root, language)
    rows: list[tuple[str, Row]] = []
    for where, row in _rows(path):
        if row is None:
            yield Rejected(where, "not as many columns as the header")
        else:
            rows.append((where, row))
    pictures = {row["index"]: row["image"] for _, row in rows if len(row["image"]) > _REFERENCE}
    for where, row in rows:
        yield _item(where, row, pictures, language)


def _table(root: Path, language: str) -> Path:
    """LLaVA's table where it is there, else the first by name."""
    found = sorted(root.glob(_PATTERNS[language]))
    if not found:
        raise UserError(f"{root}: no table of MMBench's dev split ({_PATTERNS[language]})")
    return min(found, key=lambda path: path.name not in _LLAVA)


def _rows(path: Path) -> Iterator[tuple[str, Row | None]]:
    """('file:line', row by column) of each row; None for one that has other columns than the header."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # pictures are longer than the default
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = [column.strip() for column in next(reader, [])]
            if missing := [column for column in _COLUMNS if column not in header]:
                raise UserError(f"{path}: no column {missing[0]!r}; it is not a dev table of MMBench")
            empty = True
            for cells in reader:
                if not any(cells):
                    continue
                empty = False
                sound = len(cells) == len(header)
                yield f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True)) if sound else None
            if empty:
                raise UserError(f"{path}: has no rows; download it again")
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table of tabs in UTF-8 ({error}); download it again") from None


def _value(row: Row, column: str) -> str | None:
    """A cell, None where LLaVA takes it for missing."""
    cell = row.get(column, "")
    return None if cell in _MISSING or cell.lower() in ("nan", "none") else cell


def _item(where: str, row: Row, pictures: Mapping[str, str], language: str) -> Item | Rejected:
    index, question = row["index"].strip(), _value(row, "question")
    if not index.isdigit():
        return Rejected(where, "index is no number")
    if question is None:
        return Rejected(where, "no question")
    choices: dict[str, str] = {}
    for letter in "ABCD":
        if (choice := _value(row, letter)) is None:
            break
        choices[letter] = choice
    answer = _value(row, "answer")  # missing: asked and not scored
    if len(choices) < 2 or (answer is not None and answer not in choices):
        return Rejected(where, "fewer than two choices, or an answer that is none of them")
    encoded = row["image"] if len(row["image"]) > _REFERENCE else pictures.get(row["image"].strip(), "")
    try:
        picture = base64.b64decode(encoded, validate=False)
    except (binascii.Error, ValueError):
        return Rejected(where, "image is not base64")
    if not picture:
        return Rejected(where, "no image")
    hint = _value(row, "hint")
    text = options(question if hint is None else f"{hint}\n{question}", list(choices.values()))
    meta = {
        "index": int(index),
        "group": str(int(index) % _ROTATION),
        "choices": choices,
        "row": {column: cell for column, cell in row.items() if column not in _DROPPED},
        "line": {
            "question_id": int(index),
            "round_id": 0,
            "prompt": text,
            "options": list(choices.values()),
            "option_char": list(choices),
        },
    }
    meta |= {key: row[key] for key in ("category", "l2-category") if row.get(key)}
    return Item(index, f"{text}\n{_ASKS[language]}", (picture,), answer, meta=meta)


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """mmbench.xlsx for MMBench's server. Raises UserError where openpyxl is not installed."""
    try:
        from openpyxl import Workbook
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError:
        raise UserError("MMBench's submission needs openpyxl: pip install 'jaxllava[eval]'") from None

    book = Workbook()
    sheet = book.worksheets[0]
    columns = list(rows[0].meta["row"])
    sheet.append([*columns[:_PREDICTION], "prediction", *columns[_PREDICTION:]])
    for number, row in enumerate(rows, 2):
        cells = row.meta["row"]
        kept = [None if cells[c] in _MISSING else cells[c] for c in columns]
        kept[columns.index("index")] = row.meta["index"]
        clean = ILLEGAL_CHARACTERS_RE.sub("", said(row))
        sheet.append([*kept[:_PREDICTION], clean, *kept[_PREDICTION:]])
        for cell in sheet[number]:
            if cell.data_type == "f":  # an answer that begins with "=" is no formula
                cell.data_type = "s"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mmbench.xlsx"
    partial_path = partial_of(path)
    book.save(partial_path)
    return partial_path.replace(path)


def _task(language: str, name: str, title: str, file: str) -> Task:
    return Task(
        name=name,
        family="llava",
        title=title,
        metric="circular accuracy, %",
        folder=".",
        needs={"dev": (_PATTERNS[language],)},
        get=f"https://download.openmmlab.com/mmclassification/datasets/mmbench/{file} (Apache-2.0; pictures of several "
        "sources) in mmbench.",
        load=partial(load, language=language),
        protocol=Generate(SCRIPT_TOKENS),
        score=letters.mmbench,
        submit=submit,
        split="dev",
        tested="fixture",
        reported=zero_shot(name),
        note="Rows in which the official rules find no letter count as wrong, where the server asks a language model.",
    )


TASKS: tuple[Task, ...] = (
    _task("en", "mmbench", "MMBench, dev", _LLAVA[0]),
    _task("cn", "mmbench_cn", "MMBench-CN, dev", _LLAVA[1]),
)
