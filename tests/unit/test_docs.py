"""The documents are true of the repository as far as a program can tell.

Invariants
- What a document, a comment or a docstring cites exists: documents and their sections, files, modules, cases, links.
- Every setting and every metric is in the docs, and whatever they name of these exists.
- docs/glossary.md has each word once.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.model.settings import NAMES
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
FOLDERS = ("app", "bench", "docs", "harness", "migrations", "sql", "tests", "packages", "deploy")
KINDS = {".py", ".sql", ".md", ".js", ".html", ".c", ".toml", ""}
# `capture.md`, `docs/decisions/0009`: a name without its folder is a document of docs/ or of the root.
CITED = re.compile(r"(?<![\w./-])((?:docs/)?(?:[\w-]+/)*[\w-]+\.md)\b(?! of )(?:,? (\d+)\b)?")
DECISION = re.compile(r"docs/decisions/(\d{4})\b")
NAMED = re.compile(r"(?<![\w./-])((?:app|bench|docs|harness|migrations|sql|tests)/[\w./-]*\w/?|\.ci/run)(?![\w*<…])")
MODULE = re.compile(r"(?<![\w.])(app(?:\.[a-z_]+)+)\b")
LINK = re.compile(r"\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
CASES = re.compile(r"adversarial (\d+(?:(?:, | and )\d+)*)")
METRIC = re.compile(r"\b(sobranie_[a-z_]+)\b")
SETTING = re.compile(r"\b((?:SOBRANIE|DATABASE)_[A-Z_]+[A-Z])\b")
# What the docs name as the place of what is yet to come.
LATER = {"app/bus/"}
# Only the wheel has it: migrations and SQL, inside the package.
WHEEL = "app/schema/"


@cache
def text(path: Path) -> str:
    return path.read_text("utf-8")


def documents() -> list[Path]:
    return sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def sources() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / name for name in ("Makefile", "pyproject.toml"))
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in KINDS and path != Path(__file__) and "__pycache__" not in path.parts:
                yield path


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def headings(path: Path) -> list[str]:
    body = re.sub(r"^```.*?^```", "", text(path), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", body, re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


def numbers(path: Path) -> set[str]:
    """Of sections (`## 3. The gate`) and of cases (`9. Two servers …`)."""
    return set(re.findall(r"^(?:#+ )?(\d+)\. ", text(path), re.MULTILINE))


def test_every_document_that_is_cited_exists_with_the_section_that_is_cited() -> None:
    wrong = []
    for source in sources():
        for name, section in CITED.findall(text(source)):
            found = [p for p in (source.parent / name, ROOT / name, ROOT / "docs" / name) if p.is_file()]
            if not found:
                wrong.append(f"{of(source)} cites {name}")
            elif section and section not in numbers(found[0]):
                wrong.append(f"{of(source)} cites {name} {section}")
        decisions = {path.name[:4] for path in (ROOT / "docs" / "decisions").iterdir()}
        wrong += [f"{of(source)} cites decision {n}" for n in DECISION.findall(text(source)) if n not in decisions]
    assert not wrong


def test_every_case_that_a_test_cites_is_in_the_list() -> None:
    known = numbers(ROOT / "docs" / "adversarial.md")
    cited = {(of(p), n) for p in sources() for found in CASES.findall(text(p)) for n in re.findall(r"\d+", found)}
    assert len(cited) > 20
    assert not [citation for citation in cited if citation[1] not in known]


@pytest.mark.parametrize("document", documents(), ids=of)
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for target in LINK.findall(text(document)):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


def test_files_that_are_named_exist() -> None:
    def there(name: str) -> bool:
        return (ROOT / name).exists() or any(ROOT.glob(f"{name}-*"))

    named = {(of(p), name) for p in sources() for name in NAMED.findall(text(p))}
    assert len(named) > 100
    assert not sorted(
        pair for pair in named if not pair[1].startswith(WHEEL) and pair[1] not in LATER and not there(pair[1])
    )


def test_modules_that_docstrings_name_exist() -> None:
    wrong = []
    for source in (path for path in sources() if path.suffix == ".py"):
        for module in MODULE.findall(text(source)):
            _, room, *_ = module.split(".")
            if not (ROOT / "app" / room).exists() and not (ROOT / "app" / f"{room}.py").exists():
                continue  # `app.router` is aiohttp's
            path = ROOT.joinpath(*module.split("."))
            # The last part may be a name in the module, such as a function.
            if not any(
                p.exists() for p in (path, path.with_suffix(".py"), path.parent.with_suffix(".py"), path.parent)
            ):
                wrong.append(f"{of(source)}: {module}")
    assert not wrong


def families() -> set[str]:
    parsed: list[Metric] = list(text_string_to_metric_families(Metrics("s").render().decode()))
    return {f.name + ("_total" if f.type == "counter" else "") for f in parsed}


def test_metrics_that_the_docs_name_exist() -> None:
    known = {name for family in families() for name in (family, f"{family}_count", f"{family}_sum", f"{family}_bucket")}
    known.add("sobranie_worker_up")  # of several workers, from whoever is asked (app.telemetry.worker_metrics)
    named = {(of(d), name) for d in documents() for name in METRIC.findall(text(d)) if not name.endswith("_")}
    assert len(named) > 20
    assert not [pair for pair in named if pair[1] not in known]


def test_every_metric_of_ours_is_in_the_docs() -> None:
    told = {name for d in documents() for name in METRIC.findall(text(d))}
    assert sorted(name for name in families() if name.startswith("sobranie_") and name not in told) == []


def test_settings_that_the_docs_name_exist() -> None:
    prefixes = ("SOBRANIE_",)
    named = {(of(d), name) for d in documents() for name in SETTING.findall(text(d)) if name.startswith(prefixes)}
    assert {name for _, name in named} | {"DATABASE_URL"} >= {n for n in NAMES if n.startswith("SOBRANIE_")}
    assert not [pair for pair in named if pair[1] not in NAMES]


def test_the_glossary_has_each_word_once_and_those_of_the_vocabulary() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    words = [word.strip() for row in rows if row != "word" for word in row.split(",")]
    assert sorted({word for word in words if words.count(word) > 1}) == []
    vocabulary = {
        "event log",
        "log",
        "History",
        "partitions",
        "snapshot",
        "rows",
        "socket",
        "Outbox",
        "origin",
        "LogHead",
    }
    assert vocabulary <= set(words)


@pytest.mark.parametrize("document", documents(), ids=of)
def test_no_document_has_a_word_that_was_given_up(document: Path) -> None:
    """History or partitions, and not a ring; advisory lock 1, the gate, and not K (docs/glossary.md)."""
    assert not re.findall(r"\brings?\b|\bK\b", re.sub(r"`[^`\n]*`", "", text(document)))
