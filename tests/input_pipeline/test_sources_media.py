"""Media by name in folders and tar shards: what is found, what is not, and what a damaged shard says."""

from __future__ import annotations

import io
import os
import pickle
import sqlite3
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import media


def _tar(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _library(root: Path, *files: str) -> media.Library:
    """A library of a folder with these files, each of which holds its own name."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return media.build([root], root.parent / "index")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("abc.jpg", "abc.jpg"),
        ("ABC.JPG", "abc.jpg"),
        ("abc", "abc.jpg"),
        ("abc.png", "abc.jpg"),  # stored with another suffix than the link's
        ("abc.gifv", "abc.jpg"),
        ("abc.mp4", "abc.jpg"),
        ("abc.html", None),
        ("ab", None),
        ("abc.", None),
        ("", None),
        ("%", None),
        ("a_c.jpg", None),
        ("deep.png", "sub/folder/deep.png"),
        ("Capital", "Capital.PNG"),
        ("capital.png", "Capital.PNG"),
        ("Mr. X vs. 2.0", "Mr. X vs. 2.0.webp"),
        ("Mr. X vs. 2.0.webp", "Mr. X vs. 2.0.webp"),
        ("Mr. X vs. 2.0.jpg", "Mr. X vs. 2.0.webp"),
        ("Mr", None),
        ("it's", "it's.gif"),
        ("zwölf", "zwölf.jpeg"),
        ("ZWÖLF.jpg", "zwölf.jpeg"),
        ("notes", None),
        ("notes.txt", None),
        ("sub", None),
    ],
)
def test_a_name_finds_its_image(tmp_path: Path, name: str, found: str | None) -> None:
    root = tmp_path / "media"
    library = _library(
        root,
        *("abc.jpg", "sub/folder/deep.png", "Capital.PNG", "Mr. X vs. 2.0.webp", "it's.gif", "zwölf.jpeg"),
        "notes.txt",
    )
    assert library.find(name) == (str(root / found) if found else None)


@pytest.mark.parametrize("suffix", media.IMAGE_SUFFIXES)
def test_all_image_suffixes_are_listed(tmp_path: Path, suffix: str) -> None:
    library = _library(tmp_path / "media", f"a{suffix}", f"b{suffix.upper()}", f"c{suffix}.part")
    assert list(library.references()) == [
        str(tmp_path / "media" / name) for name in (f"a{suffix}", f"b{suffix.upper()}")
    ]
    assert library.find("b" + suffix) == str(tmp_path / "media" / f"b{suffix.upper()}")


def test_the_very_name_wins_then_the_stem_then_the_order(tmp_path: Path) -> None:
    root = tmp_path / "media"
    library = _library(root, "x.png", "x.jpg", "y/x.webp", "clip.mp4.jpg", "clip.jpg", "b/z.png", "a/z.png")
    assert library.find("x.png") == str(root / "x.png")
    assert library.find("x") == str(root / "x.jpg")
    assert library.find("x.webp") == str(root / "y/x.webp")
    assert library.find("x.gif") == str(root / "x.jpg")
    assert library.find("clip.mp4") == str(root / "clip.mp4.jpg")  # a thumbnail named after the whole file
    assert library.find("z.png") == str(root / "a/z.png")


def test_of_names_that_differ_in_case_the_right_one_is_found(tmp_path: Path) -> None:
    root = tmp_path / "media"
    ids = ("aBc", "ABC", "abc", "aBC")
    library = _library(root, *(f"{number}/{name}.jpg" for number, name in enumerate(ids)))
    for number, name in enumerate(ids):
        for asked in (name, f"{name}.jpg", f"{name}.webp"):
            assert library.find(asked) == str(root / f"{number}/{name}.jpg")
    assert library.find("Abc") == str(root / "0/aBc.jpg")


def test_one_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "media"
    library = _library(root, "a/x.png", "b/x.png", "b/deep/y.png")
    assert library.find("x.png", root / "b") == str(root / "b/x.png")
    assert library.find("X", str(root / "b") + "/") == str(root / "b/x.png")
    assert library.find("x.png", root / "a" / ".." / "b") == str(root / "b/x.png")
    assert library.find("x.png", root) is None
    assert library.find("y.png", root / "b") is None
    assert library.find("x.png", root / "c") is None
    shard = _tar(root / "shard.tar", {"in/x.png": b"1"})
    library = media.build([root], tmp_path / "index")
    assert library.find("x.png", shard) == library.find("x", shard) != library.find("x.png")


def test_names_that_are_not_utf8_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    try:
        (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    _tar(root / "shard.tar", {"in/\udce9.png": b"y", "in/fine.png": b"z"}, tarfile.GNU_FORMAT)
    library = _library(root, "café.jpg")
    names = [media.name_of(reference) for reference in library.references()]
    assert names == ["café.jpg", "fine.png"]


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(b"x")
    root = tmp_path / "media"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    (root / "y.png").symlink_to(elsewhere / "x.png")
    library = _library(root)
    assert media.read(library.find("x") or "") == b"x"
    assert media.read(library.find("y") or "") == b"x"


# --- tar shards -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_shards_are_found_and_read(tmp_path: Path, kind: int) -> None:
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    long = "n" * 90 + "/" + "m" * 80 + ".jpg"
    members = {
        "000.jpg": b"first",
        "a/b/Second.PNG": b"second" * 1000,
        "000.json": b"{}",
        long: b"",
        "x:1.gif": b"g",
    }
    _tar(root / "shard-000.v1.tar", members, kind)
    _tar(root / "deep" / "other.tar", {"third.webp": b"third"}, kind)
    library = media.build([root], tmp_path / "index")
    for name, data in (
        ("000", b"first"),
        ("second.png", b"second" * 1000),
        ("third", b"third"),
        ("x:1", b"g"),
    ):
        assert media.read(library.find(name) or "") == data
    assert media.read(library.find("m" * 80) or "") == b""
    assert library.find("000.json") is None
    names = sorted(map(media.name_of, library.references()))
    assert names == sorted(["000.jpg", "Second.PNG", "third.webp", "m" * 80 + ".jpg", "x:1.gif"])


def test_a_shard_may_be_the_root_itself(tmp_path: Path) -> None:
    shard = _tar(tmp_path / "s.tar", {"a.png": b"a"})
    assert [media.read(r) for r in media.build([shard, str(shard)], tmp_path / "index").references()] == [
        b"a"
    ]


def test_an_empty_shard_holds_nothing(tmp_path: Path) -> None:
    assert list(media.build([_tar(tmp_path / "s.tar", {})], tmp_path / "index").references()) == []


def test_a_folder_may_be_called_like_a_shard(tmp_path: Path) -> None:
    library = _library(tmp_path / "unpacked.tar", "a.png")
    assert media.read(library.find("a") or "") == b"a.png"
    assert media.name_of(library.find("a") or "") == "a.png"


def test_a_shard_cut_anywhere_is_named_in_one_line(tmp_path: Path) -> None:
    path = _tar(tmp_path / "s.tar", {f"{n}.png": bytes([n]) * 700 for n in range(3)})
    data = path.read_bytes()
    end = 3 * (512 + 1024)  # two blocks of zeros, and more, follow the last member
    for length in (0, 1, 300, 511, 512, 800, 1536, 1700, 2048, 2500, end - 600, end - 1, end, end + 511):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"s\.tar: not a sound tar file") as caught:
            media.build([tmp_path], tmp_path / "index")
        assert "\n" not in str(caught.value)
    path.write_bytes(data[: end + 512])
    assert len(list(media.build([tmp_path], tmp_path / "index").references())) == 3


@pytest.mark.parametrize("start", [0, 1536])
def test_a_damaged_shard_is_not_read_in_part(tmp_path: Path, start: int) -> None:
    path = _tar(tmp_path / "s.tar", {f"{n}.png": bytes([n]) * 700 for n in range(3)})
    data = bytearray(path.read_bytes())
    data[start : start + 512] = b"\x55" * 512
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a sound tar file"):
        media.build([tmp_path], tmp_path / "index")


def test_a_compressed_or_other_file_called_tar_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"\x1f\x8b" + b"x" * 2000)
    with pytest.raises(UserError, match=r"s\.tar: not a sound tar file"):
        media.build([tmp_path], tmp_path / "index")


def test_a_shard_cut_after_it_was_listed_cannot_be_read(tmp_path: Path) -> None:
    path = _tar(tmp_path / "s.tar", {"a.png": b"a" * 700})
    (reference,) = media.build([path], tmp_path / "index").references()
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(OSError, match=r"s\.tar is cut"):
        media.read(reference)
    path.unlink()
    with pytest.raises(OSError):
        media.read(reference)


# --- the library ----------------------------------------------------------------------------------


def test_a_missing_root_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    for wrong in ("none", "a.zip"):
        with pytest.raises(UserError, match=f"{wrong}: no such folder or .tar file"):
            media.build([tmp_path / wrong], tmp_path / "index")


def test_a_folder_that_may_be_missing(tmp_path: Path) -> None:
    library = media.of_folder(tmp_path / "none", tmp_path / "index")
    assert list(library.references()) == []
    assert library.find("a.png") is None
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.png").touch()
    assert media.of_folder(tmp_path / "some", tmp_path / "index2").find("a") == str(tmp_path / "some/a.png")


def test_a_library_is_made_anew(tmp_path: Path) -> None:
    _library(tmp_path / "media", "old.png")
    (tmp_path / "media/old.png").unlink()
    assert list(_library(tmp_path / "media", "new.png").references()) == [str(tmp_path / "media/new.png")]


def test_several_roots_and_one_given_twice(tmp_path: Path) -> None:
    _library(tmp_path / "a", "1.png")
    _library(tmp_path / "b", "2.png")
    library = media.build([tmp_path / "b", tmp_path / "a", str(tmp_path / "b")], tmp_path / "index")
    assert list(library.references()) == [str(tmp_path / "a/1.png"), str(tmp_path / "b/2.png")]


def test_it_pickles_to_its_path(tmp_path: Path) -> None:
    library = _library(tmp_path / "media", "a.png")
    assert library.find("a") is not None  # its connection is open
    data = pickle.dumps(library)
    assert len(data) < 300
    copy = pickle.loads(data)
    assert (copy.index, copy.find("a")) == (library.index, library.find("a"))


def test_an_index_is_only_read(tmp_path: Path) -> None:
    folder = tmp_path / "odd name? #1 100%"
    folder.mkdir()
    library = _library(folder / "media", "a.png")
    before = Path(library.index).read_bytes()
    assert library.find("a") == str(folder / "media/a.png")
    with pytest.raises(sqlite3.OperationalError):
        library._open().execute("DELETE FROM media")
    assert Path(library.index).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["index", "media"]


# --- references and links -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://i.redd.it/abc.jpg", "abc.jpg"),
        ("https://i.redd.it/abc.jpg?width=640&s=x/y", "abc.jpg"),
        ("https://x.y/a%20b/c%C3%A9.png#part", "cé.png"),
        ("https://x.y/", ""),
        ("https://x.y", ""),
        ("", ""),
        ("abc.jpg", "abc.jpg"),
        ("http://[broken/abc.jpg", ""),
    ],
)
def test_url_name(url: str, name: str) -> None:
    assert media.url_name(url) == name


@given(st.text(max_size=40))
def test_url_name_takes_any_text(url: str) -> None:
    assert "/" not in media.url_name(url)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a/", "b/"]), st.text("aB.1é ", min_size=1, max_size=5)), max_size=5
    )
)
def test_every_listed_image_is_found_by_its_name_and_stem(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("media") / "root"
    root.mkdir()
    names = [f"{folder}{stem}.png" for folder, stem in files]
    library = _library(root, *names)
    references = list(library.references())
    assert sorted(references) == references == sorted({str(root / name) for name in names})
    for reference in references:
        name = media.name_of(reference)
        for asked in (name, name.upper(), name.removesuffix(".png"), name.removesuffix(".png") + ".JPG"):
            found = library.find(asked)
            assert found is not None
            assert media.name_of(found).lower() == name.lower()
        assert library.find(name, Path(reference).parent) is not None
        assert media.read(reference).decode() == str(Path(reference).relative_to(root))


def test_info_files_are_found_by_video_and_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/Ab.info.json", "deep/aB.info.json", "Ab.jpg"):
        (tmp_path / name).write_bytes(b"{}")
    library = media.build([tmp_path], tmp_path / "index")
    assert library.info("aB") == str(tmp_path / "deep/aB.info.json")
    assert library.info("Ab") == str(tmp_path / "deep/Ab.info.json")
    assert library.info("x") is None
    assert library.find("Ab") == str(tmp_path / "Ab.jpg")
    assert library.find("Ab.info.json") is None
    assert list(library.references()) == [str(tmp_path / "Ab.jpg")]


def test_a_link_to_a_folder_above_ends_nowhere(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.png").write_bytes(b"x")
    (tmp_path / "deep/up").symlink_to(tmp_path)
    assert [names for _, names in media.walk(tmp_path)] == [[], ["a.png"]]
