"""Latencies: percentiles against exact ones, and merging."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent.loadtest.histogram import Histogram

durations = st.lists(st.integers(0, 1 << 43), min_size=1, max_size=200)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations, st.floats(0, 100))
def test_percentiles_are_at_most_one_bucket_too_high(values: list[int], percent: float) -> None:
    values = [min(value, (1 << 42) - 1) for value in values]
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    found = filled(values).percentile_ns(percent)
    assert found is not None
    assert exact <= found <= exact * (1 + 1 / 64)


@given(durations)
def test_the_maximum_is_exact(values: list[int]) -> None:
    histogram = filled(values)
    assert histogram.max_ns == max(values)
    assert histogram.count() == len(values)
    found = histogram.percentile_ns(100)
    assert found is not None
    assert found <= max(values)


@given(durations, durations)
def test_merging_is_recording_both(first: list[int], second: list[int]) -> None:
    merged = Histogram()
    merged.merge(filled(first).data())
    merged.merge(filled(second).data())
    assert merged.data() == filled(first + second).data()


def test_neighbouring_buckets_leave_no_gap_and_grow() -> None:
    buckets = []
    for value in range(4096):
        ((bucket, _),) = filled([value]).data()["buckets"]
        buckets.append(bucket)
    assert buckets == sorted(buckets)
    assert set(buckets) == set(range(buckets[-1] + 1))


def test_nothing_recorded_has_no_percentiles() -> None:
    assert Histogram().percentile_ns(50) is None


def test_what_is_out_of_range_goes_to_the_ends() -> None:
    histogram = filled([-5, 1 << 60])
    assert histogram.count() == 2
    assert histogram.percentile_ns(50) == 0


def test_merging_foreign_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="bucket must be from 0"):
        Histogram().merge({"buckets": [[99999, 1]], "max_ns": 1})
