"""The parameters of a search in the workflow logs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def log_query(
    user: str | None,
    account: str | None,
    created_after: datetime | str | None,
    created_before: datetime | str | None,
    status: str | None,
    keyword: str | None,
) -> dict[str, Any]:
    """Return the filters as ``ServiceApi.logs`` names them."""
    return {
        "user": user,
        "account": account,
        "created_after": created_after,
        "created_before": created_before,
        "status": status,
        "keyword": keyword,
    }
