"""`genpo-jax play`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genpo_jax.commands.base import Command, ConditionOptions, RunFolder, announce


@dataclass(frozen=True)
class PlayOptions(ConditionOptions):
    """Write an HTML page that plays a policy, deterministic and sampled actions side by side; optionally a video."""

    run: RunFolder
    """Folder of the run."""
    episodes: int = 1
    """Episodes for each kind of noise."""
    steps: int | None = None
    """Time limit of the episodes in env steps. None: the time limit of the environment."""
    start_seed: int = 0
    """Seed of initial states and noise."""
    step: int | None = None
    """Env steps of the checkpoint. None: the one that --checkpoint names."""
    checkpoint: Literal["newest", "best"] = "newest"
    """The newest checkpoint, or the best: highest success rate, then return, of deterministic actions in training."""
    seed: int | None = None
    """Seed of the policy, for a run with several seeds."""
    env: str | None = None
    """Environment: another one with the same sizes, or package.module:NAME of your own.
    None: the environment of the run."""
    backend: str | None = None
    """Physics backend. None: the backend of the run."""
    fusion_emitters: bool = True
    """Use XLA's fusion emitters on a CPU if training did; MJX with a robot arm needs them off."""
    trust: bool = False
    """Import the module that the run names as its environment; importing it runs its code."""
    out: Path | None = None
    """HTML file to write. None: play.html in the run folder."""
    video: Path | None = None
    """Also write an MP4 of the first deterministic episode to this file."""
    strip: Path | None = None
    """Also write eight frames of the first deterministic episode to this PNG file."""
    camera: str | None = None
    """Camera of the MuJoCo model for --video and --strip.
    None: a camera that follows the robot, or shows the whole scene."""

    FILES = ("out", "video", "strip")


def run(options: PlayOptions) -> None:
    """Record episodes and write the page."""
    from genpo_jax.runtime import draw_without_display

    draw_without_display()
    from genpo_jax.viewing.play_page import PLAY_FILE, play_page
    from genpo_jax.viewing.recording import record_run

    of_files = ("run", "camera", *options.FILES)
    settings = {name: value for name, value in vars(options).items() if name not in of_files}
    announce("playing the episodes")
    recording = record_run(options.run, **settings)
    out = options.out or options.run / PLAY_FILE
    out.write_text(play_page(recording), encoding="utf-8")
    print(f"open {out} in a browser")
    if options.video or options.strip:
        from genpo_jax.viewing.pictures import write_strip, write_video

        for path, write in ((options.video, write_video), (options.strip, write_strip)):
            if path is not None:
                announce(f"drawing {path}")
                write(recording, path, options.camera)
                print(f"wrote {path}")


COMMAND = Command(PlayOptions, run)
