"""What a simulated disk holds: of each file and directory the state that is seen, the state that is durable, and what lies between.

A crash keeps the durable state and of each pending change what the disk happened to have written: file content by sectors, in any
combination (a torn write); a file's size as of any earlier moment; names as the journal of a file system allows: a change to a name
only with the earlier changes to that name.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Choice", "Inode", "RandomChoice", "SimStore"]

_Name = tuple[str, str | None, "Inode | None"]
"""(name, its new name or None, the inode it now means): a link, a rename or an unlink."""


class Choice(Protocol):
    """Decides a crash. A `numpy.random.Generator` wrapped by `RandomChoice`, or a test that wants one outcome."""

    def keep(self) -> bool:
        """Whether the next sector or name change had reached the disk."""

    def prefix(self, count: int) -> int:
        """How many of `count` changes, which reach the disk in order, had."""


class RandomChoice:
    """Each change is kept with a probability that is drawn once a crash, so that nearly-all and nearly-none occur too."""

    __slots__ = ("_draw", "_integers", "_share")

    def __init__(self, rng: Any) -> None:
        self._draw = rng.random
        self._integers = rng.integers
        self._share = (0.5, 0.9, 0.1, 1.0, 0.0)[int(rng.integers(5))]

    def keep(self) -> bool:
        return bool(self._draw() < self._share)

    def prefix(self, count: int) -> int:
        return int(self._integers(count + 1))


class Inode:
    """One file. `content` holds the bytes written (what lies beyond it, up to `size`, reads as zero).

    `virtual`: payload written here was Sized; only sizes are known and nothing can be read back."""

    __slots__ = ("content", "durable", "durable_size", "pending", "settled", "size", "virtual")

    def __init__(self) -> None:
        self.content = bytearray()
        self.size = 0
        self.durable = bytearray()
        self.durable_size = 0
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data) written, or (size, None) set
        self.settled = 0
        self.virtual = False

    def write(self, offset: int, data: bytes) -> None:
        _put(self.content, offset, data)
        self.size = max(self.size, offset + len(data))
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.size = size
        self.pending.append((size, None))

    def read(self, offset: int, length: int) -> bytes:
        stop = min(offset + length, self.size)
        data = bytes(self.content[offset:stop])
        return data + bytes(max(0, stop - offset - len(data)))

    def changes(self) -> int:
        """How many there were so far."""
        return self.settled + len(self.pending)

    def settle(self, upto: int) -> None:
        """The first `upto` changes are durable now."""
        count = upto - self.settled
        if count <= 0:
            return
        for offset, data in self.pending[:count]:
            if data is None:
                del self.durable[offset:]
                self.durable_size = offset
            else:
                _put(self.durable, offset, data)
                self.durable_size = max(self.durable_size, offset + len(data))
        del self.pending[:count]
        self.settled = upto

    def crashed(self, choice: Choice, sector: int) -> Inode:
        """A copy as the disk has it after a crash: durable, nothing pending."""
        out = Inode()
        out.virtual = self.virtual
        content = bytearray(self.durable)
        size = self.durable_size
        if self.pending:
            sizes = choice.prefix(len(self.pending))  # sizes are metadata: the journal keeps their order
            for i, (offset, data) in enumerate(self.pending):
                if data is None:
                    if i < sizes:
                        size = offset
                        del content[size:]
                    continue
                if i < sizes:
                    size = max(size, offset + len(data))
                at = 0
                while at < len(data):
                    stop = min(len(data), (offset + at) // sector * sector + sector - offset)
                    if choice.keep():
                        _put(content, offset + at, data[at:stop])
                    at = stop
            del content[size:]
        out.content, out.size = content, size
        out.durable, out.durable_size = bytearray(content), size
        return out


def _put(content: bytearray, offset: int, data: bytes) -> None:
    gap = offset - len(content)
    if gap > 0:
        content += bytes(gap)
    content[offset : offset + len(data)] = data


class SimStore:
    """A peer's directory tree on a simulated disk, shared by its successive incarnations."""

    def __init__(self) -> None:
        self.files: dict[str, Inode] = {}
        self.directories: dict[str, bool] = {"": True}  # whether its name is durable
        self._durable: dict[str, Inode] = {}
        self._pending: list[_Name | None] = []  # None: settled out of turn
        self._settled = 0
        self.locked_by: object | None = None
        self.kv: dict[str, Any] = {}
        """Content of the key-value stores of this peer, by name (see `rafttoy.sim.kv`)."""

    # --- names ---

    def link(self, name: str, inode: Inode) -> None:
        self.files[name] = inode
        self._pending.append((name, None, inode))

    def rename(self, old: str, new: str) -> None:
        inode = self.files.pop(old)
        self.files[new] = inode
        self._pending.append((old, new, inode))

    def unlink(self, name: str) -> None:
        del self.files[name]
        self._pending.append((name, None, None))

    def make_directory(self, name: str) -> None:
        parts = name.split("/")
        for i in range(1, len(parts) + 1):
            self.directories.setdefault("/".join(parts[:i]), False)

    def changes(self) -> int:
        """How many names changed so far."""
        return self._settled + len(self._pending)

    def settle_names(self, directory: str, upto: int) -> None:
        """Of the first `upto` changes of names, those in `directory` are durable now."""
        pending = self._pending
        for i, change in enumerate(pending[: upto - self._settled]):
            if change is not None and directory in (_parent(change[0]), _parent(change[1] or change[0])):
                _apply(self._durable, change)
                pending[i] = None
        settled = next((i for i, change in enumerate(pending) if change is not None), len(pending))
        del pending[:settled]
        self._settled += settled
        for name in self.directories:
            if name and _parent(name) == directory:
                self.directories[name] = True

    # --- content ---

    def used_bytes(self) -> int:
        return sum(inode.size for inode in self.files.values())

    def flip(self, name: str, offset: int, mask: int = 1) -> None:
        """Bit rot: the byte at `offset` changes under everybody's feet."""
        inode = self.files[name]
        for content in (inode.content, inode.durable):
            if offset < len(content):
                content[offset] ^= mask
            else:
                _put(content, offset, bytes((mask,)))

    def crash(self, choice: Choice, sector: int = 512) -> SimStore:
        """The tree as it is found after a crash now; this one stays as it is. `sector` is what the device writes atomically."""
        out = SimStore()
        for directory, durable in self.directories.items():
            if out.directories.get(_parent(directory), False) and (durable or choice.keep()):
                out.directories[directory] = True
        names = dict(self._durable)
        lost: set[str] = set()
        for change in self._pending:
            if change is None:
                continue
            old, new, _ = change
            if old not in lost and (new is None or new not in lost) and choice.keep():
                _apply(names, change)
            else:
                lost.add(old)
                if new is not None:
                    lost.add(new)
        copies: dict[int, Inode] = {}
        for name, inode in names.items():
            if _parent(name) not in out.directories:
                continue
            if id(inode) not in copies:
                copies[id(inode)] = inode.crashed(choice, sector)
            out.files[name] = out._durable[name] = copies[id(inode)]
        out.kv = {name: content.crashed(choice) for name, content in self.kv.items()}
        return out


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _apply(names: dict[str, Inode], change: _Name) -> None:
    old, new, inode = change
    if inode is None:
        names.pop(old, None)
    elif new is None:
        names[old] = inode
    else:
        if names.get(old) is inode:
            del names[old]
        names[new] = inode
