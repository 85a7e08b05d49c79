#!/bin/sh
# Makes the vectors of protocol/tests/vectors/official-5.4.0.json and ours-read-by-java-5.4.0.json anew.
#
# Needs Maven, a JDK of 11 or later, and Maven Central. Run it after a change of what `official_vectors.rs` writes, and look at
# the difference before committing it: these files are what the official library makes and accepts.
set -eu
cd "$(dirname "$0")"
vectors=../vectors

LEDGERMQ_WRITE_VECTORS=1 cargo test --quiet -p ledgermq-protocol --test official_vectors ours_are_the_bytes_that_java_read
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
mvn -q -f pom.xml dependency:build-classpath -Dmdep.outputFile="$build/classpath"
javac -d "$build/classes" -cp "$(cat "$build/classpath")" src/main/java/Vectors.java
java -cp "$build/classes:$(cat "$build/classpath")" Vectors \
    "$vectors/official-5.4.0.json" "$vectors/ours.json" "$vectors/ours-read-by-java-5.4.0.json"
