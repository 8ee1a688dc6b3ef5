"""What the app answers, as a WSGI application (PEP 3333)."""

import json
import os
from datetime import datetime, timezone
from http import HTTPStatus
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

RELEASE = os.environ.get("SELVEDGE_RELEASE", "local")
SITE = os.environ.get("SELVEDGE_SITE", "local")


def home(_query):
    return HTTPStatus.OK, {
        "service": "python-process",
        "site": SITE,
        "try": ["/time?zone=Asia/Tokyo", "/fibonacci?n=100"],
    }


def healthz(_query):
    return HTTPStatus.OK, {"ok": True}


def time(query):
    name = query.get("zone", ["UTC"])[0]
    try:
        zone = timezone.utc if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return HTTPStatus.BAD_REQUEST, {"error": f"there is no time zone {name}"}
    return HTTPStatus.OK, {"zone": name, "time": datetime.now(zone).isoformat(timespec="seconds")}


def fibonacci(query):
    text = query.get("n", ["10"])[0]
    if not text.isascii() or not text.isdigit() or int(text[:9]) > 10_000:
        return HTTPStatus.BAD_REQUEST, {"error": "n is a whole number from 0 to 10000"}
    current, following = 0, 1
    for _ in range(int(text)):
        current, following = following, current + following
    # As text: JSON readers keep only 53 bits of a number.
    return HTTPStatus.OK, {"n": int(text), "fibonacci": hex(current)}


PAGES = {"/": home, "/healthz": healthz, "/time": time, "/fibonacci": fibonacci}


def application(environ, start_response):
    page = PAGES.get(environ["PATH_INFO"])
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        status, answer = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET and HEAD only"}
    elif page is None:
        status, answer = HTTPStatus.NOT_FOUND, {"error": f"nothing at {environ['PATH_INFO']}"}
    else:
        status, answer = page(parse_qs(environ.get("QUERY_STRING", "")))
    body = (json.dumps({"release": RELEASE, **answer}) + "\n").encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]
