"""The folder of results: one JSON file per finished step, and which step is running.

steps/NAME.json   result of a step, or its error
started.json      the step that is running, its process, and how often each unfinished step was started
runs/NAME/        run folder of each training
results.md        tables, and curves.png
"""

import json
from pathlib import Path
from typing import Any

from genpo_jax.checks import require
from genpo_jax.runs.files import write_atomically

Result = dict[str, Any]


class Results:
    """Results of the finished steps in a folder.

    Args:
        folder: folder of all results.
        rehearsal: whether these are results of a rehearsal.
    """

    def __init__(self, folder: Path, rehearsal: bool) -> None:
        self.folder, self.rehearsal = folder, rehearsal

    def read(self) -> dict[str, Result]:
        """Return the results by the name of their step.

        Raises:
            ValueError: if the folder holds results of a rehearsal and others are asked for, or the reverse.
        """
        paths = sorted((self.folder / "steps").glob("*.json"))
        results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        same = all(result["rehearsal"] == self.rehearsal for result in results.values())
        require(same, "a folder without results of the other kind (rehearsal or not)", "out", str(self.folder))
        return results

    def start(self, name: str, process: int) -> None:
        """Record that a step is running."""
        starts = self._started["starts"]
        self._write_started(name, process, starts | {name: self.starts(name) + 1})

    def pause(self, name: str) -> None:
        """Record that a step has saved its state and stopped."""
        starts = self._started["starts"]
        self._write_started(None, None, {key: count for key, count in starts.items() if key != name})

    def finish(self, name: str, result: Result) -> None:
        """Write the result of a step."""
        (self.folder / "steps").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"step": name, "rehearsal": self.rehearsal} | result, indent=2)
        write_atomically(self.folder / "steps" / f"{name}.json", (text + "\n").encode())
        self.pause(name)

    def starts(self, name: str) -> int:
        """Return how often a step was started since it last stopped in order."""
        return self._started["starts"].get(name, 0)

    def running(self, process: int) -> str | None:
        """Return the step that a process was running at its end; None if there is none."""
        return self._started["step"] if self._started["process"] == process else None

    @property
    def _started(self) -> dict[str, Any]:
        path = self.folder / "started.json"
        if not path.exists():
            return {"step": None, "process": None, "starts": {}}
        return json.loads(path.read_text(encoding="utf-8"))

    def _write_started(self, step: str | None, process: int | None, starts: dict[str, int]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"step": step, "process": process, "starts": starts})
        write_atomically(self.folder / "started.json", text.encode())
