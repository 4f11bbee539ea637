"""Workflows of DBOS on the database that the URL in the arguments leads to. A line of the input names one, and is answered by
the seconds that it took. Runs where DBOS is installed and nothing of ours is.
"""

import asyncio
import sys
import time

from dbos import DBOS


def main() -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": sys.argv[1],
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.step()
    def add(value: int) -> int:
        return value + 1

    @DBOS.step()
    def turn(value: str) -> str:
        return value[1:] + value[0]

    @DBOS.step()
    async def give(value: int, size: int) -> object:
        return value if not size else "x" * size

    @DBOS.workflow()
    def chain(steps: int, size: int) -> None:
        value, text = 0, "x" * size
        for _ in range(steps):
            if size:
                text = turn(text)
            else:
                value = add(value)

    @DBOS.workflow()
    async def fan_out(steps: int, size: int) -> None:
        await asyncio.gather(*(give(value, size) for value in range(steps)))

    DBOS.launch()
    print("ready", flush=True)
    for line in sys.stdin:
        shape, *numbers = line.split()
        steps, size = map(int, numbers)
        started = time.perf_counter()
        if shape == "chain":
            chain(steps, size)
        else:
            asyncio.run(fan_out(steps, size))
        print(time.perf_counter() - started, flush=True)


main()
