"""A mean that forgets slowly, and begins where the numbers begin."""

from __future__ import annotations

import pytest

from fluxbooth.training.smoothing import Recent


def test_the_first_value_is_its_own_mean() -> None:
    assert Recent().add(3.0) == pytest.approx(3.0)


def test_the_last_fifty_count_most() -> None:
    recent = Recent([1.0] * 500)
    for _ in range(50):
        mean = recent.add(2.0)
    assert mean == pytest.approx(1 + (1 - 0.98**50), abs=1e-4)


def test_what_goes_on_behind_a_log_is_what_never_stopped() -> None:
    values = [0.3, 0.9, 0.1, 0.5]
    straight = Recent(values[:3]).add(values[3])
    assert Recent(iter(values[:3])).add(values[3]) == straight
    assert straight == pytest.approx(0.45, abs=2e-3), "near the plain mean while there are few"
