"""Lets the Python SDK of CloudEvents write, read and post events for a test: one JSON command on stdin, one JSON answer
on stdout. An event is as in go/main.go; a Kafka message is its headers, key and value, carried by somebody else."""

import base64
import json
import sys
import urllib.parse
from http import client

from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse


def event_of(told):
    attributes = {}
    for name, said in told["attributes"].items():
        value = said["value"]
        if name == "time":
            value = isoparse(value)
        elif said["type"] == "Boolean":
            value = value == "true"
        elif said["type"] == "Integer":
            value = int(value)
        attributes[name] = value
    data = told["data"]
    value = {
        "none": lambda: None,
        "json": lambda: json.loads(data["value"]),
        "text": lambda: data["value"],
        "bytes": lambda: base64.b64decode(data["value"]),
    }[data["kind"]]()
    return CloudEvent(attributes, value)


def tell(event):
    attributes = {}
    for name, value in event.get_attributes().items():
        if name == "specversion":
            continue
        if name == "time":
            value = value.isoformat()
        if isinstance(value, bool):
            value = "true" if value else "false"
        attributes[name] = {"type": type(value).__name__, "value": str(value)}
    data = event.get_data()
    if data is None:
        said = {"kind": "none", "value": ""}
    elif isinstance(data, bytes):
        said = {"kind": "bytes", "value": base64.b64encode(data).decode()}
    else:
        said = {"kind": "json", "value": json.dumps(data)}
    return {"attributes": attributes, "data": said}


def read(message):
    value = message["value"]
    return tell(
        kafka.from_kafka(
            kafka.KafkaMessage(
                headers={name: text.encode() for name, text in message["headers"].items()},
                key=message["key"],
                value=b"" if value is None else base64.b64decode(value),
            ),
            JSONFormat(),
        )
    )


def told_of_failure(work, argument):
    try:
        return work(argument)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def write(mode, event):
    message = (kafka.to_structured_event if mode == "structured" else kafka.to_binary_event)(event)
    key = message.key.decode() if isinstance(message.key, bytes) else message.key
    return {
        "headers": {name: value.decode() for name, value in message.headers.items()},
        "key": key,
        "value": base64.b64encode(message.value).decode(),
    }


def post(asked, headers, body):
    at = urllib.parse.urlsplit(asked["url"])
    connection = client.HTTPConnection(at.hostname, at.port, timeout=20)
    connection.request("POST", at.path, body, {**headers, "authorization": f"Bearer {asked['key']}"})
    answer = connection.getresponse()
    said = {
        "status": answer.status,
        "type": answer.headers.get("content-type") or "",
        "body": answer.read().decode(),
    }
    connection.close()
    return said


def posts(asked):
    events = [event_of(told) for told in asked["events"]]
    if asked["mode"] == "batch":
        # The SDK has no batch: its events, side by side.
        body = b"[" + b",".join(JSONFormat().write(event) for event in events) + b"]"
        return [post(asked, {"content-type": "application/cloudevents-batch+json"}, body)]
    to = http.to_structured_event if asked["mode"] == "structured" else http.to_binary_event
    return [post(asked, message.headers, message.body) for message in map(to, events)]


asked = json.load(sys.stdin)
if asked["do"] == "read":
    answer = [told_of_failure(read, message) for message in asked["messages"]]
elif asked["do"] == "write":
    answer = [write(asked["mode"], event_of(told)) for told in asked["events"]]
else:
    answer = posts(asked)
json.dump(answer, sys.stdout)
