"""Texts that would harm a page which does not escape them, and targets that are full of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.agents import write_agent

PAYLOADS = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "' onmouseover='window.hit=1' autofocus onfocus='window.hit=1",
    '" autofocus onfocus="window.hit=1" style="position:fixed;inset:0',
    "</textarea></title></template></pre></svg><script>window.hit=1</script>",
    "<svg onload=window.hit=1><animate onbegin=window.hit=1 attributeName=x dur=1s>",
    "]]><!--<iframe srcdoc='<script>parent.hit=1</script>'>-->",
    "javascript:window.hit=1",
    "{{ 7 * 7 }}{% for x in range(9) %}${7*7}#{7*7}<%= 7*7 %>",
    '<div hx-get="/ui/targets" hx-trigger="load" hx-target="body" hx-on:load="window.hit=1" data-live>',
    "<form action=//evil.example><button formaction=javascript:window.hit=1>Start</button>",
    "<base href=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example><style>@import '//evil.example'</style>",
    "<a href=javascript:window.hit=1 id=main popovertarget=ask-cancel>Cancel</a>",
    "&lt;b&gt;&#60;script&#62;&amp;",
    "\\\"\\u003cscript\\u003e'`\n\r\n\t",
)
"""Markup, ways out of attributes and comments, addresses, templates, and attributes of htmx."""

HIDDEN = "\x00\x07\x0c\x1b\x7f\x85\x9f\u202e\u202d\u2066\u2069"
INVISIBLE = "a" + "b".join(HIDDEN) + "c"
"""Control characters, and those that change the direction of what follows."""

LONG = "W" * 3000
ALL = "\n".join((*PAYLOADS, INVISIBLE))
LINE = " ".join(PAYLOADS).replace("\n", " ").replace("\r", " ")

MAPPED = {"text": "text", "long": "long", "do": "do"}

_FLOW = """
import time


class Evil(Exception):
    pass


def run(inputs, context):
    text, do = inputs.get("text", ""), inputs.get("do") or {}
    for line in (text, inputs.get("long", "")):
        context.log(line or "-", **{"field": text, "other": {text[:200]: text}})
    context.progress(1, 3, text[:200] or "step")
    if do.get("until"):
        import pathlib
        while not pathlib.Path(do["until"]).exists() and not context.cancelled:
            time.sleep(0.1)
    if do.get("say"):
        context.complete(do["say"], stream=True)
    if do.get("fail"):
        raise type(text[:60] or "Evil", (Evil,), {})(text)
    return {text[:200]: text, "long": inputs.get("long", ""), "list": [text, {"in": text}]}
"""


def write_hostile_targets(folder: Path) -> tuple[Path, Path]:
    """Writes the agent `evil` and the pipeline `evils`, of which every free text is hostile."""
    agents, pipelines = folder / "agents", folder / "pipelines"
    inputs = [
        {"name": "text", "type": "string", "desc": ALL, "default": ALL},
        {"name": "long", "desc": LONG, "default": LONG},
        {"name": "do", "type": "object"},
        {"name": PAYLOADS[1], "type": "object", "desc": PAYLOADS[3], "default": {PAYLOADS[1]: ALL}},
    ]
    told = {"name": LINE, "description": ALL, "version": PAYLOADS[1]}
    flows = [{"name": "main", "entrypoint": "flow.py:run", "isolation": "thread"}]
    agent = {**told, "inputs": inputs, "flows": flows}
    write_agent(agents, "evil", json.dumps(agent), _FLOW)
    pipelines.mkdir()
    step = {"agent": "evil", "description": ALL, "input_mapping": MAPPED}
    pipeline = {
        **told,
        "inputs": inputs,
        "steps": [
            {**step, "id": "one", "output_key": "first"},
            {**step, "id": "two", "depends_on": ["one"], "when": "text != " + _literal(LINE)},
        ],
        "outputs": [{"key": "first", "label": LINE}],
        "variants": {"other": {"description": ALL, "overrides": {}}},
    }
    (pipelines / "evils.yaml").write_text(json.dumps(pipeline))
    return agents, pipelines


def _literal(text: str) -> str:
    """A text as conditions of pipelines write it."""
    return "`" + json.dumps(text).replace("`", "\\`") + "`"
