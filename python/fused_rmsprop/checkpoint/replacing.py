"""Replace a file atomically by way of a temporary file, and remove the leftovers of killed writers.

A writer holds a lock on its temporary file until that has become the target. The system releases
the lock when the writer ends, however it ends, so a temporary file whose lock is free is a
leftover. Process ids would not tell: they mean nothing in another container.

Windows has no such locks: a leftover stays there. Nor can an open file be replaced or removed.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: The files that this process is writing.
_writing: set[IO[bytes]] = set()


@contextmanager
def replacing(target: str) -> Iterator[IO[bytes]]:
    """Open a temporary file; replace the target with it on success, delete it on an exception."""
    old = None
    # Opening it checks write permission. A pipe cannot be opened with a buffer.
    with suppress(FileNotFoundError), open(target, "r+b", buffering=0) as existing:
        old = os.fstat(existing.fileno())
    if old and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{target!r} is not a regular file and will not be replaced")
    directory, name = os.path.split(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "the folder of the file does not exist", target)
    stem = _stem(name)
    _remove_leftovers(directory, stem)
    with _temporary(directory, stem) as file:
        _writing.add(file)
        try:
            if old and fcntl:
                with suppress(OSError):  # not allowed, or no such owner in this container
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not _is_in_place(file):
                raise OSError(f"{file.name!r} was removed, or the process forked in mid-write")
            if not fcntl:
                file.close()
            os.replace(file.name, target)
        except BaseException:
            if _is_in_place(file):
                if not fcntl:
                    file.close()
                _unlink(file.name)
            raise
        finally:
            _writing.discard(file)
    with suppress(OSError):  # not every file system can sync a folder; the file is in place
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stem(name: str) -> str:
    """Return the beginning of the names of this host's temporary files for a target.

    The host matters where a shared file system keeps locks to each host (NFS with ``nolock``,
    sshfs): there the lock of another host's writer would seem free.
    """
    whole = zlib.crc32(os.fsencode(f"{platform.node()}/{name}"))
    return f".{name[:40]}.{whole:08x}"  # 40 characters of UTF-8 leave room in a file name


def _temporary(directory: str, stem: str) -> IO[bytes]:
    """Create a temporary file and lock it."""
    while True:
        path = os.path.join(directory, f"{stem}.{secrets.token_hex(8)}")
        file = open(f"{path}.tmp", "xb")  # noqa: SIM115 (the caller closes it)
        try:
            # Another writer may have taken the file, still unlocked, for a leftover.
            if _lock(file.fileno()) and _is_in_place(file):
                return file
            file.close()
        except OSError:  # no locks here; under another name nobody takes it for a leftover
            file.close()
            _unlink(file.name)
            return open(f"{path}.unlocked", "xb")
        except BaseException:
            file.close()
            _unlink(file.name)
            raise


def _remove_leftovers(directory: str, stem: str) -> None:
    """Remove the temporary files whose writers have ended."""
    if not fcntl:
        return
    pattern = re.compile(re.escape(stem) + r"\.[0-9a-f]{16}\.tmp")
    with suppress(OSError):  # cleaning up is optional
        for entry in filter(pattern.fullmatch, os.listdir(directory)):
            path = os.path.join(directory, entry)
            with suppress(OSError):  # another user's, or no locks here
                # NFS gives exclusive locks only to those who may write.
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _lock(descriptor):
                        os.unlink(path)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if another has locked it, `OSError` if locks do not work here."""
    if not fcntl:
        raise OSError("there are no locks here")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_in_place(file: IO[bytes]) -> bool:
    """Whether the file's name still leads to it."""
    if not fcntl:  # nobody can remove an open file, and no process forks
        return True
    try:
        return os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except OSError:
        return False


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _let_go() -> None:
    """In a forked child, let go of the parent's files and so of their locks."""
    for file in _writing:
        if not file.closed:  # an interrupt may have come between its end and its removal from here
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, file.fileno(), inheritable=False)
            os.close(nowhere)
    _writing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
