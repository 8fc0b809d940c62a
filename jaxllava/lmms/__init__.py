"""jaxllava's models in lmms-eval: what its entry point group `lmms_eval.models` finds."""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """The models that lmms-eval then knows: `jaxllava`, and `jaxllava_chat` for tasks of messages."""
    # Read at every start of lmms-eval, whatever its model: nothing else is imported here.
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    # Two names, because lmms-eval prefers a name's chat class and has no likelihood tasks for those.
    return [
        ModelManifest("jaxllava", simple_class_path="jaxllava.lmms.model.JaxLlava"),
        ModelManifest("jaxllava_chat", chat_class_path="jaxllava.lmms.model.JaxLlavaChat"),
    ]
