"""The picture of a training: which panels it has, what they show, and that it can be read."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fused_rmsprop.monitor.history import Array, History
from fused_rmsprop.monitor.pictures.plotting import plot, png
from pictures_support import history
from support import run_python

matplotlib = pytest.importorskip("matplotlib")

LONG = [f"encoder.blocks.{i}.self_attention.output_projection.weight_{i:02}" for i in range(12)]

pytestmark = pytest.mark.slow  # each draws, which takes a second


def titles(figure: Any) -> list[str]:
    """The titles of the panels, without those of colour bars' maps, which have none."""
    return [title for axes in figure.axes if (title := axes.get_title(loc="left"))]


def heading(figure: Any) -> str:
    return str(figure._suptitle.get_text())  # `get_suptitle` is not in all versions


def panel(figure: Any, title: str) -> Any:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def maps(figure: Any) -> list[Any]:
    """The axes with heat maps: those with two images, the cells and the special ones."""
    return [axes for axes in figure.axes if len(axes.images) == 2]


def line(axes: Any, label: str) -> Any:
    return next(one for one in axes.lines if one.get_label() == label)


def extents(axes: Any, axis: str) -> Iterator[Any]:
    """The places in pixels of the tick labels that are drawn."""
    low, high = sorted(getattr(axes, f"get_{axis}lim")())
    for tick in getattr(axes, f"{axis}axis").get_major_ticks():
        label = tick.label2 if tick.label2.get_visible() else tick.label1
        if low <= tick.get_loc() <= high and label.get_visible() and label.get_text():
            yield label.get_window_extent()


def check_readable(figure: Any) -> None:
    """No tick label lies on another, or outside of the figure, nor is any text cut."""
    figure.savefig(null := _Null(), format="png")
    assert null.size > 10_000
    whole = figure.bbox
    for axes in figure.axes:
        for axis in "xy":
            boxes = list(extents(axes, axis))
            for a, b in itertools.combinations(boxes, 2):
                assert not a.overlaps(b), (axes.get_title(loc="left"), axis, a, b)
            for box in boxes:
                assert whole.x0 - 1 <= box.x0
                assert box.x1 <= whole.x1 + 1
        title = axes._left_title
        if title.get_text():
            assert title.get_window_extent().x1 <= whole.x1
            for box in extents(axes, "x"):
                assert not title.get_window_extent().overlaps(box)
    check_apart(figure)


def check_apart(figure: Any) -> None:
    """No panel with its labels lies on another."""
    for a, b in itertools.combinations(figure.axes, 2):
        if a.get_position().bounds != b.get_position().bounds:  # of two scales
            one, other = a.get_tightbbox(), b.get_tightbbox()
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(wide, high) < 1.5, (a.get_title(loc="left"), b.get_title(loc="left"))


class _Null:
    """A file that counts."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None: ...


def test_a_training_has_the_panels_that_it_has_data_for() -> None:
    figure = plot(history(log=("loss", "accuracy"), lr=lambda step: 1 / step))
    lines = ["logged values", "options", "effective learning rate", "successive updates"]
    assert titles(figure) == [*lines, "gradient (rms)", "update (rms)", "update / parameter"]
    figure = plot(history(log=()))
    assert titles(figure)[0] == "effective learning rate"
    assert "options" not in titles(figure)
    check_readable(figure)


def test_panels_show_the_recorded_numbers() -> None:
    recorded = history(log=("loss", "accuracy"), lr=lambda step: 1 / step)
    figure = plot(recorded)
    loss = line(panel(figure, "logged values"), "loss")
    assert np.array_equal(loss.get_xdata(), recorded.logged["loss"].steps)
    assert np.array_equal(loss.get_ydata(), recorded.logged["loss"].values)
    lr = line(panel(figure, "options"), "lr")
    assert np.array_equal(lr.get_ydata(), recorded.option("lr")[:, 0])
    median = line(panel(figure, "effective learning rate"), "median")
    assert np.array_equal(median.get_ydata(), recorded.total("effective_lr_p50"))
    assert panel(figure, "effective learning rate").get_yscale() == "log"
    cosine = line(panel(figure, "successive updates"), "cosine")
    assert np.array_equal(cosine.get_ydata(), recorded.total("cosine"))
    for axes, name in zip(maps(figure), ("grad_rms", "update_rms", "update_ratio"), strict=True):
        assert np.array_equal(axes.images[0].get_array(), recorded[name].T)
        assert axes.images[1].get_array().mask.all()
        assert axes.yaxis_inverted()
    check_readable(figure)


@pytest.mark.parametrize(
    ("least", "labels"),
    [
        (0.5, ["5e-1", "1e0", "2e0"]),
        (0.02, ["2e-2", "5e-2", "1e-1", "2e-1", "5e-1", "1e0"]),
        (1e-4, ["1e-4", "1e-3", "1e-2", "1e-1", "1e0"]),
        (1e-10, ["1e-10", "1e-8", "1e-6", "1e-4", "1e-2", "1e0"]),
    ],
)
def test_colour_bars_have_a_few_round_numbers(least: float, labels: list[str]) -> None:
    def damage(_: int, rows: dict[str, Array]) -> None:
        rows["grad_rms"][:6] = np.geomspace(least, 1, 6)

    figure = plot(history(damage=damage))
    check_readable(figure)
    ticks = panel(figure, "gradient (rms)").xaxis.get_major_ticks()
    assert [tick.label2.get_text() for tick in ticks] == labels


def test_rows_have_the_names_of_their_parameters() -> None:
    recorded = history(8)
    figure = plot(recorded)
    check_readable(figure)
    first, *others = maps(figure)
    labels = {tick.get_loc(): tick.label1.get_text() for tick in first.yaxis.get_major_ticks()}
    assert labels == {i + 0.5: name for i, name in enumerate(recorded.names)}
    assert all(len(axes.get_yticks()) == 0 for axes in others)


@pytest.mark.parametrize("count", [2, 40, 161, 300])
def test_as_many_names_are_shown_as_have_room(count: int) -> None:
    names = [f"layer{i // 50}.{i % 50}.conv.weight" for i in range(count)]
    figure = plot(history(count, 5, names=names, log=()))
    check_readable(figure)
    shown = [tick.label1.get_text() for tick in maps(figure)[0].yaxis.get_major_ticks()]
    every = names.index(shown[1]) - names.index(shown[0])
    assert shown == names[::every]
    assert len(shown) == count if count <= 40 else len(shown) >= 30
    assert figure.get_size_inches()[1] < 12


def test_long_names_keep_their_ends() -> None:
    figure = plot(history(12, names=LONG))
    check_readable(figure)
    texts = [tick.label1.get_text() for tick in maps(figure)[0].yaxis.get_major_ticks()]
    assert all(len(text) == 32 for text in texts)
    assert [text[-2:] for text in texts] == [name[-2:] for name in LONG]
    assert maps(figure)[0].bbox.width > 0.15 * figure.bbox.width


@pytest.mark.parametrize("log", [(), ("loss",)])
def test_nothing_observed_makes_an_empty_figure_that_says_so(log: tuple[str, ...]) -> None:
    recorded = history(points=1, log=log)
    nothing = slice(0, 0)
    recorded = History(
        recorded.leaves,
        recorded.groups,
        recorded.steps[nothing],
        recorded.rows[nothing],
        recorded.option_names,
        recorded.option_values[nothing],
        recorded.logged,
        recorded.constants,
    )
    figure = plot(recorded)
    assert "nothing observed yet" in heading(figure)
    assert titles(figure) == (["logged values"] if log else [])
    figure.savefig(null := _Null(), format="png")
    assert null.size > 1000


def test_one_point_is_visible() -> None:
    figure = plot(history(3, 1, log=("loss", "accuracy")))
    check_readable(figure)
    assert heading(figure).startswith("step 1 ")
    assert line(panel(figure, "successive updates"), "cosine").get_marker() == "."
    assert maps(figure)[0].images[0].get_extent()[:2] == (0.5, 1.5)


def test_one_parameter_has_lines_in_the_place_of_maps() -> None:
    recorded = history(1, names=["param"])
    figure = plot(recorded)
    check_readable(figure)
    assert not maps(figure)
    axes = panel(figure, "root mean squares")
    assert np.array_equal(line(axes, "gradient").get_ydata(), recorded["grad_rms"][:, 0])
    assert "1 parameter " in heading(figure)


def test_zeros_missing_values_and_infinities_have_colours_of_their_own() -> None:
    def damage(_: int, rows: dict[str, Array]) -> None:
        rows["grad_rms"][:3] = 0, np.nan, np.nan
        rows["update_rms"][:3] = 0, 0, np.nan
        rows["update_ratio"][:3] = 0, 0, np.inf
        rows["zero_grad"][:2] = 1, np.nan
        rows["nonfinite_grad"][:3] = 0, np.nan, 0.5

    figure = plot(history(damage=damage))
    check_readable(figure)
    gradient, update, ratio = (axes.images[1].get_array()[:4, 0].tolist() for axes in maps(figure))
    assert gradient == [0, 2, 1, None]
    assert update == [0, 0, 1, None]
    assert ratio == [0, 0, 1, None]
    entries = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert entries[:2] == ["zero", "NaN or infinite"]
    assert entries[2].startswith("no value")


def test_a_ratio_to_a_parameter_of_zero_is_no_value() -> None:
    def damage(i: int, rows: dict[str, Array]) -> None:
        if i == 0:
            rows["param_rms"][0], rows["update_ratio"][0] = 0, np.inf

    figure = plot(history(damage=damage))
    assert maps(figure)[2].images[1].get_array()[0].tolist() == [2, *[None] * 29]
    assert maps(figure)[1].images[1].get_array().mask.all()


def everything(value: float, *names: str) -> Any:
    def damage(_: int, rows: dict[str, Array]) -> None:
        for name in names or rows:
            rows[name][:] = value

    return damage


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("leaves", [1, 5])
def test_any_number_everywhere_can_be_drawn(value: float, leaves: int) -> None:
    recorded = history(leaves, damage=everything(value), log=())
    figure = plot(recorded)
    figure.savefig(null := _Null(), format="png")
    assert null.size > 1000


def test_colours_span_at_most_twelve_decades() -> None:
    def damage(_: int, rows: dict[str, Array]) -> None:
        rows["grad_rms"][:2] = 1e-300, 1.0

    figure = plot(history(damage=damage))
    check_readable(figure)
    low, high = maps(figure)[0].images[0].get_clim()
    assert high / low == pytest.approx(1e12)


def crosses_of(axes: Any) -> list[Any]:
    return [one for one in axes.lines if one.get_marker() == "x"]


def test_values_that_are_not_finite_are_crossed_and_the_legend_says_so() -> None:
    recorded = history(log=("loss", "val/loss", "accuracy"))
    recorded.logged["loss"].values[20:] = np.nan
    recorded.logged["val/loss"].values[3] = np.inf
    figure = plot(recorded)
    check_readable(figure)
    axes = panel(figure, "logged values")
    of_loss, other = crosses_of(axes)
    assert of_loss.get_xdata()[0] == recorded.steps[20]
    assert of_loss.get_xdata().tolist() == recorded.steps[20:].tolist()[: len(of_loss.get_xdata())]
    assert other.get_xdata().tolist() == [recorded.steps[3]]
    assert of_loss.get_ydata()[0] < other.get_ydata()[0] < 0.2
    assert of_loss.get_linestyle() == other.get_linestyle() == "None"
    assert np.isfinite(line(axes, "loss").get_ydata()).sum() == 20
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["loss", "val/loss", "accuracy", "NaN or infinite"]
    assert not crosses_of(panel(plot(history()), "logged values"))


def test_crosses_are_apart() -> None:
    recorded = history(2, 2000)
    recorded.logged["loss"].values[1000:] = np.nan
    figure = plot(recorded)
    (crosses,) = crosses_of(panel(figure, "logged values"))
    steps = crosses.get_xdata()
    assert 14 <= len(steps) <= 16
    assert np.diff(steps)[:-1].min() > 0.03 * recorded.steps[-1]


def test_updates_that_are_nan_have_no_share_of_reversed_ones() -> None:
    def damage(i: int, rows: dict[str, Array]) -> None:
        if i >= 20:
            rows["cosine"][:] = np.nan
            rows["reversed"][:] = 0 if i < 30 else 0.5

    share = line(panel(plot(history(damage=damage)), "successive updates"), "share reversed")
    assert np.isnan(share.get_ydata()).nonzero()[0].tolist() == [*range(20, 30)]


def test_many_logged_values_are_limited() -> None:
    names = [f"metric/with/a/long/name/{i}" for i in range(20)]
    figure = plot(history(log=names))
    check_readable(figure)
    axes = panel(figure, "logged values (12 more are not shown)")
    assert len(axes.get_legend().get_texts()) == 8


def test_values_unlike_the_loss_have_an_axis_of_their_own() -> None:
    def right(*log: str) -> list[list[str]]:
        figure = plot(history(log=log))
        check_readable(figure)
        left = panel(figure, "logged values")
        both = [a for a in figure.axes if a.get_position().bounds == left.get_position().bounds]
        return [[one.get_label() for one in axes.lines] for axes in both]

    assert right("accuracy", "loss", "val/loss") == [["loss", "val/loss"], ["accuracy"]]
    assert right("reward", "entropy") == [["reward"], ["entropy"]]
    assert right("loss", "val_loss") == [["loss", "val_loss"]]


def test_groups_of_the_same_name_can_be_drawn() -> None:
    recorded = history(groups=("same", "same"), lr=lambda step: 0.1 / step)
    recorded.option_values[:, 0, 1] *= 0.1
    assert len(panel(plot(recorded), "options").lines) == 2


def test_groups_that_differ_have_lines_of_their_own() -> None:
    recorded = history(groups=("trunk", "head"), lr=lambda step: 0.1 / step)
    recorded.option_values[:, 0, 1] *= 0.1
    axes = panel(plot(recorded), "options")
    assert np.array_equal(line(axes, "lr of trunk").get_ydata(), recorded.option("lr")[:, 0])
    assert np.array_equal(line(axes, "lr of head").get_ydata(), recorded.option("lr")[:, 1])


def test_clipping_that_varies_is_an_option() -> None:
    def damage(i: int, rows: dict[str, Array]) -> None:
        rows["clip_factor"][:] = 1 / (1 + i)

    assert line(panel(plot(history(damage=damage)), "options"), "clip factor")


@pytest.mark.parametrize(
    ("lr", "scale"),
    [
        (lambda step: 1.0 - step / 300, "linear"),
        (lambda step: 0.9**step, "log"),
        (lambda step: 0.1 ** (1 + step // 100), "log"),
    ],
)
def test_an_axis_is_logarithmic_where_a_linear_one_would_show_little(lr: Any, scale: str) -> None:
    figure = plot(history(lr=lr))
    assert panel(figure, "options").get_yscale() == scale
    check_readable(figure)


def test_steps_that_a_loaded_checkpoint_undid_are_left_out() -> None:
    recorded = history(steps=[1, 11, 21, 31, 11, 21])
    recorded.logged["loss"].values[:] = np.arange(6)
    figure = plot(recorded)
    check_readable(figure)
    loss = line(panel(figure, "logged values"), "loss")
    assert loss.get_xdata().tolist() == [1, 11, 21]
    assert loss.get_ydata().tolist() == [0, 4, 5]
    assert np.array_equal(maps(figure)[0].images[0].get_array(), recorded["grad_rms"][[0, 4, 5]].T)


def test_a_million_steps_are_labelled_shortly() -> None:
    figure = plot(history(points=200, every=5000))
    check_readable(figure)
    texts = [tick.label1.get_text() for tick in maps(figure)[0].xaxis.get_major_ticks()]
    assert {"250k", "750k", "1M"} <= set(texts)


def test_many_points_are_thinned() -> None:
    figure = plot(history(3, 5000))
    loss = line(panel(figure, "logged values"), "loss")
    assert len(loss.get_xdata()) == 1000
    assert loss.get_xdata()[-1] == 49_991
    assert maps(figure)[0].images[0].get_array().shape == (3, 1000)


def test_a_given_figure_is_drawn_into_and_keeps_its_size() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6))
    assert plot(history(), figure=figure) is figure
    before = titles(figure)
    assert plot(history(), figure) is figure
    assert titles(figure) == before
    assert figure.get_size_inches().tolist() == [8, 6]
    check_readable(figure)


def test_only_a_figure_is_drawn_into(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    for given, instead in (
        ("x.png", r"to save it: monitor.plot\(\).savefig\('x.png'\)"),
        (tmp_path / "x.png", r"monitor.plot\(\).savefig\('.*x.png'\)"),
        (axes, "several panels, so pass a figure or a subfigure, not axes"),
        (3, "got 3; None makes a new one"),
    ):
        with pytest.raises(TypeError, match=f"plot draws into a Matplotlib figure, .*{instead}"):
            plot(history(), given)
    assert axes.figure.axes == [axes]


def test_a_figure_can_be_part_of_another() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12), layout="constrained")
    upper: Any = figure.subfigures(2, 1)
    plot(history(), figure=upper[0])
    check_readable(figure)


def test_the_figure_can_be_pickled() -> None:
    figure = pickle.loads(pickle.dumps(plot(history())))
    check_readable(figure)


def test_notebooks_show_the_figure_without_pyplot() -> None:
    figure = plot(history())
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert png(history()).startswith(b"\x89PNG")


def test_pyplot_shows_the_figure_only_if_the_program_uses_it() -> None:
    run_python(
        """
        import sys
        sys.path.insert(0, "tests/support")
        import matplotlib
        matplotlib.use("agg")
        from fused_rmsprop.monitor.pictures.plotting import plot, png
        from pictures_support import history
        plot(history())
        assert "matplotlib.pyplot" not in sys.modules
        from matplotlib import pyplot
        assert pyplot.get_fignums() == []
        figure = plot(history())
        assert pyplot.figure(pyplot.get_fignums()[0]) is figure
        png(history())
        assert len(pyplot.get_fignums()) == 1
        matplotlib.get_backend = lambda: "module://matplotlib_inline.backend_inline"
        plot(history())
        assert len(pyplot.get_fignums()) == 1
        """
    )


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fused_rmsprop.monitor.pictures.figure", None)
    monkeypatch.delattr("fused_rmsprop.monitor.pictures.figure", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'fused-rmsprop\[monitor\]'"):
        plot(history())
