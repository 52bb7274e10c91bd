"""The suite's plots, as SVG; they need matplotlib."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from suite import Figures

PLOTS: dict[str, tuple[str, str, str, bool, bool]] = {
    "latency-local": ("Local requests", "load, % of full", "latency, ms", False, True),
    "latency-remote": ("Requests to another process", "load, % of full", "latency, ms", False, True),
    "hosts": ("Small profile by number of hosts", "hosts, a process each", "operations a second", False, False),
    "workers": ("Three hosts by number of workers", "workers on each host", "operations a second", True, False),
    "actors": ("Throughput by number of actors", "actors alive", "operations a second", True, False),
    "frames": ("Cost of a frame by its size", "size of a message, KiB", "sender's CPU, us per MiB", True, False),
}
"""By name: title, both axes, and which of them are logarithmic."""


def draw(figures: Figures, folder: Path) -> list[str]:
    """Draw what there are points for; return the names of the files."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file, and text stays text.
    mpl.rcParams.update({"svg.hashsalt": "theatre_gevent", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    lines: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for plot, line, build, x, y in figures.points:
        lines[plot][line, build].append((x, y))
    made = []
    for plot, found in lines.items():
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        if plot == "loadtest":
            bars(axes, found)
        else:
            title, horizontal, vertical, log_x, log_y = PLOTS[plot]
            colours: dict[str, str] = {}
            for (line, build), points in found.items():
                colour = colours.setdefault(line, f"C{len(colours)}")
                style = "-o" if build == "compiled" else "--s"
                axes.plot(*zip(*sorted(points), strict=True), style, color=colour, label=f"{line}, {build}")
            axes.set(title=title, xlabel=horizontal, ylabel=vertical)
            axes.set_xscale("log" if log_x else "linear")
            axes.set_yscale("log" if log_y else "linear")
            if not log_y:
                axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(folder / f"{plot}.svg", metadata={"Date": None})
        plt.close(figure)
        made.append(f"{plot}.svg")
    return made


def bars(axes: object, found: dict[tuple[str, str], list[tuple[float, float]]]) -> None:
    """Draw the load test's rows, both builds side by side."""
    names = list(dict.fromkeys(name for name, _ in found))
    builds = list(dict.fromkeys(build for _, build in found))
    height = 0.8 / len(builds)
    for number, build in enumerate(builds):
        places = [names.index(name) + (number - (len(builds) - 1) / 2) * height for name, b in found if b == build]
        values = [points[0][1] for (_, b), points in found.items() if b == build]
        axes.barh(places, values, height, label=build)  # type: ignore[attr-defined]
    axes.set_yticks(range(len(names)), names)  # type: ignore[attr-defined]
    axes.invert_yaxis()  # type: ignore[attr-defined]
    axes.set(title="Load test", xlabel="operations a second")  # type: ignore[attr-defined]
    axes.legend()  # type: ignore[attr-defined]
