"""The version of this package, and the extra that installs each optional package."""

__version__ = "0.2.0"
# Packages that the bare installation leaves out, and the extra that installs each.
_EXTRAS = {
    "brax": "train",
    "flatbuffers": "export",
    "flax": "train",
    "gymnasium": "gymnasium",
    "h5py": "data",
    "imageio_ffmpeg": "view",
    "jinja2": "train",
    "matplotlib": "train",
    "mujoco": "train",
    "mujoco_playground": "playground",
    "onnx": "export",
    "onnxruntime": "export",
    "optax": "train",
    "optuna": "sweep",
    "orbax": "train",
    "PIL": "view",
    "pyarrow": "lerobot",
    "rich": "train",
    "tensorboardX": "train",
    "tyro": "train",
    "wandb": "wandb",
}


def explained(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a failed import, with the extra that installs the missing package in a clone."""
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return error
    message = f"{package} is not installed; in your clone of genpo_jax: pip install -e '.[{_EXTRAS[package]}]'"
    return ModuleNotFoundError(message, name=error.name, path=error.path)
