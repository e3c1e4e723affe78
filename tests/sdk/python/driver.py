"""Sendly's Python SDK, driven by tests/sdks/main.rs: one call per line in, one outcome per line out (see ../README.md)."""

import json
import os
import sys
import time

from sendly import Sendly, SendlyError

base_url, api_key, timeout_secs = sys.argv[1:]


def verify_at(url, timeout=timeout_secs):
    return Sendly(api_key, base_url=url, timeout=float(timeout)).verify


verify = verify_at(base_url)

# Its pauses, shortened (tests/clicks/main.rs).
if scale := float(os.environ.get("SENDLY_SCALE", "0")):
    pause = time.sleep
    time.sleep = lambda seconds: pause(seconds / scale)

CALLS = {
    "send": lambda call: verify.send(call["to"]),
    "resend": lambda call: verify.resend(call["id"]),
    "check": lambda call: verify.check(call["id"], call["code"]),
    "get": lambda call: verify.get(call["id"]),
}


def succeeded(answer):
    shown = ("id", "phone", "status", "delivery_status", "sandbox_code")
    return {"ok": True, "class": type(answer).__name__, **{name: getattr(answer, name, None) for name in shown}}


def failed(error):
    outcome = {"ok": False, "class": type(error).__name__, "message": str(error)}
    if isinstance(error, SendlyError):
        body = error.response.model_dump() if error.response else {}
        outcome |= {"error": error.code, "http": error.status_code}
        outcome |= {"retry_after": getattr(error, "retry_after", body.get("retry_after"))}
        outcome |= {"remaining_attempts": body.get("remaining_attempts")}
    return outcome


for line in sys.stdin:
    call = json.loads(line)
    if "base_url" in call:
        verify = verify_at(call["base_url"], call.get("timeout", timeout_secs))
    began = time.monotonic()
    try:
        outcome = succeeded(CALLS[call["do"]](call))
    except Exception as error:  # whatever an application would see
        outcome = failed(error)
    outcome["elapsed_ms"] = round((time.monotonic() - began) * 1000)
    print(json.dumps({"step": call["do"], **outcome}), flush=True)
