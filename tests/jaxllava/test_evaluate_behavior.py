"""Held-out reactions of any template, scored by a tiny model: what is asked, what is left out, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline import records
from input_pipeline.behavior import samples, templates
from input_pipeline.errors import UserError
from input_pipeline.types import Clip, Comment, Post, Record, Scene, Span, Turn
from jaxllava import api, cli
from jaxllava.evaluate import behavior, behavior_command, behavior_figures, behavior_posts
from jaxllava.evaluate import plaza as plaza_tasks
from jaxllava.evaluate.item_log import ItemLog
from jaxllava.weights import orbax, source
from tests.conftest import png

pytestmark = pytest.mark.usefixtures("compiled_quickly")
EVERYTHING = frozenset({"likes", "comments", "replay"})


def record(name: str, origin: str, template: str, told=EVERYTHING, **known) -> Record:
    """A record as `prepare` writes it."""
    comments = tuple(Comment(str(i), text) for i, text in enumerate(known.pop("comments", ())))
    # A replay value for each scene of one second.
    replay = tuple(Span(i, i + 1, value) for i, value in enumerate(known.pop("replay", ())))
    scenes = tuple(Scene("a cup", i, i + 1) for i in range(len(replay)))
    post = Post(
        name, origin, "red", f"f:{name}", ("x",), comments=comments, replay=replay, scenes=scenes, **known
    )
    spec = samples.behavior(post, templates.get(template), told)
    assert spec is not None
    return samples.load(spec, lambda _: png(ord(name)))


GOOD = [
    record("a", "reddit", "reddit_image_v1", like_rate=0.9, comments=("so nice cups", "red boats")),
    record("b", "reddit", "reddit_image_v1", like_rate=0.5, comments=("blue stars are nice and soothing here",)),
    record("c", "youtube", "youtube_thumbnail_v1", like_rate=0.021, comments=("What is this", "Nice boats")),
    record("d", "youtube", "replay_v1", replay=(0.1, 0.5, 0.3)),
    record("e", "table", "image_behavior_v1_unmarked", content="warm", like_rate=0.25,
           comments=("two red cups are nice and soothing",)),
    record("f", "youtube", "replay_v1", replay=(0.2, 0.2, 0.2)),
    # A film of three frames, which one mark stands for.
    replace(
        record("g", "youtube", "replay_v1", replay=(0.1, 0.9)), images=(png(7), png(8), png(9)),
        clips=(Clip(0, (0.0, 1.0, 2.0)),),
    ),
]  # fmt: skip
IDS = ["reddit/a", "reddit/b", "youtube/c", "youtube/d", "other/e", "youtube/f", "youtube/g"]
BAD = {
    "has no picture": replace(GOOD[0], id="n", meta={**GOOD[0].meta, "post_id": "n"}, images=()),
    "picture that cannot be read (not an image)": replace(
        GOOD[0], id="p", meta={**GOOD[0].meta, "post_id": "p"}, images=(b"no picture",)
    ),
    "comes twice": GOOD[0],
    "tells no reaction": record("t", "reddit", "reddit_image_v1", told=(), content="warm"),
    "template 'gone_v1' that is not known": replace(
        GOOD[0], meta={**GOOD[0].meta, "post_id": "u", "template": "gone_v1"}
    ),
    "does not follow its template": replace(
        GOOD[0],
        meta={**GOOD[0].meta, "post_id": "w"},
        conversations=(GOOD[0].conversations[0], Turn("gpt", "Liked.")),
    ),
    "not one question and one answer": replace(
        GOOD[0], meta={**GOOD[0].meta, "post_id": "x"}, conversations=GOOD[0].conversations * 2
    ),
    "other than one <image>": replace(
        GOOD[0], meta={**GOOD[0].meta, "post_id": "y"}, images=GOOD[0].images * 2
    ),
}


def write(folder: Path, *items: Record, split: str = "behavior_heldout") -> Path:
    records.write({split: items}, folder / "records")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data"), GOOD[0], *BAD.values(), *GOOD[1:])


@pytest.fixture(scope="module")
def run(data, tiny_base, tmp_path_factory):
    """(folder of results, results) of one checkpoint under two names."""
    out = tmp_path_factory.mktemp("out")
    checkpoints = [f"behavior={tiny_base}", str(tiny_base)]
    return out, behavior_command.run(data, checkpoints, out)


def changed(tiny_base: Path, folder: Path, change) -> Path:
    """A checkpoint with other weights."""
    model = api.load(tiny_base)
    orbax.save_model(folder, change(model.params), model.config, model.tokenizer, model.template)
    return folder


# --- what is asked -----------------------------------------------------------------------------------------


def test_posts_that_cannot_be_scored_are_counted_and_named(data):
    heldout = behavior_posts.load(data, 400)
    assert [post.id for post in heldout.posts] == IDS
    assert heldout.sources == ["reddit", "youtube", "other"]
    for reason in BAD:
        (found,) = [ids for said, ids in heldout.left_out.items() if reason in said]
        assert len(found) == 1, reason
    assert heldout.pictures(heldout.posts[1]) == list(GOOD[1].images)
    # Only what was looked at is counted.
    assert behavior_posts.load(data, 1).left_out == {}
    assert len(behavior_posts.load(data, 2).left_out) == len(BAD)


def test_rows_are_the_model_s_own_scores_behind_the_true_start(run, data, tiny_base):
    out, _ = run
    model = api.load(tiny_base)

    def rows(name: str) -> dict[tuple[str, int], dict]:
        lines = (out / "behavior" / f"{name}.jsonl").read_text().splitlines()[1:]
        return {(row["id"], row["number"]): row for row in map(json.loads, lines)}

    def asked(index: int) -> tuple[list[str], list[bytes]]:
        # As many as the run's batches hold, so that nothing is compiled anew.
        return [GOOD[index].conversations[0].text] * len(GOOD), [GOOD[index].images[0]] * len(GOOD)

    comments = rows("comments")
    assert len(comments) == 6
    head = 'Of the votes on it, 90.0% will be upvotes, and the popular comments could be:\n1. "'
    second = f'>>> BEHAVIOR <<<\n{head}so nice cups"\n2. "'
    sums, counts = model.loglikelihood(*asked(0), ['red boats"'] * len(GOOD), answer_prefix=second)
    assert comments["reddit/a", 1]["log_probability"] == pytest.approx(sums[0], abs=1e-3)
    assert comments["reddit/a", 1]["tokens"] == counts[0]

    # The mean over all values, each for its neighbourhood: by hand, of the candidates' probabilities.
    likes = rows("likes")
    grid = behavior.LIKE_GRID
    prefix = ">>> BEHAVIOR <<<\nThe video will be liked by "
    (scores, *_) = model.score(*asked(2), [f"{v:.1f}%" for v in grid], answer_prefix=prefix)
    widths = np.array([0.2] * 10 + [0.35] + [0.5] * 15 + [0.75] + [1.0] * 90)
    expected = (np.exp(scores) * widths * grid / 100).sum() / (np.exp(scores) * widths).sum()
    assert likes["youtube/c", 0]["predicted"] == pytest.approx(expected, abs=1e-4)
    assert likes["youtube/c", 0]["true"] == 0.021  # and not the 2.1 % of the answer's rounding alone
    assert set(likes) == {("reddit/a", 0), ("reddit/b", 0), ("youtube/c", 0), ("other/e", 0)}

    replay = rows("replay")
    assert len(replay) == 3 + 3 + 2
    answer = GOOD[3].conversations[1].text
    prefix = answer[: answer.index("0.50")]
    assert prefix.endswith("Scene 1: 0.10\nScene 2: ")
    (scores, *_) = model.score(*asked(3), [f"{v / 100:.2f}" for v in range(101)], answer_prefix=prefix)
    widths = np.ones(101)
    expected = (np.exp(scores) * widths * np.arange(101) / 100).sum() / np.exp(scores).sum()
    assert replay["youtube/d", 1]["predicted"] == pytest.approx(expected, abs=1e-4)
    assert replay["youtube/d", 1]["true"] == 0.5

    generated = rows("generated")
    prefix = f">>> BEHAVIOR <<<\n{head}".rstrip(' "')
    assert prefix.endswith("\n1.")
    row = generated["reddit/a", 0]
    (text, *_) = model.generate(*asked(0), max_new_tokens=row["new_tokens"], answer_prefix=prefix)
    assert row["text"] == text


def test_results_have_every_measure_with_its_interval(run):
    _, results = run
    assert results["compared"] == "behavior"
    assert list(results["checkpoints"]) == ["behavior", "base"]
    one = results["checkpoints"]["behavior"]
    told = set(behavior_figures.MEASURES) - {"told_memorability_r2", "told_memorability_spearman"}
    assert set(one["figures"]) == told
    for name, figure in one["figures"].items():
        scored = 1 if name.startswith("replay") else 4
        if "note" in figure:  # a tiny model may have written no list
            assert name.startswith("overlap")
            continue
        assert figure["n"] <= scored
        assert figure["unit"] == "posts"
        if figure["n"] == 1:
            assert figure["low"] is None
        else:
            assert figure["low"] <= figure["mean"] <= figure["high"]
    assert one["figures"]["comments_perplexity"]["n"] == one["figures"]["like_rate_r2"]["n"] == 4
    assert one["left_out"]["replay_pearson"] == {
        "has a flat replay graph": ["youtube/f"],
        "has a replay graph of fewer than 3 scenes": ["youtube/g"],
    }
    assert set(one["sources"]) == {"reddit", "youtube", "other"}
    assert one["sources"]["reddit"]["comments_perplexity"]["n"] == 2
    assert one["sources"]["other"]["top_comment_perplexity"]["low"] is None
    assert "like_rate_r2" in one["sources"]["reddit"]
    assert results["records"]["sources"] == {"reddit": 2, "youtube": 4, "other": 1}
    # The same model twice: no difference at all.
    assert results["checkpoints"]["base"]["figures"] == one["figures"]
    for figure in results["differences"]["base"].values():
        assert figure.get("mean", 0) == 0
    assert "did not win" in results["sentences"][0]


# --- going on ----------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_where_it_was(run, data, tiny_base, tmp_path, monkeypatch):
    first, expected = run
    checkpoints = [f"behavior={tiny_base}", str(tiny_base)]
    add, calls = ItemLog.add, []

    def stop(self, rows):
        rows = list(rows)
        if rows:
            calls.append(self.path.name)
        if len(calls) == 4:
            with self.path.open("a") as file:
                file.write(json.dumps(rows[0])[:20])  # torn
            raise KeyboardInterrupt
        add(self, rows)

    monkeypatch.setattr(behavior, "_CHUNK", 1)  # so that there is a middle
    monkeypatch.setattr(ItemLog, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        behavior_command.run(data, checkpoints, tmp_path)
    monkeypatch.undo()
    kept = {path: path.read_text() for path in (tmp_path / "behavior").glob("*.jsonl")}
    assert calls == [f"{name}.jsonl" for name in ("comments", "likes", "replay", "replay")]
    assert not (tmp_path / "results.json").exists()
    found = behavior_command.run(data, checkpoints, tmp_path)
    for path, text in kept.items():
        whole = text[: text.rfind("\n") + 1]
        assert path.read_text().startswith(whole)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(found))
    for name in ("comments", "likes", "replay", "generated"):
        mine, other = (
            {(row["id"], row["number"]): row for row in map(json.loads, path.read_text().splitlines()[1:])}
            for path in (folder / "behavior" / f"{name}.jsonl" for folder in (tmp_path, first))
        )
        assert mine.keys() == other.keys()
        for key, row in mine.items():
            for part, value in row.items():
                expected_part = other[key][part]
                assert value == (pytest.approx(expected_part) if isinstance(value, float) else expected_part)
    for name, figure in found["checkpoints"]["behavior"]["figures"].items():
        assert figure.get("mean") == pytest.approx(
            expected["checkpoints"]["behavior"]["figures"][name].get("mean"), rel=1e-3, abs=1e-5
        )


def test_features_are_of_a_llama_vid(data, tiny_base, tmp_path):
    with pytest.raises(UserError, match="--features: none of the checkpoints is a LLaMA-VID"):
        behavior_command.run(data, [str(tiny_base)], features=tmp_path / "features")
    with pytest.raises(UserError, match=f"{tiny_base}: holds a LLaVA without a Q-Former"):
        api.load(tiny_base, features=tmp_path / "features")


def test_a_finished_run_reads_no_model(run, data, tiny_base, monkeypatch):
    out, results = run

    def load(*_):
        raise AssertionError("a model was read")

    monkeypatch.setattr(api, "load", load)
    again = behavior_command.run(data, [f"behavior={tiny_base}", str(tiny_base)], out)
    assert again == results
    # Fewer posts are a part of what is there.
    fewer = behavior_command.run(data, [f"behavior={tiny_base}"], out, limit=3)
    assert fewer["records"]["posts"] == 3


def test_results_of_another_checkpoint_or_data_are_not_added_to(run, data, tiny_base, tmp_path):
    out, _ = run
    other = changed(tiny_base, tmp_path / "other", lambda params: jax.tree.map(lambda x: x * 0.5, params))
    with pytest.raises(UserError, match=rf"results of checkpoint {tiny_base} .*{other}.*another --out"):
        behavior_command.run(data, [f"behavior={other}"], out)
    elsewhere = write(tmp_path / "data", *GOOD[:2])
    with pytest.raises(UserError, match=rf"results of records {data} .*{elsewhere}.*another --out"):
        behavior_command.run(elsewhere, [f"behavior={tiny_base}"], out)
    path = tmp_path / "broken" / "behavior" / "comments.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("not JSON\n")
    with pytest.raises(UserError, match=r"comments\.jsonl: line 1 does not say of what"):
        behavior_command.run(data, [f"behavior={tiny_base}"], path.parents[1])


# --- bad models and data -----------------------------------------------------------------------------------


def test_scores_that_are_no_numbers_are_counted_and_never_chosen_by(data, tiny_base, plaza, tmp_path, capsys):
    def break_it(params):
        return jax.tree.map(lambda x: np.full_like(x, np.nan), params)

    broken = changed(tiny_base, tmp_path / "broken", break_it)
    results = behavior_command.run(data, [f"broken={broken}"])
    one = results["checkpoints"]["broken"]
    for name in ("comments_perplexity", "like_rate_r2", "replay_pearson"):
        assert one["figures"][name] == {"note": "no post was scored"}
        assert behavior.NOT_FINITE in one["left_out"][name]
    cli.main(["evaluate", "--model", str(broken), "--data", str(data)])
    assert (
        f"not scored: 4 {behavior.NOT_FINITE} (reddit/a, reddit/b, youtube/c, ...)" in capsys.readouterr().out
    )
    # Plaza's own tasks choose the likeliest word: not here.
    truths = plaza_tasks.load_heldout(plaza / "data", plaza / "gold.json", 2, 2)
    log = ItemLog(None, {}, ("task",))
    named = behavior_command.Named("broken", broken, "", "")
    heldout = behavior_posts.load(data, 1)
    behavior_command._score(named, heldout, {}, replace(truths, questions=[]), log, lambda done, total: None)
    for task in ("mood", "topic", "memorability"):
        found = behavior_command._of_plaza({task: log.rows[task,]})[task]
        assert found["note"].startswith("2 of 2 posts got scores that are not finite (")


def test_what_does_not_fit_into_the_model_is_counted_and_named(data, tiny_base, tmp_path):
    model = api.load(tiny_base)
    heldout = behavior_posts.load(data, 400)
    one = behavior.PASSES["comments"]
    items = one.items(heldout.posts)
    rooms = sorted(one.room(model, item) for item in items)
    assert len(set(rooms)) > 2
    decoder = model.config.decoder.replace(max_positions=rooms[2])
    model.config = model.config.replace(decoder=decoder)
    log = ItemLog(None, {})
    fitting = [item for chunk in behavior._chunks(model, one, items, 2, log) for item in chunk]
    assert [one.room(model, item) for item in fitting] == rooms[:3]
    assert len(log.rows) == 3
    # A room is what the model's own check counts: the longest fits exactly.
    item = fitting[-1]
    api.load(tiny_base)
    span = item.post.parts["comments"][item.number]
    model.loglikelihood(
        [item.post.turns[:1]],
        [heldout.pictures(item.post)],
        [span.closed(item.post.answer)],
        item.post.answer[: span.start],
    )
    # Where nothing fits there is a report and no figure.
    small = tmp_path / "small"
    decoder = model.config.decoder.replace(max_positions=8)
    orbax.save_model(small, model.params, model.config.replace(decoder=decoder), model.tokenizer, "v1_bare")
    results = behavior_command.run(data, [str(small)])
    left_out = results["checkpoints"]["small"]["left_out"]["like_rate_r2"]
    assert left_out == {
        "takes more than the model's 8 positions": ["reddit/a", "reddit/b", "youtube/c", "other/e"]
    }


def test_one_post_has_no_interval(tiny_base, tmp_path, capsys):
    one = write(tmp_path, GOOD[1])
    cli.main(["evaluate", "--checkpoint", str(tiny_base), "--data", str(one)])
    said = capsys.readouterr().out
    assert "Top comment, perplexity ↓" in said
    assert "[-]: one post shows no spread" in said
    assert "no Like rates (R²): r2 is undefined on these 1 items" in said
    assert "is the only post with comments" in said or "no comment that could be read" in said
    assert "One checkpoint: nothing is compared." in said


def test_perplexities_of_two_tokenizers_are_not_compared(run, data, tiny_base, tmp_path):
    model = api.load(tiny_base)
    model.tokenizer.add_tokens(["never"])  # as good as another vocabulary: a hash of it tells them apart
    other = tmp_path / "other"
    size = len(model.tokenizer)
    assert size == model.config.decoder.vocab_size + 1
    params = jax.tree.map(np.asarray, model.params)
    wider = lambda x: np.pad(x, [(0, size - n) if n == size - 1 else (0, 0) for n in x.shape])
    decoder = model.config.decoder.replace(vocab_size=size, max_positions=8)
    config = model.config.replace(decoder=decoder)
    params["decoder"] = jax.tree.map(wider, params["decoder"])
    orbax.save_model(other, params, config, model.tokenizer, "v1_bare")
    assert source.open_checkpoint(other).tokenizer is not None
    results = behavior_command.run(data, [f"behavior={tiny_base}", str(other)], run[0])
    assert results["differences"]["other"]["comments_perplexity"] == {"note": "the tokenizers differ"}
    assert "Not compared with other: the tokenizers differ: " in "\n".join(results["sentences"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "a={base}", "--checkpoint", "a={base}"], "two are named 'a'"),
        (["--checkpoint", "a b={base}"], "write NAME=DIR"),
        (["--checkpoint", "a="], "write NAME=DIR"),
        (["--checkpoint", "a=/nowhere"], "/nowhere: no such model folder"),
        (["--model", "/nowhere"], "/nowhere: no such model folder"),
        (["--checkpoint", "{base}", "--limit", "0"], "--limit 0: at least 1"),
        (["--checkpoint", "{base}", "--out", "{file}"], "is a file; give a folder"),
        (["--checkpoint", "a=gs://bucket/x"], "is in a bucket"),
        (["--checkpoint", "{base}", "--gold", "/nowhere"], "--gold /nowhere"),
        ([], "evaluate --data: set --checkpoint DIR"),
    ],
)
def test_a_mistake_is_told_in_one_line(data, tiny_base, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    given = [a.format(base=tiny_base, file=tmp_path / "file") for a in arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "--data", str(data), *given])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_data_without_reactions_is_told(tmp_path):
    train = write(tmp_path / "train", GOOD[0], split="behavior_train")
    with pytest.raises(UserError, match="no split behavior_heldout: prepare it"):
        behavior_posts.load(train, 5)
    silent = write(tmp_path / "silent", BAD["tells no reaction"])
    with pytest.raises(
        UserError, match=r"of 1 held-out posts none can be scored: 1 tells no reaction \(reddit/t\)"
    ):
        behavior_posts.load(silent, 5)
