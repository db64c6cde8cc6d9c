"""The README of an exported folder: a model card as Hugging Face reads it."""

from typing import Any

CARD = """---
library_name: genpo_jax
tags:
- reinforcement-learning
- robotics
- onnx
model-index:
- name: {method}-{env}
  results:
  - task:
      type: reinforcement-learning
    dataset:
      name: {env}
      type: {env}
    metrics:
    - type: mean_reward
      value: {mean_reward}
---

# {method} on {env}

A {method} policy, trained by genpo_jax {version}{backend}: {obs_size} numbers of observation in, {action_size} of
action out, each in [-1, 1]. Normalizer, solver and squash are inside.

```python
from standalone import OnnxPolicy  # needs numpy and onnxruntime; StableHloPolicy jax, flatbuffers

policy = OnnxPolicy(".")
action = policy(observation)  # zero noise; policy(observation, seed=0) samples
```

## Evaluation

{evaluation}

## Limits

Trained in simulation alone{task}. Outside of the states that it has seen nothing is known of it: `policy.json` has mean
and spread of what it has seen. Put limits on speed and torque, and a stop, between it and a robot.
"""


def model_card(description: dict[str, Any]) -> str:
    """Return the card of what `policy.json` describes."""
    trained, environment, task = description["trained"], description["environment"], description["task"]
    backend = environment["backend"]
    evaluation = "None was made in training."
    if "eval/return_zero" in trained:
        evaluation = (
            f"Mean return {trained['eval/return_zero']:.1f} with zero noise and {trained['eval/return_random']:.1f} "
            f"with the policy's own, after {trained['env_steps']:,.0f} steps, in the environment of the training."
        )
    missing = task.get("missing")
    return CARD.format(
        method=description["method"]["name"],
        env=environment["name"],
        mean_reward=f"{trained.get('eval/return_zero', float('nan')):.1f}" if trained else "null",
        version=description["versions"]["genpo-jax"],
        backend=f" with {backend} physics" if backend else "",
        obs_size=description["observation"]["size"],
        action_size=description["action"]["shape"][1],
        evaluation=evaluation,
        task=f" ({missing})" if missing else "; `standalone.MujocoTask` plays its task in MuJoCo's C engine",
    )
