"""Wagtail, a content management system: pages, revisions, workflows, translations, files, and its own commands.

A program of the applications' environment.
"""

import io
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.applications import django_site

LANGUAGES = [("en", "English"), ("fr", "French")]
APPS = (
    *(f"wagtail.contrib.{name}" for name in ("forms", "redirects", "settings", "search_promotions")),
    *(f"wagtail.{name}" for name in ("embeds", "sites", "users", "snippets", "documents", "images", "search", "admin")),
    "wagtail",
    "modelcluster",
    "taggit",
    "django_filters",
    *django_site.DJANGO,
    "django.contrib.postgres",
)
# Management commands that change rows, run one after another when there is something for them to do.
COMMANDS = (
    "update_index",
    "rebuild_references_index",
    "fixtree",
    "set_url_paths",
    "publish_scheduled",
    "create_log_entries_from_revisions",
    "purge_revisions",
    "wagtail_update_image_renditions",
)


def settings() -> Mapping[str, Any]:
    return {
        "INSTALLED_APPS": list(APPS),
        "WAGTAIL_SITE_NAME": "site",
        "WAGTAILADMIN_BASE_URL": "http://example.com",
        "WAGTAILSEARCH_BACKENDS": {"default": {"BACKEND": "wagtail.search.backends.database"}},
        "WAGTAIL_I18N_ENABLED": True,
        "LANGUAGE_CODE": "en",
        "LANGUAGES": LANGUAGES,
        "WAGTAIL_CONTENT_LANGUAGES": LANGUAGES,
    }


def operate() -> None:
    from django.core.management import call_command

    user, editor = people()
    home = pages(user)
    moved(home, user)
    reviewed(home, user, editor)
    translated(home)
    files(user)
    for command in COMMANDS:
        call_command(command, verbosity=0)
    ended(home, user)
    call_command("update_index", verbosity=0)


def people() -> tuple[Any, Any]:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Group
    from wagtail.users.models import UserProfile

    users = get_user_model().objects
    admin = users.create_superuser("admin", password="p")
    editor = users.create_user("editor", password="p")
    editor.groups.add(Group.objects.get(name="Editors"))
    for user in (admin, editor):
        UserProfile.get_for_user(user)
    for i in range(10):
        users.create_user(f"reader {i}").groups.set(Group.objects.all())
    return admin, editor


def pages(user: Any) -> Any:
    """A tree of pages, each with revisions, below the site's own."""
    from wagtail.models import Page, Site

    home = Site.objects.get(is_default_site=True).root_page
    for i in range(8):
        section = home.add_child(instance=Page(title=f"Section {i}", slug=f"section-{i}", owner=user))
        for j in range(5):
            page = section.add_child(instance=Page(title=f"Page {i}.{j}", slug=f"page-{j}", live=j % 2 == 0))
            page.title += " «edited»"
            page.save_revision(user=user, log_action=True).publish(user=user)
            page.search_description = "draft " * j
            page.save_revision(user=user)
    return Page.objects.get(pk=home.pk)


def moved(home: Any, user: Any) -> None:
    """What rewrites the paths of many pages in one query."""
    from django.db import transaction

    first, second, third = home.get_children().order_by("path")[1:4]
    copied = first.copy(recursive=True, update_attrs={"title": "Copy", "slug": "copy"}, user=user)
    copied.move(second, pos="first-child", user=user)
    third.refresh_from_db()
    third.slug = "renamed"
    third.save_revision().publish()
    with transaction.atomic():
        for page in home.get_children():
            if page.pk % 2:
                page.unpublish(user=user)
            else:
                page.save()
        transaction.set_rollback(True)
    last = home.get_children().order_by("path").last()
    last.refresh_from_db()
    last.move(home.get_children().order_by("path").first(), pos="left")


def reviewed(home: Any, user: Any, editor: Any) -> None:
    """Workflows, comments, restrictions, pages that go live and expire later."""
    from django.utils import timezone
    from wagtail.models import Comment, CommentReply, Page, PageViewRestriction, Workflow

    workflow, now = Workflow.objects.first(), timezone.now()
    for number, page in enumerate(Page.objects.filter(depth=4).order_by("pk")[:12]):
        page.title += " reviewed"
        page.go_live_at, page.expire_at = now - timedelta(hours=1), now + timedelta(days=number)
        page.save_revision(user=editor, approved_go_live_at=page.go_live_at if number % 3 == 0 else None)
        state = workflow.start(page, editor)
        if number % 3 == 1:
            state.current_task_state.approve(user=user)
        elif number % 3 == 2:
            state.cancel(user=user)
        comment = Comment.objects.create(page=page, user=editor, text="?", contentpath="title")
        CommentReply.objects.create(comment=comment, user=user, text="!")
        PageViewRestriction.objects.create(page=page, restriction_type="login")


def translated(home: Any) -> None:
    from wagtail.models import Locale

    french = Locale.objects.create(language_code="fr")
    home.copy_for_translation(french)
    for section in home.get_children().order_by("path")[:3]:
        section.copy_for_translation(french, copy_parents=True)


def files(user: Any) -> None:
    from django.core.files.base import ContentFile
    from django.core.files.images import ImageFile
    from PIL import Image as Drawing
    from wagtail.contrib.redirects.models import Redirect
    from wagtail.documents.models import Document
    from wagtail.images.models import Image
    from wagtail.models import Collection

    root = Collection.get_first_root_node()
    for i in range(6):
        drawn = io.BytesIO()
        Drawing.new("RGB", (40 + i, 30), "red").save(drawn, "PNG")
        shelf = root.add_child(name=f"Shelf {i}")
        file = ImageFile(drawn, name=f"{i}.png")
        image = Image.objects.create(title=f"Image {i}", file=file, collection=shelf, uploaded_by_user=user)
        image.tags.add("red", f"number {i}")
        image.get_rendition("fill-20x20")
        paper = Document.objects.create(
            title=f"Paper {i}", file=ContentFile(b"text", name=f"{i}.txt"), collection=shelf
        )
        paper.tags.add("red")
        Redirect.add_redirect(f"/old-{i}", f"/new-{i}")
        if i % 2:
            image.delete()
            paper.delete()


def ended(home: Any, user: Any) -> None:
    """Pages, users and collections go, with all that hangs from them."""
    from django.contrib.auth import get_user_model
    from wagtail.models import Page

    for page in Page.objects.filter(depth=3).order_by("path")[:3]:
        page.refresh_from_db()
        page.delete(user=user)
    get_user_model().objects.filter(username__startswith="reader").delete()


if __name__ == "__main__":
    django_site.main(settings, operate)
