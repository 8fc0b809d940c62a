"""The verdict against cases where the right answer is plain, and the page and table on full results."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from input_pipeline.errors import UserError
from jaxllava.evaluate import charts, report
from jaxllava.evaluate.comparison import compare

EVIL = '<script>alert("x")</script> & <img src=x onerror=alert(1)> \ud83d'


def cell(mean: float, half: float = 0.01, n: int = 200) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 48), (200, 80, 40)).save(picture)
    rows = [
        {
            "step": "read",
            "kept_posts": 1200,
            "dropped_posts": 0,
            "kept_comments": 5000,
            "dropped_comments": 0,
        },
        {
            "step": "media",
            "kept_posts": 900,
            "dropped_posts": 300,
            "kept_comments": 4000,
            "dropped_comments": 1000,
        },
    ]
    return {
        "arms": {
            "base": {"mood": cell(0.2), "likes_r2": cell(-0.1), "comment_perplexity": cell(60, 2)},
            "ad": {"mood": cell(0.21), "likes_r2": cell(-0.08), "comment_perplexity": cell(58, 2)},
            "behavior": {"mood": cell(0.6), "likes_r2": cell(0.4), "comment_perplexity": cell(6, 0.5)},
            "shuffled": {"mood": cell(0.2), "likes_r2": cell(0.39), "comment_perplexity": cell(5, 0.5)},
        },
        "differences": {
            "base": {"mood": cell(0.4), "likes_r2": cell(0.5), "comment_perplexity": cell(-54)},
            "ad": {"mood": cell(0.39), "likes_r2": cell(0.48), "comment_perplexity": cell(-52)},
            "shuffled": {"mood": cell(0.4), "likes_r2": cell(0.01, 0.05), "comment_perplexity": cell(1, 0.2)},
        },
        "chance": {"mood": 1 / 6, "likes_r2": 0.0},
        "seeds": [0],
        "seconds": {"draw": 12.3, "base": 200.0},
        "tokens_per_second": {"base": 9000.0},
        "funnel": {
            "steps": rows,
            "reasons": {"media": {EVIL: {"posts": 300, "comments": 1000}}},
            "sources": {"reddit": rows, "youtube": rows},
        },
        "quarantine": {
            "count": 2,
            "by_reason": {EVIL: 2},
            "examples": [
                {"file": "posts.ndjson", "record": 7, "id": EVIL, "reason": "unreadable image"},
                EVIL,
            ],
        },
        "curves": {"base": [[step, 5 / (1 + step)] for step in range(2000)], "empty": []},
        "samples": [
            {
                "image": str(picture),
                "title": EVIL,
                "true_comments": [EVIL],
                "generated": {"base": "", "behavior": EVIL},
                "true_like_rate": 0.61,
                "mood": "calm",
                "topic": "sea",
            },
            {
                "image": str(tmp_path / "gone.png"),
                "title": "no picture",
                "true_comments": [],
                "generated": {},
            },
        ],
        "export": {"path": "export/hf", "max_logit_difference": 3e-6, "reason": None},
        "machine": "2 x x86_64",
    }


def outcomes(results: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(c.metric, c.other): c.outcome for c in compare(results)}


def test_outcomes_follow_the_paired_interval_and_the_direction(results: dict[str, Any]):
    assert outcomes(results) == {
        ("mood", "base"): "win",
        ("mood", "ad"): "win",
        ("mood", "shuffled"): "win",
        ("likes_r2", "base"): "win",
        ("likes_r2", "ad"): "win",
        ("likes_r2", "shuffled"): "open",
        ("comment_perplexity", "base"): "win",  # lower is better
        ("comment_perplexity", "ad"): "win",
        ("comment_perplexity", "shuffled"): "loss",
    }


def test_without_pairs_only_separate_intervals_decide(results: dict[str, Any]):
    del results["differences"]
    found = outcomes(results)
    assert found["mood", "base"] == "win"
    assert found["likes_r2", "shuffled"] == "open"
    assert found["comment_perplexity", "shuffled"] == "open"  # 6 +- 0.5 touches 5 +- 0.5


def test_a_mean_above_is_no_win(results: dict[str, Any]):
    for other in results["differences"]:
        results["differences"][other]["mood"] = cell(0.02, 0.03)
    assert {outcome for (metric, _), outcome in outcomes(results).items() if metric == "mood"} == {"open"}


def test_verdict_says_what_is_won_and_what_is_not(results: dict[str, Any]):
    text = report.verdict(results)
    assert "won on 1 of 3 metrics (mood)" in text[0]
    assert "on the others it did not" in text[0]
    assert "Against shuffled: better on 1 of 3, worse on 1, undecided on 1." in text
    likes = next(s for s in text if s.startswith("Like rate"))
    assert "behavior has R² 0.400" in likes
    assert "not shown to differ from shuffled (+0.010, [−0.040, +0.060])" in likes
    comments = next(s for s in text if s.startswith("Comments"))
    assert "better than base" in comments
    assert "worse than shuffled (+1.00, [+0.80, +1.20])" in comments
    assert any("like rate and comments it beats base but not shuffled" in s for s in text)
    assert any("One training seed" in s for s in text)


def test_verdict_of_a_defeat_is_plain(results: dict[str, Any]):
    for other in results["differences"]:
        for metric in results["differences"][other]:
            results["differences"][other][metric] = cell(0.0, 0.1)
    results["arms"]["behavior"]["mood"] = cell(0.17, 0.05)
    results["seeds"] = [0, 1]
    text = report.verdict(results)
    assert "did not win: on none of 3 metrics" in text[0]
    assert any(s == "On mood, behavior is not shown to be better than chance." for s in text)
    assert not any("One training seed" in s for s in text)


def test_verdict_of_a_full_win(results: dict[str, Any]):
    del results["arms"]["shuffled"], results["differences"]["shuffled"]
    assert "won on every metric (3), against all of base and ad" in report.verdict(results)[0]


def test_verdict_without_an_opponent(results: dict[str, Any]):
    results["arms"] = {"base": results["arms"]["base"]}
    results["differences"] = {}
    assert report.verdict(results) == [
        "There is no verdict: it needs the arm 'behavior' and another arm with a metric in common."
    ]


def test_terminal_table(results: dict[str, Any]):
    results["arms"]["ad"]["likes_r2"] = None
    text = report.terminal_table(results)
    lines = text.splitlines()
    assert lines[0].split() == ["Mood", "↑", "Like", "rate", "↑", "Comments", "↓"]
    assert [line.split()[0] for line in lines[3:-1:2]] == ["base", "ad", "shuffled", "behavior", "chance"]
    row = {line.split()[0]: line.split()[1:] for line in lines[3:-1:2]}
    assert row["behavior"] == ["60.0%*", "0.400*", "6.00"]
    assert row["shuffled"] == ["20.0%", "0.390", "5.00*"]
    assert row["ad"][1] == "-"
    assert row["chance"] == ["16.7%", "0.000", "-"]
    assert "[59.0, 61.0]" in lines[10]
    assert len({line.rfind("%") for line in lines if "20.0%" in line}) == 1  # columns line up
    assert max(map(len, lines)) <= 110


def test_values_equal_in_print_are_both_best(results: dict[str, Any]):
    results["arms"]["base"]["mood"] = cell(0.60001)
    assert report.terminal_table(results).count("60.0%*") == 2


class Page(HTMLParser):
    """Counts tags, and fails on any that are left open or closed out of order."""

    EMPTY = frozenset({"meta", "img", "br", "line", "circle", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_page_is_whole_escaped_and_self_contained(results: dict[str, Any], tmp_path: Path):
    path = tmp_path / "report.html"
    report.write_html(results, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.count
    assert page.count["img"] == 1  # the picture; the evil title made none, the missing file none
    assert "picture not found" in text
    assert text.count("&lt;script&gt;alert(") >= 6
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("src", "href") and value]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in links)
    assert {value[1:] for value in links if value[0] == "#"} <= {
        v for name, v in page.attributes if name == "id"
    }
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert page.count["svg"] == 4  # three metrics, one curve; the empty curve is left out
    assert report.verdict(results)[0].replace("'", "&#39;") in text
    for expected in ("60.0%", "1,200", "−300", "posts.ndjson:7", "3.0e-06", "3 min 20 s", "61% liked it"):
        assert expected in text, expected


def test_page_of_little(tmp_path: Path):
    results = {
        "arms": {"base": {"mood": cell(0.2)}},
        "export": {"path": "x", "max_logit_difference": None, "reason": "no torch"},
    }
    report.write_html(results, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    assert "There is no verdict" in text
    assert "<b>not compared</b>" in text and "no torch" in text


def test_funnel_rows_alone_will_do(results: dict[str, Any], tmp_path: Path):
    results["funnel"] = results["funnel"]["steps"]
    report.write_html(results, tmp_path / "report.html")
    assert "−300" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_large_pictures_are_made_small(results: dict[str, Any], tmp_path: Path):
    noise = Image.effect_noise((1600, 1200), 80)
    noise.save(tmp_path / "large.png")
    results["samples"][0]["image"] = "large.png"  # relative to the report
    report.write_html(results, tmp_path / "report.html")
    assert "data:image/jpeg;base64," in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("arms"), "no 'arms'"),
        (lambda r: r["arms"]["ad"].update(mood={"mean": 1}), r"arms\.ad\.mood needs the numbers"),
        (lambda r: r["arms"]["ad"].update(mood=cell(float("nan"))), r"arms\.ad\.mood is not finite"),
        (lambda r: r["differences"].update(other={}), "differences has 'other'"),
        (lambda r: r["differences"]["ad"].update(mood=0.3), r"differences\.ad\.mood needs"),
    ],
)
def test_broken_results_are_named(results: dict[str, Any], change: Any, message: str, tmp_path: Path):
    broken = copy.deepcopy(results)
    change(broken)
    with pytest.raises(UserError, match=message):
        report.write_html(broken, tmp_path / "report.html")


def test_load_results(tmp_path: Path):
    with pytest.raises(UserError, match=r"results\.json does not exist"):
        report.load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"arms": ')
    with pytest.raises(UserError, match="is not JSON"):
        report.load_results(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list"):
        report.load_results(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"arms": {}}))
    assert report.load_results(tmp_path) == {"arms": {}}


def test_ticks():
    assert charts.ticks(0.17, 0.68) == [0.2, 0.4, 0.6]
    assert charts.ticks(-0.12, 0.31) == [-0.1, 0, 0.1, 0.2, 0.3]
    assert charts.ticks(0, 2000) == [0, 500, 1000, 1500, 2000]
    assert charts.ticks(3, 3) == [3]
    assert charts.log_ticks(4.8, 70) == [5, 10, 20, 50]
    assert charts.log_ticks(4.8, 200_000) == [10, 100, 1_000, 10_000, 100_000]


def test_interval_chart_places_dots_on_one_scale():
    rows = [charts.Row("a", "arm-base", 0.0, -1.0, 1.0, "0"), charts.Row("b", "arm-ad", 1.0, 0.0, 2.0, "1")]
    svg = charts.interval_chart(rows, str, "t", 0.0, "zero")
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    ends = [(float(a), float(b)) for a, b in re.findall(r'class="whisker" x1="([\d.]+)" x2="([\d.]+)"', svg)]
    reference = float(re.findall(r'class="chance" x1="([\d.]+)"', svg)[0])
    assert dots[0] == reference == ends[1][0]
    assert ends[0][1] == dots[1]
    assert dots[0] == pytest.approx(sum(ends[0]) / 2, abs=0.11)
    logs = charts.interval_chart(
        [charts.Row("a", "x", v, v, v, "") for v in (1.0, 10.0, 100.0)], str, "t", log=True
    )
    one, ten, hundred = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', logs))
    assert ten - one == pytest.approx(hundred - ten, abs=0.11)
    wide = [charts.Row("a", "x", v, v, v, f"{v:.2f}") for v in (3.48, 1_367_172.49)]
    dots = [
        float(x)
        for x in re.findall(r'<circle cx="([\d.]+)"', charts.interval_chart(wide, str, "t", log=True))
    ]
    assert max(dots) + 4.5 < charts.WIDTH - 7 * len("1367172.49"), "no dot stands on a long value"


def test_curve_leaves_gaps_and_stays_small():
    points = [(float(i), 1.0) for i in range(10_000)]
    points[5] = (5.0, 9.0)  # a spike that thinning must keep
    points[100] = (100.0, float("nan"))
    svg = charts.line_chart(points, "loss")
    assert "nan" not in svg
    assert len(svg) < 30_000
    raw = re.findall(r'class="raw" d="([^"]+)"', svg)[0]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", raw)]
    assert min(heights) < 30 < max(heights)  # the spike's top, and the rest
    assert charts.line_chart([(0.0, float("nan"))], "loss") == ""
    few = charts.line_chart([(0.0, 2.0), (1.0, float("nan")), (2.0, 1.0)], "loss")
    assert re.findall(r'class="raw" d="([^"]+)"', few)[0].count("M") == 2  # a gap, not a line across it


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7620, "2 h 7 min")]
)
def test_duration(seconds: float, text: str):
    assert report.duration(seconds) == text


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    assert report._picture(str(tmp_path / "bad.png"), tmp_path) == ""
    assert report._picture(None, tmp_path) == ""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "BMP")
    (tmp_path / "a.bmp").write_bytes(buffer.getvalue())
    assert report._picture("a.bmp", tmp_path).startswith("data:image/jpeg")
