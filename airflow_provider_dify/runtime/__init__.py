"""Airflow's side: one try of a task, its record, the shared poller, lineage, tracing.

Internal. Public are the modules that docs/reference.md names.
"""
