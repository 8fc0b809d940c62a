"""Speed of the Reddit readers: `python benchmarks/readers.py [--comments 200000]`.

Writes a dump of comments like the real ones (about 1.1 KB a line, the same every time), plain and as .zst with the
long window of the monthly dumps, and a dump of submissions. Reads each in turn on one core and prints records per
second of the processor and how many times as fast that is as a bare `json.loads` of every line in the same run.
The last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from input_pipeline.sources import lines, media, reddit

COMMUNITIES = ("pics", "videos", "funny", "AskReddit", "worldnews")
LETTERS = "eeeeettttaaaaooooiiinnnsssrrrhhhddlluuccmmwwffyyggppbbvvkkxjqz"
ROUNDS = 3


def comments(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Comments with the fields of a dump of 2019, few of which a reader wants."""
    generator = random.Random(seed)
    vocabulary = ["".join(generator.choices(LETTERS, k=generator.randint(2, 9))) for _ in range(30_000)]
    for number in range(count):
        body = " ".join(generator.choices(vocabulary, k=min(int(generator.expovariate(1 / 30)) + 1, 300)))
        if generator.random() < 0.1:
            body = f"&gt; {body}\n\nCaf\u00e9 \u2013 {body[:40]} \U0001f600"
        name, post = f"e{number + 10**8:x}", f"a{generator.randrange(10**6) + 10**6:x}"
        community = generator.choice(COMMUNITIES)
        created = 1546300800 + number
        yield {
            "all_awardings": [],
            "archived": False,
            "associated_award": None,
            "author": generator.choice(vocabulary) + generator.choice(vocabulary),
            "author_created_utc": created - generator.randrange(10**8),
            "author_flair_background_color": None,
            "author_flair_css_class": None,
            "author_flair_richtext": [],
            "author_flair_template_id": None,
            "author_flair_text": None,
            "author_flair_text_color": None,
            "author_flair_type": "text",
            "author_fullname": f"t2_{generator.randrange(10**9):x}",
            "author_patreon_flair": False,
            "author_premium": False,
            "body": body,
            "can_gild": True,
            "can_mod_post": False,
            "collapsed": False,
            "collapsed_reason": None,
            "controversiality": 0,
            "created_utc": created,
            "distinguished": None,
            "edited": False,
            "gilded": 0,
            "gildings": {"gid_1": 0, "gid_2": 0, "gid_3": 0},
            "id": name,
            "is_submitter": False,
            "link_id": f"t3_{post}",
            "locked": False,
            "no_follow": True,
            "parent_id": f"t3_{post}",
            "permalink": f"/r/{community}/comments/{post}/{body[:40].replace(' ', '_')}/{name}/",
            "removal_reason": None,
            "retrieved_on": created + 10**6,
            "score": int(generator.paretovariate(1)),
            "send_replies": True,
            "stickied": False,
            "subreddit": community,
            "subreddit_id": f"t5_{COMMUNITIES.index(community)}",
            "subreddit_name_prefixed": f"r/{community}",
            "subreddit_type": "public",
            "total_awards_received": 0,
        }


def submissions(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Posts of images, made of the same fields and those of a post."""
    for row in comments(count, seed):
        title = row.pop("body")
        url = f"https://i.redd.it/{row['id']}.jpg"
        preview = {"images": [{"source": {"url": url, "width": 640, "height": 480}, "id": row["id"]}]}
        yield {**row, "title": title, "url": url, "post_hint": "image", "is_self": False, "preview": preview}


def write(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def compress(source: Path, target: Path) -> None:
    """One frame, as the monthly dumps are."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    with source.open("rb") as plain, target.open("wb") as packed:
        zstandard.ZstdCompressor(compression_params=parameters).copy_stream(plain, packed)


def bare(path: Path) -> Iterator[Any]:
    """The yardstick: Python's own JSON, on lines that lie in memory already."""
    return map(json.loads, path.read_bytes().splitlines())


def measure(ways: dict[str, Callable[[], Iterator[Any]]]) -> dict[str, float]:
    """Median seconds of the processor for reading all records, per way."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn, so that whatever else the machine does slows all of them
        for name, way in ways.items():
            start = time.process_time()
            for _ in way():
                pass
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comments", type=int, default=200_000, help="lines of the dump")
    parser.add_argument("--seed", type=int, default=0, help="of the dump")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, packed, posts = folder / "RC.ndjson", folder / "RC.zst", folder / "RS.ndjson"
        write(comments(args.comments, args.seed), plain)
        compress(plain, packed)
        write(submissions(args.comments // 10, args.seed), posts)
        empty = media.of_folder(folder / "none", folder / "index.sqlite")
        sizes = {
            "RC": plain.stat().st_size / args.comments,
            "RS": posts.stat().st_size / (args.comments // 10),
        }
        groups: dict[str, dict[str, Callable[[], Iterator[Any]]]] = {
            "RC": {
                "json.loads": lambda: bare(plain),
                "raw lines": lambda: lines.read_raw(plain),
                "raw lines, .zst": lambda: lines.read_raw(packed),
                "objects": lambda: lines.read_objects(plain),
                "comments": lambda: reddit.read_comments(plain),
                "comments, .zst": lambda: reddit.read_comments(packed),
                "comments of one community in five, .zst": lambda: reddit.read_comments(packed, {"pics"}),
            },
            "RS": {
                "json.loads": lambda: bare(posts),
                "submissions, media gone": lambda: reddit.read_submissions(posts, empty),
            },
        }
        print(
            f"{args.comments} comments of {sizes['RC']:.0f} bytes, a tenth as many posts of {sizes['RS']:.0f}\n"
        )
        print("| file | way | records/s | us/record | x json.loads |")
        print("|---|---|--:|--:|--:|")
        results = []
        for file, ways in groups.items():
            count = args.comments if file == "RC" else args.comments // 10
            spent = measure(ways)
            for way, seconds in spent.items():
                rate, ratio = count / seconds, spent["json.loads"] / seconds
                print(f"| {file} | {way} | {rate:.0f} | {1e6 / rate:.2f} | {ratio:.2f} |", flush=True)
                results.append({"file": file, "way": way, "per_second": rate, "x_json_loads": ratio})
        print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
