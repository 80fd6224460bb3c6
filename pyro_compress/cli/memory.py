"""Memory that tensors have left is kept by the program for those of the next step."""

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# the most that glibc takes
_LARGEST_KEPT = 1 << 25
_TRIM_BEYOND, _MORE = 1 << 30, 1 << 26


def keep_freed_memory() -> None:
    """Let malloc keep up to a gigabyte that is free, where it is glibc's.

    By default every tensor of more than some megabytes gets pages of its own, which the system fills with zeros anew at
    every step: a tenth of the processor time of a fit of a convolutional network.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        # another C library
        return
    for what, value in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _TRIM_BEYOND), (_TOP_PAD, _MORE)):
        mallopt(what, value)
