"""Workflows of DBOS on the database of the URL in the arguments.

A line of the input names a workflow. The output line has its seconds. The script runs in the
environment of DBOS, without noetl.
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
    def rotate(value: str) -> str:
        return value[1:] + value[0]

    @DBOS.step()
    async def produce(value: int, size: int) -> object:
        return value if not size else "x" * size

    @DBOS.workflow()
    def chain(steps: int, size: int) -> None:
        value, text = 0, "x" * size
        for _ in range(steps):
            if size:
                text = rotate(text)
            else:
                value = add(value)

    @DBOS.workflow()
    async def fan_out(steps: int, size: int) -> None:
        await asyncio.gather(*(produce(value, size) for value in range(steps)))

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
