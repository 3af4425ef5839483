"""What names, labels and texts of a resource may look like, and the limits of a resource.

Source: Kubernetes object names and labels (RFC 1123), which Calico's datastore inherits.
"""

import re

MAX_RESOURCE_BYTES = 8_000_000  # with headers it fits a max_payload of 8 MB, the most NATS advises
MAX_JSON_DEPTH = 32
#: A policy of 1,024 rules in each direction, each with 50 ports and 256 nets, has some 650,000.
MAX_JSON_VALUES = 1_000_000
MAX_NAME = 253
MAX_NAMESPACE = 63
MAX_LABEL_NAME = 63
MAX_LABEL_VALUE = 63
MAX_LABELS = 256
MAX_ANNOTATIONS_BYTES = 256 * 1024
MAX_SELECTOR = 1024  # Calico's limit on a selector field; the parser's own is higher
MAX_TEXT = 1024
MAX_ENDPOINT_ADDRESSES = 256
MAX_ATTRIBUTES = 16  # of one assigned address
MAX_ATTRIBUTE = 253

DEFAULT_NAMESPACE = "default"
DEFAULT_TIER = "default"

#: name → order and default action, which nobody may change. Source: Calico, reserved tiers.
RESERVED_TIERS = {
    "default": (1_000_000.0, "Deny"),
    "kube-admin": (1_000.0, "Pass"),
    "kube-baseline": (10_000_000.0, "Pass"),
}

# A doubled dash is allowed: Calico builds endpoint names from parts and doubles the dashes in them.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_TEXT = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# What container and VM ids are made of; no slash, because a handle is a step of a path.
_HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,252}")
_PORT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def valid_name(text: str) -> bool:
    """Tell whether a resource may have this name."""
    return len(text) <= MAX_NAME and bool(_NAME.fullmatch(text))


def valid_dns_label(text: str) -> bool:
    """Tell whether a namespace or a tier may have this name: no dots."""
    return len(text) <= MAX_NAMESPACE and bool(_DNS_LABEL.fullmatch(text))


def valid_label_key(text: str) -> bool:
    """Tell whether this is a label's or annotation's key: `name` or `domain/name`."""
    prefix, slash, name = text.rpartition("/")
    if slash and not valid_name(prefix):
        return False
    return len(name) <= MAX_LABEL_NAME and bool(_LABEL_TEXT.fullmatch(name))


def valid_label_value(text: str) -> bool:
    """Tell whether a label may have this value; it may be empty."""
    return not text or (len(text) <= MAX_LABEL_VALUE and bool(_LABEL_TEXT.fullmatch(text)))


def valid_port_name(text: str) -> bool:
    """Tell whether an endpoint's port may have this name: no number, which would mean that port."""
    return bool(_PORT_NAME.fullmatch(text)) and not text.isdigit()


def valid_handle(text: str) -> bool:
    """Tell whether an owner of addresses may have this handle."""
    return bool(_HANDLE.fullmatch(text))
