"""Reads outputs that a task has stored outside of XCom."""

from __future__ import annotations

from airflow_provider_dify.runtime.outputs import load_outputs

__all__ = ["load_outputs"]
