"""What every model config shares: a frozen dataclass that reads from and writes to plain JSON, and dtype
names.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Self

import jax
import jax.numpy as jnp

from input_pipeline.errors import UserError, nearest

DTYPES: dict[str, Any] = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
}

# What the backward pass may keep of a layer's forward pass. "full" recomputes everything from the layer's
# input.
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "dots_with_batch": jax.checkpoint_policies.dots_saveable,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Base of the model configs. Subclasses are frozen dataclasses of numbers, strings and other
    ModelConfigs.
    """

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-able dict; nested configs become nested dicts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any] | str) -> Self:
        """Reads what `to_json` wrote (a dict, or JSON text). Unknown or missing keys raise UserError."""
        values = json.loads(data) if isinstance(data, str) else data
        if not isinstance(values, dict):
            raise UserError(f"{cls.__name__}: expected a JSON object, got {type(values).__name__}.")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise UserError(f"{cls.__name__}: unknown key {key!r}.{nearest(key, fields)}")
        missing = [n for n, f in fields.items() if n not in values and _required(f)]
        if missing:
            raise UserError(f"{cls.__name__}: missing keys {', '.join(missing)}.")
        hints = typing.get_type_hints(cls)
        return cls(
            **{key: _read(f"{cls.__name__}.{key}", hints[key], value) for key, value in values.items()}
        )

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def with_dtypes(self, dtype: str, param_dtype: str | None = None) -> Self:
        """The same model, parts included, computing in `dtype` (and holding fresh parameters in `param_dtype`)."""
        own = {"dtype": dtype} | ({"param_dtype": param_dtype} if param_dtype else {})
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, ModelConfig):
                changes[field.name] = value.with_dtypes(dtype, param_dtype)
            elif field.name in own:
                changes[field.name] = own[field.name]
        return self.replace(**changes)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _read(name: str, hint: Any, value: Any) -> Any:
    """Checks one value against its annotation, so that a wrong config.json fails here and not inside a
    matmul.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    models = [option for option in options if isinstance(option, type) and issubclass(option, ModelConfig)]
    if models and isinstance(value, dict):
        # Of several kinds (vision towers) the first that has a field for every key.
        fitting = (m for m in models if value.keys() <= {f.name for f in dataclasses.fields(m)})
        return next(fitting, models[0]).from_json(value)
    for option in options:
        if typing.get_origin(option) is tuple:
            if isinstance(value, list | tuple):
                (item, *_) = typing.get_args(option)  # tuple[item, ...]
                return tuple(_read(name, item, part) for part in value)
            continue
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if option is bool or isinstance(value, bool):
            if option is bool and isinstance(value, bool):
                return value
            continue
        if isinstance(value, option):
            return value
    raise UserError(f"{name}: expected {getattr(hint, '__name__', hint)}, got {value!r}.")


def dtype_of(name: str) -> Any:
    """Returns the jax dtype of a config's dtype name."""
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not known.{nearest(name, DTYPES)}")
    return DTYPES[name]


def check_choice(what: str, value: str, valid: typing.Iterable[str]) -> None:
    """Raises UserError unless `value` is one of `valid`."""
    names = list(valid)
    if value not in names:
        raise UserError(f"{what} {value!r} is not known. Valid names: {', '.join(names)}.")
