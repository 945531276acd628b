"""Does what its inputs say. The first attempt of `wait` never ends, and that of `once` fails."""

import time


def run(inputs, context):
    do = inputs.get("do")
    context.progress(1, 4, "reading")
    if do == "fail" or (do == "once" and context.attempt == 1):
        raise ValueError("It cannot.")
    while do == "wait" and context.attempt == 1 and not context.cancelled:
        time.sleep(0.05)
    return inputs["text"]
