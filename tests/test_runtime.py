import os
import platform
import subprocess
import sys

import pytest
from faults.long_run import anonymous_mib

from genpo_jax.runtime import knows_fusion_emitters, release_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
# Says how many of 20 buffers of 2 MiB are mappings of their own, once 30 MiB were freed, by which glibc learns not to.
MAPPED = """
import ctypes
from genpo_jax.runtime import keep_memory_flat

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
keep_memory_flat()
del [bytearray(30 * 2**20)][0]
before = mallinfo2().hblks
buffers = [bytearray(2 * 2**20) for _ in range(20)]
print(mallinfo2().hblks - before)
"""


@glibc
def test_memory_between_things_in_use_goes_back_to_the_system():
    blocks = [bytearray(8000) for _ in range(20_000)]
    kept = blocks[::100]
    del blocks
    before = anonymous_mib()
    release_memory()
    assert anonymous_mib() < before - 100
    assert len(kept) == 200


@pytest.mark.parametrize(("settings", "mapped"), [({}, 20), ({"MALLOC_MMAP_THRESHOLD_": str(2**24)}, 0)], ids=str)
@glibc
def test_large_buffers_are_mappings_of_their_own_unless_the_user_says_otherwise(settings, mapped):
    done = subprocess.run(
        [sys.executable, "-c", MAPPED], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == mapped


@pytest.mark.parametrize(
    ("version", "known"), [("0.10.2", True), ("0.11.0", True), ("0.11.1", False), ("0.12.0.1", False)]
)
def test_a_compiler_option_is_asked_for_only_where_the_compiler_knows_it(version, known):
    assert knows_fusion_emitters(version) == known
