"""Reads a Prometheus text page in tests."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one page."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that carry these labels; 0 when there is none."""
        return sum(sample.value for sample in self._samples if self._matches(sample.name, sample.labels, name, labels))

    def largest(self, name: str, **labels: str) -> float:
        """The largest of all samples of this name that carry these labels; 0 when there is none."""
        found = (s.value for s in self._samples if self._matches(s.name, s.labels, name, labels))
        return max(found, default=0.0)

    def labels(self, label: str, name: str, **labels: str) -> set[str]:
        """The values that `label` takes in the samples of this name that carry these labels."""
        found = (s.labels.get(label, "") for s in self._samples if self._matches(s.name, s.labels, name, labels))
        return {value for value in found if value}

    def names(self) -> set[str]:
        """The names of all samples."""
        return {sample.name for sample in self._samples}

    @staticmethod
    def _matches(name: str, found: dict[str, str], wanted_name: str, wanted: dict[str, str]) -> bool:
        return name == wanted_name and wanted.items() <= found.items()
