"""Points from samples, and where one line falls below another one."""

from memserve.bench.study.record import Answer, Point, Samples, crossover


def line(series: str, *places: tuple[float, float]) -> tuple[Point, ...]:
    return tuple(Point(series=series, x=x, quantity="TTFT", p50=y, p25=y, p75=y, count=1) for x, y in places)


def test_a_point_has_median_and_quartiles_of_its_own_samples() -> None:
    samples = Samples()
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        samples.add("a", 8, TTFT=value)
    samples.add("b", 8, TTFT=9.0)
    first, second = samples.points()
    assert (first.p50, first.p25, first.p75, first.count) == (3.0, 2.0, 4.0, 5)
    assert (second.series, second.p50, second.count) == ("b", 9.0, 1)


def test_the_crossover_lies_where_straight_lines_between_the_points_meet() -> None:
    points = (*line("load", (32, 3.0), (64, 3.0)), *line("compute", (32, 2.0), (64, 6.0)))
    assert crossover(points, quantity="TTFT", below="load", above="compute") == 40


def test_a_line_that_is_below_everywhere_crosses_at_nothing() -> None:
    points = (*line("load", (32, 1.0), (64, 1.0)), *line("compute", (32, 2.0), (64, 3.0)))
    assert crossover(points, quantity="TTFT", below="load", above="compute") == 0


def test_there_is_no_crossover_when_the_line_ends_above_or_shares_no_place() -> None:
    above = (*line("load", (32, 1.0), (64, 4.0)), *line("compute", (32, 2.0), (64, 3.0)))
    apart = (*line("load", (32, 1.0)), *line("compute", (64, 3.0)))
    assert crossover(above, quantity="TTFT", below="load", above="compute") is None
    assert crossover(apart, quantity="TTFT", below="load", above="compute") is None


def test_the_last_crossing_counts_where_lines_cross_more_than_once() -> None:
    points = (
        *line("load", (1, 1.0), (2, 3.0), (4, 1.0)),
        *line("compute", (1, 2.0), (2, 2.0), (4, 2.0)),
    )
    assert crossover(points, quantity="TTFT", below="load", above="compute") == 3


def test_an_answer_without_findings_is_one() -> None:
    assert Answer(points=()).findings == ()
