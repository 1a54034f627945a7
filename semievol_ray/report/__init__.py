"""One self-contained HTML file that shows what a run did, and why it may be trusted."""

from semievol_ray.report.page import Report, write_report

__all__ = ["Report", "write_report"]
