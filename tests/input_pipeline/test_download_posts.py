"""From a dump to its pictures to records: what is asked for, and that `prepare` finds it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.prepare import get_config
from input_pipeline import records
from input_pipeline.download.posts import Settings, download_media
from input_pipeline.errors import UserError
from input_pipeline.prepare import prepare


class _Pictures(BaseHTTPRequestHandler):
    """Gives a picture for every path but /gone.png."""

    asked: list[str]

    def do_GET(self) -> None:
        if self.path == "/robots.txt" or self.path == "/gone.png":
            self.send_error(404)
            return
        self.asked.append(self.path)
        pixels = np.random.default_rng(len(self.path)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(out, "PNG")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(out.tell()))
        self.end_headers()
        self.wfile.write(out.getvalue())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Pictures,), {"asked": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler.asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_only_what_the_rules_would_keep_is_fetched(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    url, asked = server
    rows = [
        {"id": "ok", "url": f"{url}/ok.png"},
        {"id": "longer", "url": f"{url}/longer.png"},
        {"id": "gone", "url": f"{url}/gone.png"},
        {"id": "nsfw", "url": f"{url}/nsfw.png", "over_18": True},
        {"id": "old", "url": f"{url}/old.png", "created_utc": 1.3e9},
        {"id": "talk", "url": "https://www.reddit.com/r/x/comments/talk/", "is_self": True},
    ]
    common = {
        "title": "a title",
        "author": "a",
        "created_utc": 1.6e9,
        "upvote_ratio": 0.5,
        "subreddit": "pics",
    }
    (tmp_path / "rs.ndjson").write_text("".join(json.dumps({**common, **row}) + "\n" for row in rows))
    config = get_config()
    config.reddit = ({"submissions": str(tmp_path / "rs.ndjson"), "media": str(tmp_path / "media")},)
    config.clean.reddit.min_comments = 0
    config.heldout_fraction = 0.0
    settings = Settings(contact="me@example.org", allow_private=True, requests_per_second=1000)

    (tmp_path / "media").mkdir()
    summary, passed = download_media(config, tmp_path / "media", settings)
    assert sorted(asked) == ["/longer.png", "/ok.png"]
    assert (summary.counts["ok"], summary.counts["gone"]) == (2, 1)
    assert passed["dropped by the rules: marked NSFW"] == 1
    assert passed["dropped by the rules: too old"] == 1
    assert sum(passed.values()) == 3

    again, _ = download_media(config, tmp_path / "media", settings)
    assert sorted(asked) == ["/longer.png", "/ok.png"]  # neither these nor what is gone is asked for again
    assert sum(again.counts.values()) == 0
    made = prepare(config, tmp_path / "out")
    assert {record.id for record in records.open_split(tmp_path / "out", "behavior_train")} == {
        "ok",
        "longer",
    }
    assert made["gone"] == 3  # gone, nsfw and old


def test_a_config_without_posts_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "x"}\n')
    config = {"text": (str(tmp_path / "t.jsonl"),)}
    with pytest.raises(UserError, match="the config names no posts"):
        download_media(config, tmp_path / "media", Settings(contact="me@example.org"))
