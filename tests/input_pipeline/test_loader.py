"""Rows, and the determinism of batches."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import images, loader, modality, packing, records, token_table
from input_pipeline import rows as rows_lib
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import Job
from input_pipeline.types import Clip, Record, Turn

IMAGE_TOKENS = 4
ROW = 96


@pytest.fixture(scope="module")
def rows(tokenizer, chat_records):
    """Packed rows of two tables, the second of the same records backwards."""
    sources = [chat_records, chat_records[::-1]]
    tables = [
        token_table.build(Job(source, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
        for source in sources
    ]
    pairs = packing.mixture([len(table) for table in tables], [1.0, 0.5], seed=0)
    lengths, images = (
        np.asarray([getattr(tables[t], name)[s] for t, s in pairs]) for name in ("lengths", "images")
    )
    plan = packing.fill_up(packing.plan(lengths, images, ROW, 3, seed=0), 4)
    reader = rows_lib.ImageReader(16)
    return rows_lib.PackedRows(tables, sources, pairs, plan, 3, IMAGE_TOKENS, reader, tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def padded(rows):
    """The same samples one a row, in batches of 4."""
    lengths, images, words = (
        np.asarray([getattr(rows.tables[t], name)[s] for t, s in rows.pairs])
        for name in ("lengths", "images", "words")
    )
    plan = modality.padded_plan(
        [len(rows.pairs)], 1.0, lengths, images, words,
        batch=4, row_tokens=ROW, pad_multiple=8, seed=0, grouped=True,
    )  # fmt: skip
    return replace(rows, plan=plan, ordered=True)


def test_rows_hold_every_sample_once_with_its_targets_and_its_source(rows):
    seen = []
    for index in range(len(rows)):
        row = rows[index]
        for segment, number in enumerate(rows.plan[index], start=1):
            table, which = rows.pairs[number]
            sample = rows.tables[table][which]
            here = row["segment_ids"] == segment
            np.testing.assert_array_equal(row["tokens"][here], sample.tokens)
            np.testing.assert_array_equal(row["positions"][here], np.arange(len(sample)))
            shifted = np.append(sample.labels[1:], IGNORE)
            np.testing.assert_array_equal(row["weights"][here] > 0, shifted != IGNORE)
            wanted = row["weights"][here] > 0
            np.testing.assert_array_equal(row["targets"][here][wanted], shifted[wanted])
            assert (row["sources"][here] == table).all()
            seen.append(number)
        padding = row["segment_ids"] == 0
        assert not row["weights"][padding].any()
        assert not row["sources"][padding].any()
        assert row["sources"].dtype == np.int32
    assert sorted(seen) == list(range(len(rows.pairs)))
    assert set(rows.pairs[:, 0]) == {0, 1}


def test_each_image_stands_where_its_positions_point(rows):
    for index in range(len(rows)):
        row = rows[index]
        for segment, number in enumerate(rows.plan[index], start=1):
            table, which = rows.pairs[number]
            sample = rows.tables[table][which]
            if not sample.images:
                continue
            pointed = row["image_index"][(row["segment_ids"] == segment) & (row["image_index"] >= 0)]
            slot = pointed[0] // IMAGE_TOKENS
            np.testing.assert_array_equal(pointed, slot * IMAGE_TOKENS + np.arange(IMAGE_TOKENS))
            record = int(rows.tables[table].record[which])
            expected = rows_lib.ImageReader(16)(0, record, rows.records[table])
            np.testing.assert_array_equal(row["images"][slot], expected[0])


def test_an_empty_row_weighs_nothing_and_has_its_shapes(rows):
    empty, full = rows[len(rows) - 1], rows[0]
    assert not len(rows.plan[len(rows) - 1])
    assert {name: (value.shape, value.dtype) for name, value in empty.items()} == {
        name: (value.shape, value.dtype) for name, value in full.items()
    }
    assert not empty["weights"].any()
    assert not empty["segment_ids"].any()
    assert not empty["images"].any()


def part(host: int, hosts: int, batch: int = 4) -> np.ndarray:
    """The rows of a global batch that one of some hosts holds."""
    share = batch // hosts
    return np.arange(host * share, (host + 1) * share)


def take(rows, count: int, batch: int = 4, **options) -> list[dict[str, np.ndarray]]:
    with loader.batches(rows, global_batch=batch, seed=3, **options) as stream:
        return list(itertools.islice(stream, count))


def equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name], name)


@pytest.mark.parametrize("kind", ["rows", "padded"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_the_global_batch_is_the_same_row_by_row_for_any_number_of_hosts(request, kind, hosts):
    rows = request.getfixturevalue(kind)
    whole = take(rows, 9)
    parts = [take(rows, 9, positions=part(host, hosts)) for host in range(hosts)]
    for step in range(9):
        equal(
            whole[step], {name: np.concatenate([part[step][name] for part in parts]) for name in whole[step]}
        )


@pytest.mark.parametrize("kind", ["rows", "padded"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_start_in_the_middle_gives_the_same_batches(request, kind, hosts):
    rows = request.getfixturevalue(kind)
    host = hosts - 1
    steps = 3 * len(rows) // 4  # several epochs
    whole = take(rows, steps + 4, positions=part(host, hosts))
    for start in (1, len(rows) // 4, steps):
        for early, late in zip(
            whole[start:], take(rows, 4, start=start, positions=part(host, hosts)), strict=False
        ):
            equal(early, late)


def test_workers_change_nothing_and_end_when_closed(rows):
    """From the middle of a run, across epochs."""
    alone = take(rows, 9, start=5, positions=part(1, 2))
    before = set(multiprocessing.active_children())
    stream = loader.batches(rows, global_batch=4, seed=3, start=5, positions=part(1, 2), workers=2, threads=1)
    for number, batch in enumerate(alone):
        equal(batch, next(stream))
        if number == 1:  # a machine that is taken away tells every process, and the parent has yet to save
            for worker in set(multiprocessing.active_children()) - before:
                os.kill(worker.pid or 0, signal.SIGTERM)
    assert len(set(multiprocessing.active_children()) - before) == 2
    stream.close()
    stream.close()
    assert set(multiprocessing.active_children()) <= before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "padded"])
def test_four_workers_change_nothing_either(request, kind):
    rows = request.getfixturevalue(kind)
    for one, two in zip(take(rows, 15, start=2), take(rows, 15, start=2, workers=4), strict=True):
        equal(one, two)


def test_padded_batches_come_in_the_order_of_the_plan_and_of_one_length(padded):
    steps = len(padded) // 4
    found = take(padded, 2 * steps)
    for step, batch in enumerate(found):
        first = step % steps * 4
        assert batch["tokens"].shape == (4, padded.plan.row_lengths[first])
        np.testing.assert_array_equal(batch["tokens"][0], padded[first]["tokens"])
    assert len({batch["tokens"].shape for batch in found}) > 1
    with pytest.raises(ValueError, match="are not whole batches of 3"):
        loader.batches(padded, global_batch=3, seed=0)


def test_epochs_have_different_orders_of_the_same_rows():
    rows = [{"number": np.asarray(number)} for number in range(20)]
    order = [int(batch["number"][0]) for batch in take(rows, 2 * len(rows), batch=1)]
    first, second = order[: len(rows)], order[len(rows) :]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


class Rows:
    """Rows that go wrong in a worker."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index):
        if self.how == "die" and multiprocessing.parent_process() is not None:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "error":
            raise UserError("records-x.array_record: record 5 cannot be read")
        import jax

        return {"devices": np.asarray(jax.config.jax_platforms == "cpu")}


def test_a_worker_that_dies_is_one_clear_error_and_no_hang():
    started = time.monotonic()
    with pytest.raises(
        UserError, match=r"worker process that reads the data died .*code -9.*config\.workers"
    ):
        take(Rows("die"), 1, workers=1)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_a_record_comes_as_it_is(workers):
    with pytest.raises(UserError, match=r"^records-x\.array_record: record 5 cannot be read$"):
        take(Rows("error"), 1, workers=workers)


@pytest.mark.slow
def test_workers_leave_the_accelerator_to_their_parent():
    assert take(Rows(""), 1, workers=1)[0]["devices"].all()


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    code = (
        "import multiprocessing, os, signal\n"
        "from input_pipeline import loader\n"
        "from tests.input_pipeline.test_loader import Rows\n"
        "if __name__ == '__main__':\n"
        "    stream = loader.batches(Rows(''), global_batch=4, seed=0, workers=1)\n"
        "    next(stream)\n"
        "    print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "main.py").write_text(code)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, tmp_path / "main.py"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    (worker,) = map(int, done.stdout.split())
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert not Path(f"/proc/{worker}").exists()


def test_images_are_kept_up_to_a_number_of_bytes_and_stay_here(chat_records):
    one = 16 * 16 * 3
    reader = rows_lib.ImageReader(16, keep_bytes=2 * one)
    first = [reader(0, number, chat_records) for number in (0, 1, 3)]
    assert reader(0, 0, chat_records) is first[0]
    assert reader(0, 1, chat_records) is first[1]
    assert reader(0, 3, chat_records) is not first[2]
    np.testing.assert_array_equal(reader(0, 3, chat_records), first[2])
    assert reader(1, 0, chat_records[::-1]).tobytes() != first[0].tobytes(), "of another table"
    again = pickle.loads(pickle.dumps(reader))
    assert again == reader
    assert len(pickle.dumps(reader)) < 300
    np.testing.assert_array_equal(again(0, 0, chat_records), first[0])


def test_frames_of_a_film_become_pixels_their_own_way():
    """LLaMA-VID pads pictures and cuts frames."""
    wide = Image.new("RGB", (32, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    file = io.BytesIO()
    wide.save(file, "PNG")
    record = Record(
        "r", "x", (file.getvalue(),) * 3, (Turn("human", "a"), Turn("gpt", "b")), clips=(Clip(1, (0.0, 1.0)),)
    )
    reader = rows_lib.ImageReader(16, "pad", film_mode="square")
    padded, cut = (images.preprocess(wide, 16, mode) for mode in ("pad", "square"))
    assert (padded != cut).any()
    for read in (reader, pickle.loads(pickle.dumps(reader))):
        np.testing.assert_array_equal(read(0, 0, [record]), np.stack([padded, cut, cut]))
        np.testing.assert_array_equal(read(1, 0, [record], np.array([2, 0])), np.stack([cut, padded]))
    np.testing.assert_array_equal(rows_lib.ImageReader(16, "pad")(0, 0, [record])[1], padded)


def test_a_picture_that_cannot_be_read_is_named(chat_records):
    broken = replace(chat_records[0], images=(b"GIF89a",))
    with pytest.raises(UserError, match=r"record 0 \(r0\) of .*its picture cannot be read .*prepare"):
        rows_lib.ImageReader(16)(0, 0, [broken])


def test_a_record_that_is_damaged_later_is_named_while_training(tmp_path, tokenizer, chat_records):
    records.write({"s": chat_records}, tmp_path / "records")
    source = records.open_split(tmp_path / "records", "s")
    table = token_table.build(Job(source, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
    pairs = packing.mixture([len(table)], [1.0], seed=0)
    plan = packing.plan(table.lengths, table.images, ROW, 3, seed=0)
    (path,) = (tmp_path / "records").rglob("*array_record-0*")
    data = bytearray(path.read_bytes())
    at = data.index(chat_records[4].images[0][:64])
    data[at : at + 32] = bytes(32)
    path.write_bytes(data)
    source = records.open_split(tmp_path / "records", "s")  # which cannot know
    rows = rows_lib.PackedRows([table], [source], pairs, plan, 3, IMAGE_TOKENS, rows_lib.ImageReader(16), 0)
    with pytest.raises(
        UserError, match=r"array_record-00000-of-00001: record 4 of split s cannot be read .*prepare"
    ):
        take(rows, len(plan), batch=1)


def test_a_host_may_hold_any_rows(rows):
    """A pod's devices lie in the mesh as its torus has them: one host's rows need not be a stretch."""
    positions = np.asarray([0, 3])
    for one, two in zip(take(rows, 5), take(rows, 5, positions=positions), strict=True):
        equal({name: value[positions] for name, value in one.items()}, two)


def test_orders_of_epochs_that_are_over_are_forgotten(rows):
    source = loader.HostBatches(rows, 4, np.arange(4), 3)
    for step in range(3 * len(rows)):
        source[step]
    assert len(source._orders) <= 2


@pytest.mark.parametrize("alone", [True, False])
def test_global_arrays_hold_the_batch(rows, alone):
    import jax

    from jaxllava import sharding

    cut = sharding.batch_sharding(sharding.make_mesh((2, 2, 2)))
    positions = sharding.rows_of_host(cut, 4)
    assert list(positions) == [0, 1, 2, 3]
    (batch,) = take(rows, 1)
    for name, array in loader.to_device(batch, cut, 4, None if alone else positions).items():
        np.testing.assert_array_equal(jax.device_get(array), batch[name])
        assert array.sharding == cut


@pytest.mark.parametrize("max_tokens", [500, 16])  # cut here, or by the table already
def test_a_cut_caption_still_ends_in_the_end_token(tokenizer, max_tokens):
    record = Record("c", "caption", (b"",), (Turn("human", "<image>"), Turn("gpt", "red " * 40)))
    table = token_table.build(Job(rows_lib.Titles([record]), tokenizer, TEMPLATES["plain"], 0, max_tokens))
    reader = lambda table, number, records: np.zeros((1, 4, 4, 3), np.uint8)
    pairs = rows_lib.ImageTextPairs(
        [table],
        [[record]],
        np.zeros((1, 2), np.int32),
        16,
        reader,  # pyright: ignore[reportArgumentType]
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
    )
    assert pairs[0]["tokens"][-1] == tokenizer.eos_token_id
    assert pairs[0]["text_length"] == 16
