"""Serves the app on $PORT with waitress, and at SIGTERM finishes the requests it has."""

import os
import signal
import sys

from waitress import create_server

from app import RELEASE, application


def stop(_signal, _frame):
    # waitress ends its loop at SystemExit and waits for the requests in its threads.
    sys.exit(0)


def main():
    # The proxy keeps connections for reuse: they must outlive its own idle timeout.
    server = create_server(
        application, host="127.0.0.1", port=int(os.environ.get("PORT", "3000")), channel_timeout=120
    )
    signal.signal(signal.SIGTERM, stop)
    print(f"release {RELEASE} listens on port {server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
