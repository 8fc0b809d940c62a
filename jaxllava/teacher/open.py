"""From settings to a teacher."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.teacher.cache import FILE, Cache
from jaxllava.teacher.messages import Teacher
from jaxllava.teacher.settings import Settings


def open_teacher(settings: Settings) -> Teacher:
    """A folder that exists is a checkpoint, run here; anything else a model name at the endpoint of OPENAI_BASE_URL.

    Raises UserError where the folder's content or the cache is not what it has to be; a key that is missing is told by
    the first request that is not kept (or by `check`).
    """
    if is_folder(settings):
        from jaxllava.teacher.local import Local

        return Local(settings, model_name(settings), open_cache(settings))
    from jaxllava.teacher.remote import Remote

    refuse_path(settings)
    return Remote(settings, open_cache(settings))


def check(settings: Settings) -> None:
    """Raises UserError for what would keep the first request from going out: no folder, key or package."""
    if not is_folder(settings):
        from jaxllava.teacher.endpoint import Endpoint

        refuse_path(settings)
        Endpoint(settings)


def refuse_path(settings: Settings) -> None:
    """Raises UserError for a model's name that can only be a folder, and is none."""
    if settings.model.startswith((".", "/", "~")):
        raise UserError(f"{settings.model}: no such folder")


def is_folder(settings: Settings) -> bool:
    """Whether the model runs here."""
    return Path(settings.model).is_dir()


def model_name(settings: Settings) -> str:
    """As caches and reports have it: of a folder also a hash of its weights, for its name may get other ones."""
    return _folder_name(settings.model) if is_folder(settings) else settings.model


@lru_cache
def _folder_name(folder: str) -> str:
    from jaxllava import identity
    from jaxllava.weights import orbax

    path = Path(folder).resolve()
    return f"{path.name}@{identity.of_folder(orbax.locate(path))[:12]}"


def open_cache(settings: Settings, must_exist: bool = False) -> Cache | None:
    """None without `settings.cache`; with `must_exist` also where there is none yet."""
    if settings.cache is None or (must_exist and not (settings.cache / FILE).exists()):
        return None
    return Cache(settings.cache)
