"""What a released version has stored in Airflow's database, and that today's code goes on from it."""

# Before Airflow is imported, also where a file is recorded without pytest.
import tests.conftest  # noqa: F401
