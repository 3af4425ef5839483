"""Parts of a rule that are valid in Calico and not carried out here; shapes, so that they can be refused by name.

`not_implemented` refuses them.
"""

from msgspec import field

from hopwall_model.shapes import Shape


class HttpMatch(Shape, frozen=True):
    """Application-layer match: accepted as a shape so that it can be refused by name."""

    methods: tuple[str, ...] = ()
    paths: tuple[dict[str, str], ...] = ()


class ServiceAccounts(Shape, frozen=True):
    """Kubernetes service accounts: accepted as a shape so that they can be refused by name."""

    names: tuple[str, ...] = ()
    selector: str = ""


class ServiceMatch(Shape, frozen=True):
    """A Kubernetes service: accepted as a shape so that it can be refused by name."""

    name: str = ""
    namespace: str = ""


class RuleMetadata(Shape, frozen=True):
    """Free annotations of one rule."""

    annotations: dict[str, str] = field(default_factory=dict)
