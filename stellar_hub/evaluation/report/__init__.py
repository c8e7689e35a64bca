"""What an evaluation found: as an object, a table, JSON, images, and a section of a model card."""

from stellar_hub.evaluation.report.report import Measurement, Report

__all__ = ["Measurement", "Report"]
