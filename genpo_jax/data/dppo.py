"""DPPO's `train.npz`: the concatenated steps of all episodes, scaled to [-1, 1] by `normalization.npz`.

`train.npz` has `states [N, o]`, `actions [N, d]`, `traj_lengths`, and optionally `rewards` and `terminals`.
`normalization.npz`, in the same folder, has `obs_min`, `obs_max`, `action_min` and `action_max`. The scaling
`2 (x - min) / (max - min + 1e-6) - 1` is inverted here.
"""

from pathlib import Path

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations, Episode

USUAL_KEY = "state"
NORMALIZATION = "normalization.npz"


def read(path: Path, obs_keys: tuple[str, ...] | None) -> Demonstrations:
    """Read a file; see `formats.read`. Observations have no names in this format, so `obs_keys` must be left out."""
    require(obs_keys in (None, (USUAL_KEY,)), "left out, because DPPO names no observations", "obs_keys", obs_keys)
    beside = path.with_name(NORMALIZATION)
    require(beside.is_file(), "in the folder of the data", NORMALIZATION, str(beside), "add it: it defines the scale")
    # Pickled objects could run code.
    with np.load(path, allow_pickle=False) as file, np.load(beside, allow_pickle=False) as scale:
        obs = _unscaled(file["states"], scale["obs_min"], scale["obs_max"])
        action = _unscaled(file["actions"], scale["action_min"], scale["action_max"])
        lengths = file["traj_lengths"]
        reward = file["rewards"] if "rewards" in file else np.zeros(len(action))
        terminal = file["terminals"] if "terminals" in file else np.zeros(len(action), bool)
    consistent = lengths.sum() == len(obs) == len(action) == len(reward) == len(terminal)
    counts = {"traj_lengths": int(lengths.sum()), "states": len(obs), "actions": len(action), "rewards": len(reward)}
    require(bool(consistent), "of one length", "traj_lengths, summed, states, actions and rewards", counts)
    episodes, start = [], 0
    for end in np.cumsum(lengths).tolist():
        part = slice(start, end)
        ended = end > start and bool(terminal[end - 1])
        episodes.append(Episode(obs[part], action[part], reward[part], terminated=ended))
        start = end
    return Demonstrations(tuple(episodes), {USUAL_KEY: obs.shape[-1]})


def _unscaled(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (np.asarray(x, np.float64) + 1) / 2 * (high - low + 1e-6) + low
