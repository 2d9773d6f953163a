"""django-oscar, a shop: a catalogue, baskets, offers, vouchers, orders with their stock and payments, and its commands.

A program of the applications' environment.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.applications import django_site

APPS = (
    *django_site.DJANGO,
    "django.contrib.sites",
    "django.contrib.flatpages",
    "oscar.config.Shop",
    *(
        f"oscar.apps.{path}.apps.{config}Config"
        for path, config in (
            ("analytics", "Analytics"),
            ("checkout", "Checkout"),
            ("address", "Address"),
            ("shipping", "Shipping"),
            ("catalogue", "Catalogue"),
            ("catalogue.reviews", "CatalogueReviews"),
            ("communication", "Communication"),
            ("partner", "Partner"),
            ("basket", "Basket"),
            ("payment", "Payment"),
            ("offer", "Offer"),
            ("order", "Order"),
            ("customer", "Customer"),
            ("search", "Search"),
            ("voucher", "Voucher"),
            ("wishlists", "Wishlists"),
            ("dashboard", "Dashboard"),
            ("dashboard.reports", "ReportsDashboard"),
            ("dashboard.users", "UsersDashboard"),
            ("dashboard.orders", "OrdersDashboard"),
            ("dashboard.catalogue", "CatalogueDashboard"),
            ("dashboard.offers", "OffersDashboard"),
            ("dashboard.partners", "PartnersDashboard"),
            ("dashboard.pages", "PagesDashboard"),
            ("dashboard.ranges", "RangesDashboard"),
            ("dashboard.reviews", "ReviewsDashboard"),
            ("dashboard.vouchers", "VouchersDashboard"),
            ("dashboard.communications", "CommunicationsDashboard"),
            ("dashboard.shipping", "ShippingDashboard"),
        )
    ),
    "widget_tweaks",
    "haystack",
    "treebeard",
    "sorl.thumbnail",
    "django_tables2",
)
COMMANDS = (
    "oscar_update_product_ratings",
    "oscar_calculate_scores",
    "oscar_cleanup_alerts",
    "oscar_send_alerts",
    "clearsessions",
)
PRODUCTS, CUSTOMERS = 24, 8


def settings() -> Mapping[str, Any]:
    from oscar import defaults

    own = {name: getattr(defaults, name) for name in dir(defaults) if name.isupper()}
    return {
        **own,
        "INSTALLED_APPS": list(APPS),
        "SITE_ID": 1,
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "HAYSTACK_CONNECTIONS": {"default": {"ENGINE": "haystack.backends.simple_backend.SimpleEngine"}},
        "OSCAR_INITIAL_ORDER_STATUS": "Pending",
        "OSCAR_INITIAL_LINE_STATUS": "Pending",
        "OSCAR_ORDER_STATUS_PIPELINE": {"Pending": ("Sent", "Cancelled"), "Sent": (), "Cancelled": ()},
        "OSCAR_ORDER_STATUS_CASCADE": {"Sent": "Sent"},
    }


def operate() -> None:
    from django.core.management import call_command

    products = catalogue()
    users = customers()
    orders = bought(products, users)
    delivered(orders)
    opinions(products, users)
    for command in COMMANDS:
        call_command(command, verbosity=0)
    ended(products, users)


def catalogue() -> list[Any]:
    """Products of several classes, with stock, in a tree of categories that is rearranged."""
    from oscar.apps.catalogue.categories import create_from_breadcrumbs
    from oscar.apps.catalogue.models import Category, ProductCategory
    from oscar.test import factories

    leaves = [
        create_from_breadcrumbs(f"Books > {kind} > {age}") for kind in ("Crime", "Maps") for age in ("New", "Old")
    ]
    made = []
    for i in range(PRODUCTS):
        price, kind = Decimal(i + 1) / 4, f"Class {i % 3}"
        product = factories.create_product(
            upc=f"upc-{i}", title=f"Product «{i}»", product_class=kind, price=price, num_in_stock=50, partner_name="P"
        )
        ProductCategory.objects.create(product=product, category=leaves[i % 4])
        made.append(product)
    crime, maps = Category.objects.filter(depth=2).order_by("path")
    maps.move(crime, pos="left")
    Category.objects.get(name="Crime").move(Category.objects.get(name="Maps"), pos="first-child")
    return made


def customers() -> list[Any]:
    from django.contrib.auth import get_user_model

    return [get_user_model().objects.create_user(f"user {i}", f"u{i}@example.com", "p") for i in range(CUSTOMERS)]


def bought(products: list[Any], users: list[Any]) -> list[Any]:
    """Baskets that are filled, merged and frozen, with an offer and a voucher, and the orders that come of them."""
    from oscar.apps.basket.models import Basket
    from oscar.apps.offer.applicator import Applicator
    from oscar.apps.partner.strategy import Selector
    from oscar.test import factories

    factories.create_offer(name="A fifth off")
    voucher, orders = factories.create_voucher(), []
    for number, user in enumerate(users * 3):
        baskets = [Basket.objects.create(owner=user), Basket.objects.create()]
        for basket in baskets:
            basket.strategy = Selector().strategy()
            for i in range(3):
                basket.add_product(products[(number + i * 5) % PRODUCTS], quantity=1 + i)
        basket = baskets[0]
        basket.merge(baskets[1], add_quantities=False)
        if number == 0:
            basket.vouchers.add(voucher)
        Applicator().apply(basket, user)
        orders.append(factories.create_order(number=f"order-{number}", basket=basket, user=user))
    return orders


def delivered(orders: list[Any]) -> None:
    """Orders are paid, sent or cancelled, and their stock follows."""
    from oscar.apps.order.processing import EventHandler
    from oscar.apps.payment.models import Source, SourceType

    card = SourceType.objects.create(name="Card")
    for number, order in enumerate(orders):
        order.notes.create(message="noted", note_type="Info")
        source = Source.objects.create(source_type=card, order=order)
        source.allocate(order.total_incl_tax)
        handler = EventHandler()
        if number % 3 == 0:
            handler.cancel_stock_allocations(order)
            handler.handle_order_status_change(order, "Cancelled")
        else:
            handler.consume_stock_allocations(order)
            source.debit(order.total_incl_tax)
            handler.handle_order_status_change(order, "Sent")


def opinions(products: list[Any], users: list[Any]) -> None:
    from oscar.apps.catalogue.reviews.models import ProductReview
    from oscar.apps.wishlists.models import WishList

    for number, user in enumerate(users):
        wishes = WishList.objects.create(owner=user, name="wishes")
        for product in products[number : number + 4]:
            wishes.add(product)
            wishes.add(product)
            review = ProductReview.objects.create(product=product, user=user, score=number % 5 + 1, title="t", body="b")
            review.vote_up(users[number - 1])


def ended(products: list[Any], users: list[Any]) -> None:
    """Deletes that take much with them, a transaction that is taken back, and one part of another."""
    from django.db import transaction
    from oscar.apps.catalogue.models import Category
    from oscar.apps.order.models import Order

    with transaction.atomic():
        Category.objects.filter(depth=1).first().delete()
        transaction.set_rollback(True)
    with transaction.atomic():
        users[0].delete()
        with transaction.atomic():
            Order.objects.all().delete()
            transaction.set_rollback(True)
    for product in products[:5]:
        product.delete()
    Category.objects.get(name="Crime").delete()


if __name__ == "__main__":
    django_site.main(settings, operate)
