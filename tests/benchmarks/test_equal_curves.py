"""Two curves of the same points: no gap, and no division by zero."""

import numpy as np

from benchmarks.compare.curves import Points, gap, gap_at_the_end


def test_equal_points_have_no_gap() -> None:
    kl = np.array([0.5, 1.0, 2.0])
    utility = np.repeat(np.sqrt(kl)[:, None], 5, axis=1)
    points = Points(kl, utility, np.zeros(5), np.array([False, False, True]))
    found = gap(points, points)
    assert found is not None
    assert (found.mean, found.se, found.worst, found.verdict) == (0, 0, 0, "on")
    assert gap_at_the_end(points, points) is not None
    tiny = gap(points, Points(kl, utility * 5e-324, np.zeros(5), points.last))
    assert tiny is not None
    assert tiny.verdict == "above"
