"""`sobranie why`: every policy, and why it lets somebody or not."""

import subprocess
import sys

import pytest

from harness.cluster import ROOT, clean_environment
from harness.database import Database
from tests.support.forge import SECRET, signed


def why(database: Database, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "app", "why", *arguments]
    env = clean_environment(DATABASE_URL=database.url, SOBRANIE_JWT_SECRET=SECRET)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


@pytest.fixture
async def guarded(database: Database) -> Database:
    await database.execute(
        "INSERT INTO realtime.policies (name, channel, roles, claims, may) VALUES "
        "('staff', 'notifications', '{staff}', '{\"org\": 7}', '{subscribe}')"
    )
    return database


async def test_each_policy_says_what_it_has_to_do_with_it(guarded: Database) -> None:
    said = why(guarded, "--channel", "notifications:user_id=42", "--sub", "42")
    assert said.startswith("subscribe: allowed\n")
    assert "snapshot: allowed" in said
    assert "staff: the claim 'role' is none of staff" in said
    said = why(guarded, "--channel", "notifications:user_id=42", "--sub", "7")
    assert said.startswith("subscribe: refused\n")
    assert "is another value" in said
    said = why(guarded, "--channel", "notifications", "--sub", "7", "--claim", "role=staff", "--claim", "org=7")
    assert said.startswith("subscribe: allowed\n")
    assert "staff: it allows subscribe, and not snapshot" in said
    assert why(guarded, "--channel", "posts").startswith("subscribe: allowed\n")
    assert "it wants a token" in why(guarded, "--channel", "notifications")


async def test_a_token_is_checked_and_a_revoked_one_has_no_right(guarded: Database) -> None:
    token = signed("42", role="staff", org=7)
    assert why(guarded, "--channel", "notifications", "--token", token).startswith("subscribe: allowed\n")
    await guarded.execute("INSERT INTO realtime.revocations (sub, until) VALUES ('42', now() + interval '1 hour')")
    said = why(guarded, "--channel", "posts", "--token", token)
    assert said.startswith("subscribe: refused\n")
    assert "the token is revoked" in said
    assert "there is no token" in why(guarded, "--channel", "posts", "--token", token + "x", code=2)


async def test_the_database_s_own_function_has_the_last_word(guarded: Database) -> None:
    await guarded.execute(
        "CREATE FUNCTION realtime.may_subscribe(channel text, claims jsonb) RETURNS boolean LANGUAGE sql STABLE AS "
        "$$ SELECT CASE WHEN claims ->> 'sub' = '13' THEN false END $$; "
        "GRANT EXECUTE ON FUNCTION realtime.may_subscribe TO PUBLIC"
    )
    said = why(guarded, "--channel", "posts", "--sub", "13")
    assert said.startswith("subscribe: refused\n")
    assert "realtime.may_subscribe: refused, whatever the policies say" in said
    assert "may_subscribe" not in why(guarded, "--channel", "posts", "--sub", "14")


async def test_what_can_not_be_asked_is_said(guarded: Database) -> None:
    for arguments, says in (
        (("--channel", "a:b"), "no channel name"),
        (("--channel", "posts", "--claim", "role=x"), "--sub"),
        (("--channel", "posts", "--token", "x", "--sub", "42"), "--token"),
        (("--channel", "posts", "--sub", "42", "--claim", "sub=43"), "--sub"),
    ):
        assert says in why(guarded, *arguments, code=2)
