"""Where Beam runs, and Beam itself imported without its noise.

Beam logs a warning about a missing BigQuery client while it loads. Whatever uses Beam imports it from here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.pvalue import AsDict, PCollection, TaggedOutput  # noqa: E402
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner  # noqa: E402
from apache_beam.runners.runner import PipelineRunner  # noqa: E402

logging.disable(_disabled)

__all__ = ["AsDict", "Engine", "PCollection", "TaggedOutput", "beam"]


@dataclass(frozen=True)
class Engine:
    """Where Beam runs.

    `runner` '' is the in-process runner, named outright because Beam's default one tries to download a
    service. Any other name is a Beam runner ('FlinkRunner', 'DataflowRunner', ...) with its flags as on a
    command line; its workers have to see the input and output folders under the same paths.
    """

    runner: str = ""
    flags: tuple[str, ...] = ()

    def options(self) -> PipelineOptions:
        """Returns the pipeline options."""
        # Without explicit flags Beam parses sys.argv, which belongs to our own command line.
        flags = list(self.flags) + ([f"--runner={self.runner}"] if self.runner else [])
        # Type checks cost time on every element, and mixed outputs are meant here.
        return PipelineOptions(flags, pipeline_type_check=False)

    def instance(self) -> PipelineRunner | str:
        """Returns the runner."""
        return self.runner or FnApiRunner()
