#!/bin/sh
# Checks the built site: every page names the release, and every local link leads somewhere.
set -eu

release=${SELVEDGE_RELEASE:-local}
cd public
[ "$(cat release.txt)" = "$release" ]

find . -name '*.html' | while read -r page; do
  grep -q "$release" "$page" || { echo "$page does not name the release"; exit 1; }
  for link in $(grep -o '\(href\|src\)="/[^"]*"' "$page" | sed 's/.*="//; s/"$//'); do
    target=.$link
    case $link in */) target=$target/index.html ;; esac
    [ -f "$target" ] || { echo "$page links to $link, which is not there"; exit 1; }
  done
done
echo "site tests passed"
