import numpy as np
import pytest

from muster.serve.generator import Noise, exponential, philox


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
    found = philox(*(tuple(np.array([word], dtype=np.uint64) for word in part) for part in (counter, key)))
    assert [int(word[0]) for word in found] == expected


def words(seeds, positions, rows, index, stream=0):
    found = Noise(seeds, positions).words(np.array(rows), np.array(index, dtype=np.uint64), stream)
    return np.stack(found, axis=-1).tolist()


def test_each_number_depends_on_its_own_seed_position_and_index_alone():
    many = words([1, -5, 2**63 - 1], [10, 2**33, 0], [0, 1, 2, 1], [7, 8, 9, 0])
    assert many == [
        *words([1], [10], [0], [7]),
        *words([-5], [2**33], [0], [8]),
        *words([2**63 - 1], [0], [0], [9]),
        *words([-5], [2**33], [0], [0]),
    ]


@pytest.mark.parametrize("changed", [([2], [10], [0], [7]), ([1], [11], [0], [7]), ([1], [10], [0], [8])])
def test_another_seed_position_or_index_gives_other_numbers(changed):
    assert words(*changed) != words([1], [10], [0], [7])
    assert words([1], [10], [0], [7], stream=1) != words([1], [10], [0], [7])


def test_all_rows_may_be_asked_for_the_same_numbers():
    noise = Noise([1, -5], [10, 2**33])
    together = np.stack(noise.words(slice(None), np.arange(3, dtype=np.uint64), 0), axis=-1)
    assert together.tolist() == [words([1, -5], [10, 2**33], [row] * 3, [0, 1, 2]) for row in (0, 1)]


def test_draws_are_exponential():
    drawn = exponential(np.array(words([3], [5], [0] * 1000, list(range(1000))), dtype=np.uint64)).flatten()
    counts, _ = np.histogram(1 - np.exp(-drawn), bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001


def test_no_draw_is_zero_or_endless():
    drawn = exponential(np.array([0, 2**32 - 1], dtype=np.uint64)).tolist()
    assert drawn == pytest.approx([22.873857, 2.0**-33], rel=1e-4)
