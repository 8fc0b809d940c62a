"""LLaVA-family vision-language models in JAX, trained on receiver behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxllava.api import Model, load
    from jaxllava.videos import Video

__version__ = "0.1.0"
__all__ = ["Model", "Video", "__version__", "load"]


def __getattr__(name: str):
    # Lazy, so that `jaxllava --help` and the data commands start without importing jax.
    if name in ("Model", "load"):
        from jaxllava import api

        return getattr(api, name)
    if name == "Video":
        from jaxllava.videos import Video

        return Video
    raise AttributeError(f"module 'jaxllava' has no attribute {name!r}")
