"""Pick the users that a report shows: by a rule, never by hand."""

import numpy as np
from numpy.typing import NDArray

SHOWN_USERS = 5


def choose_users(
    history_lengths: NDArray[np.int64], users: NDArray[np.int64], found: NDArray[np.bool_], shown: int = SHOWN_USERS
) -> NDArray[np.int64]:
    """Choose targets spread over history lengths, one from each equal part, alternately found and missed.

    The targets are sorted by history length and cut into equal parts; of each part the one nearest its middle is
    taken that is found (1st, 3rd, 5th part) or missed (2nd, 4th) and whose user is not shown yet. Where a part has
    none of the wanted kind, the other kind serves.

    Args:
        history_lengths: int64 [n].
        users: int64 [n] user codes.
        found: bool [n], the target is in some model's list.
        shown: how many to choose at most.

    Returns:
        int64 [at most shown] target rows, by history length.
    """
    order = np.argsort(history_lengths, kind="stable")
    chosen: list[int] = []
    for number, part in enumerate(np.array_split(order, shown)):
        fresh = part[~np.isin(users[part], users[chosen])]
        if not fresh.size:
            continue
        middle = np.abs(np.flatnonzero(np.isin(part, fresh)) - (part.size - 1) / 2)
        unwanted = found[fresh] != (number % 2 == 0)
        chosen.append(int(fresh[np.lexsort((middle, unwanted))[0]]))
    return np.array(chosen, dtype=np.int64)
