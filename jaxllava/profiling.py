"""The profiler's window: `config.profile_steps` steps from `config.profile_at` on, for TensorBoard or Perfetto."""

from __future__ import annotations

from pathlib import Path

import jax


class Window:
    """Call `at(step)` before each step and `stop()` at the end. `first` 0 records nothing."""

    def __init__(self, folder: Path, first: int, steps: int):
        self.folder, self.first, self.last = folder, first, first + steps - 1
        self.running = False

    def at(self, step: int) -> None:
        if self.first and not self.running and self.first <= step <= self.last:
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        elif self.running and step > self.last:
            self.stop()

    def stop(self) -> None:
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
