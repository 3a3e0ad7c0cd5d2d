"""The marker that makes a submission findable: the ``user`` field, derived from the task instance."""

from __future__ import annotations

import hashlib
import re

from airflow_provider_dify.api.operations import USER_MAX_CHARS

_DIGEST_CHARS = 32
_NAMES_CHARS = 190
_DIGEST_AT_END = re.compile(rf"~[0-9a-f]{{{_DIGEST_CHARS}}}\Z")


def marker(dag_id: str, task_id: str, run_id: str, map_index: int, max_tries: int, try_number: int) -> str:
    """Return the ``user`` of one submission of one task instance.

    The same in every process. ``max_tries`` is in it because clearing a task raises it: a cleared task
    never finds the runs of its previous clear generation, a retry of the same clear generation does.

    :return: At most 255 characters, readable where the names fit, otherwise shortened with a digest.
    """
    tail = f"{max_tries}/{try_number}"
    if map_index >= 0:
        tail = f"{map_index}/{tail}"
    names = f"airflow/{dag_id}/{task_id}/{run_id}"
    # Names may contain slashes: only the digest over separated fields tells all task instances apart.
    digest = hashlib.sha256(
        "\0".join((dag_id, task_id, run_id, str(map_index), str(max_tries), str(try_number))).encode()
    ).hexdigest()[:_DIGEST_CHARS]
    readable = f"{names}/{tail}"
    if len(readable) <= USER_MAX_CHARS and "/" not in dag_id + task_id + run_id:
        return readable
    room = USER_MAX_CHARS - len(tail) - _DIGEST_CHARS - 2
    return f"{names[:room]}~{digest}/{tail}"


def task_of(user: str) -> str:
    """Return what the markers of all task instances of one mapped task have in common.

    Names of more than 190 characters are compared by those. A ``user`` that a DAG author has set is returned as it is,
    as long as it does not look like a marker.
    """
    if not user.startswith("airflow/"):
        return user
    # A run id may contain a tilde, too.
    return _DIGEST_AT_END.sub("", user.rsplit("/", 3)[0])[:_NAMES_CHARS]
