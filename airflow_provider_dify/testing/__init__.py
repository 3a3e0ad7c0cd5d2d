"""A local Dify server for DAG tests, the quickstart and the provider's own tests."""
