"""Tell a refusal of ours from an error of Python or of a library that happens to be a `ValueError`."""

import traceback
from pathlib import Path

import genpo_jax

PACKAGE = Path(genpo_jax.__file__).parent


def is_refusal(error: BaseException, longest: int = 1500) -> bool:
    """Whether our code raised the error, and it is one sentence of at most `longest` characters."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    text = str(error)
    one_sentence = 0 < len(text) <= longest and "\n" not in text
    return type(error) in (ValueError, FileNotFoundError) and PACKAGE in raised_in.parents and one_sentence
