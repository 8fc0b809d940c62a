"""Scene verbalisation: scenes of videos and pictures as captions, tags, colours and tone, by any model of ours.

from jaxllava import identity, load, verbalise
media = verbalise.find(videos=[Path("ads")])
verbalise.verbalise(load(MODEL), media, "scenes.jsonl", checkpoint=identity.of_folder(MODEL))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxllava.verbalise.ask import Asking
    from jaxllava.verbalise.media import Medium, find
    from jaxllava.verbalise.run import verbalise

__all__ = ["Asking", "Medium", "find", "verbalise"]
_HOMES = {"Asking": "ask", "Medium": "media", "find": "media", "verbalise": "run"}


def __getattr__(name: str):
    # Lazy, so that the command line names its defaults and checks its flags without importing jax.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
