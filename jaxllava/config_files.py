"""Loads `configs/x.py:arg` with `--config.key=value` overrides; every mistake becomes one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from input_pipeline.errors import UserError, nearest


def locate(name: str) -> str:
    """`configs/train.py:arg`, `train.py:arg` or `train:arg`, in the working directory or in the installed package."""
    import configs

    path, colon, arg = name.partition(":")
    packaged = Path(configs.__file__).parent
    stem = Path(path).name.removesuffix(".py")
    for candidate in (Path(path), packaged / f"{stem}.py"):
        if candidate.is_file():
            return f"{candidate}{colon}{arg}"
    found = [p.stem for p in packaged.glob("*.py") if "def get_config" in p.read_text()]
    raise UserError(f"--config: no file {path!r}.{nearest(stem, found)}")


def load(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file's `get_config(arg)` with `--config.a.b=value` overrides, types kept."""
    argv = ["jaxllava", f"--config={locate(name)}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        return values.config
    except UserError:
        raise
    except AttributeError as error:  # ml_collections: 'step'\nDid you mean "steps" instead of "step"?
        key = re.match(r"\W*(\w+)", str(error))
        hint = re.search(r'Did you mean "(\w+)"', str(error))
        raise UserError(
            f"{name} has no config key {key.group(1) if key else error!r}."
            f"{f' Did you mean {hint.group(1)!r}?' if hint else ''}"
        ) from error
    except (flags.Error, TypeError, ValueError, KeyError, SyntaxError) as error:
        # The text of a KeyError is its key in quotes.
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise UserError(f"{name} with {' '.join(overrides)}: {' '.join(text.split())}") from error
    except OSError as error:
        raise UserError(f"--config {name}: {' '.join(str(error).split())}") from error
