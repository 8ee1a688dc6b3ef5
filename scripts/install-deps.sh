#!/bin/sh
# Installs the Debian packages that building, testing and the demo need, and only those that are
# missing. Runs as root or through sudo. Rust itself is expected to be there: https://rustup.rs.
set -eu

say() { printf 'install-deps: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

missing=
need() { # PACKAGE COMMAND...: the package is missing when the command fails
  package=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}

need build-essential have cc
need build-essential have make
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
need chromium have chromium
need chromium-driver have chromedriver
need curl have curl
need git git --exec-path
need default-jdk-headless javac -version
need nghttp2-client have h2load
need nodejs have node
need npm have npm
need python3 have python3
need python3-pip python3 -m pip --version
need python3-venv python3 -c 'import ensurepip'

if [ -n "$missing" ]; then
  # A package can be needed for two reasons.
  missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
  if ! have apt-get; then
    say "this is no Debian; install by its own means what Debian calls: $missing"
    exit 1
  fi
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
      say "run as root, or install sudo; missing: $missing"
      exit 1
    fi
    as_root=sudo
  fi
  say "installing $missing"
  $as_root apt-get update -qq
  # shellcheck disable=SC2086 # a list of packages
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if [ ! -x "$(git --exec-path)/git-http-backend" ]; then
  say "git is here without git-http-backend; install the full git package"
  exit 1
fi

if ! have cargo; then
  say "Rust is missing: install 1.95 or later, see https://rustup.rs"
  exit 1
fi

for component in clippy rustfmt; do
  case $component in clippy) tool=cargo-clippy ;; *) tool=rustfmt ;; esac
  if ! have "$tool" || ! "$tool" --version >/dev/null 2>&1; then
    say "adding the Rust component $component"
    rustup component add "$component"
  fi
done
