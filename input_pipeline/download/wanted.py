"""What to download and under which name: safe file names, and the picture that a post's link stands for.

The names are those under which `media.Library.find` looks a picture up, so that `prepare` finds what was stored.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlsplit

from input_pipeline.sources.media import IMAGE_SUFFIXES, LINK_SUFFIXES, url_name

# The suffixes that are true for a type of file; the first is the one that is given.
TYPES = {
    "jpeg": (".jpg", ".jpeg"),
    "png": (".png",),
    "gif": (".gif",),
    "webp": (".webp",),
    "bmp": (".bmp",),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif",),
}
MAX_URL = 4000  # characters; no server takes longer ones

_MAX_NAME = 180  # bytes, of the 255 that file systems allow: suffixes are added
_RESERVED = set('<>:"|?*\\/')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
_SIGNED_HOSTS = ("external-preview.redd.it", "i.redditmedia.com", "i.reddituploads.com")
_YOUTUBE_HOSTS = ("youtube.com", "youtube-nocookie.com")
_YOUTUBE_PATH = re.compile(r"/(?:embed|shorts|live|v|e)/([\w-]{11})(?![\w-])", re.ASCII)
_YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)
_IMGUR_ID = re.compile(r"[A-Za-z0-9]{5}|[A-Za-z0-9]{7}")
_REDDIT_PREVIEW = re.compile(r"(?:.*-v\d+-)?([A-Za-z0-9]+\.[A-Za-z]+)")  # 'the-title-v0-<name on i.redd.it>'


@dataclass(frozen=True)
class Wanted:
    """A picture to fetch and the file name to store it under; the name is made safe."""

    url: str
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", safe_name(self.name))


def safe_name(name: str) -> str:
    """Returns the name as one path component that every file system takes, of at most 180 bytes.

    Only what is before the last / or \\ goes, and dots and blanks at the ends; reserved and control characters
    become '_'. A name that is too long keeps its beginning, a hash of the whole, and its suffix. What cannot be
    a name is ''.
    """
    name = re.split(r"[\\/]", name.encode("utf-8", "replace").decode("utf-8"))[-1]
    name = "".join(
        "_" if char in _RESERVED or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in name
    ).strip(" .")
    if _DEVICES.match(name):
        name = f"_{name}"
    if len(name.encode()) > _MAX_NAME:
        suffix = name[len(stem_of(name)) :]
        mark = f"~{hashlib.sha256(name.encode()).hexdigest()[:12]}{suffix}"
        name = name.encode()[: _MAX_NAME - len(mark)].decode("utf-8", "ignore") + mark
    return name


def stem_of(name: str) -> str:
    """Returns the name without its suffix, where that is one of a picture or of what stands for one."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in LINK_SUFFIXES else name


def stored_name(name: str, kind: str) -> str:
    """Returns the name with a suffix that is true for a file of this type (a key of TYPES)."""
    return name if PurePosixPath(name.lower()).suffix in TYPES[kind] else stem_of(name) + TYPES[kind][0]


def wanted_of(post_url: str) -> Wanted | None:
    """Returns the picture that a post's link stands for, None where it stands for none.

    Direct links to pictures stand for themselves, preview.redd.it for the whole picture on i.redd.it, a page
    imgur.com/ID for its only picture, and a YouTube video for its thumbnail.
    """
    found = _judge(post_url)
    return found if isinstance(found, Wanted) else None


def unwanted_reason(post_url: str) -> str:
    """Returns why `wanted_of` gives None, a short phrase that can be counted; '' where it does not."""
    found = _judge(post_url)
    return "" if isinstance(found, Wanted) else found


def _judge(post_url: str) -> Wanted | str:
    url = post_url.strip().replace("&amp;", "&")
    if len(url) > MAX_URL:
        return "link is too long"
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").removeprefix("www.").removeprefix("m.")
    except ValueError:
        return "link is not a URL"
    if parts.scheme.lower() not in ("http", "https") or not host:
        return "link is not http or https"
    if host in ("youtu.be", *_YOUTUBE_HOSTS) or host.endswith(tuple(f".{name}" for name in _YOUTUBE_HOSTS)):
        return _youtube(host, parts.path, parts.query)
    name = url_name(url)
    if host in ("imgur.com", "i.imgur.com"):
        return _imgur(host, parts.path, name)
    suffix = PurePosixPath(name.lower()).suffix
    if host in ("i.redd.it", "preview.redd.it") and suffix in IMAGE_SUFFIXES:
        match = _REDDIT_PREVIEW.fullmatch(name)
        # Another size of a preview needs a signature; the whole picture does not.
        return Wanted(f"https://i.redd.it/{match[1]}" if match else url, name)
    if not safe_name(name):
        return "link names no file"
    if host in _SIGNED_HOSTS or suffix in (*IMAGE_SUFFIXES, ".jfif"):
        return Wanted(url, name)
    if suffix in LINK_SUFFIXES or host == "v.redd.it":
        return "link to a video or to a picture that is not read"
    return "link to a page"


def _youtube(host: str, path: str, query: str) -> Wanted | str:
    video = path.strip("/").partition("/")[0] if host == "youtu.be" else ""
    if match := _YOUTUBE_PATH.match(path):
        video = match[1]
    try:
        given = parse_qs(query, max_num_fields=50)
        # A shared link holds the whole path of the page in `u`.
        inner = parse_qs(urlsplit(given.get("u", [""])[0]).query, max_num_fields=50)
    except ValueError:
        return "link is not a URL"
    video = video or (given.get("v") or inner.get("v") or [""])[0]
    if not _YOUTUBE_ID.fullmatch(video):
        return "link to a page of YouTube that is no video"
    return Wanted(f"https://i.ytimg.com/vi/{video}/hqdefault.jpg", f"{video}.jpg")


def _imgur(host: str, path: str, name: str) -> Wanted | str:
    stem, suffix = stem_of(name), PurePosixPath(name.lower()).suffix
    if path.count("/") > 1 and not (host == "i.imgur.com" and suffix):
        return "link to an album"  # which of its pictures is shown cannot be known
    if not re.fullmatch(r"[A-Za-z0-9_-]+", stem) or (host == "imgur.com" and not _IMGUR_ID.fullmatch(stem)):
        return "link to a page of imgur that is no picture"
    # Of a video, .jpg is the first frame; so it is what stands for .gifv and .mp4.
    name = name if suffix in IMAGE_SUFFIXES else f"{stem}.jpg"
    return Wanted(f"https://i.imgur.com/{name}", name)
