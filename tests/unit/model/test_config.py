"""Settings: what parses, what stops the start, and that no error tells a secret."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.model.database_url import redact_url
from app.model.errors import SettingsError
from app.model.settings import NAMES, Settings


def refused(**env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    return str(caught.value)


def test_nothing_set_means_the_defaults_of_the_contract() -> None:
    settings = Settings.from_env({"PATH": "/bin"})
    assert (settings.host, settings.port, settings.bus) == ("127.0.0.1", 3000, "postgres:")
    assert settings.database_url is None
    assert settings.demo
    assert settings.server_id.rpartition("-")[2].isdigit()
    assert (settings.heartbeat, settings.outbound_bytes, settings.ready_grace) == (25.0, 1 << 20, 30.0)
    assert (settings.metrics_host, settings.metrics_port) == (None, None)


def test_the_demo_page_is_off_in_front_of_a_real_database_unless_asked_for() -> None:
    url = "postgresql://h/d"
    assert not Settings.from_env({"DATABASE_URL": url}).demo
    assert Settings.from_env({"DATABASE_URL": url, "SOBRANIE_DEMO": "1"}).demo
    assert not Settings.from_env({"SOBRANIE_DEMO": "0"}).demo


def test_the_log_is_for_a_person_only_at_a_terminal() -> None:
    assert Settings.from_env({}, tty=True).log_format == "console"
    assert Settings.from_env({}, tty=False).log_format == "json"
    assert Settings.from_env({"SOBRANIE_LOG_FORMAT": "json"}, tty=True).log_format == "json"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("SOBRANIE_RETENTION", "1h", "retention", 3600.0),
        ("SOBRANIE_RETENTION", "1.5d", "retention", 129600.0),
        ("SOBRANIE_HEARTBEAT", "500ms", "heartbeat", 0.5),
        ("SOBRANIE_EVENT_LOG_BYTES", "2GB", "event_log_bytes", 2 << 30),
        ("SOBRANIE_HISTORY_BYTES", "64kB", "history_bytes", 64 << 10),
        ("SOBRANIE_PORT", "0", "port", 0),
        ("SOBRANIE_SERVER_ID", "web-1.eu", "server_id", "web-1.eu"),
        ("SOBRANIE_ORIGINS", "https://a.example, http://b:8080", "origins", ("https://a.example", "http://b:8080")),
        ("SOBRANIE_BUS", "postgres:", "bus", "postgres:"),
        ("DATABASE_URL", "postgres://u@/d?host=/run/pg", "database_url", "postgres://u@/d?host=/run/pg"),
    ],
)
def test_a_value_is_read_with_its_unit(name: str, text: str, field: str, value: object) -> None:
    assert getattr(Settings.from_env({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SOBRANIE_PORT", "65536"),
        ("SOBRANIE_PORT", "-1"),
        ("SOBRANIE_PORT", "٣"),
        ("SOBRANIE_PORT", " 3000"),
        ("SOBRANIE_RETENTION", "3600"),
        ("SOBRANIE_RETENTION", "1 h"),
        ("SOBRANIE_RETENTION", "1H"),
        ("SOBRANIE_RETENTION", "-1h"),
        ("SOBRANIE_RETENTION", "0s"),
        ("SOBRANIE_HEARTBEAT", "26s"),
        ("SOBRANIE_HEARTBEAT", "nans"),
        ("SOBRANIE_EVENT_LOG_BYTES", "1gb"),
        ("SOBRANIE_EVENT_LOG_BYTES", "1"),
        ("SOBRANIE_OUTBOUND_BYTES", "1B"),
        ("SOBRANIE_DEMO", "yes"),
        ("SOBRANIE_LOG_LEVEL", "INFO"),
        ("SOBRANIE_LOG_FORMAT", "text"),
        ("SOBRANIE_SERVER_ID", 'a"b'),
        ("SOBRANIE_SERVER_ID", "a" * 64),
        ("SOBRANIE_ORIGINS", "app.example.com"),
        ("SOBRANIE_HOST", "a b"),
    ],
)
def test_a_value_that_does_not_parse_is_named_with_what_is_wrong(name: str, text: str) -> None:
    said = refused(**{name: text})
    assert said.startswith(f"{name}={text!r}: not ")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["DATABASE_URL", "SOBRANIE_PORT", "SOBRANIE_JWT_SECRET"])
def test_an_empty_value_is_no_default_in_disguise(name: str) -> None:
    assert f"{name} is set and empty" in refused(**{name: ""})


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert refused(SOBRANIE_PROT="1") == "SOBRANIE_PROT is not a setting; the nearest is SOBRANIE_PORT"
    assert refused(SOBRANIE_RETENTON="1h").endswith("SOBRANIE_RETENTION")
    assert refused(sobranie_port="1").endswith("SOBRANIE_PORT")


SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("SOBRANIE_JWT_SECRET", "hunter2", "fewer than 32 bytes"),
        ("SOBRANIE_JWT_SECRET", f"{SECRET},hunter2", "fewer than 32 bytes"),
        ("SOBRANIE_JWT_SECRET", f"{SECRET},{SECRET}, hunter2{SECRET}", "more than two"),
        ("SOBRANIE_JWT_SECRET", f"{SECRET}hunter2\n", "a line break"),
        ("SOBRANIE_JWKS_URL", "hunter2", "not a URL"),
        ("SOBRANIE_JWKS_URL", "https://[hunter2/", "not a URL"),
        ("SOBRANIE_JWKS_URL", "file:///hunter2", "not a URL"),
        ("SOBRANIE_JWKS_URL", "ftp://id.example.com/hunter2", "not https"),
        ("SOBRANIE_JWKS_URL", "http://id.example.com/hunter2", "not https"),
        ("SOBRANIE_JWKS_URL", "http://127.0.0.1.example.com/hunter2", "not https"),
    ],
)
def test_a_key_that_would_leave_the_door_open_is_refused_and_not_repeated(name: str, text: str, says: str) -> None:
    said = refused(**{name: text, "SOBRANIE_JWT_AUDIENCE": "us"})
    assert said.startswith(f"{name}: ")
    assert says in said
    assert "hunter2" not in said


def test_keys_are_read_and_never_shown() -> None:
    settings = Settings.from_env({"SOBRANIE_JWT_SECRET": f"{SECRET},{SECRET[::-1]}"})
    assert settings.jwt_secrets == (SECRET, SECRET[::-1])
    assert SECRET not in repr(settings)
    jwks = {"SOBRANIE_JWKS_URL": "https://id.example.com/keys?of=hunter2", "SOBRANIE_JWT_AUDIENCE": "us"}
    assert Settings.from_env(jwks).jwks_url == jwks["SOBRANIE_JWKS_URL"]
    assert "hunter2" not in repr(Settings.from_env(jwks))
    assert "SOBRANIE_JWT_AUDIENCE" in refused(SOBRANIE_JWKS_URL="http://localhost:1/keys")


def test_who_has_no_token_is_served_only_where_there_is_no_key_or_where_that_is_asked_for() -> None:
    key = {"SOBRANIE_JWT_SECRET": SECRET}
    assert Settings.from_env({}).lets_strangers_in
    assert not Settings.from_env(key).lets_strangers_in
    assert Settings.from_env(key | {"SOBRANIE_ANONYMOUS": "allow"}).lets_strangers_in
    assert not Settings.from_env({"SOBRANIE_ANONYMOUS": "refuse"}).lets_strangers_in
    own = Settings.from_env({}).with_key(SECRET)
    assert (own.keyed, own.own_key, own.lets_strangers_in) == (True, True, True)
    assert not Settings.from_env({"SOBRANIE_ANONYMOUS": "refuse"}).with_key(SECRET).lets_strangers_in
    assert Settings.from_env(key).with_key("another") == Settings.from_env(key)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "kafka", "amqp", "nats"])
def test_a_bus_that_is_not_here_yet_stops_the_start_without_its_password(scheme: str) -> None:
    said = refused(SOBRANIE_BUS=f"{scheme}://u:hunter2@h")
    assert f"the bus {scheme}: is not in this version" in said
    assert "hunter2" not in said
    assert "hunter2" not in refused(SOBRANIE_BUS="hunter2")


def test_a_redis_url_alone_is_only_noted() -> None:
    assert "REDIS_URL" in Settings.from_env({"REDIS_URL": "redis://h"}).notes[0]
    assert not Settings.from_env({"REDIS_URL": "redis://h", "SOBRANIE_BUS": "postgres:"}).notes


def test_metrics_get_an_address_of_their_own_only_with_a_port() -> None:
    assert "SOBRANIE_METRICS_PORT" in refused(SOBRANIE_METRICS_HOST="0.0.0.0")
    own = Settings.from_env({"SOBRANIE_METRICS_PORT": "9000", "SOBRANIE_HOST": "10.0.0.1"})
    assert (own.metrics_host, own.metrics_port) == ("10.0.0.1", 9000)


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h", "h:hunter2", "postgresql:/"]
)
def test_a_database_url_of_another_kind_is_refused_and_not_repeated(url: str) -> None:
    said = refused(DATABASE_URL=url)
    assert said.startswith("DATABASE_URL: not a libpq URI")
    assert "hunter2" not in said


# `*` is left out: three of them in a row are what a password becomes.
passwords = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="*"), min_size=8)


@given(passwords)
@example("0000000?")  # libpq takes digits for a port, and what is behind ? for parameters
@example("0/secret?word")
@example("a@b?secret")
@example("0000?name=value")
def test_no_password_is_in_what_people_see_of_a_url(password: str) -> None:
    url = f"postgresql://user:{password}@db.example:5432/app?sslmode=require"
    assert redact_url(url) == "postgresql://user:***@db.example:5432/app?sslmode=require"
    if set("@/?") & set(password):  # libpq would take a part of it for the host, and print it
        assert password not in refused(DATABASE_URL=url)
        url = url.replace(password, quote(password, safe=""))
    settings = Settings.from_env({"DATABASE_URL": url})
    assert settings.database_url == url
    assert settings.redacted == "postgresql://user:***@db.example:5432/app?sslmode=require"
    assert repr(settings) == repr(settings.with_database("postgresql://other"))


def test_a_password_among_the_parameters_is_hidden_too() -> None:
    assert redact_url("postgresql://h/d?user=u&password=p&sslpassword=q") == (
        "postgresql://h/d?user=u&password=***&sslpassword=***"
    )
    assert redact_url("postgresql://u@h:5432/d?application_name=a@b") == "postgresql://u@h:5432/d?application_name=a@b"


def test_the_documented_settings_are_the_settings() -> None:
    page = Path(__file__).parents[3] / "docs" / "settings.md"
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == NAMES


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hun@ter2@h/d",
        "postgresql://u:hun/ter2@h/d",
        "postgresql://u:hun?ter2@h/d",
        "postgresql://u:hun#ter2@h@x/d",
        "postgresql://u:hun:ter2@h:x/d",
        "postgresql://h:hunter2/d",
        "postgresql://u@hun:ter2",
        "postgresql+psycopg://u:hunter2@h/d",
        "jdbc:postgresql://h/d?password=hunter2",
    ],
)
def test_a_url_whose_password_libpq_would_print_in_part_is_refused_without_it(url: str) -> None:
    said = refused(DATABASE_URL=url)
    assert said.startswith("DATABASE_URL: ")
    assert not any(part in said for part in ("hun", "ter2"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgres:///d",
        "postgresql://u@/d?host=/run/pg&application_name=a@b",
        "postgresql://u:p%40ss%2F:x@h1:5432,h2,[::1]:5433/d?target_session_attrs=primary",
        "postgresql://%2Frun%2Fpostgresql/d",
        "postgresql://u:p#w@h/d",
    ],
)
def test_what_libpq_takes_is_taken(url: str) -> None:
    assert Settings.from_env({"DATABASE_URL": url}).database_url == url
    assert psycopg.conninfo.conninfo_to_dict(url) is not None


def test_every_secret_of_a_url_is_hidden() -> None:
    shown = redact_url("postgresql://u@h/d?oauth_client_secret=hunter2&sslpassword=hunter2&password=hunter2&user=u")
    assert "hunter2" not in shown


def test_clients_are_told_the_name_that_was_given_and_never_the_machine_s() -> None:
    assert Settings.from_env({"SOBRANIE_SERVER_ID": "web-1.eu"}).public_id == "web-1.eu"
    unnamed = Settings()
    for made in (unnamed, replace(unnamed, server_id=f"{unnamed.server_id}-2")):  # of a worker
        assert re.fullmatch("[0-9a-f]{8}", made.public_id)
    assert unnamed.public_id == Settings().public_id
