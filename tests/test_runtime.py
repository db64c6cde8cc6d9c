import platform

import pytest
from faults.long_run import anonymous_mib

from genpo_jax.runtime import release_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps it")
def test_memory_between_things_in_use_goes_back_to_the_system():
    blocks = [bytearray(8000) for _ in range(20_000)]
    kept = blocks[::100]
    del blocks
    before = anonymous_mib()
    release_memory()
    assert anonymous_mib() < before - 100
    assert len(kept) == 200
