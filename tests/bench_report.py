"""What tests/bench makes of its figures: results.json, the tables of docs/benchmarks.md and a plot."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench_contenders import KINDS
from bench_rows import Figure
from live_service import ROOT

DOCUMENT = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
OURS = "ours"
BESIDE = ("floor", "tonic", "python", "typescript", "ccproxy")
COLOURS = {
    "floor": "#9aa0a6",
    "tonic": "#c5c9ce",
    "ours": "#1a73e8",
    "python": "#f9ab00",
    "typescript": "#34a853",
    "ccproxy": "#d93025",
}


@dataclass
class Report:
    """One run."""

    figures: list[Figure]
    versions: dict[str, str]
    left_out: dict[str, str]
    clis: list[str]
    seconds: float
    rows: list[str]
    rounds: int

    def names(self) -> list[str]:
        used = {name for figure in self.figures for name in (*figure.values, *figure.failed)}
        return [name for name in KINDS if name in used]

    def head(self) -> dict[str, Any]:
        commit = ["git", "rev-parse", "--short=12", "HEAD"]
        done = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=False)
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "commit": done.stdout.strip() or "unknown",
            "machine": machine(),
            "versions": self.versions,
            "clis": self.clis,
            "left_out": self.left_out,
            "rounds": self.rounds,
            "rows": self.rows,
            "seconds": round(self.seconds),
        }

    def as_json(self) -> str:
        figures = []
        for figure in self.figures:
            summaries = {name: figure.summary(name) for name in figure.values if figure.values[name]}
            figures.append(
                {
                    "row": figure.row,
                    "name": figure.name.strip(),
                    "unit": figure.unit,
                    "better": "less" if figure.less else "more",
                    "contenders": summaries,
                    "failed": figure.failed,
                    "service_to": ratios(figure),
                }
            )
        return json.dumps(self.head() | {"figures": figures}, indent=1) + "\n"

    def markdown(self) -> str:
        """The part of the document between its two comments."""
        head, names = self.head(), self.names()
        versions = ", ".join(
            f"{KINDS[name].title} {head['versions'][name]}"
            for name in ("python", "typescript", "ccproxy")
            if name in head["versions"]
        )
        about = (
            f"Taken on {head['date']} at commit `{head['commit']}` in {head['seconds'] // 60} min "
            f"{head['seconds'] % 60} s on {head['machine']}. Beside the service {package_version()}: "
            f"{versions or 'no other'}; Claude CLI {' and '.join(self.clis)}."
        )
        parts = [about]
        parts += [f"Left out: {KINDS[name].title} ({reason})." for name, reason in self.left_out.items()]
        parts.append("![The medians of all of them, in bars](benchmarks.svg)")
        parts.append("\n".join(table(self.figures, names)))
        parts.append(
            "The service's median as a multiple of the others'; of rates, theirs as a multiple of the "
            "service's. Below 1 the service is better."
        )
        parts.append("\n".join(ratio_table(self.figures, self.names())))
        if notes := [
            f"- {figure.name.strip()}, {KINDS[name].title}: {why}"
            for figure in self.figures
            for name, why in figure.failed.items()
        ]:
            parts.append("Not carried out to the end:\n\n" + "\n".join(notes))
        return "\n\n".join(parts)


def package_version() -> str:
    lines = (ROOT / "Cargo.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version"))


def machine() -> str:
    """Processor, cores, memory and kernel, without names of hosts."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores of {model}, {pages / 2**30:.0f} GiB, Linux {kernel}"


def short(value: float) -> str:
    """Three digits, or all that are before the point."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "?"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def cell(figure: Figure, name: str) -> str:
    if not figure.values.get(name):
        return "fails" if name in figure.failed else ""
    summary = figure.summary(name)
    middle, low, high = (short(summary[key]) for key in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def named(figure: Figure) -> str:
    return f"{figure.name.strip()}, {figure.unit}" if figure.unit else figure.name.strip()


def table(figures: list[Figure], names: list[str]) -> list[str]:
    lines = ["| | " + " | ".join(KINDS[name].title for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for figure in figures:
        cells = [cell(figure, name) for name in names]
        lines.append(f"| {named(figure)} | " + " | ".join(cells) + " |")
    return lines


def ratios(figure: Figure) -> dict[str, float]:
    """The service beside others; below 1 it is better."""
    if not figure.values.get(OURS):
        return {}
    mine, found = figure.summary(OURS)["median"], {}
    for name in BESIDE:
        if figure.values.get(name):
            theirs = figure.summary(name)["median"]
            above, below = (mine, theirs) if figure.less else (theirs, mine)
            if below > 0:
                found[name] = above / below
    return found


def ratio_table(figures: list[Figure], names: list[str]) -> list[str]:
    names = [name for name in BESIDE if name in names]
    lines = ["| | " + " | ".join(KINDS[name].title for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for figure in figures:
        if found := ratios(figure):
            cells = [short(found[name]) if name in found else "" for name in names]
            lines.append(f"| {figure.name.strip()} | " + " | ".join(cells) + " |")
    return lines


def plot(figures: list[Figure]) -> str:
    """An SVG: for each figure a bar for each contender, on a scale of powers of ten of its own."""
    width, left, right, bar, gap = 960, 330, 90, 11, 12
    parts: list[str] = []
    y = 34
    for figure in figures:
        names = [name for name in COLOURS if figure.values.get(name)]
        if OURS not in names or len(names) < 2:
            continue
        middles = {name: figure.summary(name)["median"] for name in names}
        positive = [value for value in middles.values() if value > 0]
        if not positive:
            continue
        low, high = math.log10(min(positive)) - 0.3, math.log10(max(positive))
        better = "less is better" if figure.less else "more is better"
        parts.append(text(left - 10, y + bar * len(names) / 2 - 2, named(figure), "end", weight="bold"))
        parts.append(text(left - 10, y + bar * len(names) / 2 + 11, better, "end", colour="#5f6368"))
        for name in names:
            value = middles[name]
            part = (math.log10(value) - low) / (high - low) if value > 0 and high > low else 0.0
            length = max(2.0, part * (width - left - right))
            parts.append(
                f'<rect x="{left}" y="{y:.0f}" width="{length:.1f}" height="{bar - 2}" '
                f'fill="{COLOURS[name]}"/>'
            )
            parts.append(text(left + length + 5, y + bar - 3, short(value)))
            y += bar
        y += gap
    x = left
    for name, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="10" width="10" height="10" fill="{colour}"/>')
        parts.append(text(x + 14, 19, KINDS[name].title))
        x += 100
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" font-size="10">\n'
        f'<rect width="{width}" height="{y}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(
    x: float, y: float, words: str, anchor: str = "start", *, weight: str = "normal", colour: str = "#202124"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def write(report: Report, folder: Path, into_document: bool) -> None:
    """Leaves all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(report.as_json())
    (folder / "results.svg").write_text(plot(report.figures))
    made = report.markdown()
    (folder / "results.md").write_text(made + "\n")
    if into_document:
        DOCUMENT.with_suffix(".svg").write_text(plot(report.figures))
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")
