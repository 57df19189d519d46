"""An engine that starts when as many others have come as are expected: proof that they live at the same time.

python rendezvous.py FOLDER COUNT COMMAND ...
"""

import os
import sys
import time
from pathlib import Path

folder, count, *command = sys.argv[1:]
Path(folder, str(os.getpid())).touch()
end = time.monotonic() + 120
while len(os.listdir(folder)) < int(count):
    if time.monotonic() > end:
        sys.exit(f"alone after 120 s: {len(os.listdir(folder))} of {count} came")
    time.sleep(0.1)
os.execvp(command[0], command)
