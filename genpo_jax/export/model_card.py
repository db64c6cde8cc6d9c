"""The README of an exported folder: a model card in the format of Hugging Face."""

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

A {method} policy, trained by genpo_jax {version}{backend}. The input is the observation
`{obs_name}` of {obs_size} numbers.
The output is {output}, {bounds}.
The observation normalizer, the solver and the squash are inside the policy.

```python
from standalone import ObservationHistory, OnnxPolicy, executed_actions  # needs numpy and onnxruntime

policy = OnnxPolicy(".")
history = ObservationHistory(policy.description)  # stacks the last {history}; reset it at the start of an episode
actions = []
while True:  # one control period{period}
    stacked = history(robot.observe())
    if not actions:
        actions = list(executed_actions(policy.description, policy(stacked)))  # policy(stacked, seed=0) samples
    robot.command(actions.pop(0))
```

`StableHloPolicy` in the same file needs jax and flatbuffers.

## Evaluation

{evaluation}

{deploy}

## Limits

{origin}{randomization} Its behavior is unknown for states that differ from those of training;
`policy.json` has the mean and the standard deviation of each observed number. On a robot, limit speed and torque, and
add an emergency stop.
"""


DEPLOY = """`genpo-jax deploy` plays this folder's policy in its training environment and reports return, latency and
missed deadlines."""
CLONED = "The policy imitates demonstrations."
TRAINED = "The policy was trained in simulation only."
NO_DEPLOY = "The policy was cloned from data without an environment; `genpo-jax deploy` needs one by --env."


def model_card(description: dict[str, Any]) -> str:
    """Return the model card for the contents of `policy.json`."""
    trained, environment, action = description["trained"], description["environment"], description["action"]
    backend, seconds = environment["backend"], description["rate"]["control_period_seconds"]
    evaluation = "The run has no evaluation."
    if "eval/return_zero" in trained:
        evaluation = f"Mean return after {trained['env_steps']:,.0f} env steps in the training environment: "
        evaluation += f"{trained['eval/return_zero']:.1f} with deterministic actions"
        if "eval/return_random" in trained:
            evaluation += f", {trained['eval/return_random']:.1f} with sampled actions"
        evaluation += "."
    output = f"an action of {action['size']} numbers"
    if action["chunk"] > 1:
        output = f"a chunk of {action['chunk']} actions of {action['size']} numbers"
    low, high = action["low"], action["high"]
    plain = set(low) == {-1.0} and set(high) == {1.0}
    return CARD.format(
        method=description["method"]["name"],
        env=environment["name"],
        mean_reward=f"{trained['eval/return_zero']:.1f}" if "eval/return_zero" in trained else "null",
        version=description["versions"]["genpo-jax"],
        backend=f" with {backend} physics" if backend else "",
        obs_name=description["observation"]["name"],
        obs_size=description["observation"]["size"],
        output=output,
        bounds="each number in [-1, 1]" if plain else "in units of the training data, within the bounds of policy.json",
        history=description["observation"]["history"],
        period="" if seconds is None else f" of {seconds:g} s",
        evaluation=evaluation,
        deploy=NO_DEPLOY if environment["episode_length"] is None else f"{DEPLOY} {environment['deploy']}".strip(),
        origin=CLONED if description["cloned"] else TRAINED,
        randomization=randomization_text(environment),
    )


def randomization_text(environment: dict[str, Any]) -> str:
    """Return what training drew for each episode, in sentences; "" for nothing."""
    drawn = [f"`{item}`" for item in environment.get("physics", ())]
    text = f" Training drew the physics of each episode: {', '.join(drawn)}." if drawn else ""
    settings = [
        f"`{name}` {value if isinstance(value, str | float) else ' '.join(value)}"
        for name, value in environment.get("imperfections", {}).items()
    ]
    return text + (f" The robot of training was imperfect: {', '.join(settings)}." if settings else "")
