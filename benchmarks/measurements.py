"""The measured figures of pocket, a file for each kind of processor, and their tables in README, docs and the weights' card.

    python -m benchmarks.rtf --out measurements/pocket-avx2.json                          # measure; each benchmark adds its part
    python -m benchmarks.latency --engine pocket --out measurements/pocket-avx2.json
    python -m benchmarks.measurements                                                     # write the tables of the documents anew

A test fails where a document says something else than the files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avatar_rtc import resources
from benchmarks import machine

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "measurements" / "pocket-avx512-bf16.json", ROOT / "measurements" / "pocket-avx2.json")
NETWORKS = ROOT / "measurements" / "networks-avx2.json"
"""Of networks alone, on a processor that has AVX2 and no more by itself."""
README, CARD = ROOT / "README.md", ROOT / "model" / "weights" / "pocket" / "card.md"
MEASURING, TRAINING, DEPLOYMENT = (ROOT / "docs" / f"{name}.md" for name in ("measuring", "training", "deployment"))
CLUSTER = ROOT / "measurements" / "cluster.json"
BEGIN, END = "<!-- measurements: begin -->", "<!-- measurements: end -->"
SHIPPED, BASELINE = "OpenVINO as shipped", "torch float32"

Part = dict[str, Any]
Say = Callable[[Part], str]


def keep(path: Path, name: str, result: Part, num_threads: int | None = None) -> None:
    """Put what one benchmark measured into a file of figures, with the date and the machine.

    Raises:
        SystemExit: the file holds figures of another processor.
    """
    described = result.pop("machine", None) or machine.describe(num_threads or resources.num_cores())
    figures = json.loads(path.read_text()) if path.exists() else {}
    for other in figures.values():
        if any(other["machine"][key] != described[key] for key in ("processor", "instruction_sets", "limits")):
            raise SystemExit(
                f"{path} holds figures of {machine.headline(other['machine'])};\nthis is {machine.headline(described)}.\n"
                "Choose another file, or delete that one to measure everything anew."
            )
    figures[name] = {"measured": datetime.date.today().isoformat(), "command": _command(name), "machine": described, **result}
    path.write_text(json.dumps(figures, indent=1) + "\n")


def _command(name: str) -> str:
    shown = [argument for argument in sys.argv[1:] if not argument.endswith(".json") and argument != "--out"]
    if "--judge-python" in shown:
        shown[shown.index("--judge-python") + 1] = "PYTHON"  # wherever it lies
    return " ".join(["python -m", f"benchmarks.{name}", *shown])


def _call(part: Part, runtime: str = SHIPPED) -> Part:
    one: Part = part["calls"][runtime][0]
    return one


def _factor(values: dict[str, float]) -> str:
    return f"{values['p95']:.2f} (p50 {values['p50']:.2f})"


def _held(rows: list[Part]) -> str:
    return str(sum(not row["underruns"] and not row["dropped_frames"] for row in rows) or "none")


def _seconds(part: Part) -> str:
    names = ("call_to_frame_ms", "text_to_frame_ms", "interrupt_ms")
    return "; ".join(f"{part[name]['p95'] / 1000:.2f} s" for name in names if name in part)


def _endurance(part: Part) -> str:
    apart_s, memory = abs(part["video_s"] - part["audio_s"]), part["memory_mb"]
    return f"{part['underruns']}; {apart_s:.3f} s; {max(memory['first'])} MB at first, {max(memory['last'])} at last"


def _two_calls(part: Part) -> str:
    own, other = max(row["wer_own"] for row in part["calls"].values()), min(row["wer_other"] for row in part["calls"].values())
    underruns = sum(row["underruns"] for row in part["calls"].values())
    return f"words wrong: {own:.0%} of their own, {other:.0%} of the other's; {underruns} underruns"


def _lips(part: Part) -> str:
    row = part["all"]
    return f"{row['best_lag_ms']} ms; {row['correlation']:.2f}, {row['shuffled']:.2f}; {row['open_silent']:.0%}"


# What, bar, part of the file, how it reads, command.
ROWS: tuple[tuple[str, str, str, Say, str], ...] = (
    ("real-time factor p95, engine and VP8 encoder together", "0.6 (AVX2: 0.95)", "rtf",
     lambda part: _factor(_call(part)["rtf_together"]), "python -m benchmarks.rtf"),
    ("the same in eager PyTorch, which it began with", "", "rtf",
     lambda part: _factor(_call(part, BASELINE)["rtf_together"]), "the same"),
    ("calls at once on two cores, 30 s each, without an underrun; in eager PyTorch", "", "rtf",
     lambda part: f"{_held(part['calls'][SHIPPED])}; {_held(part['calls'][BASELINE])}", "the same"),
    ("p95 in Chromium: click to first picture; text to first speaking picture; interruption to silence", "1.0 s; 1.0 s; 0.52 s",
     "latency", _seconds, "python -m benchmarks.latency --engine pocket"),
    ("words that a recogniser gets wrong, of 20 sentences that training never saw, each recorded in a call", "10 %", "speech",
     lambda part: f"{100 * part['wer']:.1f} %", "python -m benchmarks.speech --judge-python PYTHON"),
    ("DistilMOS of the same recordings", "3.0", "speech", lambda part: f"{part['mos']:.2f}", "the same"),
    ("ten-minute call, recording client on the same cores: underruns; track lengths apart by; memory of the engine",
     "0; 0.04 s; flat", "endurance", _endurance, "python -m benchmarks.endurance --minutes 10.1"),
    ("two calls at once on the same two cores: each hears only its own lines", "yes", "two_calls", _two_calls,
     "python -m benchmarks.two_calls"),
    ("mouth against voice in recorded calls: best lag; correlation, shuffled; open in silence",
     "within 80 ms; clearly less; closed", "lips", _lips, "python -m benchmarks.lips"),
    ("flash against beep on the rendered page, pictures sent 200 ms late, p95", "80 ms", "skew",
     lambda part: f"{part['skew_ms']['abs_p95']:.0f} ms", "python -m benchmarks.skew"),
)  # fmt: skip

# What, part of the file, one number of it.
HEADLINES: tuple[tuple[str, str, Say], ...] = (
    ("real-time factor of a call, VP8 included, p95", "rtf", lambda part: f"{_call(part)['rtf_together']['p95']:.2f}"),
    ("text to the first speaking picture in Chromium, p95", "latency",
     lambda part: f"{part['text_to_frame_ms']['p95'] / 1000:.1f} s"),
    ("interruption to silence, p95", "latency", lambda part: f"{part['interrupt_ms']['p95'] / 1000:.2f} s"),
    ("words that a recogniser gets wrong, of 20 unseen sentences", "speech", lambda part: f"{100 * part['wer']:.1f} %"),
    ("mouth behind voice", "lips", lambda part: f"{part['all']['best_lag_ms']} ms"),
)  # fmt: skip

CARD_ROWS: tuple[tuple[str, str, Say], ...] = (
    ("word error rate, whisper-base, 20 unseen sentences, each recorded in a call, eight looks and four voices "
     "(`python -m benchmarks.speech`)", "speech", lambda part: f"{100 * part['wer']:.1f} %"),
    ("DistilMOS of those recordings", "speech", lambda part: f"{part['mos']:.2f}"),
    ("mouth against voice in those looks (`python -m benchmarks.lips`): best lag; correlation, shuffled; open in silence", "lips",
     _lips),
    ("real-time factor p95, one call, engine alone (`python -m benchmarks.rtf`)", "rtf",
     lambda part: _factor(_call(part)["rtf_engine"])),
)  # fmt: skip


def read() -> list[dict[str, Part]]:
    """Figures of each kind of processor, best first; none where nothing was measured."""
    return [json.loads(path.read_text()) for path in FILES if path.exists()]


def _cell(figures: dict[str, Part], part: str, say: Say) -> str:
    return say(figures[part]) if part in figures else "not measured"


def _heading(figures: dict[str, Part]) -> str:
    described: Part = next(iter(figures.values()))["machine"]
    return f"{described['cores']} cores of {described['processor']}, {described['instruction_sets'][-1]}"


def _speeds(figures: dict[str, Part]) -> str:
    measured = figures["rtf"]["machine"] if "rtf" in figures else {}
    if measured.get("float32_gflops") is None:
        return "not measured"
    return f"{measured['float32_gflops']:.0f} GFLOP/s" + (f", load {measured['load']}" if "load" in measured else "")


def _dates(figures: dict[str, Part]) -> str:
    days = sorted({part["measured"] for part in figures.values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def headline_table() -> str:
    """Five figures, in the README."""
    every = read()
    lines = [f"| | {' | '.join(map(_heading, every))} |", "|---|" + "---|" * len(every)]
    lines += [f"| {what} | {' | '.join(_cell(figures, part, say) for figures in every)} |" for what, part, say in HEADLINES]
    return "\n".join([*lines, f"| measured on | {' | '.join(map(_dates, every))} |"])


def full_table() -> str:
    """All of pocket, with bars and commands, of all processors that were measured."""
    every = read()
    lines = [
        f"| what | bar | {' | '.join(map(_heading, every))} | command |",
        "|---|---|" + "---|" * len(every) + "---|",
        f"| measured on | | {' | '.join(map(_dates, every))} | |",
        f"| products in float32 on two threads; load before the first row was measured | | {' | '.join(map(_speeds, every))} | |",
    ]
    for what, bar, part, say, command in ROWS:
        cells = " | ".join(_cell(figures, part, say) for figures in every)
        lines.append(f"| {what} | {bar} | {cells} | {command if command == 'the same' else f'`{command}`'} |")
    return "\n".join(lines)


def card_table() -> str:
    """The table of results in the weights' card."""
    every = read()
    lines = [f"| what | {' | '.join(map(_heading, every))} |", "|---|" + "---|" * len(every)]
    lines.append(f"| measured on | {' | '.join(map(_dates, every))} |")
    lines += [f"| {what} | {' | '.join(_cell(figures, part, say) for figures in every)} |" for what, part, say in CARD_ROWS]
    return "\n".join(lines)


def networks_table() -> str:
    """What smaller networks cost, in the guide to training."""
    measured = [figures for figures in (*read(), json.loads(NETWORKS.read_text())) if "networks" in figures]
    lines = [
        f"| video tokens a block, passes | {' | '.join(f'{_heading(figures)}, p50 (p95)' for figures in measured)} |",
        "|---|" + "---|" * len(measured),
    ]
    for name in dict.fromkeys(name for figures in measured for name in figures["networks"]["networks"]):
        rows = [figures["networks"]["networks"].get(name) for figures in measured]
        cells = (f"{row['rtf_together']['p50']:.2f} ({row['rtf_together']['p95']:.2f})" if row else "" for row in rows)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    speeds = [f"{figures['networks']['machine']['float32_gflops']:.0f} GFLOP/s" for figures in measured]
    lines.append(f"| products in float32 meanwhile | {' | '.join(speeds)} |")
    return "\n".join(lines)


# Of each call in a cluster, or all together: what, which figure of it, head.
CALLS = (
    ("join_ms", "p50", "join p50, ms"),
    ("join_ms", "p95", "p95"),
    ("first_voice_ms", "p50", "first voice p50, ms"),
    ("first_voice_ms", "p95", "p95"),
    ("skew_ms", "p50", "skew p50, ms"),
    ("skew_ms", "p95", "p95"),
    ("freezes", "max", "most freezes of a call"),
    ("underruns", "max", "underruns"),
)


def calls_table(rows: list[Part]) -> str:
    """Calls on one, two and three machines."""
    heads = ["machines", "calls", "completed", *(head for _, _, head in CALLS), "callers' share of the cores"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        figures = [f"{row['percentiles'].get(name, {}).get(key, 0):.0f}" for name, key, _ in CALLS]
        cells = [str(row["machines"]), str(row["calls"]), str(row["statuses"].get("completed", 0)), *figures]
        lines.append(f"| {' | '.join(cells)} | {row['own']['cpu_share']:.0%} |")
    return "\n".join(lines)


def _rolling(part: Part) -> str:
    lost = f"{len(part['broken'])} broken off, {part['begun_anew']} begun anew"
    return (
        f"{part['moved']} moves, {lost}; {part['words_heard']} of {part['words_sent']} words heard; away {_away(part['away_s'])}"
    )


def _away(away_s: dict[str, float]) -> str:
    return f"{away_s['p50']:.1f} s at the median, {away_s['p100']:.1f} at most" if away_s else "never"


def _lost_nodes(part: Part) -> str:
    outcomes, back_s = part["outcomes"], part["back_s"]
    killed = sum(count for name, count in outcomes.items() if name.startswith("killed"))
    strange = outcomes.get("unknown to its node", 0), len(part["touched"]), outcomes.get("never came back", 0)
    return (
        f"{outcomes['joined']} joins, {killed} nodes killed; {part['most_sessions_of_a_node']} sessions at most on a node of "
        f"{part['seats']} seats; {strange[0]} calls unknown to their node, {strange[1]} touched whose node was not killed; "
        f"{back_s['count']} back after {back_s['p50']} s at the median, {back_s['max']} at most, {strange[2]} never"
    )


def _front_door(part: Part) -> str:
    return "; ".join(f"{name} {value:.1f} ms" for name, value in part["own_ms"].items())


# What of a cluster, bar, part of the file, how it reads.
CLUSTER_ROWS: tuple[tuple[str, str, str, Say], ...] = (
    ("three machines restarted one after the other under calls", "none lost, all words heard", "rolling", _rolling),
    ("machines killed and started again under callers that come and go", "no seat twice, nobody touched, back within 6 s",
     "lost_nodes", _lost_nodes),
    ("what a front door adds to a join", "below 15 ms", "front_door", _front_door),
)  # fmt: skip


def cluster_table() -> str:
    """What a cluster did on one machine, in the guide to deployment."""
    figures: dict[str, Part] = json.loads(CLUSTER.read_text())
    loads = sorted(part["machine"]["load"] for part in figures.values())
    lines = [
        f"On {_heading(figures)}, which all machines, callers, the fake engine and others' work share (load {loads[0]} to "
        f"{loads[-1]} before; {_dates(figures)}; `{figures['cluster']['command']}`):",
        "",
        calls_table(figures["cluster"]["rows"]),
        "",
        "| what | bar | measured | command |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {what} | {bar} | {say(figures[part])} | `{figures[part]['command']}` |"
        for what, bar, part, say in CLUSTER_ROWS
        if part in figures
    ]
    return "\n".join(lines)


TABLES: dict[Path, Callable[[], str]] = {
    README: headline_table,
    MEASURING: full_table,
    CARD: card_table,
    TRAINING: networks_table,
    DEPLOYMENT: cluster_table,
}


def renewed(path: Path) -> str:
    """The text of a document with its table as the files have it."""
    before, _, rest = path.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{TABLES[path]()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path in TABLES:
        path.write_text(renewed(path))
        print(f"wrote the table of {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
