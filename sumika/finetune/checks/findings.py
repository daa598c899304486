"""What a stage of the check finds wrong with the job's keys, told all at once at their lines."""

from __future__ import annotations

from dataclasses import dataclass, field

from sumika.models.yamlproblems import Document, Problem, config_error


@dataclass(slots=True)
class Findings:
    """`document` is where the job was read from; it knows its lines."""

    document: Document
    problems: list[Problem] = field(default_factory=list)

    def add(self, key: str, en: str, ja: str) -> None:
        """`key` as in `serve.gate.suites`, or with a list's place: `evaluate.suites.0.path`."""
        parts = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        self.problems.append(Problem(f"{key}: {en}", f"{key}: {ja}").at(self.document.place(parts)))

    def stop(self) -> None:
        """Raises SumikaError `bad_config` when there are any."""
        if self.problems:
            raise config_error(self.document.path, self.problems)
