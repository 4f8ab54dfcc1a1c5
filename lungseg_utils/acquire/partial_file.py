"""A file that is still arriving: its bytes, and which content of the server they belong to."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from lungseg_utils.acquire.http_answers import Version
from lungseg_utils.errors import StorageError
from lungseg_utils.files.records import read_json, write_json
from lungseg_utils.files.storage import explained, flush_to_disk, retry_passing


class PartialFile:
    """Bytes on their way to a file, kept beside it in `<name>.part` between attempts and runs.

    `<name>.part.json` says which content they belong to. It is written while the part is empty,
    so whatever moment a process dies at, bytes and record fit together.

    Args:
        target: Where the file goes when it is whole.
        url: Where it comes from; a part from elsewhere is not continued.

    Raises:
        StorageError: The disk is full, read-only or gone, here and in every method.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._record = _record_of(target)
        self._url = url
        with explained(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        self.version = self._read_version()
        if self.version == Version():
            self.discard()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self._file.tell()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have arrived; False where their number is not known."""
        return self.version.total is not None and self.size == self.version.total

    def begin(self, version: Version) -> None:
        """Empty the part and record the content that comes now."""
        self.discard()
        with explained(self.path):
            write_json(self._record, {"url": self._url, **asdict(version)})
        self.version = version

    def append(self, block: bytes) -> None:
        """Add bytes."""
        with explained(self.path):
            self._file.write(block)

    def discard(self) -> None:
        """Forget what has arrived."""
        self.version = Version()
        with explained(self.path):
            self._file.truncate(0)
            self._file.seek(0)

    def finish(self) -> Path:
        """Put the file under its final name; to be called when it is whole."""
        with explained(self.path):
            self._file.close()
            flush_to_disk(self.path)
            self.path.replace(self.target)
            remove_record(self.target)
        return self.target

    def close(self) -> None:
        """Stop writing; what has arrived stays, but nothing is left of a part without bytes."""
        with explained(self.path):
            self._file.close()
            if self.path.is_file() and not self.path.stat().st_size:
                self._record.unlink(missing_ok=True)
                self.path.unlink()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The first error says more than that of a disk which is full again.
        with contextlib.suppress(StorageError) if error else contextlib.nullcontext():
            self.close()

    def _read_version(self) -> Version:
        """The recorded version; an empty one where there is none that can be continued."""
        try:
            record = read_json(self._record)
            return Version(**record) if record.pop("url") == self._url else Version()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return Version()


def remove_record(target: Path) -> None:
    """Remove the record of a download that is whole, which a killed process may have left.

    Args:
        target: The file's final name.
    """
    retry_passing(lambda: _record_of(target).unlink(missing_ok=True))


def _record_of(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")
