#!/usr/bin/env bash
# From a clean clone to a verified fail-over, in one command: builds, starts a local cluster (one name server, three
# brokers, processes of their own; three groups, each led by another broker), sends ordered messages, kills brokers with
# `kill -9`, reads everything back, and prints one table. Exit status 0 only if nothing acknowledged was lost and no order was broken.
#
#   scripts/quickstart.sh [--groups N] [--messages N] [--dir DIR] [--base-port P] [--keep] [--plant BUG]
#
#   --groups N     groups of brokers (3)
#   --messages N   messages to send (200000)
#   --dir DIR      folder of the cluster (a new one in $TMPDIR)
#   --base-port P  first of the 100 ports that may be used (9876)
#   --keep         leave the cluster running afterwards, and say how to reach it
#   --plant BUG    run brokers with a planted bug, for example early-ack: the drill must then end red
#
# LEDGERMQ_BIN names a program that is there already: it is not built then, but for --plant.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

groups=3 messages=200000 dir="" base_port=9876 keep=no plant=""
while [ $# -gt 0 ]; do
    case "$1" in
        --groups | --messages | --dir | --base-port | --plant)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case "$1" in
                --groups) groups=$2 ;;
                --messages) messages=$2 ;;
                --dir) dir=$2 ;;
                --base-port) base_port=$2 ;;
                --plant) plant=$2 ;;
            esac
            shift 2
            ;;
        --keep)
            keep=yes
            shift
            ;;
        -h | --help)
            usage scripts/quickstart.sh
            exit 0
            ;;
        *) fail "unknown option $1 (see --help)" ;;
    esac
done

started=$SECONDS
features=() dev_options=(--groups "$groups") built="${LEDGERMQ_BIN:-}"
if [ -n "$plant" ]; then
    features=(--features planted-bugs) built=""
    dev_options+=(--plant "$plant")
fi
if [ -z "$built" ]; then
    setup_build
    say "building (the first time compiles RocksDB: about ten minutes on two cores)"
    cargo build --locked -p ledgermq "${features[@]}"
    say "built after $((SECONDS - started)) s"
    built="$CARGO_TARGET_DIR/debug/ledgermq"
fi
own_dir=no
if [ -z "$dir" ]; then
    own_dir=yes
    parent="${TMPDIR:-/tmp}"
    # What is fsynced to memory survives nothing.
    [ "$(stat -f -c %T "$parent" 2>/dev/null)" = tmpfs ] && parent="$HOME/.cache/ledgermq"
    mkdir -p "$parent"
    dir=$(mktemp -d "$parent/ledgermq-quickstart.XXXXXX")
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
say "data, logs and the clients' history are in $dir"
# A copy of its own: a build that runs meanwhile must not change the program under a drill's feet.
ledgermq="$dir/ledgermq"
cp "$built" "$ledgermq"
"$ledgermq" --version

dev_pid=""
stop_cluster() {
    if [ -n "$dev_pid" ] && kill -TERM "$dev_pid" 2>/dev/null; then
        wait "$dev_pid" 2>/dev/null || true
    fi
    dev_pid=""
}
trap stop_cluster EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A process group of its own with --keep: the cluster must outlive this shell's Ctrl-C.
if [ "$keep" = yes ]; then
    setsid "$ledgermq" dev --dir "$dir" --base-port "$base_port" "${dev_options[@]}" </dev/null >"$dir/dev.log" 2>&1 &
else
    "$ledgermq" dev --dir "$dir" --base-port "$base_port" "${dev_options[@]}" </dev/null >"$dir/dev.log" 2>&1 &
fi
dev_pid=$!
for _ in $(seq 1 600); do
    [ -s "$dir/cluster.json" ] && break
    kill -0 "$dev_pid" 2>/dev/null || {
        cat "$dir/dev.log" >&2
        dev_pid=""
        fail "the cluster did not start"
    }
    sleep 0.1
done
[ -s "$dir/cluster.json" ] || fail "the cluster has no leader after 60 s; see $dir/dev.log"
cat "$dir/dev.log"

status=0
"$ledgermq" drill failover --dir "$dir" --messages "$messages" || status=$?

if [ "$keep" = yes ]; then
    cat <<END

The cluster goes on. Stop it with:  kill $dev_pid
Its name server is 127.0.0.1:$base_port, for example for the official Java client (org.apache.rocketmq:rocketmq-client):
    DefaultMQProducer producer = new DefaultMQProducer("my-group");
    producer.setNamesrvAddr("127.0.0.1:$base_port");
    producer.start();
    producer.send(new Message("MyTopic", "hello".getBytes()));
From a shell:
    $ledgermq produce --namesrv 127.0.0.1:$base_port --topic MyTopic hello
    $ledgermq consume --namesrv 127.0.0.1:$base_port --topic MyTopic
    $ledgermq admin cluster --namesrv 127.0.0.1:$base_port
END
    dev_pid=""
else
    stop_cluster
    if [ "$status" -eq 0 ] && [ "$own_dir" = yes ]; then
        rm -rf "$dir"
        say "the folder is removed again (--dir and --keep leave it)"
    else
        say "the data, logs and history of this run stay in $dir"
    fi
fi
say "quickstart took $((SECONDS - started)) s"
exit "$status"
