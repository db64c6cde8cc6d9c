"""Demonstrations in memory, and the checks that they must pass."""

from dataclasses import dataclass

import numpy as np

from genpo_jax.checks import require

# Actions may exceed their bounds by rounding errors.
ACTION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Episode:
    """One demonstration of T steps, in float32.

    Attributes:
        obs: observations `[T, o]` before each action, with all keys concatenated.
        action: actions `[T, d]`.
        reward: rewards `[T]`.
        last_obs: observation `[o]` after the last action; None if the format does not store it.
        terminated: whether the task ended with the last step; otherwise the episode was truncated.
        name: name of the episode in its file, used in messages; empty if it has none.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    last_obs: np.ndarray | None = None
    terminated: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        """Convert all arrays to float32."""
        for name in ("obs", "action", "reward", "last_obs"):
            if (value := getattr(self, name)) is not None:
                with np.errstate(over="ignore"):  # `Demonstrations` refuses what overflows
                    object.__setattr__(self, name, np.asarray(value, np.float32))
        object.__setattr__(self, "terminated", bool(self.terminated))

    def __len__(self) -> int:
        """Return the number T of steps."""
        return len(self.action)


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of one task, checked on construction.

    Attributes:
        episodes: at least one episode.
        obs_keys: name and size of each part of the observation, in the order in which they are concatenated.
        env: name of the environment; empty if the file does not contain it.
        valid: numbers of the held-out episodes; None if the file does not define them.
        action_names: name of each action coordinate; None if the file does not name them.
        obs_names: name of each observation coordinate, in the order of `obs_keys`; None if the file names none.
        rate: steps per second; None if the file does not define it.
        action_bounds: lowest and highest action, each float32 `[d]`, as the file declares them, in the units of the
            actions; infinite where unbounded; None if the file declares none.

    Raises:
        ValueError: names the first episode that is empty, has arrays of inconsistent shapes, or is not finite; or the
            field whose size differs from the actions or observations.
    """

    episodes: tuple[Episode, ...]
    obs_keys: dict[str, int]
    env: str = ""
    valid: tuple[int, ...] | None = None
    action_names: tuple[str, ...] | None = None
    obs_names: tuple[str, ...] | None = None
    rate: float | None = None
    action_bounds: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        """Check that every episode is complete and has the same sizes as the others."""
        require(len(self.episodes) > 0, "one or more", "episodes", len(self.episodes), "record some")
        sizes = (sum(self.obs_keys.values()), self.episodes[0].action.shape[-1] if self.episodes[0].action.ndim else 0)
        for number, episode in enumerate(self.episodes):
            _check(episode, number, *sizes)
        beyond = [number for number in self.valid or () if not 0 <= number < len(self.episodes)]
        require(not beyond, f"numbers of the {len(self.episodes)} episodes", "held-out episodes", beyond)
        self._check_description()

    def _check_description(self) -> None:
        """Check names, rate and bounds against the sizes of actions and observations."""
        for name, size in (("action_names", self.action_size), ("obs_names", self.obs_size)):
            if (names := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(map(str, names)))
                require(len(names) == size, f"one for each of {size} coordinates", name, list(names))
        if self.rate is not None:
            require(0 < self.rate < np.inf, "a positive number of steps per second", "rate", self.rate)
        if self.action_bounds is not None:
            low, high = (np.asarray(bound, np.float32) for bound in self.action_bounds)
            object.__setattr__(self, "action_bounds", (low, high))
            shapes = [list(low.shape), list(high.shape)]
            require(shapes == [[self.action_size]] * 2, f"two arrays [{self.action_size}]", "action_bounds", shapes)
            require(bool((low <= high).all()), "low <= high", "action_bounds", [low.tolist(), high.tolist()])

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.episodes)

    @property
    def obs_size(self) -> int:
        """Size of an observation."""
        return sum(self.obs_keys.values())

    @property
    def action_size(self) -> int:
        """Size of an action."""
        return self.episodes[0].action.shape[-1]

    @property
    def num_steps(self) -> int:
        """Total number of steps."""
        return sum(map(len, self.episodes))

    def split(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the training episodes and of the held-out episodes.

        The file's split is used if it has one. Otherwise a random share of whole episodes is held out, because steps of
        one episode are correlated. With two or more episodes, a positive share holds out at least one and trains on at
        least one.
        """
        if self.valid is not None:
            held_out = sorted(set(self.valid))
        else:
            count = min(max(1, round(share * len(self))), len(self) - 1) if share > 0 else 0
            held_out = sorted(np.random.default_rng(seed).permutation(len(self))[:count].tolist())
        rest = sorted(set(range(len(self))).difference(held_out))
        require(len(rest) > 0, "fewer than all", "held-out episodes", len(held_out), "leave some to train on")
        return rest, held_out

    def observations(self, numbers: list[int], history: int = 1) -> np.ndarray:
        """Return the last `history` observations `[N, history * o]` at all steps of these episodes, oldest first.

        Before the start of an episode, its first observation is repeated.
        """
        parts = []
        for number in numbers:
            obs = self.episodes[number].obs
            index = np.maximum(np.arange(len(obs))[:, None] + np.arange(1 - history, 1), 0)
            parts.append(obs[index].reshape(len(obs), -1))
        return np.concatenate(parts)

    def chunks(self, numbers: list[int], length: int) -> np.ndarray:
        """Return the action chunk `[N, length * d]` that starts at each step of these episodes.

        Chunks that extend past the end of an episode repeat its last action.
        """
        parts = []
        for number in numbers:
            action = self.episodes[number].action
            index = np.minimum(np.arange(len(action))[:, None] + np.arange(length), len(action) - 1)
            parts.append(action[index].reshape(len(action), -1))
        return np.concatenate(parts)


def _check(episode: Episode, number: int, obs_size: int, action_size: int) -> None:
    steps, label = len(episode.action) if episode.action.ndim else 0, episode.name or f"episode {number}"
    require(steps > 0, "of at least one step", label, f"{steps} steps", "remove it")
    shapes = {"obs": (steps, obs_size), "action": (steps, action_size), "reward": (steps,), "last_obs": (obs_size,)}
    for name, shape in shapes.items():
        value = getattr(episode, name)
        if value is None:
            continue
        require(value.shape == shape, f"{list(shape)}", f"{name} of {label}", list(value.shape))
        if not np.isfinite(value).all():
            first = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
            where = ", ".join(map(str, first))
            raise ValueError(
                f"{name} of {label} must be finite in float32, got {value[first]} at [{where}]; remove the episode, or "
                "correct the recording"
            )
