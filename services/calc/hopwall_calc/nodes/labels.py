"""labels: the labels by which each endpoint, host endpoint and network set is selected.

Its own win over those its profiles apply, an earlier profile's over a later one's. What the system says
(the namespace, the namespace's own labels, the orchestrator) cannot be overruled by either.

Source: Calico, labelindex (inheritance) and conversion/workload_endpoint (implied labels).
"""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import (
    NAMESPACE_LABEL_PREFIX,
    NAMESPACE_PROFILE_PREFIX,
    EndpointInput,
    HostEndpointInput,
    NetworkSetInput,
    ProfileInput,
)
from hopwall_model.resources import Key
from hopwall_model.selectors import NAMESPACE_LABEL

ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
NAMESPACE_NAME_LABEL = NAMESPACE_LABEL_PREFIX + "projectcalico.org/name"

Item = EndpointInput | HostEndpointInput | NetworkSetInput


class Labels(KeyedNode[Key, dict[str, str]]):
    """Endpoint, host endpoint or network set → its effective labels."""

    name = "labels"

    def __init__(
        self,
        endpoints: KeyedNode[Key, EndpointInput],
        host_endpoints: KeyedNode[Key, HostEndpointInput],
        network_sets: KeyedNode[Key, NetworkSetInput],
        profiles: KeyedNode[str, ProfileInput],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._host_endpoints = host_endpoints.out
        self._network_sets = network_sets.out
        self._profiles = profiles.out
        self._by_profile: dict[str, set[Key]] = {}

    def on_endpoints(self) -> Answer:
        """Mark the changed endpoints."""
        for key, old in self._endpoints.changed.items():
            self._move(key, old, self._endpoints.get(key))
        return self.mark(self._endpoints.changed)

    def on_host_endpoints(self) -> Answer:
        """Mark the changed host endpoints."""
        for key, old in self._host_endpoints.changed.items():
            self._move(key, old, self._host_endpoints.get(key))
        return self.mark(self._host_endpoints.changed)

    def on_network_sets(self) -> Answer:
        """Mark the changed network sets."""
        for key, old in self._network_sets.changed.items():
            self._move(key, old, self._network_sets.get(key))
        return self.mark(self._network_sets.changed)

    def on_profiles(self) -> Answer:
        """Mark who has a profile whose labels changed."""
        dirty: set[Key] = set()
        for name, old in self._profiles.changed.items():
            new = self._profiles.get(name)
            if (old.labels if old else ()) != (new.labels if new else ()):
                dirty |= self._by_profile.get(name, set())
        return self.mark(dirty)

    def _move(self, key: Key, old: Item | None, new: Item | None) -> None:
        for name in _profile_names(old):
            users = self._by_profile[name]
            users.discard(key)
            if not users:
                del self._by_profile[name]
        for name in _profile_names(new):
            self._by_profile.setdefault(name, set()).add(key)

    def rebuild(self) -> None:
        """Collect the profiles' users anew."""
        self._by_profile = {}
        for key, endpoint in self._endpoints.values.items():
            self._move(key, None, endpoint)
        for key, host_endpoint in self._host_endpoints.values.items():
            self._move(key, None, host_endpoint)
        for key, network_set in self._network_sets.values.items():
            self._move(key, None, network_set)

    def keys(self) -> Iterable[Key]:
        """Return every endpoint and network set."""
        return (*self._endpoints, *self._host_endpoints, *self._network_sets)

    def compute(self, key: Key) -> dict[str, str] | None:
        """Return the item's labels: the system's over its own over its profiles'."""
        item = self._item(key)
        if item is None:
            return None
        labels: dict[str, str] = {}
        if not isinstance(item, NetworkSetInput):
            for name in reversed(item.profiles):
                if profile := self._profiles.get(name):
                    labels.update(profile.labels)
        labels.update(item.labels)
        return self._with_system_labels(item, labels)

    def _item(self, key: Key) -> Item | None:
        return (
            self._endpoints.get(key) or self._host_endpoints.get(key) or self._network_sets.get(key)
        )

    def _with_system_labels(self, item: Item, labels: dict[str, str]) -> dict[str, str]:
        result = {
            label: value
            for label, value in labels.items()
            if label != NAMESPACE_LABEL and not label.startswith(NAMESPACE_LABEL_PREFIX)
        }
        if item.namespace:
            if profile := self._profiles.get(NAMESPACE_PROFILE_PREFIX + item.namespace):
                result.update(
                    entry for entry in profile.labels if entry[0].startswith(NAMESPACE_LABEL_PREFIX)
                )
            result[NAMESPACE_LABEL] = item.namespace
            result[NAMESPACE_NAME_LABEL] = item.namespace
        if isinstance(item, EndpointInput) and item.orchestrator:
            result[ORCHESTRATOR_LABEL] = item.orchestrator
        return result


def _profile_names(item: Item | None) -> set[str]:
    names: set[str] = set()
    if item is None:
        return names
    if not isinstance(item, NetworkSetInput):
        names.update(item.profiles)
    if item.namespace:
        names.add(NAMESPACE_PROFILE_PREFIX + item.namespace)
    return names
