"""The lines of an error's record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dify.exceptions import DifyConfigurationError, DifyError
from airflow_provider_dify.rules.error_record import WIDTH, error_record


@given(st.text(), st.text(), st.text(), st.text(alphabet="abc ", max_size=50))
def test_every_line_is_short_and_no_word_is_lost(problem: str, advice: str, on_retry: str, where: str) -> None:
    error = DifyError(problem, advice=advice, on_retry=on_retry, where=where)
    lines = error_record(error, task="t", conn_id="c")
    assert all(len(line) <= WIDTH or len(line.split()) <= 3 for line in lines)
    words = " ".join(lines).split()
    assert [word for word in f"{error.problem} {error.advice} {error.on_retry}".split() if word not in words] == []


def test_a_final_error_says_that_no_retry_helps() -> None:
    assert error_record(DifyConfigurationError("No."), task="t", conn_id=None)[-1].startswith("  Retry: Does not help")
    assert error_record(DifyError("No."), task="t", conn_id=None)[-1] == "  Retry: May succeed."


def test_a_long_text_loses_its_end_and_never_the_advice() -> None:
    error = DifyError("x " * 5000, advice="Do this.", on_retry="A retry may succeed.")
    assert len(error.message) <= 2000
    assert error.message.endswith("… Do this. A retry may succeed.")
