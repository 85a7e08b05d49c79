// The peer: `peer Produce|Consume|Pull|Request|Respond|Later --name value ...`. Its command line and its history are those of the Java peers
// (tests/java), so that the same tests drive it and the same checker judges it.
package main

import (
	"fmt"
	"os"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

func main() {
	rlog.SetLogLevel("warn")
	// Without a handler a panic in the client's own goroutines ends this process: it runs the callback of a send that timed
	// out, and then reads the answer that never came.
	primitive.PanicHandler = func(cause interface{}) {
		fmt.Fprintln(os.Stderr, "the client panicked:", cause)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("the program is missing: Produce, Consume, Pull, Request, Respond or Later")
	}
	options, err := parseOptions(args[1:])
	if err != nil {
		return err
	}
	process, err := options.text("process")
	if err != nil {
		return err
	}
	history := newHistory(process)
	leash := newLeash()
	switch args[0] {
	case "Produce":
		return produce(options, history, leash)
	case "Consume":
		return consume(options, history, leash)
	case "Pull":
		return pull(options, history, leash)
	case "Request":
		return request(options, history, leash)
	case "Respond":
		return respond(options, history, leash)
	case "Later":
		return later(options, history, leash)
	default:
		return fmt.Errorf("no such program: %s", args[0])
	}
}
