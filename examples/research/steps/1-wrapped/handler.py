"""Step 1: the script as it is, behind handle()."""

import script


def handle(req):
    return script.main(req)
