"""Near duplicates, by MinHash over runs of five characters and banding: its cost grows with the rows, not their pairs.

Broder, "On the resemblance and containment of documents" (1997); banding as in Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", 3.4. Two texts count as near when their estimated Jaccard similarity is at least 0.7: in a
sentence of 40 characters one may differ. With 64 hashes in bands of four, texts that are 0.7 alike share a band with
probability 0.99, and the estimate is off by 0.06 (one sigma).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR = 0.7
HASHES = 64
_BAND = 4
_RUN = 5
_LONGEST = 20_000  # characters of a text that are compared

Signature = NDArray[np.uint32]  # [HASHES]
Signatures = NDArray[np.uint32]  # [texts, HASHES]

_random = np.random.Generator(np.random.PCG64(20261123))
_FACTORS = _random.integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, HASHES, dtype=np.uint64)
_POWERS = np.array([pow(0x100000001B3, n, 2**64) for n in range(_RUN)], dtype=np.uint64)


def signature(text: str) -> Signature:
    """MinHash of the text's runs of characters, in NFKC, without white space and case."""
    plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text[:_LONGEST])).casefold()
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _RUN:
        codes = np.pad(codes, (0, _RUN - len(codes)))
    runs = np.lib.stride_tricks.sliding_window_view(codes, _RUN)
    hashes = np.unique((runs * _POWERS).sum(axis=1, dtype=np.uint64))
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    # Multiply-shift hashing: the upper half of the product is what is well mixed.
    spread: Signatures = ((mixed[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).astype(np.uint32)
    least: Signature = spread.min(axis=0)
    return least


def stacked(signatures: Sequence[Signature]) -> Signatures:
    return np.stack(signatures) if signatures else np.zeros((0, HASHES), dtype=np.uint32)


def earlier(signatures: Signatures) -> NDArray[np.int64]:
    """For each text the place of an earlier one that it is near to, or -1.

    Within a band texts are compared with the first of their bucket and the one before them, so that a bucket of many
    costs no more than its size.
    """
    count = len(signatures)
    found = np.full(count, -1, dtype=np.int64)
    for keys in _bands(signatures):
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        starts = np.concatenate(([0], np.flatnonzero(~same) + 1)) if count else np.zeros(0, dtype=np.int64)
        firsts = order[np.repeat(starts, np.diff(np.append(starts, count)))]
        for others, of in ((firsts[1:][same], order[1:][same]), (order[:-1][same], order[1:][same])):
            near = _alike(signatures, others, signatures, of)
            found[of[near]] = np.where(found[of[near]] < 0, others[near], np.minimum(found[of[near]], others[near]))
    return found


def across(one: Signatures, other: Signatures) -> NDArray[np.int64]:
    """For each text of `one` the place of one in `other` that it is near to, or -1."""
    found = np.full(len(one), -1, dtype=np.int64)
    for mine, theirs in zip(_bands(one), _bands(other), strict=True):
        order = np.argsort(theirs, kind="stable")
        keys = theirs[order]
        left, right = np.searchsorted(keys, mine, "left"), np.searchsorted(keys, mine, "right")
        for index in np.flatnonzero((right > left) & (found < 0)):
            places = order[left[index] : right[index]][:1000]
            near = places[_alike(other, places, one, np.full(len(places), index))]
            if len(near):
                found[index] = near.min()
    return found


def _bands(signatures: Signatures) -> list[NDArray[np.uint64]]:
    """One key a text for each band of its signature."""
    bands = signatures.reshape(len(signatures), HASHES // _BAND, _BAND).astype(np.uint64)
    return list(((bands * _POWERS[1 : _BAND + 1]).sum(axis=2, dtype=np.uint64)).T)


def _alike(a: Signatures, at: NDArray[np.int64], b: Signatures, bt: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a[at[i]] and b[bt[i]] agree in enough places, in pieces of bounded size."""
    pieces = [
        (a[at[start : start + 65536]] == b[bt[start : start + 65536]]).mean(axis=1) >= NEAR for start in range(0, len(at), 65536)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.bool_)
