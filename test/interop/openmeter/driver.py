"""Lets OpenMeter's published Python client make calls for a test: one JSON command on stdin, one JSON answer on stdout.
A command has `url`, `token` and `calls`: each names an operation (`meters.create`), with `args` in order and `kwargs` by
name. A time is {"$time": RFC 3339}. An answer has for each call its `value`, or the `error` that the client raised, and what
went over the wire: `sent` (method, address, content type, accept) and `got` (status, content type, disposition, body)."""

import datetime
import json
import sys

from corehttp.exceptions import HttpResponseError
from corehttp.runtime.policies import SansIOHTTPPolicy
from openmeter import Client


class Wire(SansIOHTTPPolicy):
    """Listens, and changes nothing."""

    def __init__(self):
        self.heard = []

    def on_response(self, request, response):
        asked, got = request.http_request, response.http_response
        headers = {name.lower(): value for name, value in asked.headers.items()}
        try:
            body = got.text()
        except Exception:  # it is a stream
            body = ""
        self.heard.append(
            {
                "sent": {
                    "method": asked.method,
                    "url": asked.url,
                    "type": headers.get("content-type"),
                    "accept": headers.get("accept"),
                },
                "got": {
                    "status": got.status_code,
                    "type": got.headers.get("content-type"),
                    "disposition": got.headers.get("content-disposition"),
                    "body": body,
                },
            }
        )


def given(value):
    if isinstance(value, dict):
        if set(value) == {"$time"}:
            return datetime.datetime.fromisoformat(value["$time"].replace("Z", "+00:00"))
        return {name: given(part) for name, part in value.items()}
    return [given(part) for part in value] if isinstance(value, list) else value


def told(value):
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, datetime.datetime):
        return {"$time": value.isoformat()}
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return [told(part) for part in value]


def fields(value):
    """Reads every member as the client types it: one that does not fit raises."""
    if isinstance(value, list):
        for part in value:
            fields(part)
    for name in getattr(type(value), "_attr_to_rest_field", {}):
        fields(getattr(value, name))


def main():
    command = json.load(sys.stdin)
    wire = Wire()
    answers = []
    with Client(endpoint=command["url"], token=command.get("token"), per_retry_policies=[wire]) as client:
        for call in command["calls"]:
            noun, verb = call["call"].split(".")
            wire.heard = []
            answer = {}
            try:
                value = getattr(getattr(client, noun), verb)(*given(call.get("args", [])), **given(call.get("kwargs", {})))
                if call["call"] == "events_v2.list":
                    value = list(value)
                fields(value)
                answer["value"] = told(value)
            except HttpResponseError as error:
                model = error.model.as_dict() if error.model is not None else None
                answer["error"] = {"name": type(error).__name__, "status": error.status_code, "model": model}
            answer["wire"] = wire.heard
            answers.append(answer)
    json.dump(answers, sys.stdout)


main()
