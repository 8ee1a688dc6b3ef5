#!/bin/sh
# Copies src to public and writes the release's id into every page.
set -eu

release=${SELVEDGE_RELEASE:-local}

rm -rf public
cp -R src public
find public -name '*.html' -exec sed -i "s/@RELEASE@/$release/g" {} +
printf '%s\n' "$release" > public/release.txt
