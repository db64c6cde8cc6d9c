"""Host functions that compiled programs call by a stable name, so that jax can cache the programs.

jax never writes a program with `jax.pure_callback` to its compilation cache, since the callback exists in one process
only. A program with a foreign function contains the function's name alone. The functions here are written in Python
and registered through XLA's foreign function interface (`xla/ffi/api/c_api.h`, version 0.1); newer versions append
fields to its structures, so that the ones declared here stay valid.
"""

import ctypes
import threading
import traceback
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import jax
import numpy as np
from jax import Array

# Fills the results [..., m] of an operand [..., n]; it must not compute with jax, which waits for it.
HostFunction = Callable[[np.ndarray, np.ndarray], None]
VERSION = (0, 1)
METADATA = 1
INTERNAL_ERROR = 13
DTYPES = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}


class _Extension(Structure):
    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p))


class _ApiVersion(Structure):
    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int))


class _Metadata(Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _ApiVersion))


class _MetadataExtension(Structure):
    _fields_ = (("base", _Extension), ("metadata", POINTER(_Metadata)))


class _Buffer(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    )


class _Buffers(Structure):
    """Operands or results of a call."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", c_void_p),
        ("buffers", POINTER(POINTER(_Buffer))),
    )


class _ErrorArguments(Structure):
    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int))


_CreateError = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))


class _Api(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("version", _ApiVersion),
        ("internal", c_void_p),
        ("create_error", _CreateError),
    )


class _CallFrame(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("operands", _Buffers),
        ("results", _Buffers),
    )


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))
_lock = threading.Lock()
# XLA keeps the address of a handler as long as the process runs.
_handlers: dict[str, Any] = {}


def register(name: str, function: HostFunction) -> None:
    """Register a host function for programs on the CPU; do nothing if the name is registered.

    Args:
        name: name in compiled programs. Equal names must mean equal results, in all processes that share a cache.
        function: fills the results of an operand in place; its errors end the program.
    """
    with _lock:
        if name not in _handlers:
            _handlers[name] = _handler(function)
            address = ctypes.cast(_handlers[name], c_void_p).value
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")


def call(name: str, operand: Array, result_size: int) -> Array:
    """Call a registered function with an operand [..., n] of floats; return its results [..., result_size].

    `vmap` over the call makes one call with a leading axis.
    """
    kind = jax.ShapeDtypeStruct((*operand.shape[:-1], result_size), operand.dtype)
    return jax.ffi.ffi_call(name, kind, vmap_method="broadcast_all")(operand)


def _handler(function: HostFunction) -> Any:
    def handle(pointer: Any) -> int | None:
        frame = pointer.contents
        try:
            if frame.extension and frame.extension.contents.type == METADATA:
                _describe(frame.extension)
            else:
                operand = _array(frame.operands)
                operand.flags.writeable = False
                function(operand, _array(frame.results))
        except BaseException:
            # An exception that leaves a ctypes callback is printed and lost.
            return _error(frame.api.contents, traceback.format_exc())
        return None

    return _Handler(handle)


def _describe(extension: Any) -> None:
    """Tell XLA the version of its interface that a handler needs."""
    metadata = ctypes.cast(extension, POINTER(_MetadataExtension)).contents.metadata.contents
    metadata.version.major, metadata.version.minor = VERSION


def _array(buffers: _Buffers) -> np.ndarray:
    """Return the only buffer as an array that shares its memory."""
    buffer = buffers.buffers[0].contents
    shape = tuple(buffer.dims[: buffer.rank])
    dtype = DTYPES[buffer.dtype]
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(buffer.data) if size else b""
    return np.frombuffer(memory, dtype).reshape(shape)


def _error(api: _Api, message: str) -> int:
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message.encode(), INTERNAL_ERROR)
    return api.create_error(ctypes.byref(arguments))
