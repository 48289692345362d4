"""Proof that a training is given points, and no box, area or mask."""

from fdd.audit.supervision import AuditResult, audit_supervision

__all__ = ["AuditResult", "audit_supervision"]
