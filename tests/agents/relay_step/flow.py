"""A step for tests: sleeps or fails as its input `work` says, else returns its inputs."""

import time


def run(inputs, context):
    work = inputs["work"] if isinstance(inputs["work"], dict) else {}
    time.sleep(work.get("seconds", 0))
    if "fail" in work:
        raise ValueError(work["fail"])
    return inputs
