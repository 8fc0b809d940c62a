"""Token tables: what they hold, how they are cut, cached, pickled and shared between processes."""

from __future__ import annotations

import filecmp
import os
import pickle
import time

import numpy as np
import pytest

from input_pipeline import token_chunks, token_table
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE
from input_pipeline.errors import UserError
from input_pipeline.token_chunks import Job
from input_pipeline.types import Record, Turn

IMAGE_TOKENS = 4
ROW = 96


@pytest.fixture
def cache(tmp_path, tokenizer):
    def cached(records, template="v1_bare", **options):
        settings = dict(image_tokens=IMAGE_TOKENS, max_tokens=ROW) | options
        job = Job(records, tokenizer, TEMPLATES[template], **settings)  # pyright: ignore[reportArgumentType]
        return token_table.cached(tmp_path, job, "hash")

    return cached


def arrays(encoded):
    return encoded.tokens, encoded.labels, encoded.image_index


def two_images(number: int) -> Record:
    turns = (
        Turn("human", f"<image>\n<image>\n{'red ' * number}"),
        Turn("gpt", "blue " * 5),
        Turn("human", "How many?"),
        Turn("gpt", "two"),
    )
    return Record(f"t{number}", "instruct", (b"", b""), turns)


@pytest.mark.parametrize("quirks", [False, True])
@pytest.mark.parametrize("template", ["v1_bare", "plain", "v0", "mpt"])
@pytest.mark.parametrize("image_tokens", [1, 4, 9])
def test_a_table_gives_what_encoding_with_all_positions_gives(
    tokenizer, chat_records, image_tokens, template, quirks
):
    """Also where a sample is cut: every length from one that loses all up to one that loses nothing."""
    text = Record("text", "text", (), (Turn("gpt", "red cups " * 3),))
    records = [*chat_records, two_images(3), text]
    wanted = {}
    for number, record in enumerate(records):
        whole = token_chunks.encode_record(record, tokenizer, TEMPLATES[template], image_tokens, quirks)
        if whole.images == len(record.images):
            wanted[number] = whole
    assert len(wanted) > 5
    for max_tokens in (8, 19, 27, 33, 40, 51, 500):
        table = token_table.build(
            Job(records, tokenizer, TEMPLATES[template], image_tokens, max_tokens, reference_quirks=quirks)
        )
        kept = {}
        for number, whole in wanted.items():
            lost_image = (whole.image_index[max_tokens:] >= 0).any()
            if not lost_image and (whole.labels[1:max_tokens] != IGNORE).any():
                kept[number] = whole
        assert table.record.tolist() == list(kept)
        for sample, whole in enumerate(kept.values()):
            for found, expected in zip(arrays(table[sample]), arrays(whole), strict=True):
                assert found.dtype == np.int32
                np.testing.assert_array_equal(found, expected[:max_tokens])
            assert table.lengths[sample] == len(table[sample])


def test_words_are_those_of_all_turns(tokenizer):
    table = token_table.build(Job([two_images(3)], tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
    assert table.words.tolist() == [2 + 3 + 5 + 2 + 1]


def test_left_out_samples_are_counted_by_reason(tokenizer, caplog):
    turns = (Turn("human", "<image>\nred"), Turn("gpt", "blue"))
    records = [
        Record("no image", "instruct", (), turns),
        Record("wrong order", "instruct", (), turns[::-1]),
        *(Record(f"no answer {n}", "instruct", (), (Turn("human", "red"),)) for n in range(5)),
        Record("good", "instruct", (), (Turn("human", "red"), Turn("gpt", "blue"))),
    ]
    table = token_table.build(Job(records, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
    assert table.record.tolist() == [7]
    assert sum(table.skipped.values()) == 7
    assert table.skipped["nothing in it is supervised"] == 5
    assert [line.split(" skipped")[0] for line in caplog.messages if "answer" in line] == [
        f"record no answer {n}" for n in range(3)
    ]


def test_the_cache_gives_what_was_built_and_knows_its_inputs(
    tmp_path, cache, tokenizer, chat_records, monkeypatch
):
    built = token_table.build(Job(chat_records, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
    first = cache(chat_records)
    monkeypatch.setattr(token_table, "_write", lambda *_: pytest.fail("it was built again"))
    again = cache(chat_records)
    monkeypatch.undo()
    for table in (first, again):
        for name, dtype in token_table.DTYPES.items():
            assert getattr(table, name).dtype == dtype
            np.testing.assert_array_equal(getattr(table, name), getattr(built, name), name)
        assert table.skipped == built.skipped
    for number, changes in enumerate(({"template": "vicuna_v1"}, {"max_tokens": 80}, {"image_tokens": 3}), 2):
        cache(chat_records, **changes)
        assert len(list(tmp_path.iterdir())) == number


def test_an_empty_table_is_a_table(cache):
    table = cache([Record("no answer", "instruct", (), (Turn("human", "red"),))])
    assert len(table) == len(table.lengths) == len(table.tokens) == 0
    assert cache([]).skipped == table.skipped  # the same hash was given


def test_files_are_mapped_and_pickle_to_their_path(cache, chat_records):
    table = cache(chat_records)
    assert isinstance(table.tokens.base, np.memmap)
    data = pickle.dumps(table)
    assert len(data) < 500
    again = pickle.loads(data)
    for index in range(len(table)):
        for one, two in zip(arrays(table[index]), arrays(again[index]), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_table_in_memory_pickles_whole(tokenizer, chat_records):
    table = token_table.build(Job(chat_records, tokenizer, TEMPLATES["v1_bare"], IMAGE_TOKENS, ROW))
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(table.tokens, again.tokens)
    np.testing.assert_array_equal(table[3].labels, again[3].labels)


def test_several_processes_write_the_same_bytes_as_one(tmp_path, tokenizer, chat_records, monkeypatch):
    monkeypatch.setattr(token_chunks, "CHUNK", 5)
    bad = Record("bad", "instruct", (), (Turn("gpt", "red"),))
    records = [*chat_records, bad, *chat_records, bad]
    seen = []
    folders = [
        token_table.cached(
            tmp_path / str(workers), Job(records, tokenizer, TEMPLATES["v1_bare"], 4, ROW), "hash",
            lambda done, total: seen.append(done), workers=workers,
        ).path
        for workers in (0, 2)
    ]  # fmt: skip
    names = sorted(path.name for path in folders[0].iterdir())
    assert len(names) == len(token_table.DTYPES) + 1
    assert filecmp.cmpfiles(*folders, names, shallow=False) == (names, [], [])
    assert seen == [5, 10, 15, 20, 25, 26] * 2


def test_memory_is_bounded_by_the_chunk(tokenizer, chat_records, monkeypatch, cache):
    """Only one chunk's arrays are alive when the next one is made."""
    import gc
    import weakref

    monkeypatch.setattr(token_chunks, "CHUNK", 3)
    alive, before = [], token_chunks._encode_chunk

    def encode_chunk(*args):
        gc.collect()
        assert sum(reference() is not None for reference in alive) <= 1
        chunk = before(*args)
        alive.append(weakref.ref(chunk))
        return chunk

    monkeypatch.setattr(token_chunks, "_encode_chunk", encode_chunk)
    assert len(cache(chat_records)) == len(chat_records)
    assert len(alive) == 4


def test_a_build_that_fails_leaves_nothing(tmp_path, cache, chat_records):
    class Failing(list):
        def __getitem__(self, index):
            if index == 7:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        cache(Failing(chat_records))
    assert not list(tmp_path.iterdir())


def test_the_first_of_two_builds_at_a_time_is_taken(tmp_path, cache, chat_records):
    class Slow(list):
        """Another process ends the same table while this one is at its last record."""

        def __getitem__(self, index):
            if index == len(self) - 1:
                other.append(cache(chat_records).path.stat().st_ino)
            return super().__getitem__(index)

    other = []
    table = cache(Slow(chat_records))
    assert [table.path.stat().st_ino] == other
    assert list(tmp_path.iterdir()) == [table.path]


def test_what_a_killed_run_left_is_swept_after_a_day(tmp_path, cache, chat_records):
    name = cache(chat_records).path.name
    (tmp_path / name).rename(tmp_path / f"{name}.x.partial")
    (tmp_path / f"{name}.y.partial").mkdir()
    old = time.time() - 25 * 3600
    for path in (tmp_path / f"{name}.x.partial", *(tmp_path / f"{name}.x.partial").iterdir()):
        os.utime(path, (old, old))
    cache(chat_records)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.y.partial"}


@pytest.mark.parametrize("name", ["tokens.npy", "table.json", "offsets.npy"])
def test_a_damaged_table_is_named(cache, chat_records, name):
    path = cache(chat_records).path
    (path / name).write_bytes((path / name).read_bytes()[:-5])
    with pytest.raises(UserError, match=r"tokens-\w+: this cache of tokens is damaged .*delete it"):
        cache(chat_records)
