"""Released SQL is never edited; and the check that says so can fail."""

import subprocess
from pathlib import Path

import pytest

from harness.cluster import ROOT
from tests.migrations.released import FILES, Unknown, changed


def git(root: Path, *arguments: str) -> None:
    who = (
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    )
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one file of SQL in it, and one of something else, not yet released."""
    made = tmp_path / "made"
    (made / FILES).mkdir(parents=True)
    (made / FILES / "watch.sql").write_text("SELECT 1;\n")
    (made / "README.md").write_text("one\n")
    git(made, "init", "--quiet")
    git(made, "add", ".")
    git(made, "commit", "--quiet", "-m", "one")
    return made


def test_released_sql_is_never_edited() -> None:
    """A new version is a new file: whoever has installed this one would otherwise have another."""
    try:
        assert changed(ROOT) == []
    except Unknown as why:
        pytest.skip(str(why))


def test_what_a_release_has_may_not_differ_and_new_files_and_other_files_may(repository: Path) -> None:
    git(repository, "tag", "v1.0.0")
    (repository / FILES / "watch_v2.sql").write_text("SELECT 2;\n")
    (repository / "README.md").write_text("two\n")
    assert changed(repository) == []
    (repository / FILES / "watch.sql").write_text("SELECT 2;\n")
    (line,) = changed(repository)
    assert "watch.sql is not what v1.0.0 has" in line
    git(repository, "commit", "--quiet", "-a", "-m", "committed, it is no better")
    assert changed(repository) == [line]
    (repository / FILES / "watch.sql").unlink()
    assert changed(repository) == [f"{FILES}/watch.sql is gone, and v1.0.0 has it"]


def test_every_release_counts_and_other_tags_do_not(repository: Path) -> None:
    git(repository, "tag", "before-the-first")
    (repository / FILES / "watch.sql").write_text("SELECT 2;\n")
    git(repository, "commit", "--quiet", "-a", "-m", "two")
    git(repository, "tag", "-a", "v1.0.0", "-m", "annotated")
    (repository / FILES / "check.sql").write_text("SELECT 3;\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "three")
    git(repository, "tag", "v1.1.0")
    assert changed(repository) == []
    (repository / FILES / "check.sql").write_text("SELECT 4;\n")
    (line,) = changed(repository)
    assert "v1.1.0" in line


def test_where_no_release_is_known_it_says_why(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="no tag v"):
        changed(repository)
    git(repository, "tag", "v1.0.0")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-tags", repository.as_uri(), "shallow")
    with pytest.raises(Unknown, match="git fetch --unshallow --tags"):
        changed(tmp_path / "shallow")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / ".git").write_text("gitdir: nowhere\n")
    with pytest.raises(Unknown, match="no repository"):
        changed(bare)
