"""`why`: who may have a channel and why, rule by rule, by the policies of the database as they are now."""

import argparse
import asyncio
import os
from typing import Any

from app.cli.serve import with_own_key
from app.model.errors import SettingsError
from app.model.settings import Settings


def add(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "why", help="say who may have a channel, and what each policy has to do with it"
    )
    parser.add_argument("--channel", required=True, help="such as posts, or notifications:user_id=42")
    parser.add_argument("--token", help="who asks, as a token that holds by the keys of the settings")
    parser.add_argument("--sub", help="who asks: the claim `sub`; without it and without --token, a client with none")
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME=VALUE", help="a claim; repeat it for more"
    )
    return parser


def run(asked: argparse.Namespace) -> int:
    """Raises SettingsError and StartError."""
    if asked.token is not None and (asked.sub is not None or asked.claim):
        raise SettingsError("--token says who asks: leave --sub and --claim out, or --token")
    if asked.claim and asked.sub is None:
        raise SettingsError("--claim needs --sub: a client without a token has no claims")
    settings = Settings.from_env(os.environ)
    if settings.database_url is None:
        from app.embedded.server import embedded_url

        settings = with_own_key(settings.with_database(embedded_url()))
    from app.cli.explain import explain

    for line in asyncio.run(explain(settings, asked)):
        print(line)
    return 0
