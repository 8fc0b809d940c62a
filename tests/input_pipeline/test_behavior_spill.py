"""Rows in buckets on disk: each comes back once, in its bucket, in order; a file is whole or not there."""

from __future__ import annotations

import struct
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.behavior import spill
from input_pipeline.behavior.spill import Gone, PostLog, Row, SpecRow, Writer, bucket_of, order_of
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Comment, Post, Reply, Scene, Span

_BROKEN = (OSError, ValueError, OverflowError, struct.error, zstandard.ZstdError)

_TEXT = st.text(max_size=20)
_TIME = st.none() | st.floats(allow_nan=False, allow_infinity=False)
_COMMENT = st.builds(
    Comment, _TEXT, _TEXT, st.none() | _TEXT, st.none() | st.integers(-(2**63), 2**63 - 1), _TIME
)
_POST = st.builds(
    Post,
    id=_TEXT,
    source=st.sampled_from(["reddit", "youtube", "other"]),
    title=_TEXT,
    origin=_TEXT,
    media=st.lists(_TEXT, max_size=2).map(tuple),
    created=_TIME,
    nsfw=st.booleans(),
    views=st.none() | st.integers(0, 2**40),
    comments=st.lists(_COMMENT, max_size=3).map(tuple),
    replay=st.lists(st.builds(Span, st.just(0.5), st.just(1.0), st.just(0.25)), max_size=2).map(tuple),
    scenes=st.lists(st.builds(Scene, _TEXT, tags=st.lists(_TEXT, max_size=2).map(tuple)), max_size=2).map(
        tuple
    ),
)
_ROW: st.SearchStrategy[Any] = (
    st.one_of(
        _POST,
        st.builds(Reply, _TEXT, _TEXT, _COMMENT),
        st.builds(Gone, _TEXT, _TEXT, _TEXT, _TEXT, _TEXT),
        st.builds(
            SpecRow, _TEXT, _TEXT, _TEXT, st.dictionaries(_TEXT, st.lists(_TEXT, max_size=2), max_size=2)
        ),
    )
    if len(msgspec.structs.fields(SpecRow)) == 4
    else st.one_of(
        _POST,
        st.builds(Reply, _TEXT, _TEXT, _COMMENT),
        st.builds(Gone, _TEXT, _TEXT, _TEXT, _TEXT, _TEXT),
        st.builds(SpecRow, _TEXT, _TEXT, st.dictionaries(_TEXT, st.lists(_TEXT, max_size=2), max_size=2)),
    )
)
