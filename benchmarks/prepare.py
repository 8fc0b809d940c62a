"""Speed and memory of `jaxllava prepare`: `python benchmarks/prepare.py [--comments 100000 1000000] [--workers 1]`.

Draws Reddit dumps of growing size, the same every time: comments like the real ones (about 1.1 KB a line), one post
to 50 of them, a small picture to each post in tar shards. Runs the command on each and prints comments per second,
seconds by stage, the peak memory of the largest process, and a hash of the records, which does not depend on
`--workers`. The last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LETTERS = "eeeeettttaaaaooooiiinnnsssrrrhhhddlluuccmmwwffyyggppbbvvkkxjqz"
COMMENTS_A_POST = 50
PICTURES_A_SHARD = 5_000
# What a line of a dump holds besides what a reader wants: three quarters of it.
FILLER = json.dumps(
    {
        "all_awardings": [], "archived": False, "associated_award": None, "author_created_utc": 1400000000,
        "author_flair_background_color": None, "author_flair_css_class": None, "author_flair_richtext": [],
        "author_flair_template_id": None, "author_flair_text": None, "author_flair_text_color": None,
        "author_flair_type": "text", "author_fullname": "t2_1abcdef", "author_patreon_flair": False,
        "author_premium": False, "can_gild": True, "can_mod_post": False, "collapsed": False,
        "collapsed_reason": None, "controversiality": 0, "distinguished": None, "edited": False, "gilded": 0,
        "gildings": {"gid_1": 0, "gid_2": 0, "gid_3": 0}, "is_submitter": False, "locked": False,
        "no_follow": True, "removal_reason": None, "send_replies": True, "stickied": False,
        "subreddit_id": "t5_2qh0u", "subreddit_name_prefixed": "r/pics", "subreddit_type": "public",
        "total_awards_received": 0, "treatment_tags": [], "retrieved_on": 1560000000,
    }
)[1:]  # fmt: skip


def draw(folder: Path, count: int, seed: int = 0) -> None:
    """Writes RS.ndjson, RC.ndjson and media/*.tar."""
    generator = random.Random(seed)
    vocabulary = ["".join(generator.choices(LETTERS, k=generator.randint(2, 9))) for _ in range(20_000)]
    bodies = [
        " ".join(generator.choices(vocabulary, k=min(int(generator.expovariate(1 / 12)) + 1, 150)))
        for _ in range(50_000)
    ]
    posts = max(count // COMMENTS_A_POST, 1)
    media = folder / "media"
    media.mkdir(parents=True)
    with (folder / "RS.ndjson").open("w") as file:
        for number in range(posts):
            row = {
                "id": f"p{number:x}", "title": f"{generator.choice(bodies)[:80]} {number}", "author": f"user{number}",
                "created_utc": 1546300800 + number, "score": generator.randrange(9000), "upvote_ratio": 0.9,
                "subreddit": "pics", "over_18": False, "is_self": False, "selftext": "",
                "url": f"https://i.redd.it/p{number:x}.png",
            }  # fmt: skip
            file.write(json.dumps(row)[:-1] + ", " + FILLER + "\n")
    for shard in range(0, posts, PICTURES_A_SHARD):
        with tarfile.open(media / f"{shard:08d}.tar", "w") as tar:
            for number in range(shard, min(shard + PICTURES_A_SHARD, posts)):
                pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
                out = io.BytesIO()
                Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(out, "PNG")
                info = tarfile.TarInfo(f"p{number:x}.png")
                info.size = out.tell()
                out.seek(0)
                tar.addfile(info, out)
    with (folder / "RC.ndjson").open("w") as file:
        for number in range(count):
            post = generator.randrange(posts)
            body = f"{generator.choice(bodies)} {generator.choice(bodies)}"
            kind = generator.random()
            if kind < 0.08:
                body = "[removed]"
            elif kind < 0.2:
                body = body[:12]
            elif kind < 0.25:
                body = f"&gt; {body}\\n\\n[this](https://example.com/{number}) says it"
            file.write(
                f'{{"id": "c{number:x}", "link_id": "t3_p{post:x}", "parent_id": "t3_p{post:x}", '
                f'"author": "user{number % 99991}", "body": "{body}", "score": {number % 997}, '
                f'"created_utc": {1546300800 + number}, "subreddit": "pics", '
                f'"permalink": "/r/pics/comments/p{post:x}/{body[:40].replace(" ", "_")}/c{number:x}/", {FILLER}\n'
            )


def measure(raw: Path, out: Path, workers: int) -> dict[str, Any]:
    """Runs the command in a process of its own."""
    command = [
        sys.executable, "-m", "jaxllava", "prepare", "--submissions", str(raw / "RS.ndjson"), "--comments",
        str(raw / "RC.ndjson"), "--media", str(raw / "media"), "--out", str(out), "--workers", str(workers),
    ]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    summary = json.loads((out / "summary.json").read_text())
    steps = summary["funnel"]["steps"]
    hashes = json.loads(next((out / "records").rglob("hashes.json")).read_text())
    return {
        "comments": steps[0]["kept_comments"],
        "posts": steps[0]["kept_posts"],
        "kept_comments": steps[-1]["kept_comments"],
        "workers": workers,
        "seconds": round(seconds, 1),
        "comments_per_second": round(steps[0]["kept_comments"] / seconds),
        "stages": summary["stage_seconds"],
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "records": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comments", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, help="where to draw (default: a temporary folder)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for count in args.comments:
            raw = Path(name) / f"raw.{count}"
            draw(raw, count)
            for workers in args.workers:
                row = measure(raw, Path(name) / f"out.{count}.{workers}", workers)
                rows.append(row)
                print(
                    f"{row['comments']:>10} comments, {row['workers']} workers: {row['seconds']:>7} s, "
                    f"{row['comments_per_second']:>6}/s, {row['peak_gib']} GiB, {row['stages']}, {row['records']}",
                    flush=True,
                )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
