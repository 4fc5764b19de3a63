"""Facts up to the last cut, each with the natural reference of its dimension members."""

from collections.abc import Sequence
from typing import Any

from .dimensions import Dimensions, date_id, on
from .events import CARTS, TRANSACTIONS, VIEWS, Event, Line


def references(event: Event, line: Line, dimensions: Dimensions) -> dict[str, Any]:
    """Give the members of the event's own day; an absent country is the empty one."""
    customer = on(dimensions.customers[event.user_id], event.day)
    product = on(dimensions.products[line.product_id], event.day)
    return {
        "date_id": date_id(event.day),
        "user_id": event.user_id,
        "customer_effective_date": customer.start,
        "customer_segment": customer.value,
        "product_id": line.product_id,
        "product_effective_date": product.start,
        "category": product.value,
        "country": event.country,
        "ingest_batch_id": event.batch,
    }


def sales_rows(loaded: Sequence[Event], dimensions: Dimensions) -> list[dict[str, Any]]:
    """One row per order line."""
    return [
        references(event, line, dimensions)
        | {
            "event_id": f"{event.id}:{line.number}",
            "transaction_id": event.id,
            "transaction_timestamp": event.at,
            "quantity": line.quantity,
            "unit_price": line.unit_price,
            "total_amount": line.total,
        }
        for event in loaded
        if event.source == TRANSACTIONS
        for line in event.lines
    ]


def view_rows(loaded: Sequence[Event], dimensions: Dimensions) -> list[dict[str, Any]]:
    """One row per product view."""
    return [
        _shopping(event, dimensions) | {"view_duration": event.view_duration}
        for event in loaded
        if event.source == VIEWS
    ]


def cart_rows(loaded: Sequence[Event], dimensions: Dimensions) -> list[dict[str, Any]]:
    """One row per cart event."""
    return [
        _shopping(event, dimensions) | {"quantity": event.lines[0].quantity, "total_amount": event.lines[0].total}
        for event in loaded
        if event.source == CARTS
    ]


def _shopping(event: Event, dimensions: Dimensions) -> dict[str, Any]:
    """Give the columns that views and cart events have in common."""
    return references(event, event.lines[0], dimensions) | {
        "event_id": event.id,
        "event_timestamp": event.at,
        "event_type": event.event_type,
        "session_id": event.session_id,
    }
