"""Makes glibc keep freed memory, so that a train step does not fault the same pages in again and again."""

import ctypes
import sys

# Numbers of the parameters from glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

SETTINGS = {
    "arena_max": (_ARENA_MAX, 1),  # one heap, where a buffer freed by one thread serves the next
    "mmap_max": (_MMAP_MAX, 0),  # large buffers come from the heap, not from pages mapped anew each time
    "trim_threshold": (_TRIM_THRESHOLD, 2**31 - 1),  # the heap's free end is not given back
    "top_pad": (_TOP_PAD, 64 * 2**20),  # the heap grows by 64 MiB at once
}

PIECES = 16 << 20, 2 << 10  # bytes of the largest and the smallest that `tidy` looks for
_PAGE, _DONTNEED = 4096, 4  # of `madvise`

_kept: dict[str, int] | None = None
_aside: dict[int, int] = {}  # bytes by address
_pieces = 0  # that were left by the last `tidy`


def kept() -> dict[str, int] | None:
    """The settings that are on in this process, for the record; None: the C library's own."""
    return _kept


def keep_freed_memory() -> dict[str, int] | None:
    """Set glibc's allocator for this process; best before large arrays exist. Peak memory grows, by about half.

    On CPU, XLA allocates and frees every temporary of a step: without this, a small decoder faults about 20,000 pages a
    step and loses up to 40% of its time to it.

    Returns:
      The settings that glibc took, for the record; None where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    global _kept
    _kept = {name: value for name, (number, value) in SETTINGS.items() if libc.mallopt(number, value)}
    return _kept


def tidy() -> int:
    """Set the free pieces of the heap aside, so that what comes next lies together at its end; returns their bytes.

    A compiler leaves thousands of them, and each step's temporaries would be looked for among them, and come to lie
    scattered: a step of a tiny model then takes 20% longer than with a program that was read from the cache. Their pages
    go back to the system. Does nothing where `keep_freed_memory` has not; may be called again and again.
    """
    libc = ctypes.CDLL(None)
    if _kept is None or not hasattr(libc, "mallinfo2"):
        return 0
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes, libc.sbrk.argtypes = (
        (ctypes.c_size_t,),
        (ctypes.c_void_p,),
        (ctypes.c_long,),
    )
    libc.madvise.argtypes, libc.mallinfo2.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), _Info
    global _pieces
    if libc.mallinfo2().ordblks <= 1.1 * _pieces:
        return sum(_aside.values())
    while _aside:
        libc.free(_aside.popitem()[0])
    end = libc.sbrk(0) - libc.mallinfo2().keepcost  # the pieces lie below, the one free block of the heap's end above
    size = float(PIECES[0])
    while size >= PIECES[1]:
        piece = libc.malloc(int(size))
        if piece is None or piece >= end:
            libc.free(piece)
            size /= 1.5
            continue
        _aside[piece] = int(size)
        first, last = -(-piece // _PAGE) * _PAGE, (piece + int(size)) // _PAGE * _PAGE
        if last > first:
            libc.madvise(first, last - first, _DONTNEED)
    _pieces = libc.mallinfo2().ordblks
    return sum(_aside.values())


class _Info(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]
