"""Build the pages of damaged or hostile runs and recordings; each must stay one harmless, readable page.

    python -m tests.faults.pages --pages 100

Names, settings and metrics contain markup, template marks, huge values and NaN, or are missing. A page must have no
element, script or address that its undamaged form lacks, its JSON must be valid, and no number may be "nan" or "inf".
"""

import json
import logging
import os
import random
import re
import tempfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import mujoco
import numpy as np

from genpo_jax.config import Config
from genpo_jax.reporting.report_page import Player, report_page
from genpo_jax.runs.folder import CONFIG_FILE, HELD_OUT_FILE
from genpo_jax.runs.metrics import METRICS_FILE
from genpo_jax.viewing.play_page import play_page
from genpo_jax.viewing.recording import RecordedEpisode, Recording
from tests.faults.program import run_campaign

# Elements and attributes that only the hostile texts contain.
HOSTILE = ("evil", "onerror", "onload", "javascript:")
TEXTS = (
    *("<script>evil()</script>", "</script><evil>", "<!--<script", "<img src=x onerror=evil()>", "' onload='evil()"),
    *('" onload="evil()', "{{ evil }}", "{% evil %}", "@DATA@", "@TITLE@", "\0", "\ud800", "&lt;", "a" * 10_000, ""),
    *("]]>", "\u2028", "javascript:evil()", "../../etc", "\\u003cevil>", "%s{0}"),
)
NUMBERS: tuple[Any, ...] = (
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        1e308,
        -1e308,
        5e-324,
        10**30,
        10**400,
        -1,
        0,
        None,
        True,
        "7",
        [],
        {},
    ),
)
METRICS = ("eval/return_zero", "eval/return_random", "eval/return_zero_std", "train/kl", "time/steps_per_second")
MODEL = """
<mujoco><worldbody><geom type="plane" size="0 0 1"/>
<body name="{name}" pos="0 0 1"><joint type="slide" axis="1 0 0"/><geom name="{name}" size=".5"/></body>
</worldbody></mujoco>
"""


class Elements(HTMLParser):
    """Collects elements, names of attributes, addresses, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element."""
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        """End a script."""
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        """Keep the text of a script."""
        if self._in_script:
            self.scripts.append(data)


def problems_of(page: str, whole: Elements) -> list[str]:
    """Return what is wrong with a page; `whole` are the elements of an undamaged one."""
    found = Elements(page)
    wrong = [f"new elements {set(found.tags) - set(whole.tags)}"] if set(found.tags) - set(whole.tags) else []
    wrong += [f"{found.tags['script']} scripts"] if found.tags["script"] != whole.tags["script"] else []
    wrong += [f"new attributes {new}"] if (new := found.attributes - whole.attributes) else []
    wrong += [f"address {each[:80]}" for each in found.addresses if not each.startswith(("data:", "#"))]
    page.encode("utf-8")
    # The tables of settings show what the file has, also NaN.
    text = re.sub(
        r"<script.*?</script>|<style.*?</style>|srcdoc=\"[^\"]*\"|<pre>.*?</pre>|<details.*?</details>",
        "",
        page,
        flags=re.DOTALL,
    )
    drawn = " ".join(re.findall(r'(?:points|d|x\d?|y\d?|width|height)="([^"]*)"', text))
    wrong += [f"a chart has {bad[0]}"] if (bad := re.findall(r"\b(?:nan|inf|None)\b", drawn)) else []
    cells = re.findall(r"<(?:td|strong|b)>\s*(-?(?:nan|inf))\s*</", text)
    return wrong + ([f"a cell shows {cells[0]}"] if cells else [])


def report(folder: Path, choose: random.Random, damaged: bool) -> str:
    """Return the report on a run with hostile settings and metrics."""

    def text(usual: Any) -> Any:
        return choose.choice(TEXTS) if damaged and choose.random() < 0.4 else usual

    def value(usual: Any) -> Any:
        return choose.choice((*NUMBERS, *TEXTS)) if damaged and choose.random() < 0.3 else usual

    config: dict[str, Any] = Config(env="multigoal").to_dict()
    config["env"], config["backend"], config["seed"] = text("multigoal"), text(None), value(0)
    config["num_timesteps"], config["eval_envs"], config["num_seeds"] = value(300), value(16), value(1)
    config[text("extra")] = text("extra")
    versions = {text("jax"): text("0.1")}
    contents = {"format": 2, "config": config, "versions": versions, "platform": value({}), "git_commit": text("abc")}
    lines = []
    for i in range(4):
        line = {"env_steps": value(100 * i), "wall_seconds": value(float(i))} | {name: value(i) for name in METRICS}
        line |= {f"eval/env_zero/{text('term')}": value(1.0), text("extra"): value(1.0), "train/nan_resets": value(0)}
        if damaged and choose.random() < 0.3:
            line.pop(choose.choice(list(line)))
        lines.append(json.dumps(line))
    if damaged:
        choose.shuffle(lines)
    errors = {name: [value(0.1), value(0.2)] for name in ("deterministic", "sampled", "hold", "nearest")}
    if choose.random() < 0.3:
        (folder / HELD_OUT_FILE).write_text(json.dumps({"errors": errors, "valid": value(3)}))
    (folder / CONFIG_FILE).write_text(json.dumps(contents))
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n")
    page = Player(text("<p>a player</p>"), "") if choose.random() < 0.5 else Player(None, text("no model"))
    return report_page([folder], [page] if choose.random() < 0.5 else [])


def play(choose: random.Random, damaged: bool) -> str:
    """Return the play page of a recording with hostile names and numbers."""
    name = choose.choice(TEXTS) if damaged else "ball"
    spec = mujoco.MjSpec.from_string(MODEL.format(name="ball"))
    printable = name.encode("utf-8", "ignore").decode().replace("\0", "")
    spec.body("ball").name = printable[:500] or "ball"
    positions, rewards = 0.1 * np.arange(9.0)[:, None], np.ones(9)
    for array in (positions, rewards) if damaged else ():
        bad = [x for x in NUMBERS if type(x) is float]
        array[choose.randrange(9)] = choose.choice(bad) if choose.random() < 0.5 else 0.0
    title = choose.choice(TEXTS) if damaged else "a ball"
    episodes = [RecordedEpisode(kind, {"qpos": positions}, rewards) for kind in ("deterministic", "sampled")]
    page = play_page(Recording(title, spec.compile(), 1 / 30, episodes))
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None, "the page has no data"
    json.loads(data[1], parse_constant=lambda text: (_ for _ in ()).throw(AssertionError(f"{text} is no JSON")))
    return page


def campaign(pages: int, seed: int = 0) -> list[str]:
    """Build this many of each page; return what was wrong."""
    wrong = []
    with tempfile.TemporaryDirectory() as root:
        for kind in ("report", "play"):
            whole = None
            for i in range(-40 if kind == "report" else -1, pages):
                choose, folder = random.Random(f"{seed} {kind} {i}"), Path(root) / f"{kind}{i}"
                folder.mkdir()
                try:
                    page = report(folder, choose, i >= 0) if kind == "report" else play(choose, i >= 0)
                    if i < 0:
                        # Undamaged pages, with and without all of their parts, show which elements there are.
                        whole = merged(whole, Elements(page))
                        continue
                    assert whole is not None
                    problems = problems_of(page, whole)
                except Exception as error:
                    if str(error).startswith("positions and rewards of the first frame must be finite"):
                        continue
                    problems = [f"{type(error).__name__}: {str(error)[:200]}"]
                wrong += [f"{kind} {i}: {problem}" for problem in problems]
    return wrong


def merged(one: Elements | None, other: Elements) -> Elements:
    """Return the elements of both pages; the number of scripts is that of the later one."""
    if one is not None:
        other.attributes |= one.attributes
        other.tags = Counter(
            {tag: other.tags[tag] or one.tags[tag] for tag in {*one.tags, *other.tags} - {"script"}}
        ) + Counter({"script": other.tags["script"]})
    return other


if __name__ == "__main__":
    # Each diverged recording is reported, as it should.
    logging.disable(logging.WARNING)
    run_campaign(campaign, "pages", __doc__)
