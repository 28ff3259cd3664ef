"""Writes the parts of the documentation that the code knows better: messages, leakage, configuration keys.

    python docs/generate.py            rewrites what lies between the marks in each page
    python docs/generate.py --check    names the pages that are out of date, exit code 1

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`. What a message reveals comes
from its declaration, the keys and defaults of a configuration from the structs that decode it, and their
explanation from the comments in the files that `vfl init` writes.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from scipy.special import expit

import vfl.protocols
from vfl import LogisticRegression, config, job
from vfl.adapter import EXPECTED_FAILED_CHECKS
from vfl.cli import templates
from vfl.crypto.links import EXPONENTIAL, LOGISTIC, LOGISTIC_20
from vfl.protocols.wire import OPT_IN, Array, Bytes, Leakage, Message, Role, largest, message_types

DOCS = Path(__file__).resolve().parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
RECEIVERS = {
    Role.GUEST: "host",
    Role.HOST: "guest",
    Role.AGGREGATOR: "client",
    Role.CLIENT: "aggregator",
    Role.EITHER: "both",
}
SENDERS = {Role.EITHER: "both"}
TELLING = (Leakage.INTERSECTION, *OPT_IN)
HORIZONTAL = (Role.AGGREGATOR, Role.CLIENT)  # not part of a session of two
CALLS = {
    "cardinality": "in `vfl.intersection_size`",
    "dh": "in `vfl.align`",
    "exchange": "in `vfl.align`",
    "multi": "in `vfl.align` with several hosts",
    "multiplicity": 'in `vfl.align(duplicates="all")`',
    "sets": "in `vfl.align`",
    "payload": "in `vfl.intersection_sum`",
    "spine": "in `vfl.spine`",
    "vole": "in `vfl.align`",
    "ftl": "in `vfl.FTLClassifier`",
}
TAG_BYTES = 16
FIRST = [
    "session",
    "psi",
    "product",
    "glm",
    "inference",
    "gradient",
    "transfer",
    "source",
    "split",
    "secagg",
    "ckks",
]


def messages(protocol: str = "") -> list[type[Message]]:
    """Return the library's message types, of all protocols or of one, in the order of their definition."""
    for module in pkgutil.walk_packages(vfl.protocols.__path__, "vfl.protocols."):
        importlib.import_module(module.name)
    own = [kind for kind in message_types().values() if kind.__module__.startswith("vfl.")]
    order = sorted(own, key=lambda kind: (_place(kind.declaration.name), inspect.getsourcelines(kind)[1]))
    return [kind for kind in order if kind.declaration.name.startswith(protocol)]


def _place(name: str) -> tuple[int, str]:
    """Return where a protocol stands in the tables: in the order in which a run uses them."""
    protocol, dot, _ = name.partition(".")
    return (FIRST.index(protocol) if protocol in FIRST else len(FIRST) if dot else len(FIRST) + 1, protocol)


def size(kind: type[Message]) -> str:
    """Return the largest frame of a message type in bytes, as a formula in the dimensions of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    marks = [mark for hint in hints.values() if get_origin(hint) is Annotated for mark in get_args(hint)[1:]]
    bulk = [mark for mark in marks if isinstance(mark, Array | Bytes)]
    named = {dim for mark in bulk for dim in mark.dims if isinstance(dim, str)}
    terms = [f"{TAG_BYTES + largest(kind, dict.fromkeys(named, 0)):,}"]
    for mark in bulk:
        factor = mark.itemsize
        for dim in mark.dims:
            factor *= dim if isinstance(dim, int) else 1
        names = [dim for dim in mark.dims if isinstance(dim, str)]
        terms += [" ".join([*([str(factor)] if factor > 1 else []), *names])] if names else []
    return " + ".join(terms)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def reveals(kind: type[Message]) -> str:
    """Return what a message reveals; to whom stands in a column of its own."""
    return re.sub(r", to the (guest|host)$", "", kind.declaration.reveals)


def leakage() -> str:
    """Every message type: from whom, to whom, its class and what it reveals."""
    rows = []
    for kind in messages():
        said = kind.declaration
        leak = f"**{said.leakage}**" if said.leakage in OPT_IN else str(said.leakage)
        sender, receiver = SENDERS.get(said.sender, str(said.sender)), RECEIVERS[said.sender]
        rows.append([f"`{said.name}`", sender, receiver, leak, reveals(kind)])
    return table(["message", "from", "to", "class", "what it reveals to its receiver"], rows)


def when(kind: type[Message]) -> str:
    """Return in which calls a message is sent."""
    if kind.declaration.leakage in OPT_IN:
        return f'only with `accept_leakage = ["{kind.declaration.leakage}"]` on both sides'
    return CALLS.get(kind.__module__.rpartition(".")[2], "always")


def summary() -> str:
    """The messages of a session of two that tell their receiver something about customers, and how many do not."""
    ours = [kind for kind in messages() if kind.declaration.sender not in HORIZONTAL]
    telling = [kind for kind in ours if kind.declaration.leakage in TELLING]
    found: dict[tuple[str, str, str], list[str]] = {}  # messages that tell the same, on one line
    for kind in telling:
        line = (RECEIVERS[kind.declaration.sender], reveals(kind), when(kind))
        found.setdefault(line, []).append(f"`{kind.declaration.name}`")
    rows = [[who, what, ", ".join(names), then] for (who, what, then), names in found.items()]
    rest = [kind.declaration.leakage for kind in ours if kind.declaration.leakage not in TELLING]
    classes = ", ".join(f"{rest.count(leak)} {leak}" for leak in Leakage if leak in rest)
    rows.append(
        ["both", f"sizes, versions, parameters, and that a step is done ({classes})", "all others", "always"]
    )
    return table(["who learns", "what", "message", "when"], rows)


def of_protocol(protocol: str) -> Callable[[], str]:
    """Return a generator of one protocol's messages with their sizes."""

    def rows() -> str:
        return table(
            ["message", "from", "class", "largest frame, bytes", "content"],
            [
                [
                    f"`{kind.declaration.name}`",
                    SENDERS.get(kind.declaration.sender, str(kind.declaration.sender)),
                    str(kind.declaration.leakage),
                    size(kind),
                    (kind.__doc__ or "").split("\n")[0].rstrip("."),
                ]
                for kind in messages(f"{protocol}.")
            ],
        )

    return rows


def explained(text: str) -> dict[str, str]:
    """Return what the comments above each key of a commented TOML file say, by dotted key."""
    words: dict[str, str] = {}
    section, comment, used = "", list[str](), False
    for line in text.splitlines():
        key = re.match(r"(?:# )?(\w+) = ", line)
        header = re.match(r"\[(.+)\]", line)
        if header:
            section = f"{header[1]}."
        if key:
            words[section + key[1]] = " ".join(comment)
            used = True
        elif line.startswith("# "):  # one comment may stand above several keys
            comment = [line[2:]] if used else [*comment, line[2:]]
            used = False
        else:
            comment = []
    return words


def plain_type(hint: Any) -> str:
    """Return a type of a TOML value in words."""
    metas = (
        [mark for mark in get_args(hint)[1:] if isinstance(mark, msgspec.Meta)] if _annotated(hint) else []
    )
    base = get_args(hint)[0] if _annotated(hint) else hint
    text = _plain_base(base)
    for meta in metas:
        bounds = ((">", meta.gt), ("≥", meta.ge), ("<", meta.lt), ("≤", meta.le))
        limits = [f"{sign} {value:,}" for sign, value in bounds if value is not None]
        text += f" {', '.join(limits)}" if limits else ""
        text += f" like `{meta.pattern}`" if meta.pattern else ""
    return text


def _annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _plain_base(base: Any) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Role: "`guest` or `host`"}
    if base in names:
        return names[base]
    arguments = [arg for arg in get_args(base) if arg not in (type(None), ...)]
    if get_origin(base) is tuple:
        return f"list of {_plain_base(arguments[0])}s"
    texts = [f'`"{arg}"`' if isinstance(arg, str) else plain_type(arg) for arg in arguments]
    return " or ".join(dict.fromkeys(texts))


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is None or field.default is msgspec.NODEFAULT:
        return "-"
    return f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return str(list(value))
    return str(value) if isinstance(value, float) else f'"{value}"'


def keys(section: str, kind: type[msgspec.Struct], words: dict[str, str]) -> Iterator[list[str]]:
    """Yield a row per key of a section; a key without an explanation is an error."""
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        said = words.get(f"{section}.{field.name}".strip("."))
        if not said:
            raise SystemExit(f"vfl/cli/templates.py has no comment above {section}.{field.name}")
        yield [f"`{field.name}`", plain_type(hints[field.name]), default(field), said]


HEAD = ["key", "value", "default", "meaning"]


def configuration() -> str:
    """The keys of a party's configuration, section by section."""
    words: dict[str, str] = {}
    for setup in (
        templates.Setup("bank", "guest", "retailer", connect="bank.example:7001"),
        templates.Setup("bank", "guest", "retailer", listen="0.0.0.0:7001"),
    ):
        words |= explained(templates.configuration(setup))
    sections: dict[str, type[msgspec.Struct]] = {
        "party": config.PartyConfig,
        "peer": config.PeerConfig,
        "policy": config.PolicyConfig,
        "run": config.RunConfig,
    }
    return "\n\n".join(
        f"### [{name}]\n\n{table(HEAD, list(keys(name, kind, words)))}" for name, kind in sections.items()
    )


def job_file() -> str:
    """The keys of a job file, section by section."""
    setup = templates.Setup("bank", "guest", "retailer", listen="0.0.0.0:7001")
    text = templates.job(setup, templates.DataSection("bank.csv", "phone", "phone:DE", "default"))
    words = explained(text)
    parts = [f"At the top: `session`. {words['session']}"]
    for name, kind in (
        ("data", job.DataSection),
        ("model", job.ModelSection),
        ("evaluate", job.EvaluateSection),
        ("save", job.SaveSection),
    ):
        rows = [
            row
            for row in keys(name, kind, words | {"model.parameters": "see below"})
            if row[3] != "see below"
        ]
        parts.append(f"### [{name}]\n\n{table(HEAD, rows)}")
    return "\n\n".join(parts)


def parameters() -> str:
    """The parameters of the logistic regression, from its signature and its docstring."""
    doc = inspect.cleandoc(LogisticRegression.__doc__ or "")
    body = doc.split("Parameters\n----------\n")[1].split("\n\n")[0]
    entries = re.findall(r"^(\w+) : (.+)\n((?:    .+\n?)*)", body + "\n", re.MULTILINE)
    said = {name: (kind, " ".join(text.split())) for name, kind, text in entries}
    defaults = LogisticRegression().get_params()
    rows = []
    for name in inspect.signature(LogisticRegression).parameters:
        kind, text = (word.replace("``", "`") for word in said[name])
        rows.append(
            [f"`{name}`", kind, "-" if defaults[name] is None else f"`{toml(defaults[name])}`", text or "-"]
        )
    return table(["parameter", "value", "default", "meaning"], rows)


def links() -> str:
    """How far the chains of sines are from the links, band by band."""
    rows = []
    for z in (5, 30, 118, 250):
        scores = np.linspace(-z, z, 200_001)
        error = np.abs(LOGISTIC.clear(scores) - expit(scores)).max()
        rows.append([f"1/(1 + e^-z), {-z} to {z}", f"{error:.1e}", "-", f"{LOGISTIC.rounding:.1e}"])
    scores = np.linspace(*LOGISTIC_20.reach, 200_001)
    error = np.abs(LOGISTIC_20.clear(scores) - expit(scores)).max()
    rows.append(["four steps, -20 to 20", f"{error:.1e}", "-", f"{LOGISTIC_20.rounding:.1e}"])
    for low, high in ((-10, -5), (-5, 0), (0, 3), (3, 6)):
        scores = np.linspace(low, high, 200_001)
        errors, unit = np.abs(EXPONENTIAL.clear(scores) - np.exp(scores)), np.exp(scores) + 0.0025
        relative = f"{(errors / unit).max():.1e}"
        rows.append([f"e^z, {low} to {high}", f"{errors.max():.1e}", relative, f"{EXPONENTIAL.rounding:.1e}"])
    head = ["link, scores", "largest error", "relative to e^z + 0.0025", "rounding"]
    return table(head, rows)


def checks() -> str:
    """The checks of scikit-learn that cannot hold for joint models, with the reasons."""
    return table(["check", "why not"], [[f"`{name}`", why] for name, why in EXPECTED_FAILED_CHECKS.items()])


PARTS: dict[str, Callable[[], str]] = {
    "leakage": leakage,
    "summary": summary,
    "session": of_protocol("session"),
    "psi": of_protocol("psi"),
    "vole": of_protocol("vole"),
    "multi": of_protocol("multi"),
    "spine": of_protocol("spine"),
    "gradient": of_protocol("gradient"),
    "glm": of_protocol("glm"),
    "links": links,
    "inference": of_protocol("inference"),
    "secagg": of_protocol("secagg"),
    "ckks": of_protocol("ckks"),
    "transfer": of_protocol("transfer"),
    "source": of_protocol("source"),
    "split": of_protocol("split"),
    "configuration": configuration,
    "job": job_file,
    "parameters": parameters,
    "checks": checks,
}
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def rewritten(text: str) -> str:
    """Return a page with its generated parts as they have to be."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def outdated() -> dict[Path, str]:
    """Return the pages whose generated parts are not what they have to be, with what they have to be."""
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    new = {path: rewritten(text) for path, text in pages.items()}
    return {path: new[path] for path, text in pages.items() if new[path] != text}


def main() -> None:
    """Write the pages, or with --check only compare them."""
    pages = outdated()
    for path, text in pages.items():
        print(f"{path.relative_to(DOCS.parent)}: out of date")
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
    if pages and "--check" in sys.argv[1:]:
        sys.exit("run `make docs`")


if __name__ == "__main__":
    main()
