"""What the Django applications have in common: settings for the database of a URL, migrations, and the two steps.

It runs in the environment of the applications, which has none of the product's packages.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

DJANGO = tuple(
    f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
)
PROCESSORS = (
    "django.template.context_processors.debug",
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
)


def database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }


def settings(url: str, media: str, more: Mapping[str, Any]) -> dict[str, Any]:
    templates = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": list(PROCESSORS)},
    }
    common = {
        "DATABASES": {"default": database(url)},
        "SECRET_KEY": "of a test",
        "ALLOWED_HOSTS": ["*"],
        "USE_TZ": True,
        "TIME_ZONE": "UTC",
        "MEDIA_ROOT": media,
        "MEDIA_URL": "/media/",
        "STATIC_URL": "/static/",
        "TEMPLATES": [templates],
        "ROOT_URLCONF": "django.contrib.auth.urls",
        "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
        "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    }
    return {**common, **more}


def main(more: Callable[[], Mapping[str, Any]], operate: Callable[[], None]) -> None:
    """The step and the database's URL are the program's arguments. `more` are the application's own settings."""
    import django
    from django.conf import settings as configured
    from django.core.management import call_command

    step, url = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="sobranie-media-") as media:
        configured.configure(**settings(url, media, more()))
        django.setup()
        if step == "migrate":
            call_command("migrate", verbosity=0, interactive=False)
        else:
            operate()
