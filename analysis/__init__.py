"""From the captures and records of a run to verdict, figures and report. Imports nothing of the testbed."""

from analysis.observations import load, spread
from analysis.segments import packets

__all__ = ["load", "packets", "spread"]
