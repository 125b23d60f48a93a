import numpy as np
import pytest

from muster.serve.generator import philox, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, expected):
    words = philox(np.array([counter], dtype=np.uint64), np.array([key], dtype=np.uint64))
    assert words[0].tolist() == expected


def test_each_number_depends_on_its_own_seed_and_position_alone():
    many = uniforms([1, -5, 2**63 - 1], [10, 2**33, 0])
    assert [uniforms([s], [p])[0] for s, p in [(1, 10), (-5, 2**33), (2**63 - 1, 0)]] == many.tolist()


def test_numbers_are_spread_evenly():
    numbers = uniforms([3] * 4000, list(range(4000)))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001
