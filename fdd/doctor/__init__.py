"""What is installed here, and whether it works: what one pastes into a bug report.

Nothing here imports PyTorch or Detectron2 at the top: that they cannot be imported is a finding.
"""

from fdd.doctor.examination import Problem, Section, diagnose, to_json, to_text

__all__ = ["Problem", "Section", "diagnose", "to_json", "to_text"]
