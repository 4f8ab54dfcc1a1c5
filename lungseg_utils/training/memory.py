"""Out of memory, whichever library says so: the error names what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lungseg_utils.errors import LungsegError, MemoryExhaustedError

# By name, since each backend has its own class and only one of them is installed.
_CLASSES = frozenset({"ResourceExhaustedError", "OutOfMemoryError", "MemoryError"})
_WORDS = ("RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA out of memory")


@contextlib.contextmanager
def explained_exhaustion(what: str, advice: str) -> Iterator[None]:
    """Turn what TensorFlow, JAX, PyTorch and Python raise when memory runs out into advice.

    Args:
        what: What did not fit, such as "A step of 16 images of 256 × 256 pixels".
        advice: Which parameters to lower, with their names.

    Raises:
        MemoryExhaustedError: In place of such an error, which is chained; any other goes through.
    """
    try:
        yield
    except LungsegError:
        raise
    except Exception as error:
        if not is_exhaustion(error):
            raise
        # The libraries' messages list every buffer; the first line says what was asked for.
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        raise MemoryExhaustedError(
            f"{what} must fit into memory.", f"{type(error).__name__}: {first_line}", advice
        ) from error


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _CLASSES) or any(words in str(error) for words in _WORDS)
