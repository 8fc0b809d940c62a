"""The whole way from raw files to records: counts that add up, errors with a remedy, nothing half done."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs.prepare import get_config
from input_pipeline import recipe, records
from input_pipeline.behavior import clean, stages
from input_pipeline.errors import UserError
from input_pipeline.prepare import prepare
from input_pipeline.recipe import with_sources

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data"))


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 48)).save(path)


def _lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def _say(number: int) -> str:
    return f"word{number} speaks of river{number} and lamp{number}"


def _corpus(raw: Path, posts: int = 40, broken: int = 1) -> None:
    """A raw folder with one of everything that can go wrong beside `posts` posts that are right."""
    submissions: list[Any] = []
    comments: list[Any] = []

    def post(post_id: str, picture: int | None, said: list[str], **changes: Any) -> None:
        if picture is not None:
            _picture(raw / f"reddit/media/{post_id}.png", picture)
        row = {
            "id": post_id,
            "title": f"title of {post_id}",
            "url": f"https://i.redd.it/{post_id}.png",
            "author": "a",
            "created_utc": 1.6e9 + len(submissions),
            "score": 5,
            "upvote_ratio": 0.5,
            "subreddit": "pics",
        }
        submissions.append({**row, **changes})
        for n, text in enumerate(said):
            comments.append({"id": f"{post_id}c{n}", "link_id": f"t3_{post_id}", "body": text, "author": "b"})

    for i in range(posts):
        post(f"ok{i}", 1000 + i, [_say(3 * i), _say(3 * i + 1), "too short"])
    post("nsfw", 1, [_say(1), _say(2)], over_18=True)
    post("gone", None, [_say(1), _say(2)])
    post("self", None, [_say(1), _say(2)], url="https://www.reddit.com/r/x/comments/self/y/", is_self=True)
    post("again", 1000, [_say(900)], author="c")  # the picture of ok0
    post("quiet", 2, [_say(1)])
    post("torn", 3, [_say(1), _say(2)])
    media = raw / "reddit/media/torn.png"
    media.write_bytes(media.read_bytes()[:60])
    comments.append({"id": "lost", "link_id": "t3_nowhere", "body": _say(5)})
    comments.append(comments[0])
    _lines(raw / "reddit/RS_x.ndjson", [*submissions, *["{broken"] * broken])
    _lines(raw / "reddit/RC_x.ndjson", comments)

    for i in range(8):
        info = {"id": f"v{i}", "title": f"film {i}", "like_count": 10, "view_count": 20_000, "channel": "c",
                "comments": [{"id": "k", "text": _say(50 + i), "like_count": 1}]}  # fmt: skip
        _picture(raw / f"youtube/v{i}.jpg", 500 + i)
        (raw / f"youtube/v{i}.info.json").write_text(json.dumps(info))
    instruct = []
    for i in range(30):
        _picture(raw / f"instruct/images/{i % 10}.png", 700 + i % 10)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"answer {i}"}]
        instruct.append({"id": i, "image": f"images/{i % 10}.png", "conversations": turns})
    (raw / "instruct/instruct.json").write_text(json.dumps(instruct))
    (raw / "instruct/captions.json").write_text(json.dumps(instruct[:10]))
    _lines(raw / "text/t.jsonl", [{"id": i, "text": f"text {i}"} for i in range(20)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("prepare")
    _corpus(folder / "raw")
    notes: list[tuple[int, int, str]] = []
    summary = prepare(get_config(f"raw={folder / 'raw'}"), folder / "out", lambda *note: notes.append(note))
    assert notes[0][0] == 0
    assert notes[-1][:2] == (1, 1)
    dones = [done for done, _, _ in notes[1:-1]]
    assert dones == sorted(dones)
    return folder, summary


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _all(folder: Path, name: str) -> list[Any]:
    out = folder / "out"
    names = [split for split in records.splits(out) if split.startswith(f"{name}_")]
    return [record for split in names for record in records.open_split(out, split)]


def test_what_is_kept_and_dropped_at_which_step(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    table = json.loads((folder / "out/funnel.json").read_text())
    steps = {row["step"]: row for row in table["steps"]}
    assert list(steps) == ["read", *clean.STEPS]
    dropped = {step: (row["dropped_posts"], row["dropped_comments"]) for step, row in steps.items()}
    assert dropped == {
        "read": (0, 0),
        "join": (0, 2),  # 'lost', and one comment that was read twice
        "media": (2, 4),  # gone, self
        "date": (0, 0),
        "excluded": (0, 0),
        "views": (0, 0),
        "duration": (0, 0),
        "marked": (1, 2),
        "evaluation set": (0, 0),
        "unreadable image": (1, 2),
        "duplicate media": (1, 0),  # its comment went to ok0
        "comment length": (0, 40),
        "near-duplicate comments": (0, 0),
        "word list": (0, 0),
        "language": (0, 0),
        "few comments": (1, 1),
    }
    assert (steps["read"]["kept_posts"], steps["read"]["kept_comments"]) == (46 + 8, 40 * 3 + 10 + 2 + 8)
    assert steps["few comments"]["kept_posts"] == 48
    assert table["reasons"]["media"] == {
        "links to no image": {"posts": 1, "comments": 2},
        "media is gone": {"posts": 1, "comments": 2},
    }
    assert table["sources"]["youtube"][-1]["kept_posts"] == 8


def test_the_table_agrees_with_the_records(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    behavior = _all(folder, "behavior")
    last = summary["funnel"]["steps"][-1]
    assert len(behavior) == last["kept_posts"]
    assert sum(len(record.meta["comments"]) for record in behavior) == last["kept_comments"]
    assert len(_rows(folder / "out/dropped.jsonl")) > 0
    assert summary["splits"] == records.splits(folder / "out")
    assert (summary["read"], summary["bad"], summary["gone"]) == (47 + 132 + 8 + 30 + 10 + 20, 2, 1)


def test_arms_hold_the_same_posts_and_pictures_in_the_same_splits(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    for part in ("train", "heldout"):
        arms = {
            arm: records.open_split(folder / "out", f"{arm}_{part}") for arm in ("behavior", "ad", "shuffled")
        }
        pictures = {arm: {r.id: r.images for r in source} for arm, source in arms.items()}
        # A held-out video may be alone in its source, with nobody to take behaviour from.
        assert pictures["behavior"] == pictures["ad"]
        assert pictures["shuffled"].items() <= pictures["behavior"].items()
        assert len(pictures["behavior"]) - len(pictures["shuffled"]) <= 1
        # Every behaviour is dealt once, and no post is dealt its own.
        dealt = {r.id: r.meta["dealt_from"] for r in arms["shuffled"]}
        assert sorted(dealt) == sorted(dealt.values())
        assert all(post != donor for post, donor in dealt.items())
    raw = (folder / "raw/reddit/media/ok7.png").read_bytes()
    (record,) = [r for r in _all(folder, "behavior") if r.id == "ok7"]
    assert record.images == (raw,)
    assert record.meta["origin"] == "RS_x.ndjson:8"
    assert record.meta["like_rate"] == 0.5
    assert record.meta["funnel"].startswith(f"{recipe.VERSION}-")


def test_comments_of_a_repeated_picture_go_to_the_first_post(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    (record,) = [r for r in _all(folder, "behavior") if r.id == "ok0"]
    assert sorted(record.meta["comments"]) == sorted([_say(0), _say(1), _say(900)])


def test_splits_are_by_picture_and_by_text(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    for name, count in (("instruct", 30), ("caption", 10), ("text", 20)):
        assert len(_all(folder, name)) == count
    parts = [
        {r.meta["images"][0] for r in records.open_split(folder / "out", f"{name}_{part}")}
        for part in ("train", "heldout")
        for name in ("instruct", "caption")
        if f"{name}_{part}" in records.splits(folder / "out")
    ]
    train = set.union(*parts[:2])
    assert all(not train & held for held in parts[2:])
    text = _all(folder, "text")[0]
    assert (text.task, [turn.role for turn in text.conversations], text.images) == ("text", ["gpt"], ())


def test_quarantine_names_every_rejected_record(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    rows = _rows(folder / "out/quarantine.jsonl")
    assert [(Path(r["file"]).name, r["record"], r["id"], r["stage"], r["kind"]) for r in rows] == [
        ("RS_x.ndjson", 42, "gone", "media", "gone"),
        ("RS_x.ndjson", 47, "", "read", "bad"),
        ("RS_x.ndjson", 46, "torn", "image", "bad"),  # pictures are looked at when all is read
    ]
    assert summary["quarantine"]["count"] == 3
    assert Counter(row["reason"] for row in rows) == summary["quarantine"]["by_reason"]


def test_a_second_run_returns_at_once_and_a_changed_input_is_noticed(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = made
    config = get_config(f"raw={folder / 'raw'}")
    shutil.copytree(folder / "out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(records, "finish", None)  # would fail if anything were written
        again = prepare(config, tmp_path / "out")
    assert again["reused"]
    assert again["splits"] == first["splits"]
    config.seed = 1
    with pytest.raises(UserError, match="of another config or other input files"):
        prepare(config, tmp_path / "out")
    with pytest.raises(UserError, match="was not written by prepare"):
        prepare(config, folder / "raw")


def test_the_same_raw_files_elsewhere_give_the_same_data(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = made
    shutil.copytree(folder / "raw", tmp_path / "elsewhere")
    config = get_config(f"raw={tmp_path / 'elsewhere'}")
    config.update(instruct=(), captions=())  # time
    config.arms = ("behavior", "shuffled")
    for split in prepare(config, tmp_path / "out")["splits"]:
        assert records.data_hash(tmp_path / "out", split) == records.data_hash(folder / "out", split), split


def test_too_much_bad_input_stops_the_run_and_leaves_its_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _corpus(tmp_path / "raw", posts=5, broken=30)
    with pytest.raises(UserError) as caught:
        prepare(get_config(f"raw={tmp_path / 'raw'}"), tmp_path / "out")
    message = str(caught.value)
    assert (
        "31 of 136 records are bad, more than max_bad_fraction=0.05 allows: line is not JSON: 30" in message
    )
    quarantine = tmp_path / "out.quarantine.jsonl"
    assert str(quarantine) in message
    assert len(_rows(quarantine)) == 32
    assert "\n" not in message
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.dropped.jsonl").stat().st_size
    config = get_config(f"raw={tmp_path / 'raw'}")
    config.max_bad_fraction = 0.8
    with monkeypatch.context() as patch:  # what was read is not read again
        patch.setitem(stages._FUNCTIONS, "join", None)
        assert prepare(config, tmp_path / "out")["splits"]["ad_train"]
    shutil.rmtree(tmp_path / "out")
    config.arms = ("ad",)
    config.update(instruct=(), captions=(), text=(), youtube=(), heldout_fraction=0.0)
    assert prepare(config, tmp_path / "out")["splits"] == {"ad_train": 5}
    assert not quarantine.exists()


def test_one_bad_file_is_not_hidden_by_a_large_good_one(tmp_path: Path) -> None:
    _corpus(tmp_path / "raw", posts=5, broken=25)
    _lines(tmp_path / "raw/text/more.jsonl", [{"text": f"t{i}"} for i in range(1000)])
    with pytest.raises(UserError, match=r"26 of 36 records of .*RS_x.ndjson are bad"):
        prepare(get_config(f"raw={tmp_path / 'raw'}"), tmp_path / "out")


def test_a_wrong_media_folder_is_said(tmp_path: Path) -> None:
    _corpus(tmp_path / "raw", posts=5)
    shutil.rmtree(tmp_path / "raw/reddit/media")
    (tmp_path / "raw/reddit/media").mkdir()
    config = get_config(f"raw={tmp_path / 'raw'}")
    config.youtube = ()
    with pytest.raises(UserError, match=r"none of 11 posts is left: media is gone: 10, links to no image: 1"):
        prepare(config, tmp_path / "out")
    shutil.rmtree(tmp_path / "raw/instruct/images")
    (tmp_path / "raw/instruct/images").mkdir()
    with pytest.raises(
        UserError, match=r"none of the 10 records of .*captions.json can be used: media is gone: 10"
    ):
        prepare(config, tmp_path / "out")


def _small(raw: Path) -> ConfigDict:
    """The corpus in several buckets, without what takes time."""
    config = get_config(f"raw={raw}")
    config.update(instruct=(), captions=())
    return config


def _hashes(out: Path) -> dict[str, str]:
    return {split: records.data_hash(out, split) for split in records.splits(out)}


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A corpus and the hashes of its records where the posts are in five buckets."""
    folder = tmp_path_factory.mktemp("parted")
    _corpus(folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "count_buckets", lambda _: 5)
        summary = prepare(_small(folder / "raw"), folder / "out")
    assert summary["funnel"]["steps"][-1]["kept_posts"] == 48
    return folder, _hashes(folder / "out")


def test_the_number_of_buckets_changes_nothing_but_the_shards(
    parted: tuple[Path, dict[str, str]], made: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = parted
    for arm in ("behavior", "ad", "shuffled", "text"):
        assert _all(folder, arm) == _all(made[0], arm)
    table = json.loads((folder / "out/funnel.json").read_text())
    whole = json.loads((made[0] / "out/funnel.json").read_text())
    assert table["sources"] == whole["sources"]


@pytest.mark.parametrize("stage", ["scatter", "join", "repeats", "clean", "write"])
def test_an_interrupted_run_goes_on_and_gives_the_same(
    parted: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    folder, expected = parted
    config = _small(folder / "raw")
    monkeypatch.setattr(recipe, "count_buckets", lambda _: 5)
    real = stages._FUNCTIONS[stage]
    calls, done = tmp_path / "calls", tmp_path / "done"  # files, as Beam runs a copy of the functions

    def second_fails(job: stages.Job, task: Any) -> None:
        with calls.open("a") as file:
            file.write(f"{_number(task)}\n")
        if len(calls.read_text().split()) == (1 if stage == "repeats" else 2):
            raise KeyboardInterrupt
        real(job, task)

    def booked(job: stages.Job, task: Any) -> None:
        with done.open("a") as file:
            file.write(f"{_number(task)}\n")
        real(job, task)

    with monkeypatch.context() as patch:
        patch.setitem(stages._FUNCTIONS, stage, second_fails)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.glob(".out.partial-*")
    assert not list(left.rglob("*.partial"))
    with monkeypatch.context() as patch:
        patch.setitem(stages._FUNCTIONS, stage, booked)
        prepare(config, tmp_path / "out")
    *finished, interrupted = calls.read_text().split()
    assert not set(finished) & set(done.read_text().split())
    assert interrupted in done.read_text().split()
    assert _hashes(tmp_path / "out") == expected
    assert not list(tmp_path.glob(".out.partial-*"))


def test_a_run_that_ends_while_it_puts_the_parts_together_goes_on(
    parted: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = parted
    monkeypatch.setattr(recipe, "count_buckets", lambda _: 5)

    def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records, "_hash_files", interrupt)  # what comes after the shards have their places
        with pytest.raises(KeyboardInterrupt):
            prepare(_small(folder / "raw"), tmp_path / "out")
    prepare(_small(folder / "raw"), tmp_path / "out")
    assert _hashes(tmp_path / "out") == expected


def _number(task: Any) -> int:
    return task[0] if isinstance(task, tuple) else task


def test_what_other_runs_left_is_removed_but_not_under_their_hands(tmp_path: Path) -> None:
    _lines(tmp_path / "t.jsonl", [{"text": "x"}])
    config = {"text": (str(tmp_path / "t.jsonl"),)}
    stale = tmp_path / ".out.partial-0000000000000000"
    stale.mkdir()
    with (stale / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prepare(config, tmp_path / "out")["splits"]
        assert stale.exists()
    shutil.rmtree(tmp_path / "out")
    assert prepare(config, tmp_path / "out")["splits"]
    assert not stale.exists()


def test_two_runs_at_once_do_not_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _lines(tmp_path / "t.jsonl", [{"text": "x"}])
    config = {"text": (str(tmp_path / "t.jsonl"),)}
    real, message = stages._FUNCTIONS["scatter"], tmp_path / "message"

    def meanwhile(job: stages.Job, task: Any) -> None:
        with pytest.raises(UserError) as caught:
            prepare(config, tmp_path / "out")
        message.write_text(str(caught.value))
        real(job, task)

    monkeypatch.setitem(stages._FUNCTIONS, "scatter", meanwhile)
    assert prepare(config, tmp_path / "out")["splits"]
    assert message.read_text() == f"{tmp_path / 'out'}: another run is writing it; wait for its end"


def test_a_full_disk_is_one_line_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lines(tmp_path / "t.jsonl", [{"text": "x"}])
    config = {"text": (str(tmp_path / "t.jsonl"),)}

    def full(job: stages.Job, task: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    with monkeypatch.context() as patch:
        patch.setitem(stages._FUNCTIONS, "join", full)
        with pytest.raises(
            UserError, match=r"^/some/file: No space left on device; mend that and run the same"
        ):
            prepare(config, tmp_path / "out")
    (left,) = tmp_path.glob(".out.partial-*")
    assert (left / "scatter/00000.rows").exists()
    assert prepare(config, tmp_path / "out")["splits"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["two processes", "portable", "dask"])
def test_other_workers_give_the_same(
    parted: tuple[Path, dict[str, str]], tmp_path: Path, engine: str
) -> None:
    # In a process of its own, as workers are started from it. The buckets are those of one worker.
    folder, expected = parted
    beam = {
        "two processes": {"workers": 2},
        "portable": {
            "runner": "PortableRunner"
        },  # what Flink and Spark speak too; here to Beam's own job server
        "dask": {"runner": "DaskRunner"},
    }[engine]
    code = f"""
import sys
from input_pipeline import recipe
from input_pipeline.prepare import prepare
from tests.input_pipeline.test_prepare import _small
from pathlib import Path
recipe.count_buckets = lambda _: 5

if __name__ == "__main__":
    config = _small(Path({str(folder / "raw")!r}))
    config.beam = {beam}
    if config.beam.get("runner") == "PortableRunner":
        import socket, subprocess
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", "--port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        config.beam.flags = (f"--job_endpoint=localhost:{{port}}", "--environment_type=LOOPBACK")
    elif config.beam.get("runner"):
        from distributed import LocalCluster
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        config.beam.flags = ("--dask_client_address=" + cluster.scheduler_address,)
    prepare(config, Path({str(tmp_path / "out")!r}))
    print("done", flush=True)
    if config.beam.get("runner") == "PortableRunner":
        server.kill()
    import os
    os._exit(0)  # a cluster that is closed in order complains at length
"""
    (tmp_path / "run.py").write_text(code)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=300,
    )
    assert done.stdout == "done\n", done.stderr
    assert _hashes(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout": 0.1}, "no setting 'heldout'. Did you mean 'heldout_fraction'"),
        ({"heldout_fraction": 2}, "heldout_fraction=2 is not a share"),
        ({"arms": ("behaviour",)}, "no arm 'behaviour'. Did you mean 'behavior'"),
        ({"template": "image_behavior"}, "Did you mean 'image_behavior_v1'"),
        ({"clean": {"redit": {}}}, "clean.redit: no such setting. Did you mean 'reddit'"),
        ({"text": ("none.jsonl",)}, "none.jsonl: no such file"),
        ({"text": ()}, "no sources"),
        ({"text": (), "instruct": ({"file": "x"},)}, "an entry of 'instruct' needs json, images"),
        ({"text": (), "youtube": ({"folder": "none"},)}, "none: no such folder"),
    ],
)
def test_mistakes_in_the_config_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _lines(tmp_path / "t.jsonl", [{"text": "x"}])
    config = {**get_config().to_dict(), "text": (str(tmp_path / "t.jsonl"),), **change}
    with pytest.raises(UserError) as caught:
        prepare(config, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_text_alone_is_a_data_set(tmp_path: Path) -> None:
    _lines(tmp_path / "t.jsonl", [{"text": f"x{i}"} for i in range(3)])
    config = ConfigDict({"text": (str(tmp_path / "t.jsonl"),), "heldout_fraction": 0.0})
    summary = prepare(config, tmp_path / "out")
    assert summary["splits"] == {"text_train": 3}
    assert summary["warnings"] == ["split text_heldout is empty and was not written"]


def test_command_line_sources() -> None:
    flags = dict.fromkeys(
        ("submissions", "comments", "media", "youtube", "instruct", "captions", "images", "text")
    )
    config = with_sources(
        get_config(), Namespace(**{**flags, "text": Path("t"), "submissions": Path("s"), "media": "m"})
    )
    assert config.reddit == ({"submissions": "s", "comments": "", "media": "m"},)
    assert config.text == ({"jsonl": "t"},)
    for given, needed in (("comments", "submissions"), ("submissions", "media"), ("instruct", "images")):
        with pytest.raises(UserError, match=f"--{given} needs --{needed}"):
            with_sources(get_config(), Namespace(**{**flags, given: "x"}))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_real_posts_with_real_awkward_pictures(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    # The image posts of the sample that have comments, most first, and pictures that are hard to read.
    pictures = {
        "eoF76hj": "images/animated.webp", "Qi9rl4": "images/pil_sample_cmyk.jpg",
        "2Gdnofw": "images/i_trns.png", "G7K3xO4": "images/hopper_orientation_6.jpg",
        "UTDrZX4": "images/truncated_jpeg.jpg",
        "e9zvy47lko9x": "llava/waterview.jpg", "iZv7O92": "images/tRNS_null_1x1.png",
    }  # fmt: skip
    for stem, name in pictures.items():
        shutil.copyfile(REAL / name, media / f"{stem}{Path(name).suffix}")
    config = get_config()
    config.reddit = (
        {
            "submissions": str(REAL / "reddit/RS_image_posts.ndjson"),
            "comments": str(REAL / "reddit/RC_image_posts.ndjson"),
            "media": str(media),
        },
    )
    config.clean.reddit.created_from = ""
    config.clean.reddit.min_comments = 1
    config.heldout_fraction = 0.0
    summary = prepare(config, tmp_path / "out")
    steps = {row["step"]: row for row in summary["funnel"]["steps"]}
    assert (steps["read"]["kept_posts"], steps["read"]["kept_comments"]) == (306, 859)
    assert (summary["bad"], summary["gone"]) == (1, 290 - len(pictures))
    assert summary["quarantine"]["by_reason"]["broken image: image file is truncated"] == 1
    found = {record.meta["title"]: record for record in _all(tmp_path, "behavior")}
    fall = found["Ba Dum Tsss"]
    assert len(fall.meta["comments"]) > 200
    assert fall.images == ((REAL / "images/animated.webp").read_bytes(),)
    assert all(len(record.meta["comments"]) >= 1 for record in found.values())
