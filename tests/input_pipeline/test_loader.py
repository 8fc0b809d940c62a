"""Packed rows and the determinism of batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from input_pipeline import loader, packing, token_table
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE
from input_pipeline.types import Record, Turn

IMAGE_TOKENS = 4
ROW = 96


@pytest.fixture(scope="module")
def rows(tokenizer, chat_records):
    table = token_table.build(chat_records, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW)
    pairs = [(0, sample) for sample in range(len(table))]
    plan = packing.plan(table.lengths, table.images, ROW, 3, seed=0)
    reader = loader.ImageReader(16)
    return loader.PackedRows(
        [table], [chat_records], pairs, plan, ROW, 3, IMAGE_TOKENS, reader, tokenizer.pad_token_id
    )


def test_rows_hold_every_sample_once_with_its_targets(rows):
    table = rows.tables[0]
    seen = []
    for index in range(len(rows)):
        row = rows[index]
        for segment, number in enumerate(rows.plan[index], start=1):
            sample = table[rows.pairs[number][1]]
            here = row["segment_ids"] == segment
            np.testing.assert_array_equal(row["tokens"][here], sample.tokens)
            np.testing.assert_array_equal(row["positions"][here], np.arange(len(sample)))
            shifted = np.append(sample.labels[1:], IGNORE)
            np.testing.assert_array_equal(row["weights"][here] > 0, shifted != IGNORE)
            wanted = row["weights"][here] > 0
            np.testing.assert_array_equal(row["targets"][here][wanted], shifted[wanted])
            seen.append(number)
        padding = row["segment_ids"] == 0
        assert not row["weights"][padding].any()
    assert sorted(seen) == list(range(len(table)))


def test_each_image_stands_where_its_positions_point(rows, chat_records):
    for index in range(len(rows)):
        row = rows[index]
        for segment, number in enumerate(rows.plan[index], start=1):
            sample = rows.tables[0][rows.pairs[number][1]]
            if not sample.images:
                continue
            pointed = row["image_index"][(row["segment_ids"] == segment) & (row["image_index"] >= 0)]
            slot = pointed[0] // IMAGE_TOKENS
            np.testing.assert_array_equal(pointed, slot * IMAGE_TOKENS + np.arange(IMAGE_TOKENS))
            record = chat_records[rows.tables[0].record[rows.pairs[number][1]]]
            expected = rows.read_images(0, chat_records.index(record), chat_records)
            np.testing.assert_array_equal(row["images"][slot], expected[0])


def take(rows, count: int, **options) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(loader.batches(rows, global_batch=4, seed=3, **options), count))


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_hosts(rows, hosts):
    whole = take(rows, 5)
    parts = [take(rows, 5, host=host, hosts=hosts) for host in range(hosts)]
    for step in range(5):
        # Host h reads rows h, h + hosts, ...: together the same rows.
        together = np.stack([part[step]["tokens"] for part in parts], 1).reshape(whole[step]["tokens"].shape)
        np.testing.assert_array_equal(together, whole[step]["tokens"])


def test_a_start_in_the_middle_gives_the_same_batches(rows):
    whole, rest = take(rows, 9), take(rows, 4, start=5)
    for early, late in zip(whole[5:], rest, strict=True):
        for name in early:
            np.testing.assert_array_equal(early[name], late[name])


def test_epochs_have_different_orders_of_the_same_rows():
    rows = [{"number": np.asarray(number)} for number in range(20)]
    one_by_one = loader.batches(rows, global_batch=1, seed=3)
    order = [int(batch["number"][0]) for batch in itertools.islice(one_by_one, 2 * len(rows))]
    first, second = order[: len(rows)], order[len(rows) :]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_left_out_samples_are_counted_by_reason(tokenizer):
    turns = (Turn("human", "<image>\nred"), Turn("gpt", "blue"))
    records = [
        Record("no image", "instruct", (), turns),
        Record("wrong order", "instruct", (), turns[::-1]),
        Record("no answer", "instruct", (), (Turn("human", "red"),)),
        Record("good", "instruct", (), (Turn("human", "red"), Turn("gpt", "blue"))),
    ]
    table = token_table.build(records, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW)
    assert table.record.tolist() == [3]
    assert sum(table.skipped.values()) == 3
    assert "nothing in it is supervised" in table.skipped


def test_the_token_cache_gives_what_was_built_and_knows_its_inputs(tmp_path, tokenizer, chat_records):
    build = lambda template: token_table.cached(
        tmp_path, chat_records, "hash", tokenizer, TEMPLATES[template], IMAGE_TOKENS, ROW
    )
    first, again = build("v1_bare"), build("v1_bare")
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.skipped == again.skipped
    assert len(list(tmp_path.glob("tokens-*.npz"))) == 1
    build("vicuna_v1")
    assert len(list(tmp_path.glob("tokens-*.npz"))) == 2


@pytest.mark.parametrize("max_tokens", [500, 16])  # cut here, or by the table already
def test_a_cut_caption_still_ends_in_the_end_token(tokenizer, max_tokens):
    record = Record("c", "caption", (b"",), (Turn("human", "<image>"), Turn("gpt", "red " * 40)))
    text = Record("c", "text", (), (Turn("gpt", "red " * 40),))
    table = token_table.build([text], tokenizer, TEMPLATES["plain"], 0, max_tokens)
    reader = lambda table, number, records: np.zeros((1, 4, 4, 3), np.uint8)
    pair = loader.ImageTextPairs(table, [record], 16, reader, tokenizer.pad_token_id, tokenizer.eos_token_id)[
        0
    ]
    assert pair["tokens"][-1] == tokenizer.eos_token_id
    assert pair["text_length"] == 16
