"""Write a page that plays the policy, repeatedly during training."""

from pathlib import Path

from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.files import write_atomically
from genpo_jax.viewing.play_page import PLAY_FILE, play_page
from genpo_jax.viewing.recording import Recorder


class PlayPages(Callback):
    """Write `play.html` after every n-th evaluation. Training waits for it; the first page also compiles the recorder.

    Args:
        every: number n of evaluations from one page to the next.
    """

    name = "play page"

    def __init__(self, every: int) -> None:
        self.every = every
        self._evaluations = 0

    def start(self, run_dir: Path, run_id: str, config: Config, env: Environment) -> None:
        """Create the recorder; nothing is compiled yet."""
        self._path = run_dir / PLAY_FILE
        self._recorder = Recorder(env, config)

    def evaluated(self, env_steps: int, policy: TrainedPolicy) -> None:
        """Write the page if it is due."""
        self._evaluations += 1
        if self._evaluations % self.every == 0:
            write_atomically(self._path, play_page(self._recorder.record(policy)).encode())
