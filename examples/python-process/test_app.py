"""Tests the app without a server: a WSGI application is a function."""

import json
import unittest

from app import RELEASE, application


def get(path, query="", method="GET"):
    seen = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    body = application(environ, lambda status, headers: seen.append(status))
    return int(seen[0].split()[0]), json.loads(b"".join(body))


class App(unittest.TestCase):
    def test_every_answer_names_the_release(self):
        for path in ("/", "/healthz", "/nowhere"):
            self.assertEqual(get(path)[1]["release"], RELEASE)

    def test_fibonacci(self):
        self.assertEqual(get("/fibonacci", "n=90")[1]["fibonacci"], hex(2880067194370816120))
        for wrong in ("n=-1", "n=x", "n=99999999999999", "n=10001"):
            self.assertEqual(get("/fibonacci", wrong)[0], 400)

    def test_time(self):
        self.assertEqual(get("/time", "zone=UTC")[0], 200)
        self.assertEqual(get("/time", "zone=../../etc/passwd")[0], 400)

    def test_methods(self):
        self.assertEqual(get("/", method="POST")[0], 405)


if __name__ == "__main__":
    unittest.main()
