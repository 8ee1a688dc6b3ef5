#!/bin/sh
# Copies web/src to web/dist and writes the release's id into the page. Runs in the app's directory.
set -eu

release=${SELVEDGE_RELEASE:-local}

rm -rf web/dist
cp -R web/src web/dist
sed -i "s/@RELEASE@/$release/g" web/dist/index.html
printf '%s\n' "$release" > web/dist/release.txt
