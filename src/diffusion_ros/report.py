"""report.html: how a run went, in one file that needs no network: outcome, episodes, videos, reasons to hold, delays,
and a replay in 3D.

Videos are inside, up to MOST_BYTES of them together; further ones are links to their files. Of the replays those are
inside that `replayed` chooses; the player, viser's page, is there once, and starts when somebody asks for it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.installation import explain
from diffusion_ros.simulators.scene_replay import read_replay, replay_path
from diffusion_ros.systems.observer import Stretch

MOST_BYTES = 64_000_000
"""Of the videos that are inside, before they are written as text, which takes a third more."""
MOST_REPLAYS, MOST_REPLAY_BYTES = 6, 3_000_000
"""Episodes that are replayed, and of their recordings as text. The player is another 2.8 MB."""
_STRIP_WIDTH, _STRIP_HEIGHT = 420, 18
_COLOURS = {"acting": "#2f9e5b", "holding": "#e39a1b"}
_DELAYS = "stamp to command"
"""Of a result's timings: from an observation's stamp to its command."""
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.outcome { font-size: 1.25rem; margin: .3rem 0 1rem; }
.note { border-left: 4px solid #e39a1b; padding: .2rem .8rem; margin: .4rem 0; }
table { border-collapse: collapse; } td, th { padding: .25rem .7rem; text-align: left; vertical-align: middle; }
th { font-weight: 600; border-bottom: 1px solid #8888; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #8883; }
.good { color: #2f9e5b; font-weight: 600; } .bad { color: #cf4436; font-weight: 600; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
.films video { width: 100%; border-radius: 4px; background: #000; } figure { margin: 0; }
figcaption { font-size: .9rem; } .key { display: inline-block; width: .9em; height: .9em; border-radius: 2px; }
code { font-size: .9em; } button { font: inherit; padding: .25rem .7rem; margin: 0 .3rem .4rem 0; }
button[aria-pressed=true] { outline: 2px solid #2f6fb4; }
iframe { display: block; width: 100%; height: 560px; border: 1px solid #8888; border-radius: 4px; }
"""
_PLAY = """
const text = id => JSON.parse(document.getElementById(id).textContent);
for (const button of document.querySelectorAll("[data-replay]")) {
  button.onclick = () => {
    const player = text("player");
    const frame = document.createElement("iframe");
    frame.title = button.textContent;
    frame.srcdoc = player[0] + text(button.dataset.replay) + player[1];
    document.getElementById("replay").replaceChildren(frame);
    for (const other of document.querySelectorAll("[data-replay]"))
      other.setAttribute("aria-pressed", other === button);
  };
}
"""
"""Each episode has a player of its own: one that is there already cannot be given another recording."""


def write_report(path: Path, title: str, result: Mapping[str, Any], strip: Sequence[Stretch]) -> None:
    """result: as the summary has it; strip: what the robot was seen to do. Raises OSError."""
    with atomic_write(path) as temporary:
        temporary.write_text(page(title, result, strip, path.parent))


def page(title: str, result: Mapping[str, Any], strip: Sequence[Stretch], folder: Path) -> str:
    """The page. folder: where it will be, for links to what is not inside."""
    results: Sequence[Mapping[str, Any]] = result["results"]
    interrupted = result.get("interrupted", "")
    notes = [f"Interrupted after {result['finished']} of {result['episodes']} episodes."] if interrupted else []
    notes += [f"{note[:1].upper()}{note[1:]}." for note in result.get("explanations", ())]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="outcome">{escape(str(result["outcome"]))}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        "<h2>Episodes</h2>",
        _episodes(results, strip),
        _legend(strip),
        *_delays(results),
        *_replays(results, folder),
        *_films(results, folder),
        "<h2>Settings</h2>",
        _settings(result),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n{body}\n'
        "</body></html>\n"
    )


def _verdict(result: Mapping[str, Any]) -> str:
    """How an episode ended, in a word or a number."""
    if "score" in result:
        return f"score {result['score']:.0f}"
    if "return" in result:
        return f"return {result['return']:.0f}"
    good = bool(result.get("success"))
    return f'<span class="{"good" if good else "bad"}">{"success" if good else "failed"}</span>'


def _episodes(results: Sequence[Mapping[str, Any]], strip: Sequence[Stretch]) -> str:
    held = any("held" in result for result in results)
    heads = ("episode", "seed", "outcome", "steps", *["held"] * held, "without command", "what the robot did")
    rows = []
    longest = max([int(result.get("steps", 0)) for result in results], default=0)
    for result in results:
        cells = (
            ("n", result["index"] + 1),
            ("n", result.get("seed", "")),
            ("", _verdict(result)),
            ("n", result.get("steps", "")),
            *[("n", result.get("held", ""))] * held,
            ("n", result.get("missed", "")),
            ("", _drawn([one for one in strip if one.index == result["index"]], int(result.get("steps", 0)), longest)),
        )
        rows.append("<tr>" + "".join(f'<td class="{kind}">{text}</td>' for kind, text in cells) + "</tr>")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _drawn(strip: Iterable[Stretch], steps: int, longest: int) -> str:
    """The strip of an episode; all have one scale."""
    scale = _STRIP_WIDTH / max(1, longest)
    bars = [f'<rect width="{steps * scale:.1f}" height="{_STRIP_HEIGHT}" fill="#8884"/>']
    for one in strip:
        text = f"{one.state}: {one.reason}" if one.reason else one.state
        width = max(1.0, (one.last - one.first) * scale)
        bars.append(
            f'<rect x="{one.first * scale:.1f}" width="{width:.1f}" height="{_STRIP_HEIGHT}"'
            f' fill="{_COLOURS[one.state]}"><title>steps {one.first} to {one.last}: {escape(text)}</title></rect>'
        )
    return f'<svg width="{_STRIP_WIDTH}" height="{_STRIP_HEIGHT}" role="img">{"".join(bars)}</svg>'


def _legend(strip: Sequence[Stretch]) -> str:
    keys = "; ".join(
        f'<span class="key" style="background:{colour}"></span> {state}' for state, colour in _COLOURS.items()
    )
    held: dict[str, int] = {}
    for one in strip:
        if one.state == "holding":
            reason = one.reason or "no reason was heard"
            held[reason] = held.get(reason, 0) + max(1, one.last - one.first)
    text = f"<p>{keys}, as it was seen a few times a second; the reason is under the pointer.</p>"
    if not held:
        return text
    rows = sorted(held.items(), key=lambda pair: -pair[1])[:12]
    listed = "".join(f'<tr><td class="n">{steps}</td><td>{escape(reason)}</td></tr>' for reason, steps in rows)
    return f"{text}<table><tr><th>steps, about</th><th>held because of</th></tr>{listed}</table>"


def _delays(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """From an observation to its command, an episode a row."""
    rows = []
    found = [(result["index"], result.get("timings_ms", {}).get(_DELAYS)) for result in results]
    timings = [(index, timing) for index, timing in found if timing]
    if not timings:
        return []
    most = max(timing["p99"] for _, timing in timings) or 1.0
    for index, timing in timings:
        bars = "".join(
            f'<rect width="{min(1.0, timing[name] / most) * _STRIP_WIDTH:.1f}" height="{_STRIP_HEIGHT}"'
            f' fill="{colour}"/>'
            for name, colour in (("p99", "#8cb8e8"), ("median", "#2f6fb4"))
        )
        numbers = "".join(f'<td class="n">{timing[name]:.1f}</td>' for name in ("median", "p99", "max"))
        drawing = f'<svg width="{_STRIP_WIDTH}" height="{_STRIP_HEIGHT}">{bars}</svg>'
        rows.append(f'<tr><td class="n">{index + 1}</td>{numbers}<td>{drawing}</td></tr>')
    head = "<tr><th>episode</th><th>median</th><th>99 %</th><th>longest</th><th>median, 99 %</th></tr>"
    return ["<h2>From an observation to its command [ms]</h2>", f"<table>{head}{''.join(rows)}</table>"]


def replayed(results: Sequence[Mapping[str, Any]], folder: Path) -> list[Mapping[str, Any]]:
    """Whose replays are worth the room, the first the most: the last that failed, the last that did not, and then from
    the end. Only those that there are."""
    there = [result for result in results if _replay_file(result, folder).is_file()]
    failed = [result for result in there if not result.get("success")]
    others = [result for result in there if result.get("success")]
    first = [*failed[-1:], *others[-1:]]
    return [*first, *(result for result in reversed(there) if result not in first)]


def _replay_file(result: Mapping[str, Any], folder: Path) -> Path:
    return replay_path(folder, int(result["index"]), int(result.get("seed", 0)))


def _replays(results: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Buttons, each for an episode, and what they play; in one line why not, where nothing can be played."""
    there = replayed(results, folder)
    chosen = there[:MOST_REPLAYS]
    if not chosen:
        return []
    head = "<h2>Replay in 3D</h2>"
    try:
        from diffusion_ros.web.replay import recordings  # here: viser is an extra

        player, made = recordings((read_replay(_replay_file(one, folder)) for one in chosen), MOST_REPLAY_BYTES)
    except ModuleNotFoundError as error:
        return [head, f"<p>None: {escape(explain(error))}; then run it again.</p>"]
    except Exception as error:  # viser's own, too: a report without a replay is still one
        return [head, f"<p>None: {escape(' '.join(str(error).split()))}</p>"]
    if player is None:
        return [head, f"<p>None: an episode takes more than {MOST_REPLAY_BYTES / 1e6:g} MB.</p>"]
    pairs = sorted(zip(chosen, made, strict=False), key=lambda pair: pair[0]["index"])
    buttons = "".join(
        f'<button type="button" data-replay="replay{one["index"]}" aria-pressed="false">'
        f"episode {one['index'] + 1}: {_verdict(one)}</button>"
        for one, _ in pairs
    )
    left = len(there) - len(pairs)
    said = f" The other {left} have no room here." if left > 0 else ""
    return [
        head,
        f"<p>Play, pause and the slider are below the picture; the mouse turns and moves it.{said}</p>",
        f'<div>{buttons}</div><div id="replay"></div>',
        _data("player", [player.before, player.after]),
        *(_data(f"replay{one['index']}", data) for one, data in pairs),
        f"<script>{_PLAY}</script>",
    ]


def _data(name: str, content: object) -> str:
    """What a script reads, and a browser does not run. `<` would begin a tag, or end the script."""
    text = json.dumps(content).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _films(results: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    left, films = MOST_BYTES, []
    for result in results:
        if not result.get("video"):
            continue
        path = Path(str(result["video"]))
        try:
            size = path.stat().st_size
            inside = size <= left
            content = base64.b64encode(path.read_bytes()).decode() if inside else ""
        except OSError:
            continue
        caption = f"episode {result['index'] + 1}, seed {result.get('seed', '')}: {_verdict(result)}"
        link = escape(os.path.relpath(path, folder))
        if inside:
            left -= size
            film = f'<video controls preload="metadata" src="data:video/mp4;base64,{content}"></video>'
        else:
            film = f'<a href="{link}">{link}</a>'
        films.append(f"<figure>{film}<figcaption>{caption}</figcaption></figure>")
    return ["<h2>Videos</h2>", f'<div class="films">{"".join(films)}</div>'] if films else []


def _said(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _settings(result: Mapping[str, Any]) -> str:
    hidden = ("results", "outcome", "explanations", "interrupted", "finished")
    rows = []
    for name, value in result.items():
        if name in hidden or value in ("", {}, None):
            continue
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {_said(one)}" for key, one in value.items())
        else:
            text = _said(value)
        rows.append(f"<tr><td>{escape(name)}</td><td><code>{escape(text)}</code></td></tr>")
    return f"<table>{''.join(rows)}</table>"
