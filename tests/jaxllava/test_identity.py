"""What a run is known by."""

from __future__ import annotations

import pytest

from jaxllava import identity


@pytest.mark.parametrize("place", [0, 12 << 20, (24 << 20) - 1])
def test_a_model_folder_is_known_by_more_than_its_files_ends(tmp_path, place):
    """Two bases may differ in a projector of some megabytes in the middle of a shard of the language model."""
    file = tmp_path / "model-00001-of-00003.safetensors"
    with file.open("wb") as opened:
        opened.truncate(24 << 20)
    before = identity.of_folder(tmp_path)
    assert identity.of_folder(tmp_path) == before
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(b"\1" * min(identity.STRIDE, (24 << 20) - place))
    assert identity.of_folder(tmp_path) != before
