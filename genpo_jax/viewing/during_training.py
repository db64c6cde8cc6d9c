"""A page that plays the policy, written again and again while it trains."""

from pathlib import Path

from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.files import write_atomically
from genpo_jax.viewing.episodes import Recorder
from genpo_jax.viewing.page import PLAY_FILE, play_page


class PlayPages(Callback):
    """Write `play.html` of the policy at every so many evaluations. Training waits: most of all the first time.

    Args:
        every: evaluations between two pages.
    """

    name = "play page"

    def __init__(self, every: int) -> None:
        self.every = every
        self._seen = 0

    def start(self, run_dir: Path, run_id: str, config: Config, env: Environment) -> None:
        """Prepare to record; compiles nothing yet."""
        self._path = run_dir / PLAY_FILE
        self._recorder = Recorder(env, config)

    def evaluated(self, env_steps: int, policy: TrainedPolicy) -> None:
        """Write a page."""
        self._seen += 1
        if self._seen % self.every == 0:
            write_atomically(self._path, play_page(self._recorder.record(policy)).encode())
