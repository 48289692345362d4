"""What is installed here, and whether it works: for a bug report."""

from fdd.doctor.probes import diagnose
from fdd.doctor.report import Problem, Section, to_json, to_text

__all__ = ["Problem", "Section", "diagnose", "to_json", "to_text"]
