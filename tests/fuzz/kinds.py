"""All kinds by their names. Of what each has in its own module nothing is imported here: it may be watched from there."""

from typing import NamedTuple


class Address(NamedTuple):
    """Where a kind is, and its share of the time."""

    module: str
    name: str
    share: float = 1.0
    guided: bool = False


ADDRESSES = [
    Address("fuzz.losses", "losses", 4),
    Address("fuzz.losses", "losses of the reference"),
    Address("fuzz.losses", "losses on Triton", 2),
    Address("fuzz.products", "products", 4),
    Address("fuzz.products", "products of the reference"),
    Address("fuzz.products", "products on Triton", 2),
    Address("fuzz.distances", "distances", 2),
    Address("fuzz.maps", "maps"),
    Address("fuzz.metrics", "metrics", 2),
    Address("fuzz.arguments", "arguments", 2),
]
KINDS = {address.name: address for address in ADDRESSES}
