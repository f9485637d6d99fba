"""Starts one writer process after the other and kills each with SIGKILL while it writes.

Usage: journal_killer.py <basepath> <file of acknowledged requests> <seed> <kills> <threads>
"""

import os
import random
import signal
import struct
import sys
import threading
import time

from gnocchi.incoming.file import FileDriver
from gnocchi.tests.backlog import make_batch, make_id

#: Small, so that writers die while they make journals too.
JOURNAL_BYTES_MAX = 16 * 1024


def write(driver, acknowledged, writer):
    """Post requests until the end, each to both sacks; note each one that was acknowledged."""
    number = 0
    while True:
        driver.write_measures(make_batch((make_id(0, writer), [(number, float(number))]),
                                         (make_id(1, writer), [(number, float(number))])))
        os.write(acknowledged, struct.pack("<QQ", writer, number))
        number += 1


def run_writer(basepath, acknowledged, process, threads):
    driver = FileDriver(basepath, 2, journal_bytes_max=JOURNAL_BYTES_MAX)
    for thread in range(threads):
        threading.Thread(target=write, args=(driver, acknowledged, process * 100 + thread)).start()


def main(basepath, path, seed, kills, threads):
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND)
    generator = random.Random(int(seed))
    for process in range(1, int(kills) + 1):
        before = os.fstat(acknowledged).st_size
        child = os.fork()
        if child == 0:
            run_writer(basepath, acknowledged, process, int(threads))
            signal.pause()
        while os.fstat(acknowledged).st_size == before:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
