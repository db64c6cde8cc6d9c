from dataclasses import replace

import numpy as np
import pytest

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.runs.health import HOPELESS_CHUNKS, Health

# 3 updates of 2 epochs of 4 minibatches: 24 gradients a chunk; 8 environments of 4 steps: 96 steps.
CONFIG = Config(
    updates_per_chunk=3, env_options=EnvConfig(num_envs=8), ppo=PPOConfig(num_epochs=2, num_minibatches=4, unroll=4)
)


def metrics(skipped=0.0, resets=0.0, kl=0.01):
    values = {"train/skipped_gradients": skipped, "train/nan_resets": resets, "train/kl": kl}
    return {name: np.atleast_1d(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("sick", "nearly", "message"),
    [
        ({"skipped": 24}, {"skipped": 23}, "every gradient of a chunk"),
        ({"resets": 48}, {"resets": 47}, "half of the steps of a chunk were not finite"),
        ({"kl": np.nan}, {"kl": 1e9}, "the KL of a chunk is not finite"),
        ({"kl": np.inf}, {"kl": 0.0}, "the KL of a chunk is not finite"),
    ],
)
def test_each_symptom_has_a_sharp_limit_and_is_reported_once(caplog, sick, nearly, message):
    health = Health(CONFIG)
    health.observe(metrics(**nearly))
    assert not caplog.records and health.sick_chunks == 0
    for _ in range(2):
        health.observe(metrics(**sick))
    (record,) = caplog.records
    assert record.message.startswith(message) and ": " in record.message
    assert health.sick_chunks == 2 and message in str(health.verdict())


def test_a_distillation_has_no_symptom_when_its_ratios_overflow(caplog):
    health = Health(replace(CONFIG, ppo=replace(CONFIG.ppo, policy_coef=0.0)))
    health.observe(metrics(kl=np.inf))
    assert not caplog.records and health.sick_chunks == 0


def test_only_consecutive_sick_chunks_are_hopeless():
    health = Health(CONFIG)
    for _ in range(HOPELESS_CHUNKS - 1):
        health.observe(metrics(kl=np.nan))
    health.observe(metrics())
    assert not health.hopeless and health.sick_chunks == 0
    for _ in range(HOPELESS_CHUNKS):
        assert not health.hopeless
        health.observe(metrics(kl=np.nan))
    assert health.hopeless


def test_a_run_of_several_seeds_is_hopeless_only_if_all_are_sick_and_sick_seeds_are_named(caplog):
    health = Health(replace(CONFIG, seed=5, num_seeds=2))
    for _ in range(HOPELESS_CHUNKS):
        health.observe(metrics(skipped=[24, 0], resets=[0, 0], kl=[0.1, 0.1]))
    assert not health.hopeless
    assert "skipped (seed 5);" in caplog.text
    for _ in range(HOPELESS_CHUNKS):
        health.observe(metrics(skipped=[24, 0], resets=[0, 48], kl=[0.1, 0.1]))
    assert health.hopeless
    assert "half of the steps" in caplog.text and "(seed 6)" in caplog.text
